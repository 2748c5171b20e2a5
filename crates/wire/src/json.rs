//! The model as JSON, for people: `lateen config … -o json`, `/config_dump`.
//!
//! Names of fields are those of the model; durations are text such as `1.5s`; what is absent or empty is left out; private
//! keys are never shown.

use lateen_model::dataplane::{Cluster, ClusterLoadAssignment, Listener, RouteConfiguration, Secret};
use serde_json::{Map, Value};

/// A listener.
pub fn listener(value: &Listener) -> Value {
    named(&value.name, value)
}

/// A route configuration.
pub fn route_configuration(value: &RouteConfiguration) -> Value {
    named(&value.name, value)
}

/// A cluster.
pub fn cluster(value: &Cluster) -> Value {
    named(&value.name, value)
}

/// The endpoints of a cluster; `name` is the cluster's name.
pub fn cluster_load_assignment(value: &ClusterLoadAssignment) -> Value {
    named(&value.cluster_name, value)
}

/// A secret, without its key.
pub fn secret(value: &Secret) -> Value {
    named(&value.name, value)
}

fn named(name: &str, value: &impl serde::Serialize) -> Value {
    let mut object = Map::new();
    object.insert("name".to_owned(), Value::String(name.to_owned()));
    // Serialising plain data into memory cannot fail; were it to, the name would be shown alone.
    if let Ok(Value::Object(fields)) = serde_json::to_value(value) {
        for (key, value) in fields {
            if key != "name"
                && let Some(value) = compact(value)
            {
                object.insert(key, value);
            }
        }
    }
    Value::Object(object)
}

/// The value without absent and empty parts; `None` if nothing is left.
fn compact(value: Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::String(text) if text.is_empty() => None,
        Value::Array(list) => {
            let list: Vec<Value> = list.into_iter().map(|v| compact(v).unwrap_or(Value::Null)).collect();
            (!list.is_empty()).then_some(Value::Array(list))
        }
        Value::Object(map) => {
            // An object stays even when it is empty: it may be the name of a variant that says something.
            Some(Value::Object(map.into_iter().filter_map(|(k, v)| Some((k, compact(v)?))).collect()))
        }
        other => Some(other),
    }
}
