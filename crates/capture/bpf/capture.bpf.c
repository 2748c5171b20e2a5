/* SPDX-License-Identifier: Apache-2.0
 *
 * Capture without address translation, for the pods of one mesh.
 *
 * Outbound: `connect` gets the sidecar's address instead of the destination, which is noted in the socket's storage
 * (`connect4`, `connect6`), handed over by the connection's addresses right before the SYN (`established`, TCP_CONNECT_CB) and kept
 * with the accepted socket, where SO_ORIGINAL_DST answers it (`original_destination`). `getpeername` shows the application
 * what it asked for. DNS over UDP goes to the sidecar and comes back in the same way (`sendmsg`, `recvmsg`).
 *
 * Inbound: the lookup of a listening socket finds the sidecar's (`inbound`); its accepted sockets have the true destination as
 * their own address.
 *
 * The programs see every process of the cgroup they are attached to; a network namespace that is not in `pods` is left alone.
 */
#include "flow.h"

#define BY_MARK 1       /* the proxy's sockets have the mark `mark`; else its users or groups are in `values` */
#define ALL_OUTBOUND 2  /* every destination is captured */
#define ALL_INBOUND 4   /* every inbound port is captured */
#define DNS_ALL 8       /* every DNS query is captured */
#define DNS_SERVERS 16  /* DNS queries to the servers in `ranges` are captured */

/* The rules of a pod. Kept in step with ebpf/plan.rs. */
struct pod {
	__u32 flags;
	__u32 mark;
	__u16 proxy_port, inbound_port, tunnel_port, dns_port;
	/* Where captured connections go: the pod's own addresses, so that the sidecar sees their true source. */
	struct address own4, own6;
};

enum { USER = 1, GROUP, EXCLUDED_OUT, INCLUDED_OUT, EXCLUDED_IN, INCLUDED_IN };
struct value {
	__u64 netns;
	__u32 kind, number;
};

enum { RANGE_EXCLUDED = 1, RANGE_INCLUDED, RANGE_DNS };
struct range {
	__u32 prefix;
	__u32 netns_low, netns_high;
	__u32 kind;
	struct address to;
};

enum { CAPTURED = 1, ACCEPTED, OWN_CALL, DNS };
struct note {
	struct address to;
	__u32 port; /* network order */
	__u32 kind;
};

struct listener {
	__u64 netns;
	__u32 family, pad;
};

MAP(pods, MAP_HASH, 4096, NO_PREALLOC, __u64, struct pod);
MAP(addresses, MAP_HASH, 65536, NO_PREALLOC, struct address, __u64);
MAP(values, MAP_HASH, 1048576, NO_PREALLOC, struct value, __u8);
MAP(ranges, MAP_LPM_TRIE, 1048576, NO_PREALLOC, struct range, __u8);
MAP(notes, MAP_SK_STORAGE, 0, NO_PREALLOC, int, struct note);
MAP(flows, MAP_LRU_HASH, 65536, 0, struct flow, struct note);
MAP(own_calls, MAP_LRU_HASH, 16384, 0, struct flow, __u8);
MAP(listeners, MAP_SOCKHASH, 8192, 0, struct listener, __u32);

INLINE int is_loopback(const struct address *a)
{
	if (is_v4(a))
		return (a->w[3] & htonl(0xff000000)) == htonl(0x7f000000);
	return a->w[0] == 0 && a->w[1] == 0 && a->w[2] == 0 && a->w[3] == htonl(1);
}

INLINE int is_unspecified(const struct address *a)
{
	return a->w[0] == 0 && a->w[1] == 0 && (a->w[2] == 0 || is_v4(a)) && a->w[3] == 0;
}

INLINE int has(__u64 netns, __u32 kind, __u32 number)
{
	struct value key = {netns, kind, number};
	return map_lookup(&values, &key) != 0;
}

