//! Who a proxy says it is (`envoy.config.core.v3.Node`, xDS `node`).

use crate::proto;
use envoy_types::pb::google::protobuf::{Struct, Value as ProtoValue, value::Kind};
use lateen_wire::ProxyFlavor;
use serde_json::{Map, Number, Value};
use std::fmt;
use std::net::IpAddr;

/// The kind of a proxy: the first part of its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeType {
    /// Beside an application.
    Sidecar,
    /// A gateway.
    Router,
    /// Ambient, L7.
    Waypoint,
    /// Ambient, L4.
    Ztunnel,
}

impl NodeType {
    /// As it stands in a node id.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Router => "router",
            Self::Waypoint => "waypoint",
            Self::Ztunnel => "ztunnel",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Sidecar, Self::Router, Self::Waypoint, Self::Ztunnel].into_iter().find(|t| t.as_str() == text)
    }
}

/// Where a proxy runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Locality {
    /// e.g. `us-east1`.
    pub region: String,
    /// e.g. `us-east1-b`.
    pub zone: String,
    /// e.g. a rack.
    pub sub_zone: String,
}

/// Why a node is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// The first request of a stream has no node, or one without an id.
    #[error("missing node information")]
    Missing,
    /// The id is not `TYPE~IP~NAME.NAMESPACE~DOMAIN`.
    #[error("node id {0:?} is not of the form TYPE~IP~NAME.NAMESPACE~DOMAIN: {1}")]
    Id(String, &'static str),
}

/// A proxy, as it describes itself. Nothing of it is proven: see `server::Authenticator`.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The whole id, `TYPE~IP~NAME.NAMESPACE~DOMAIN`.
    pub id: String,
    /// First part of the id.
    pub node_type: NodeType,
    /// Second part of the id.
    pub ip: IpAddr,
    /// Third part of the id, up to its last dot: the pod's name.
    pub name: String,
    /// Third part of the id, after its last dot.
    pub namespace: String,
    /// Fourth part of the id, e.g. `default.svc.cluster.local`.
    pub dns_domain: String,
    /// `cluster`: the name of the service for tracing.
    pub cluster: String,
    /// Where it runs.
    pub locality: Locality,
    /// `metadata`.
    pub metadata: Map<String, Value>,
    /// `user_agent_name`, e.g. `envoy` or `lateen`.
    pub user_agent: String,
    /// The names of its extensions, as Envoy reports them.
    pub extensions: Vec<String>,
}

impl Node {
    /// `user_agent_name` of Lateen's own proxies.
    pub const LATEEN_USER_AGENT: &'static str = "lateen";

    /// A node of Lateen's own proxy; its id is put together from its parts.
    pub fn new(node_type: NodeType, ip: IpAddr, name: &str, namespace: &str, dns_domain: &str) -> Self {
        Self {
            id: format!("{}~{ip}~{name}.{namespace}~{dns_domain}", node_type.as_str()),
            node_type,
            ip,
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            dns_domain: dns_domain.to_owned(),
            cluster: format!("{name}.{namespace}"),
            locality: Locality::default(),
            metadata: Map::new(),
            user_agent: Self::LATEEN_USER_AGENT.to_owned(),
            extensions: Vec::new(),
        }
    }

    /// Checks a node from the wire.
    pub fn from_proto(node: &proto::Node) -> Result<Self, NodeError> {
        if node.id.is_empty() {
            return Err(NodeError::Missing);
        }
        let fail = |reason| NodeError::Id(node.id.chars().take(300).collect(), reason);
        let parts: Vec<&str> = node.id.split('~').collect();
        let [node_type, ip, workload, dns_domain] = parts[..] else {
            return Err(fail("it must have four parts"));
        };
        let node_type =
            NodeType::parse(node_type).ok_or_else(|| fail("the type must be sidecar, router, waypoint or ztunnel"))?;
        let ip = ip.parse().map_err(|_| fail("the second part must be an IP address"))?;
        let (name, namespace) = workload.rsplit_once('.').ok_or_else(|| fail("the third part must be NAME.NAMESPACE"))?;
        if name.is_empty() || namespace.is_empty() {
            return Err(fail("the third part must be NAME.NAMESPACE"));
        }
        let locality = node.locality.clone().unwrap_or_default();
        Ok(Self {
            id: node.id.clone(),
            node_type,
            ip,
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            dns_domain: dns_domain.to_owned(),
            cluster: node.cluster.clone(),
            locality: Locality { region: locality.region, zone: locality.zone, sub_zone: locality.sub_zone },
            metadata: node.metadata.as_ref().map(struct_to_json).unwrap_or_default(),
            user_agent: node.user_agent_name.clone(),
            extensions: node.extensions.iter().map(|e| e.name.clone()).collect(),
        })
    }

