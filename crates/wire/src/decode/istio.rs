//! Istio's own filters, typed or as `TypedStruct` (which is how Istio sends some of them).

use super::common::short;
use super::cx::{Cx, Result};
use crate::istio::{
    ALPN_OVERRIDES, AlpnConfig, AlpnOverride, DiscoveryMethod, Empty, IstioHeaders, PEER_EXCHANGE, PeerMetadataConfig,
    PropagationMethod, StatsConfig, TcpMetadataExchange,
};
use crate::pb::google;
use google::value::Kind;
use lateen_model::dataplane as m;
use prost::{Message, Name};

/// `xds.type.v3.TypedStruct`, formerly of package udpa.
#[derive(Clone, PartialEq, Message)]
struct TypedStruct {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(message, optional, tag = "2")]
    value: Option<google::Struct>,
}

const TYPED_STRUCTS: [&str; 2] = ["type.googleapis.com/udpa.type.v1.TypedStruct", "type.googleapis.com/xds.type.v3.TypedStruct"];

/// The type of a configuration, looking into a `TypedStruct`.
pub(super) fn type_url(config: &google::Any) -> String {
    typed_struct(config).map_or_else(|| config.type_url.clone(), |inner| inner.type_url)
}

fn typed_struct(config: &google::Any) -> Option<TypedStruct> {
    TYPED_STRUCTS.contains(&config.type_url.as_str()).then(|| TypedStruct::decode(config.value.as_slice()).ok())?
}

/// A message, typed or made from a `TypedStruct`.
fn read<T: Message + Name + Default>(
    cx: &mut Cx,
    config: &google::Any,
    from: impl FnOnce(&mut Cx, &google::Struct) -> Result<T>,
) -> Result<T> {
    match typed_struct(config) {
        Some(inner) => cx.at("value", |cx| from(cx, &inner.value.unwrap_or_default())),
        None => cx.message(&config.value),
    }
}

/// A field of a struct by its protobuf name, which JSON may write in camel case.
fn field<'a>(value: &'a google::Struct, name: &str) -> Option<&'a Kind> {
    let mut camel = String::with_capacity(name.len());
    for (i, part) in name.split('_').enumerate() {
        let mut letters = part.chars();
        match letters.next() {
            Some(first) if i > 0 => camel.extend(first.to_uppercase().chain(letters)),
            _ => camel.push_str(part),
        }
    }
    value.fields.get(name).or_else(|| value.fields.get(&camel))?.kind.as_ref()
}

fn flag(value: &google::Struct, name: &str) -> bool {
    matches!(field(value, name), Some(Kind::BoolValue(true)))
}

/// The structs in a list.
fn structs<'a>(value: &'a google::Struct, name: &str) -> Vec<&'a google::Struct> {
    let Some(Kind::ListValue(list)) = field(value, name) else { return Vec::new() };
    let inner = |value: &'a google::Value| match &value.kind {
        Some(Kind::StructValue(value)) => Some(value),
        _ => None,
    };
    list.values.iter().filter_map(inner).collect()
}

fn known(cx: &Cx, value: &google::Struct, names: &[&str]) -> Result<()> {
    let snake = |name: &str| {
        let mut snake = String::with_capacity(name.len() + 4);
        for letter in name.chars() {
            if letter.is_ascii_uppercase() {
                snake.push('_');
            }
            snake.push(letter.to_ascii_lowercase());
        }
        snake
    };
    match value.fields.keys().find(|key| !names.contains(&snake(key).as_str())) {
        Some(key) => cx.fail(format!("{:?} is not supported; {} are", short(key), names.join(", "))),
        None => Ok(()),
    }
}

pub(super) fn is_tcp_metadata_exchange(config: &google::Any) -> bool {
    type_url(config) == TcpMetadataExchange::type_url()
}

/// Checks the configuration of the TCP metadata exchange.
pub(super) fn tcp_metadata_exchange(cx: &mut Cx, config: &google::Any) -> Result<()> {
    let config = read(cx, config, |cx, value| {
        known(cx, value, &["protocol", "enable_discovery"])?;
        let protocol = match field(value, "protocol") {
            Some(Kind::StringValue(text)) => text.clone(),
            _ => String::new(),
        };
        Ok(TcpMetadataExchange { protocol, enable_discovery: flag(value, "enable_discovery") })
    })?;
    if config.protocol != PEER_EXCHANGE {
        return cx.fail_at("protocol", format!("only {PEER_EXCHANGE:?} is supported"));
    }
    if config.enable_discovery {
        cx.note_at("enable_discovery", "peers are known by what they send");
    }
    Ok(())
}

pub(super) fn alpn(cx: &mut Cx, config: &google::Any) -> Result<()> {
    let config: AlpnConfig = read(cx, config, |cx, value| {
        known(cx, value, &["alpn_override"])?;
        Ok(AlpnConfig { alpn_override: structs(value, "alpn_override").into_iter().map(alpn_override).collect() })
    })?;
    for value in config.alpn_override {
        let index = usize::try_from(value.upstream_protocol).ok();
        let known = index.and_then(|index| ALPN_OVERRIDES.get(index)).is_some_and(|(_, list)| value.alpn_override == list);
        if !known {
            return cx.fail_at("alpn_override", "only Istio's own overrides are supported");
        }
    }
    Ok(())
}