INLINE int in_range(__u64 netns, __u32 kind, const struct address *to)
{
	struct range key = {
		.prefix = 8 * (sizeof(struct range) - sizeof(__u32)),
		.netns_low = (__u32)netns,
		.netns_high = (__u32)(netns >> 32),
		.kind = kind,
		.to = *to,
	};
	return map_lookup(&ranges, &key) != 0;
}

INLINE int is_proxy(__u64 netns, const struct pod *pod, __u32 mark)
{
	__u64 who;
	if (pod->flags & BY_MARK)
		return mark == pod->mark;
	who = current_uid_gid();
	return has(netns, USER, (__u32)who) || has(netns, GROUP, (__u32)(who >> 32));
}

/* ---- outbound ---- */

enum { PASS, TO_PROXY, TO_DNS, TO_ITSELF };

struct call {
	__u64 netns;
	const struct pod *pod;
	struct address to;
	__u32 port; /* host order */
	__u32 mark;
	int tcp, from_inbound_source;
};

/* The rules of rules.rs, in their order. */
INLINE int decide(const struct call *c)
{
	const struct pod *pod = c->pod;
	int dns = pod->flags & (DNS_ALL | DNS_SERVERS);
	int query = dns && c->port == 53;
	int local;
	__u64 *owner;

	if (!c->tcp && !query)
		return PASS;
	if (has(c->netns, EXCLUDED_OUT, c->port))
		return PASS;
	owner = map_lookup(&addresses, &c->to);
	/* Connecting to the unspecified address is connecting to the loopback. */
	local = is_loopback(&c->to) || is_unspecified(&c->to) || (owner && *owner == c->netns);
	if (c->from_inbound_source && local)
		return PASS;
	if (is_proxy(c->netns, pod, c->mark)) {
		int steered = c->tcp && owner && *owner == c->netns && !query && c->port != pod->tunnel_port;
		return steered ? TO_ITSELF : PASS;
	}
	if (query && (pod->flags & DNS_ALL || in_range(c->netns, RANGE_DNS, &c->to)))
		return TO_DNS;
	if (!c->tcp || local || in_range(c->netns, RANGE_EXCLUDED, &c->to))
		return PASS;
	if (pod->flags & ALL_OUTBOUND || has(c->netns, INCLUDED_OUT, c->port))
		return TO_PROXY;
	return in_range(c->netns, RANGE_INCLUDED, &c->to) ? TO_PROXY : PASS;
}

/* Notes where the socket wanted to go, and says where it goes instead. */
INLINE int divert(struct bpf_sock *sk, const struct call *c, struct address *to, __u16 *port)
{
	int decision = decide(c);
	struct note *note, fresh = {.to = c->to, .port = htons((__u16)c->port)};

	if (decision == PASS) {
		/* A socket that is connected again (UDP, or TCP after AF_UNSPEC) must not show what it wanted before. */
		note = sk_storage_get(&notes, sk, 0, 0);
		if (note)
			note->kind = 0;
		return PASS;
	}
	fresh.kind = decision == TO_PROXY ? CAPTURED : decision == TO_DNS ? DNS : OWN_CALL;
	note = sk_storage_get(&notes, sk, &fresh, STORAGE_CREATE);
	if (!note)
		return -1;
	*note = fresh;
	if (decision == TO_ITSELF)
		return PASS;
	*port = htons(decision == TO_DNS ? c->pod->dns_port : c->pod->proxy_port);
	*to = is_v4(&c->to) ? c->pod->own4 : c->pod->own6;
	if (decision == TO_DNS)
		*to = is_v4(&c->to) ? v4(htonl(0x7f000001)) : (struct address){{0, 0, 0, htonl(1)}};
	return decision;
}

