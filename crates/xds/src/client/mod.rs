//! The client's half: a [`Session`] that outlives connections, and the gRPC shell that keeps one connected.

mod run;
mod session;
#[cfg(test)]
mod session_tests;
mod stream;

pub use run::{Connected, ConnectionState, Endpoint, Handle, Options, Updates, run};
pub use session::{Added, Request, Session, Update, UpdateId};
