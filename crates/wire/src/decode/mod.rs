//! Protobuf to model. Total on every input.

use crate::{DecodeError, Decoded};
use lateen_model::dataplane::{Cluster, ClusterLoadAssignment, Listener, RouteConfiguration, Secret};

/// Decodes a listener.
pub fn listener(bytes: &[u8]) -> Result<Decoded<Listener>, DecodeError> {
    let _ = bytes;
    todo!()
}

/// Decodes a route configuration.
pub fn route_configuration(bytes: &[u8]) -> Result<Decoded<RouteConfiguration>, DecodeError> {
    let _ = bytes;
    todo!()
}

/// Decodes a cluster.
pub fn cluster(bytes: &[u8]) -> Result<Decoded<Cluster>, DecodeError> {
    let _ = bytes;
    todo!()
}

/// Decodes the endpoints of a cluster.
pub fn cluster_load_assignment(bytes: &[u8]) -> Result<Decoded<ClusterLoadAssignment>, DecodeError> {
    let _ = bytes;
    todo!()
}

/// Decodes a secret.
pub fn secret(bytes: &[u8]) -> Result<Decoded<Secret>, DecodeError> {
    let _ = bytes;
    todo!()
}
