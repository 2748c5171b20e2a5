//! The one room that talks to the kernel: traffic capture by nftables or eBPF, original destinations, namespaces, sandboxes, memory.
//!
//! | module | what it does |
//! |---|---|
//! | [`socket`] | original destination, marks, transparent and bound sources |
//! | [`nft`] | a small encoder of the nf_tables netlink protocol: whole tables, one transaction |
//! | [`rules`] | the capture rules of a sidecar, as a pure plan of tables |
//! | [`ebpf`] | the same rules by eBPF programs, without address translation |
//! | [`services`] | service addresses translated to endpoints, as a pure plan of tables |
//! | [`netns`], [`link`] | network namespaces, and the interfaces, addresses and routes in them |
//! | [`process`] | start a program in namespaces of its own; wait for it; know its pid outside |
//! | [`sandbox`] | mounts, capabilities and the file system that a contained process sees |
//! | [`pipe`] | bytes from socket to socket in the kernel |
//! | [`fdpass`] | file descriptors over Unix sockets |
//! | [`terminal`] | pseudo-terminals |
//! | [`memory`] | pages that are resident for nothing |
//!
//! `unsafe` is allowed here and nowhere else in the workspace; each block says why it is sound.

pub mod ebpf;
pub mod fdpass;
pub mod link;
pub mod memory;
pub mod netns;
pub mod nft;
pub mod pipe;
pub mod process;
pub mod rules;
pub mod sandbox;
pub mod services;
pub mod socket;
pub mod terminal;

pub use socket::{
    INBOUND_SOURCE_V4, INBOUND_SOURCE_V6, IpFamily, OriginalDestination, bind_source, original_dst, set_bind_address_no_port,
    set_keepalive, set_mark, set_transparent,
};
