//! Every field of a kind, found by asking its type: what it deserializes is what it has.

use std::fmt;

use lateen_model::resource::gateway_api::{
    BackendTlsPolicy, KubeGateway, KubeGrpcRoute, KubeHttpRoute, KubeTcpRoute, KubeTlsRoute, ReferenceGrant,
};
use lateen_model::resource::{
    AuthorizationPolicy, DestinationRule, Gateway, LocalRateLimit, PeerAuthentication, ServiceEntry, Sidecar, VirtualService,
    WorkloadEntry, WorkloadGroup, WorkloadProxyConfig,
};
use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, forward_to_deserialize_any};
use serde_json::Value;

/// The fields of the kinds that are held against Envoy, as `Kind.field.field`: lists and maps are not a step of their own.
pub(crate) fn all() -> Vec<String> {
    let mut all = Vec::new();
    fields_of::<VirtualService>("VirtualService", &mut all);
    fields_of::<DestinationRule>("DestinationRule", &mut all);
    fields_of::<Gateway>("Gateway", &mut all);
    fields_of::<ServiceEntry>("ServiceEntry", &mut all);
    fields_of::<WorkloadEntry>("WorkloadEntry", &mut all);
    fields_of::<WorkloadGroup>("WorkloadGroup", &mut all);
    fields_of::<Sidecar>("Sidecar", &mut all);
    fields_of::<PeerAuthentication>("PeerAuthentication", &mut all);
    fields_of::<AuthorizationPolicy>("AuthorizationPolicy", &mut all);
    fields_of::<LocalRateLimit>("LocalRateLimit", &mut all);
    fields_of::<WorkloadProxyConfig>("ProxyConfig", &mut all);
    // Both groups have a Gateway, without a field in common.
    fields_of::<KubeGateway>("Gateway", &mut all);
    fields_of::<KubeHttpRoute>("HTTPRoute", &mut all);
    fields_of::<KubeGrpcRoute>("GRPCRoute", &mut all);
    fields_of::<KubeTcpRoute>("TCPRoute", &mut all);
    fields_of::<KubeTlsRoute>("TLSRoute", &mut all);
    fields_of::<ReferenceGrant>("ReferenceGrant", &mut all);
    fields_of::<BackendTlsPolicy>("BackendTLSPolicy", &mut all);
    all
}

/// Those of `all` that the documents set.
pub(crate) fn set_in(documents: &[Value], all: &[String]) -> Vec<String> {
    let mut set = Vec::new();
    for document in documents {
        let Some(kind) = document["kind"].as_str() else { continue };
        walk(&document["spec"], kind, all, &mut set);
    }
    set.sort();
    set.dedup();
    set
}

fn walk(value: &Value, path: &str, all: &[String], set: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| walk(item, path, all, set)),
        Value::Object(map) => {
            for (key, value) in map {
                let deeper = format!("{path}.{key}");
                let below = format!("{deeper}.");
                if all.contains(&deeper) {
                    set.push(deeper);
                } else if all.iter().any(|field| field.starts_with(&below)) {
                    walk(value, &deeper, all, set);
                    // `{}` is a value too, where fields are all optional.
                    if value.as_object().is_some_and(serde_json::Map::is_empty) {
                        set.push(deeper);
                    }
                } else {
                    // A key of a map.
                    walk(value, path, all, set);
                }
            }
        }
        _ => {}
    }
}

fn fields_of<T: for<'de> Deserialize<'de>>(kind: &str, into: &mut Vec<String>) {
    let mut open = vec![vec!["spec".to_owned()]];
    while let Some(path) = open.pop() {
        let mut found = Shape::Leaf;
        // The error only says that there is nothing to make a whole object of.
        let _ = T::deserialize(Probe { path: &path, found: &mut found });
        match found {
            Shape::Struct(fields) => open.extend(fields.iter().map(|field| [&path[..], &[(*field).to_owned()]].concat())),
            Shape::Leaf => into.push(format!("{kind}.{}", path[1..].join("."))),
        }
    }
    into.sort();
}

/// What is at the end of a path.
enum Shape {
    Struct(&'static [&'static str]),
    Leaf,
}

/// Leads a type along a path, and notes what it wants there.
struct Probe<'p> {
    path: &'p [String],
    found: &'p mut Shape,
}

#[derive(Debug)]
struct Stop;

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there is no value here")
    }
}

impl std::error::Error for Stop {}

impl de::Error for Stop {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Stop;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Stop> {
        Err(Stop)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_seq(Only { key: None, probe: Some(self) })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_map(Only { key: Some("80"), probe: Some(self) })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        let Some((first, rest)) = self.path.split_first() else {
            *self.found = Shape::Struct(fields);
            return Err(Stop);
        };
        let key = fields.iter().find(|field| *field == first).ok_or(Stop)?;
        visitor.visit_map(Only { key: Some(key), probe: Some(Probe { path: rest, found: self.found }) })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct tuple tuple_struct
        enum identifier ignored_any
    }
}

/// The one entry of a map or element of a list that leads on.
struct Only<'p> {
    key: Option<&'static str>,
    probe: Option<Probe<'p>>,
}

impl<'de> MapAccess<'de> for Only<'_> {
    type Error = Stop;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Stop> {
        self.key.take().map(|key| seed.deserialize(StrDeserializer::new(key))).transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Stop> {
        seed.deserialize(self.probe.take().ok_or(Stop)?)
    }
}

impl<'de> SeqAccess<'de> for Only<'_> {
    type Error = Stop;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Stop> {
        self.probe.take().map(|probe| seed.deserialize(probe)).transpose()
    }
}
