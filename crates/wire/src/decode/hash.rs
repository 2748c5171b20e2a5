//! Consistent choices of endpoints: what is hashed, and the tables.

use super::common::duration;
use super::cx::{Cx, Result};
use crate::pb::{cluster, route};
use cluster::cluster::LbConfig;
use cluster::cluster::ring_hash_lb_config::HashFunction;
use lateen_model::dataplane as m;

pub(super) fn policy(cx: &mut Cx, value: route::route_action::HashPolicy) -> Result<m::HashPolicy> {
    use route::route_action::hash_policy::PolicySpecifier;
    let key = match value.policy_specifier {
        Some(PolicySpecifier::Header(header)) => {
            cx.refuse("header.regex_rewrite", header.regex_rewrite.is_some())?;
            m::HashKey::Header(header.header_name.to_ascii_lowercase())
        }
        Some(PolicySpecifier::Cookie(cookie)) => m::HashKey::Cookie(m::HashCookie {
            ttl: cx.optional("cookie.ttl", cookie.ttl, duration)?,
            name: cookie.name,
            path: cookie.path,
            attributes: cookie.attributes.into_iter().map(|a| (a.name, a.value)).collect(),
        }),
        Some(PolicySpecifier::ConnectionProperties(properties)) if properties.source_ip => m::HashKey::SourceIp,
        Some(PolicySpecifier::QueryParameter(parameter)) => m::HashKey::QueryParameter(parameter.name),
        _ => return cx.fail("header, cookie, connection_properties.source_ip and query_parameter are supported"),
    };
    Ok(m::HashPolicy { key, terminal: value.terminal })
}

/// The ring's size; Envoy's where nothing is written.
pub(super) fn ring(cx: &mut Cx, config: Option<&LbConfig>) -> Result<m::LbPolicy> {
    let Some(LbConfig::RingHashLbConfig(config)) = config else { return Ok(m::LbPolicy::RingHash(m::RingSize::default())) };
    cx.at("ring_hash_lb_config", |cx| {
        if config.hash_function != i32::from(HashFunction::XxHash) {
            return cx.fail_at("hash_function", "only XX_HASH is supported");
        }
        let default = m::RingSize::default();
        let minimum = config.minimum_ring_size.as_ref().map_or(default.minimum().into(), |v| v.value);
        let maximum = config.maximum_ring_size.as_ref().map_or(default.maximum().into(), |v| v.value);
        match m::RingSize::try_new(minimum, maximum) {
            Ok(size) => Ok(m::LbPolicy::RingHash(size)),
            Err(error) => cx.fail_at("minimum_ring_size", error.to_string()),
        }
    })
}

/// The table's size; Envoy's where nothing is written.
pub(super) fn maglev(cx: &mut Cx, config: Option<&LbConfig>) -> Result<m::LbPolicy> {
    let size = match config {
        Some(LbConfig::MaglevLbConfig(config)) => config.table_size.as_ref().map(|v| v.value),
        _ => None,
    };
    match size.map(m::MaglevTableSize::try_new).transpose() {
        Ok(size) => Ok(m::LbPolicy::Maglev(size.unwrap_or_default())),
        Err(error) => cx.fail_at("maglev_lb_config.table_size", error.to_string()),
    }
}
