//! Telemetry of the data plane: metrics, access log, tracing, and the peer metadata that names who is talking.
//!
//! What a request touches is resolved beforehand: counters are handles into the worker's own [`metrics::Shard`], log formats
//! are compiled, peers are interned. Nothing here waits, and nothing that a client sends can make it grow without bound or
//! break a line of output.

pub mod access_log;
mod fast_hash;
mod headers;
pub mod istio;
pub mod metrics;
pub mod otlp;
pub mod peer_metadata;
pub mod request_id;
mod response_flags;
pub mod trace;

pub use headers::HeaderLookup;
pub use response_flags::{ResponseFlag, ResponseFlags};
