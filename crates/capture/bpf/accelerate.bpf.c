/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * Acceleration: what an application and its sidecar send each other goes from one socket to the other, past the rest of TCP.
 *
 * Both ends of such a connection are in the pod's network namespace. They are noted when it is established (`watch`), and what
 * one sends is handed to the other (`hand_over`). A direction is handed over from its first byte on or not at all, and never again
 * after TCP had to carry something: so bytes cannot overtake each other, and a reader never has some in either place but for
 * one case, which is the sidecar's to know of (proxy/src/accelerated.rs): when it is slow to read, TCP takes over, whose sender
 * waits. The application is not asked to know of that: when it is slow to read, the sidecar's send fails with EACCES, and is
 * tried again.
 */
#include "flow.h"

/* What may wait to be read, in bytes, before the application's sends are left to TCP. In step with proxy/src/accelerated.rs. */
#define LIMIT (256 * 1024)

/* What no sidecar lets wait. Whoever takes its place and sends more is refused for good, before the machine's memory for TCP is gone. */
#define TOO_MUCH (16 * 1024 * 1024)

/* The option's number, in step with capture/src/socket.rs. */
#define SOL_LATEEN 0x6c61
#define SO_UNREAD 1

/* The fields of the kernel's own structures that are read; where they lie is found when the program is loaded. */
#define OF_THE_KERNEL __attribute__((preserve_access_index))
struct tcp_sock {
	__u32 snd_una, write_seq;
	__u64 bytes_sent;
} OF_THE_KERNEL;
struct inet_connection_sock {
	void *icsk_ulp_ops;
} OF_THE_KERNEL;
struct sock {
	struct {
		struct {
			int counter;
		} rmem_alloc;
	} sk_backlog;
} OF_THE_KERNEL;

/* The pods that are accelerated, and the ports of their sidecars for outbound connections. */
MAP(sidecars, MAP_HASH, 4096, NO_PREALLOC, __u64, __u32);
MAP(sockets, MAP_SOCKHASH, 65536, 0, struct flow, __u32);
/* Their addresses in the kernel, to look at. One that is gone is read without harm, and misleads about nothing but a limit. More than
 * there are sockets, and nothing is evicted: an end that is not found would make a direction change over to TCP. */
MAP(ends, MAP_HASH, 131072, NO_PREALLOC, struct flow, __u64);

SEC("sockops") int watch(struct bpf_sock_ops *ctx)
{
	__u32 op = ctx->op;
	struct flow f = {};
	struct bpf_sock *sk;
	__u32 *port;
	__u64 tcp;

	if (op != ACTIVE_ESTABLISHED_CB && op != PASSIVE_ESTABLISHED_CB && (op != STATE_CB || ctx->args[1] != TCP_CLOSE))
		return 1;
	f.netns = netns_cookie(ctx);
	port = map_lookup(&sidecars, &f.netns);
	if (!port)
		return 1;
	ENDS_OF(ctx, &f);
	if (op == STATE_CB) {
		map_delete(&ends, &f);
		return 1;
	}
	if (f.local_port != *port && f.remote_port != *port && !is_inbound_source(&f.local) && !is_inbound_source(&f.remote))
		return 1;
	sk = ctx->sk;
	if (!sk)
		return 1;
	tcp = (__u64)skc_to_tcp_sock(sk);
	if (!tcp)
		return 1;
	/* Without its address it is not handed anything: that comes last. */
	if (sock_hash_update(ctx, &sockets, &f, ANY) || sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | STATE_CB_FLAG))
		return 1;
	map_update(&ends, &f, &tcp, ANY);
	return 1;
}

/* What the other end has not read of what it was handed; less than nothing where it may not be handed any. */
INLINE int unread_at(const struct flow *f)
{
	__u64 *end = map_lookup(&ends, f);
	void *ulp = 0;
	int unread = 0;

	if (!end)
		return -1;
	/* The kernel's TLS would take what is handed over for decrypted. */
	probe_read_kernel(&ulp, sizeof(ulp), &((struct inet_connection_sock *)*end)->icsk_ulp_ops);
	if (ulp)
		return -1;
	probe_read_kernel(&unread, sizeof(unread), &((struct sock *)*end)->sk_backlog.rmem_alloc.counter);
	return unread;
}

/* Whether a socket is the application's; the other end is the sidecar's. */
INLINE int is_application(const struct flow *f)
{
	__u32 *port = map_lookup(&sidecars, &f->netns);
	return port && f->local_port != *port && !is_inbound_source(&f->local);
}

SEC("sk_msg") int hand_over(struct sk_msg_md *ctx)
{
	struct flow own = {}, peer;
	struct bpf_sock *sk = ctx->sk;
	struct tcp_sock *tcp;
	int unread;

	tcp = sk ? skc_to_tcp_sock(sk) : 0;
	if (!tcp || tcp->bytes_sent || tcp->write_seq != tcp->snd_una)
		return SK_PASS;
	own.netns = netns_cookie(ctx);
	ENDS_OF(ctx, &own);
	peer = reversed(&own);
	unread = unread_at(&peer);
	if (unread < 0 || (unread >= LIMIT && is_application(&own)))
		return SK_PASS;
	if (unread >= TOO_MUCH)
		return SK_DROP;
	/* A socket that is gone meanwhile is left to TCP. */
	msg_redirect_hash(ctx, &sockets, &peer, INGRESS);
	return SK_PASS;
}

/* A socket option of our own: what the application has not read of what its sidecar, who asks, has handed it. */
SEC("cgroup/getsockopt") int unread(struct bpf_sockopt *ctx)
{
	struct flow peer = {};
	struct bpf_sock *sk = ctx->sk;
	int *out = ctx->optval, left;
	void *end = ctx->optval_end;

	if (ctx->level != SOL_LATEEN || ctx->optname != SO_UNREAD || !sk || sk->protocol != IPPROTO_TCP)
		return 1;
	peer.netns = netns_cookie(ctx);
	if (!map_lookup(&sidecars, &peer.netns) || (void *)(out + 1) > end)
		return 1;
	peer.remote_port = sk->src_port;
	peer.local_port = htons(sk->dst_port);
	peer.local = v4(WORD(sk, dst_ip4));
	peer.remote = v4(WORD(sk, src_ip4));
	if (sk->family == AF_INET6) {
		struct address to = {{WORD(sk, dst_ip6[0]), WORD(sk, dst_ip6[1]), WORD(sk, dst_ip6[2]), WORD(sk, dst_ip6[3])}};
		if (!is_v4(&to)) {
			peer.local = to;
			peer.remote = (struct address){
				{WORD(sk, src_ip6[0]), WORD(sk, src_ip6[1]), WORD(sk, src_ip6[2]), WORD(sk, src_ip6[3])}};
		}
	}
	left = unread_at(&peer);
	*out = left < 0 ? 0 : left;
	*(volatile int *)&ctx->optlen = sizeof(int);
	*(volatile int *)&ctx->retval = 0;
	return 1;
}

/* Looking at the kernel's own structures is for programs under a licence that goes with its own. */
const char licence[] SEC("license") = "Dual MIT/GPL";
