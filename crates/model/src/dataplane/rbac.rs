//! Authorization rules as Envoy's RBAC engine has them (`envoy.config.rbac.v3`).

use super::matcher::{HeaderMatch, StringMatch};
use ipnet::IpNet;
use serde::Serialize;

/// What a matching policy does (`RBAC.Action`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RbacAction {
    /// Only what matches a policy passes.
    Allow,
    /// What matches a policy is refused.
    Deny,
    /// Matches are only recorded.
    Log,
}

/// One named policy: matches if any principal and any permission match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RbacPolicy {
    /// `ns[<ns>]-policy[<name>]-rule[<index>]`.
    pub name: String,
    /// What is done; any of them.
    pub permissions: Vec<Permission>,
    /// Who does it; any of them.
    pub principals: Vec<Principal>,
}

/// The rules of one RBAC filter. Policies are held in order of name, as Envoy evaluates them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rbac {
    /// What a match means.
    pub action: RbacAction,
    /// The policies, sorted by name.
    pub policies: Vec<RbacPolicy>,
    /// Prefix of the filter's statistics.
    pub stat_prefix: String,
}

/// A predicate on what is done (`envoy.config.rbac.v3.Permission`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    /// Always true.
    Any,
    /// All of them.
    And(Vec<Permission>),
    /// Any of them.
    Or(Vec<Permission>),
    /// Not.
    Not(Box<Permission>),
    /// A request header; never true on a TCP connection.
    Header(HeaderMatch),
    /// The path without its query.
    Path(StringMatch),
    /// A path template such as `/v1/{*}/items/{**}` (`uri_template`).
    PathTemplate(String),
    /// The connection's destination address.
    DestinationIp(IpNet),
    /// The connection's destination port.
    DestinationPort(u16),
    /// The SNI of the connection.
    RequestedServerName(StringMatch),
}

/// A predicate on who does it (`envoy.config.rbac.v3.Principal`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Principal {
    /// Always true.
    Any,
    /// All of them.
    And(Vec<Principal>),
    /// Any of them.
    Or(Vec<Principal>),
    /// Not.
    Not(Box<Principal>),
    /// The verified peer's URI SAN, with `spiffe://`; `None` is any verified peer. Never true without mTLS.
    Authenticated(Option<StringMatch>),
    /// The address of the direct peer.
    DirectRemoteIp(IpNet),
    /// The client's address, derived from `x-forwarded-for` or the PROXY protocol where that is trusted.
    RemoteIp(IpNet),
    /// A request header; never true on a TCP connection.
    Header(HeaderMatch),
    /// The path without its query.
    Path(StringMatch),
}
