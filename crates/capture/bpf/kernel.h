/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * The part of the kernel's BPF interface (linux/bpf.h, stable by promise) that the programs use, so that compiling it needs
 * clang and nothing else, and gives the same object whatever headers a machine has.
 */
#pragma once

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define UINT(name, value) int(*name)[value]
#define TYPE(name, value) typeof(value) *name

/* enum bpf_map_type */
#define MAP_HASH 1
#define MAP_LRU_HASH 9
#define MAP_LPM_TRIE 11
#define MAP_SOCKHASH 18
#define MAP_SK_STORAGE 24
#define NO_PREALLOC 1U

/* Helpers, by number (enum bpf_func_id). */
struct bpf_sock;
struct bpf_sock_ops;
struct bpf_sk_lookup;
struct sk_msg_md;
static void *(*const map_lookup)(void *map, const void *key) = (void *)1;
static long (*const map_update)(void *map, const void *key, const void *value, __u64 flags) = (void *)2;
static long (*const map_delete)(void *map, const void *key) = (void *)3;
static __u64 (*const current_uid_gid)(void) = (void *)15;
static long (*const sock_ops_cb_flags_set)(struct bpf_sock_ops *ctx, __u32 flags) = (void *)59;
static long (*const sock_hash_update)(struct bpf_sock_ops *ctx, void *map, void *key, __u64 flags) = (void *)70;
static long (*const msg_redirect_hash)(struct sk_msg_md *ctx, void *map, void *key, __u64 flags) = (void *)71;
static long (*const sk_release)(void *sk) = (void *)86;
static void *(*const sk_storage_get)(void *map, void *sk, void *value, __u64 flags) = (void *)107;
static long (*const probe_read_kernel)(void *to, __u32 size, const void *from) = (void *)113;
static __u64 (*const netns_cookie)(void *ctx) = (void *)122;
static long (*const sk_assign)(struct bpf_sk_lookup *ctx, void *sk, __u64 flags) = (void *)124;

static void *(*const skc_to_tcp_sock)(void *sk) = (void *)137;

#define ANY 0
#define STORAGE_CREATE 1
#define INGRESS 1

/* enum sk_action */
#define SK_DROP 0
#define SK_PASS 1

/* Numbers of the network. */
#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define IPPROTO_TCP 6
#define SOL_IP 0
#define SOL_IPV6 41
#define SO_ORIGINAL_DST 80 /* IP6T_SO_ORIGINAL_DST has the same number */
#define TCP_ESTABLISHED 1
#define TCP_CLOSE 7

/* Callbacks of sock_ops. */
#define TCP_CONNECT_CB 3
#define ACTIVE_ESTABLISHED_CB 4
#define PASSIVE_ESTABLISHED_CB 5
#define STATE_CB 10
#define TCP_LISTEN_CB 11
#define STATE_CB_FLAG 4

#define htons(x) ((__u16)__builtin_bswap16(x))
#define ntohl(x) __builtin_bswap32(x)
#define htonl(x) __builtin_bswap32(x)

struct bpf_sock {
	__u32 bound_dev_if, family, type, protocol, mark, priority;
	__u32 src_ip4, src_ip6[4];
	__u32 src_port; /* host order */
	__u16 dst_port; /* network order */
	__u16 : 16;
	__u32 dst_ip4, dst_ip6[4];
	__u32 state;
	int rx_queue_mapping;
};

#define POINTER(type, name) \
	union { type *name; __u64 : 64; } __attribute__((aligned(8)))

struct bpf_sock_addr {
	__u32 user_family, user_ip4, user_ip6[4];
	__u32 user_port; /* network order */
	__u32 family, type, protocol;
	__u32 msg_src_ip4, msg_src_ip6[4];
	POINTER(struct bpf_sock, sk);
};

struct bpf_sock_ops {
	__u32 op;
	__u32 args[4];
	__u32 family;
	__u32 remote_ip4, local_ip4, remote_ip6[4], local_ip6[4];
	__u32 remote_port; /* network order, in the upper half */
	__u32 local_port;  /* host order */
	__u32 is_fullsock, snd_cwnd, srtt_us, bpf_sock_ops_cb_flags, state, rtt_min, snd_ssthresh, rcv_nxt, snd_nxt, snd_una,
		mss_cache, ecn_flags, rate_delivered, rate_interval_us, packets_out, retrans_out, total_retrans, segs_in, data_segs_in,
		segs_out, data_segs_out, lost_out, sacked_out, sk_txhash;
	__u64 bytes_received, bytes_acked;
	POINTER(struct bpf_sock, sk);
};

struct bpf_sockopt {
	POINTER(struct bpf_sock, sk);
	POINTER(void, optval);
	POINTER(void, optval_end);
	int level, optname, optlen, retval;
};

struct bpf_sk_lookup {
	union {
		POINTER(struct bpf_sock, sk);
		__u64 cookie;
	};
	__u32 family, protocol;
	__u32 remote_ip4, remote_ip6[4];
	__u16 remote_port; /* network order */
	__u16 : 16;
	__u32 local_ip4, local_ip6[4];
	__u32 local_port; /* host order */
	__u32 ingress_ifindex;
};

struct sk_msg_md {
	POINTER(void, data);
	POINTER(void, data_end);
	__u32 family;
	__u32 remote_ip4, local_ip4, remote_ip6[4], local_ip6[4];
	__u32 remote_port; /* network order, in the upper half */
	__u32 local_port;  /* host order */
	__u32 size;
	POINTER(struct bpf_sock, sk);
};
