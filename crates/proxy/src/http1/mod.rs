//! HTTP/1.1, and 1.0 where it is accepted: our own codec on `httparse`.
//!
//! - [`parse_request`], [`parse_response`], [`ChunkDecoder`]: what bytes mean, without I/O.
//! - [`ServerConnection`], [`ClientConnection`]: the two sides of a connection, whose exchanges are those of [`crate::http`].
//!
//! Trailers pass (RFC 9110 §6.5); Envoy drops those of HTTP/1.1 unless `enable_trailers` is set, which would lose what
//! applications say.

mod body;
mod chunked;
mod client;
mod encode;
mod framing;
mod parse;
mod read;
mod server;
mod shared;
mod write;

pub use body::{BodyReader, BodyWriter};
pub use chunked::{ChunkDecoder, Step};
pub use client::{ClientConnection, ResponseReader};
pub use encode::{LengthHeader, Persistence, ResponseForm, write_request, write_response};
pub use framing::{Framing, Meta, RequestKind};
pub use parse::{HeadError, Limits, Parsed, parse_request, parse_response, parse_trailers};
pub use server::{RequestError, Responder, ServerConfig, ServerConnection};