INLINE int outbound4(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct call c = {.netns = netns_cookie(ctx)};
	struct address to, source;
	__u16 port;
	int result;

	c.pod = map_lookup(&pods, &c.netns);
	if (!c.pod || !sk)
		return 1;
	c.tcp = ctx->type == SOCK_STREAM;
	if (!c.tcp && ctx->type != SOCK_DGRAM)
		return 1;
	c.to = v4(ctx->user_ip4);
	c.port = htons((__u16)ctx->user_port);
	c.mark = sk->mark;
	source = v4(sk->src_ip4);
	c.from_inbound_source = is_inbound_source(&source);
	result = divert(sk, &c, &to, &port);
	if (result == PASS)
		return 1;
	if (result < 0)
		return 0; /* no memory: an error is better than a connection past the sidecar */
	ctx->user_ip4 = to.w[3];
	ctx->user_port = port;
	return 1;
}

INLINE int outbound6(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct call c = {.netns = netns_cookie(ctx)};
	struct address to, source;
	__u16 port;
	int result;

	c.pod = map_lookup(&pods, &c.netns);
	if (!c.pod || !sk)
		return 1;
	c.tcp = ctx->type == SOCK_STREAM;
	if (!c.tcp && ctx->type != SOCK_DGRAM)
		return 1;
	c.to.w[0] = ctx->user_ip6[0];
	c.to.w[1] = ctx->user_ip6[1];
	c.to.w[2] = ctx->user_ip6[2];
	c.to.w[3] = ctx->user_ip6[3];
	c.port = htons((__u16)ctx->user_port);
	c.mark = sk->mark;
	source.w[0] = sk->src_ip6[0];
	source.w[1] = sk->src_ip6[1];
	source.w[2] = sk->src_ip6[2];
	source.w[3] = sk->src_ip6[3];
	c.from_inbound_source = is_inbound_source(&source);
	result = divert(sk, &c, &to, &port);
	if (result == PASS)
		return 1;
	if (result < 0)
		return 0;
	ctx->user_ip6[0] = to.w[0];
	ctx->user_ip6[1] = to.w[1];
	ctx->user_ip6[2] = to.w[2];
	ctx->user_ip6[3] = to.w[3];
	ctx->user_port = port;
	return 1;
}

SEC("cgroup/connect4") int connect4(struct bpf_sock_addr *ctx)
{
	return outbound4(ctx);
}

SEC("cgroup/connect6") int connect6(struct bpf_sock_addr *ctx)
{
	return outbound6(ctx);
}

SEC("cgroup/sendmsg4") int sendmsg4(struct bpf_sock_addr *ctx)
{
	return outbound4(ctx);
}

SEC("cgroup/sendmsg6") int sendmsg6(struct bpf_sock_addr *ctx)
{
	return outbound6(ctx);
}

/* What a socket is told of its peer: what it asked for. `answers`: of a datagram, if it is the sidecar's answer to a query. */
INLINE struct note *shown(struct bpf_sock_addr *ctx, int answers)
{
	__u64 netns = netns_cookie(ctx);
	struct pod *pod = map_lookup(&pods, &netns);
	struct bpf_sock *sk = ctx->sk;
	struct note *note;

	if (!pod || !sk)
		return 0;
	note = sk_storage_get(&notes, sk, 0, 0);
	if (!note || (note->kind != DNS && (answers || note->kind != CAPTURED)))
		return 0;
	if (answers && (__u16)ctx->user_port != htons(pod->dns_port))
		return 0;
	return note;
}

INLINE int show4(struct bpf_sock_addr *ctx, int answers)
{
	struct note *note = shown(ctx, answers);
	if (!note || !is_v4(&note->to))
		return 1;
	ctx->user_ip4 = note->to.w[3];
	ctx->user_port = note->port;
	return 1;
}

INLINE int show6(struct bpf_sock_addr *ctx, int answers)
{
	struct note *note = shown(ctx, answers);
	if (!note)
		return 1;
	ctx->user_ip6[0] = note->to.w[0];
	ctx->user_ip6[1] = note->to.w[1];
	ctx->user_ip6[2] = note->to.w[2];
	ctx->user_ip6[3] = note->to.w[3];
	ctx->user_port = note->port;
	return 1;
}

