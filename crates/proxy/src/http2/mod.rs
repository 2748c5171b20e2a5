//! HTTP/2: the `h2` crate behind the heads, bodies and exchanges of [`crate::http`].

mod body;
mod client;
mod gate;
mod keep_alive;
mod server;
mod websocket;

pub use body::{BodyReader, BodyWriter};
pub use client::{ClientConfig, ClientConnection, ClientDriver, ResponseReader};
pub use server::{Responder, ServerConfig, ServerConnection};
