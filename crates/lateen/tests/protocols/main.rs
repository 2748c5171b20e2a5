//! What sidecars promise of protocols, seen by real clients and servers in a mesh: HTTP/1.1, HTTP/2, gRPC, WebSocket, raw TCP and
//! who speaks first, bodies of any size, and mutual TLS in all its modes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod bodies;
mod grpc;
mod http1;
mod http2;
mod lab;
mod modes;
mod server_first;
mod stream;
mod tcp;
mod websocket;