SEC("cgroup/getpeername4") int getpeername4(struct bpf_sock_addr *ctx)
{
	return show4(ctx, 0);
}

SEC("cgroup/getpeername6") int getpeername6(struct bpf_sock_addr *ctx)
{
	return show6(ctx, 0);
}

SEC("cgroup/recvmsg4") int recvmsg4(struct bpf_sock_addr *ctx)
{
	return show4(ctx, 1);
}

SEC("cgroup/recvmsg6") int recvmsg6(struct bpf_sock_addr *ctx)
{
	return show6(ctx, 1);
}

/* SO_ORIGINAL_DST of what the sidecar accepted, as connection tracking would answer it. Of an inbound connection it is the
 * socket's own address, for which some proxies do not look unless they are answered. */
SEC("cgroup/getsockopt") int original_destination(struct bpf_sockopt *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	__u64 netns;
	struct pod *pod;
	struct note *note;
	struct address to;
	__u32 port;
	__u8 *out = ctx->optval, *end = ctx->optval_end;

	if (ctx->optname != SO_ORIGINAL_DST || (ctx->level != SOL_IP && ctx->level != SOL_IPV6) || !sk)
		return 1;
	note = sk_storage_get(&notes, sk, 0, 0);
	if (note) {
		if (note->kind != ACCEPTED)
			return 1;
		to = note->to;
		port = note->port;
	} else {
		netns = netns_cookie(ctx);
		pod = map_lookup(&pods, &netns);
		if (!pod || sk->protocol != IPPROTO_TCP || sk->state != TCP_ESTABLISHED)
			return 1;
		if (sk->src_port == pod->proxy_port || sk->src_port == pod->inbound_port)
			return 1;
		port = htons((__u16)sk->src_port);
		if (sk->family == AF_INET) {
			to = v4(WORD(sk, src_ip4));
		} else {
			to.w[0] = WORD(sk, src_ip6[0]);
			to.w[1] = WORD(sk, src_ip6[1]);
			to.w[2] = WORD(sk, src_ip6[2]);
			to.w[3] = WORD(sk, src_ip6[3]);
		}
	}
	if (ctx->level == SOL_IP) {
		if (!is_v4(&to) || out + 16 > end)
			return 1;
		*(__u16 *)out = AF_INET;
		*(__u16 *)(out + 2) = (__u16)port;
		*(__u32 *)(out + 4) = to.w[3];
		*(__u32 *)(out + 8) = 0;
		*(__u32 *)(out + 12) = 0;
		*(volatile int *)&ctx->optlen = 16;
	} else {
		if (is_v4(&to) || out + 28 > end)
			return 1;
		*(__u16 *)out = AF_INET6;
		*(__u16 *)(out + 2) = (__u16)port;
		*(__u32 *)(out + 4) = 0;
		*(__u32 *)(out + 8) = to.w[0];
		*(__u32 *)(out + 12) = to.w[1];
		*(__u32 *)(out + 16) = to.w[2];
		*(__u32 *)(out + 20) = to.w[3];
		*(__u32 *)(out + 24) = 0;
		*(volatile int *)&ctx->optlen = 28;
	}
	*(volatile int *)&ctx->retval = 0;
	return 1;
}

/* ---- connections as they come about ---- */

