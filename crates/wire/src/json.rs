//! The model as JSON, for people: `lateen config … -o json`, `/config_dump`.
//!
//! Names of fields are those of the model; durations are text such as `1.5s`; private keys are never shown.

use lateen_model::dataplane::{Cluster, ClusterLoadAssignment, Listener, RouteConfiguration, Secret};
use serde_json::Value;

/// A listener.
pub fn listener(value: &Listener) -> Value {
    let _ = value;
    todo!()
}

/// A route configuration.
pub fn route_configuration(value: &RouteConfiguration) -> Value {
    let _ = value;
    todo!()
}

/// A cluster.
pub fn cluster(value: &Cluster) -> Value {
    let _ = value;
    todo!()
}

/// The endpoints of a cluster; `name` is the cluster's name.
pub fn cluster_load_assignment(value: &ClusterLoadAssignment) -> Value {
    let _ = value;
    todo!()
}

/// A secret, without its key.
pub fn secret(value: &Secret) -> Value {
    let _ = value;
    todo!()
}
