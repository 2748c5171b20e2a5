/* SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * A connection and its ends, as the programs of this directory know them.
 */
#pragma once
#include "kernel.h"

/* An IP address, of version 4 as ::ffff:a.b.c.d; network order. */
struct address {
	__u32 w[4];
};

/* A connection as one end sees it; ports in host order. */
struct flow {
	__u64 netns;
	struct address local, remote;
	__u32 local_port, remote_port;
};

/* A word of a context by its fixed offset: clang would merge the loads of two branches into one through a pointer, which the
 * kernel does not allow. */
#define WORD(ctx, field) \
	({ \
		__u64 word_; \
		asm volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(word_) : "r"(ctx), "i"(__builtin_offsetof(typeof(*(ctx)), field))); \
		(__u32)word_; \
	})

#define MAP(name_, type_, entries_, flags_, key_, value_) \
	struct { UINT(type, type_); UINT(max_entries, entries_); UINT(map_flags, flags_); TYPE(key, key_); TYPE(value, value_); } \
		name_ SEC(".maps")

INLINE struct address v4(__u32 ip)
{
	return (struct address){{0, 0, htonl(0xffff), ip}};
}

INLINE int is_v4(const struct address *a)
{
	return a->w[0] == 0 && a->w[1] == 0 && a->w[2] == htonl(0xffff);
}

/* The address from which the sidecar calls its own application: 127.0.0.6 or ::6. */
INLINE int is_inbound_source(const struct address *a)
{
	if (is_v4(a))
		return a->w[3] == htonl(0x7f000006);
	return a->w[0] == 0 && a->w[1] == 0 && a->w[2] == 0 && a->w[3] == htonl(6);
}

/* The connection as the other end has it. */
INLINE struct flow reversed(const struct flow *f)
{
	return (struct flow){f->netns, f->remote, f->local, f->remote_port, f->local_port};
}

/* The ends of a connection that a context describes. IPv4 on an IPv6 socket is IPv4, whose own IPv6 address is filled in late. */
#define ENDS_OF(ctx, f) \
	do { \
		(f)->local_port = (ctx)->local_port; \
		(f)->remote_port = ntohl((ctx)->remote_port); \
		if ((ctx)->family == AF_INET6) { \
			(f)->remote.w[0] = WORD(ctx, remote_ip6[0]); \
			(f)->remote.w[1] = WORD(ctx, remote_ip6[1]); \
			(f)->remote.w[2] = WORD(ctx, remote_ip6[2]); \
			(f)->remote.w[3] = WORD(ctx, remote_ip6[3]); \
			if (!is_v4(&(f)->remote)) { \
				(f)->local.w[0] = WORD(ctx, local_ip6[0]); \
				(f)->local.w[1] = WORD(ctx, local_ip6[1]); \
				(f)->local.w[2] = WORD(ctx, local_ip6[2]); \
				(f)->local.w[3] = WORD(ctx, local_ip6[3]); \
				break; \
			} \
		} \
		(f)->remote = v4(WORD(ctx, remote_ip4)); \
		(f)->local = v4(WORD(ctx, local_ip4)); \
	} while (0)
