//! Protobuf to model. Total on every input.
//!
//! Errors carry the path of the field. Fields that have been deprecated are read where Istio still sends them.
#![allow(deprecated, reason = "each field is looked at, those that have been deprecated too")]
#![allow(clippy::needless_pass_by_value, reason = "decoding consumes a message")]

mod cluster;
mod common;
mod cx;
mod endpoint;
mod error_matcher;
mod hash;
mod hcm;
mod istio;
mod listener;
mod proxy_protocol;
mod rate_limit;
mod rbac;
mod retry_quota;
mod route;
mod route_filters;
mod slow_start;
mod tls;

use crate::pb::google;
use crate::{DecodeError, Decoded};
use cx::Cx;
use lateen_model::dataplane::{Cluster, ClusterLoadAssignment, Listener, RouteConfiguration, Secret};
use prost::{Message, Name};

/// Decodes a listener.
pub fn listener(bytes: &[u8]) -> Result<Decoded<Listener>, DecodeError> {
    decode(bytes, listener::listener)
}

/// Decodes a route configuration.
pub fn route_configuration(bytes: &[u8]) -> Result<Decoded<RouteConfiguration>, DecodeError> {
    decode(bytes, route::configuration)
}

/// Decodes a cluster.
pub fn cluster(bytes: &[u8]) -> Result<Decoded<Cluster>, DecodeError> {
    decode(bytes, cluster::cluster)
}

/// Decodes the endpoints of a cluster.
pub fn cluster_load_assignment(bytes: &[u8]) -> Result<Decoded<ClusterLoadAssignment>, DecodeError> {
    decode(bytes, endpoint::assignment)
}

/// Decodes a secret.
pub fn secret(bytes: &[u8]) -> Result<Decoded<Secret>, DecodeError> {
    decode(bytes, tls::secret)
}

fn decode<P: Message + Default, T>(
    bytes: &[u8],
    convert: impl FnOnce(&mut Cx, P) -> Result<T, DecodeError>,
) -> Result<Decoded<T>, DecodeError> {
    let mut cx = Cx::default();
    let message = cx.message(bytes)?;
    let value = convert(&mut cx, message)?;
    Ok(Decoded { value, ignored: cx.ignored })
}

/// The message in an `Any`, which must be of this type.
fn typed<M: Message + Name + Default>(cx: &Cx, config: &google::Any) -> cx::Result<M> {
    if config.type_url != M::type_url() {
        return cx.fail(format!("{:?} is not supported; {} is", common::short(&config.type_url), M::type_url()));
    }
    cx.message(&config.value)
}