    /// The message for the wire.
    pub fn to_proto(&self) -> proto::Node {
        let Locality { region, zone, sub_zone } = self.locality.clone();
        proto::Node {
            id: self.id.clone(),
            cluster: self.cluster.clone(),
            metadata: Some(json_to_struct(&self.metadata)),
            locality: Some(envoy_types::pb::envoy::config::core::v3::Locality { region, zone, sub_zone }),
            user_agent_name: self.user_agent.clone(),
            ..proto::Node::default()
        }
    }

    /// A metadata value that is text, e.g. `SERVICE_ACCOUNT`, `CLUSTER_ID`.
    pub fn metadata_str(&self, key: &str) -> Option<&str> {
        self.metadata.get(key)?.as_str()
    }

    /// A metadata value that is a truth value, as a bool or as text (Istio's `StringBool`).
    pub fn metadata_bool(&self, key: &str) -> Option<bool> {
        match self.metadata.get(key)? {
            Value::Bool(value) => Some(*value),
            Value::String(text) => match text.as_str() {
                "true" | "1" => Some(true),
                "false" | "0" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }

    /// All addresses of the proxy: metadata `INSTANCE_IPS` when each of them is an address, else the one in the id.
    pub fn ip_addresses(&self) -> Vec<IpAddr> {
        let listed: Option<Vec<IpAddr>> =
            self.metadata_str("INSTANCE_IPS").and_then(|list| list.split(',').map(|ip| ip.trim().parse().ok()).collect());
        listed.unwrap_or_else(|| vec![self.ip])
    }

    /// What the proxy can read. Envoy lists its extensions; without the list, Istio's proxy is known by its metadata.
    pub fn flavor(&self) -> ProxyFlavor {
        if self.user_agent == Self::LATEEN_USER_AGENT {
            return ProxyFlavor::Lateen;
        }
        let istio = if self.extensions.is_empty() {
            self.metadata.contains_key("ISTIO_PROXY_SHA") || self.metadata.contains_key("ISTIO_VERSION")
        } else {
            self.extensions.iter().any(|name| name == "istio.stats" || name == "envoy.filters.http.istio_stats")
        };
        if istio { ProxyFlavor::Istio } else { ProxyFlavor::StockEnvoy }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.name, self.namespace)
    }
}

fn struct_to_json(value: &Struct) -> Map<String, Value> {
    // Sorted, because protobuf maps have no order and people compare dumps.
    let mut fields: Vec<_> = value.fields.iter().collect();
    fields.sort_by_key(|(key, _)| key.as_str());
    fields.into_iter().map(|(key, value)| (key.clone(), value_to_json(value))).collect()
}

fn value_to_json(value: &ProtoValue) -> Value {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => Value::Bool(*value),
        Some(Kind::NumberValue(value)) => number_to_json(*value),
        Some(Kind::StringValue(text)) => Value::String(text.clone()),
        Some(Kind::StructValue(value)) => Value::Object(struct_to_json(value)),
        Some(Kind::ListValue(list)) => Value::Array(list.values.iter().map(value_to_json).collect()),
    }
}

/// Protobuf has only doubles; whole numbers are shown as such (a port is 80, not 80.0).
fn number_to_json(value: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() < EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "whole and within the exact range of a double")]
        return Value::Number(Number::from(value as i64));
    }
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

fn json_to_struct(map: &Map<String, Value>) -> Struct {
    Struct { fields: map.iter().map(|(key, value)| (key.clone(), json_to_value(value))).collect() }
}

fn json_to_value(value: &Value) -> ProtoValue {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(*value),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(0.0)),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(list) => {
            Kind::ListValue(envoy_types::pb::google::protobuf::ListValue { values: list.iter().map(json_to_value).collect() })
        }
        Value::Object(map) => Kind::StructValue(json_to_struct(map)),
    };
    ProtoValue { kind: Some(kind) }
}
