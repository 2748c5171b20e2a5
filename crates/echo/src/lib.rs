//! The test application of Lateen: a server that tells who answered and what arrived, and that can be made to misbehave.
//!
//! `lateen echo --port P` serves HTTP/1.1 and cleartext HTTP/2 on one port; `--tls`, `--tcp`, `--grpc` and `--otlp` open
//! further ports. `lateen echo get|tcp|ws` are the clients that tests and the demo run inside pods, so that these need no other
//! tools. Everything that the server answers is about the request at hand: no state but [`control::Control`] and the spans
//! that were sent to it is kept.

pub mod cli;
mod client;
pub mod control;
mod duration;
mod error;
mod grpc;
mod http;
mod identity;
mod load;
mod pipe;
mod proxy_protocol;
mod server;
mod tcp;
mod tls;
mod traces;

pub use error::EchoError;
pub use identity::PodIdentity;
pub use server::{Addresses, Config, Server};
pub use tls::TlsServer;