SEC("sockops") int established(struct bpf_sock_ops *ctx)
{
	__u32 op = ctx->op;
	struct flow f = {}, peer;
	struct bpf_sock *sk;
	struct pod *pod;
	struct note *note, fresh;
	__u8 one = 1;

	if (op != TCP_CONNECT_CB && op != ACTIVE_ESTABLISHED_CB && op != PASSIVE_ESTABLISHED_CB && op != TCP_LISTEN_CB)
		return 1;
	f.netns = netns_cookie(ctx);
	pod = map_lookup(&pods, &f.netns);
	if (!pod)
		return 1;
	ENDS_OF(ctx, &f);
	if (op == TCP_LISTEN_CB) {
		struct listener key = {f.netns, ctx->family, 0};
		/* The sidecar's, and not an application's on one address of its own. */
		int any = !f.local.w[3] && !f.local.w[0] && !f.local.w[1];
		if (f.local_port == pod->inbound_port && any)
			sock_hash_update(ctx, &listeners, &key, ANY);
		return 1;
	}
	sk = ctx->sk;
	if (!sk)
		return 1;
	if (op == PASSIVE_ESTABLISHED_CB) {
		note = map_lookup(&flows, &f);
		if (note) {
			fresh = *note;
			fresh.kind = ACCEPTED;
			sk_storage_get(&notes, sk, &fresh, STORAGE_CREATE);
			map_delete(&flows, &f);
		}
		return 1;
	}
	note = sk_storage_get(&notes, sk, 0, 0);
	peer = reversed(&f);
	if (op == TCP_CONNECT_CB) {
		if (note && note->kind == CAPTURED)
			map_update(&flows, &peer, note, ANY);
		else if (note && note->kind == OWN_CALL)
			map_update(&own_calls, &peer, &one, ANY);
		return 1;
	}
	if (note && note->kind == OWN_CALL)
		map_delete(&own_calls, &peer);
	return 1;
}

/* ---- inbound ---- */

SEC("sk_lookup") int inbound(struct bpf_sk_lookup *ctx)
{
	struct flow f = {};
	struct listener key = {};
	struct pod *pod;
	__u64 *owner, *source;
	void *sk;
	long failed;

	if (ctx->protocol != IPPROTO_TCP)
		return 1;
	if (ctx->family == AF_INET) {
		f.local = v4(WORD(ctx, local_ip4));
		f.remote = v4(WORD(ctx, remote_ip4));
	} else {
		f.local.w[0] = WORD(ctx, local_ip6[0]);
		f.local.w[1] = WORD(ctx, local_ip6[1]);
		f.local.w[2] = WORD(ctx, local_ip6[2]);
		f.local.w[3] = WORD(ctx, local_ip6[3]);
		f.remote.w[0] = WORD(ctx, remote_ip6[0]);
		f.remote.w[1] = WORD(ctx, remote_ip6[1]);
		f.remote.w[2] = WORD(ctx, remote_ip6[2]);
		f.remote.w[3] = WORD(ctx, remote_ip6[3]);
	}
	if (is_loopback(&f.local) || is_loopback(&f.remote) || is_inbound_source(&f.remote) || is_inbound_source(&f.local))
		return 1;
	/* An address that is not known is not left to bypass the sidecar. */
	owner = map_lookup(&addresses, &f.local);
	if (!owner)
		return 0;
	f.netns = *owner;
	pod = map_lookup(&pods, &f.netns);
	if (!pod)
		return 0;
	f.local_port = ctx->local_port;
	f.remote_port = htons(ctx->remote_port);
	source = map_lookup(&addresses, &f.remote);
	if (source && *source == f.netns) {
		/* From the pod itself: only what the sidecar sends to its own pod is inbound. */
		if (!map_lookup(&own_calls, &f))
			return 1;
	} else if (f.local_port == pod->tunnel_port) {
		return 1;
	} else if (pod->flags & ALL_INBOUND) {
		if (has(f.netns, EXCLUDED_IN, f.local_port))
			return 1;
	} else if (!has(f.netns, INCLUDED_IN, f.local_port)) {
		return 1;
	}
	key.netns = f.netns;
	key.family = ctx->family;
	sk = map_lookup(&listeners, &key);
	if (!sk)
		return 0; /* refused, as a redirect to a port on which nobody listens */
	failed = sk_assign(ctx, sk, 0);
	sk_release(sk);
	return failed ? 0 : 1;
}

const char licence[] SEC("license") = "Apache-2.0";
