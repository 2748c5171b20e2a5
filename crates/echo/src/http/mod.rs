//! The HTTP side of the test application: what each path answers.

pub(crate) mod body;
mod call;
mod routes;
mod tunnel;
mod ws;

pub(crate) use call::{describe, header};
pub(crate) use routes::{headers_as_json, serve};
pub(crate) use tunnel::LastTunnel;
