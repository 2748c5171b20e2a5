//! Model to protobuf.
//!
//! Each function answers the bytes of the message itself; its type URL is in [`crate::type_url`].

pub(crate) mod cluster;
mod common;
mod endpoint;
mod error_matcher;
mod hash;
pub(crate) mod hcm;
pub(crate) mod listener;
mod proxy_protocol;
mod rate_limit;
mod rbac;
pub(crate) mod retry_quota;
mod route;
mod route_filters;
mod slow_start;
pub(crate) mod tls;

use bytes::Bytes;
use lateen_model::dataplane::{Cluster, ClusterLoadAssignment, Listener, RouteConfiguration, Secret};
use prost::Message;

/// The proxy that reads what is encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ProxyFlavor {
    /// Lateen's own proxy: everything is sent.
    #[default]
    Lateen,
    /// Envoy with Istio's extensions (`istio-proxy`): everything is sent.
    Istio,
    /// Envoy as released. Istio's HTTP filters are sent as optional (Envoy skips what it does not know); its network and
    /// upstream filters, which cannot be optional, are left out, and with them the ALPN protocol that announces the exchange
    /// of metadata.
    StockEnvoy,
}

/// How resources are encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EncodeOptions {
    /// For whom.
    pub flavor: ProxyFlavor,
}

/// Encodes a listener.
pub fn listener(value: &Listener, options: EncodeOptions) -> Bytes {
    listener::listener(value, options).encode_to_vec().into()
}

/// Encodes a route configuration.
pub fn route_configuration(value: &RouteConfiguration) -> Bytes {
    route::configuration(value).encode_to_vec().into()
}

/// Encodes a cluster.
pub fn cluster(value: &Cluster, options: EncodeOptions) -> Bytes {
    cluster::cluster(value, options)
}

/// Encodes the endpoints of a cluster.
pub fn cluster_load_assignment(value: &ClusterLoadAssignment) -> Bytes {
    endpoint::assignment(value).encode_to_vec().into()
}

/// Encodes a secret.
pub fn secret(value: &Secret) -> Bytes {
    tls::secret(value).encode_to_vec().into()
}
