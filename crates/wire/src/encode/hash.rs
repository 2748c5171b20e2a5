//! Consistent choices of endpoints: what is hashed, and the tables.

use super::common::duration;
use crate::pb::{cluster, google, route};
use cluster::cluster::{LbConfig, MaglevLbConfig, RingHashLbConfig};
use lateen_model::dataplane as m;

pub(super) fn policy(value: &m::HashPolicy) -> route::route_action::HashPolicy {
    use route::route_action::hash_policy::{
        ConnectionProperties, Cookie, CookieAttribute, Header, PolicySpecifier, QueryParameter,
    };
    let specifier = match &value.key {
        m::HashKey::Header(name) => PolicySpecifier::Header(Header { header_name: name.clone(), regex_rewrite: None }),
        m::HashKey::Cookie(cookie) => PolicySpecifier::Cookie(Cookie {
            name: cookie.name.clone(),
            ttl: cookie.ttl.map(duration),
            path: cookie.path.clone(),
            attributes: cookie
                .attributes
                .iter()
                .map(|(name, value)| CookieAttribute { name: name.clone(), value: value.clone() })
                .collect(),
        }),
        m::HashKey::SourceIp => PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true }),
        m::HashKey::QueryParameter(name) => PolicySpecifier::QueryParameter(QueryParameter { name: name.clone() }),
    };
    route::route_action::HashPolicy { terminal: value.terminal, policy_specifier: Some(specifier) }
}

/// The size of the table, if there is one.
pub(super) fn table(policy: m::LbPolicy) -> Option<LbConfig> {
    let wide = |n: u32| Some(google::UInt64Value { value: n.into() });
    match policy {
        m::LbPolicy::RingHash(size) => Some(LbConfig::RingHashLbConfig(RingHashLbConfig {
            minimum_ring_size: wide(size.minimum()),
            maximum_ring_size: wide(size.maximum()),
            ..Default::default()
        })),
        m::LbPolicy::Maglev(size) => Some(LbConfig::MaglevLbConfig(MaglevLbConfig { table_size: wide(size.get()) })),
        m::LbPolicy::RoundRobin | m::LbPolicy::LeastRequest | m::LbPolicy::Random | m::LbPolicy::ClusterProvided => None,
    }
}
