//! The HTTP codecs: what they accept, what they refuse, and whole exchanges through them, in memory.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod chunks;
mod connection;
mod heads;
mod http2;
mod interop;
mod support;
