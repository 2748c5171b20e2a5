//! Metrics, access log, tracing.

pub mod otlp;
