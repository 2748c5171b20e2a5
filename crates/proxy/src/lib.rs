//! The L7 engine: the proxy that carries the traffic of a workload, configured by xDS alone.
//!
//! A connection's path is in `connection.rs`, a request's in `request/mod.rs`; each reads top to bottom.

mod accelerated;
mod admin;
mod agent;
mod bootstrap;
pub mod cli;
mod config;
mod connection;
mod control_plane;
mod detect;
mod drain;
#[doc(hidden)]
pub mod http;
#[doc(hidden)]
pub mod http1;
#[doc(hidden)]
pub mod http2;
mod listener;
mod metadata_exchange;
mod name_server;
mod on_demand;
mod process;
mod relay;
mod request;
mod serve_http;
mod shared;
mod sniff;
mod stream;
mod tcp;
mod telemetry;
#[cfg(test)]
mod testing;
mod tunnel;
mod upstream;
mod worker;
