//! Istio's standard metrics, with all their labels, for HTTP and TCP, on both reporters.

mod labels;
mod subject;
mod worker;

pub use subject::{
    GrpcStatus, HttpSubject, Interned, Interner, Peer, Reporter, RequestProtocol, Service, TcpSubject, Text, UNKNOWN,
};
pub use worker::{HttpRecord, HttpSeries, IstioMetrics, TcpReport, TcpSeries, WorkerMetrics};
