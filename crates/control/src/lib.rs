//! The control plane: sources → store → world → change set → generate → push; the certificate authority; debug pages.

pub mod analysis;
pub mod cli;
pub mod core;
pub mod debounce;
pub mod gateway_api;
pub mod generate;
pub mod metrics;
pub mod names;
pub mod push;
pub mod registration;
pub mod resources;
pub mod server;
pub mod source;
pub mod store;
pub mod world;
