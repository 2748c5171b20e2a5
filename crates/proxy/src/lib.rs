//! TODO
pub mod http;
pub mod http1;
pub mod http2;