/// JSON names the enum's values; its first may be left out.
fn alpn_override(value: &google::Struct) -> AlpnOverride {
    let index = match field(value, "upstream_protocol") {
        None => Some(0),
        Some(Kind::StringValue(name)) => ALPN_OVERRIDES.iter().position(|(known, _)| known == name),
        Some(_) => None,
    };
    let protocols = match field(value, "alpn_override") {
        Some(Kind::ListValue(list)) => list.values.iter().filter_map(|v| match &v.kind {
            Some(Kind::StringValue(text)) => Some(text.clone()),
            _ => None,
        }),
        _ => return AlpnOverride { upstream_protocol: -1, alpn_override: Vec::new() },
    };
    AlpnOverride {
        upstream_protocol: index.and_then(|index| i32::try_from(index).ok()).unwrap_or(-1),
        alpn_override: protocols.collect(),
    }
}

/// `direction` is that of the listener, from which Istio's filter infers who reports.
pub(super) fn stats(cx: &mut Cx, config: &google::Any, direction: m::Direction) -> Result<m::StatsFilter> {
    let config = read(cx, config, |cx, value| {
        known(cx, value, &["disable_host_header_fallback", "tcp_reporting_duration"])?;
        Ok(StatsConfig {
            disable_host_header_fallback: flag(value, "disable_host_header_fallback"),
            tcp_reporting_duration: field(value, "tcp_reporting_duration").map(|_| Empty {}),
            ..Default::default()
        })
    })?;
    if config.tcp_reporting_duration.is_some() {
        cx.note_at("tcp_reporting_duration", "counters are always up to date");
    }
    if !config.metrics.is_empty() {
        cx.note_at("metrics", "the standard metrics are reported as they are");
    }
    if !config.definitions.is_empty() {
        cx.note_at("definitions", "the standard metrics are reported as they are");
    }
    if config.reporter != 0 {
        return cx.fail_at("reporter", "only UNSPECIFIED is supported");
    }
    Ok(m::StatsFilter { direction, host_header_fallback: !config.disable_host_header_fallback })
}

pub(super) fn peer_metadata(cx: &mut Cx, config: &google::Any) -> Result<m::PeerMetadata> {
    let config = read(cx, config, peer_metadata_struct)?;
    cx.refuse("shared_with_upstream", config.shared_with_upstream)?;
    if !config.additional_labels.is_empty() {
        cx.note_at("additional_labels", "the standard labels are sent");
    }
    let downstream = !config.downstream_discovery.is_empty() || !config.downstream_propagation.is_empty();
    let upstream = !config.upstream_discovery.is_empty() || !config.upstream_propagation.is_empty();
    let direction = match (downstream, upstream) {
        (true, false) => m::Direction::Inbound,
        (false, true) => m::Direction::Outbound,
        (true, true) => m::Direction::Unspecified,
        (false, false) => return cx.fail("discovers and sends nothing"),
    };
    let side = if upstream { config.upstream_propagation } else { config.downstream_propagation };
    let skip = side.into_iter().filter_map(|method| method.istio_headers).any(|headers| headers.skip_external_clusters);
    Ok(m::PeerMetadata { direction, skip_external_clusters: skip })
}

fn peer_metadata_struct(cx: &mut Cx, value: &google::Struct) -> Result<PeerMetadataConfig> {
    known(
        cx,
        value,
        &[
            "downstream_discovery",
            "upstream_discovery",
            "downstream_propagation",
            "upstream_propagation",
            "shared_with_upstream",
            "additional_labels",
        ],
    )?;
    let headers = |value: &google::Struct| match field(value, "istio_headers") {
        Some(Kind::StructValue(headers)) => {
            Some(IstioHeaders { skip_external_clusters: flag(headers, "skip_external_clusters") })
        }
        _ => None,
    };
    let discovery = |name| {
        let method = |value: &google::Struct| DiscoveryMethod {
            baggage: field(value, "baggage").map(|_| Empty {}),
            workload_discovery: field(value, "workload_discovery").map(|_| Empty {}),
            istio_headers: headers(value),
        };
        structs(value, name).into_iter().map(method).collect()
    };
    let propagation =
        |name| structs(value, name).into_iter().map(|value| PropagationMethod { istio_headers: headers(value) }).collect();
    Ok(PeerMetadataConfig {
        downstream_discovery: discovery("downstream_discovery"),
        upstream_discovery: discovery("upstream_discovery"),
        downstream_propagation: propagation("downstream_propagation"),
        upstream_propagation: propagation("upstream_propagation"),
        shared_with_upstream: flag(value, "shared_with_upstream"),
        additional_labels: Vec::new(),
    })
}
