//! `networking.istio.io VirtualService`: how requests to a host are routed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ProtoDuration;
use super::meta::{Object, StringMap};

mod fault;
mod reachability;
mod route_check;
mod string_match;
mod tcp;
mod unsupported;
mod validate;

pub use fault::{CorsPolicy, FaultAbort, FaultDelay, FaultInjection, HttpMirrorPolicy, Percent, UnmatchedPreflights};
pub(crate) use route_check::retry_on;
pub use string_match::StringMatch;
pub use tcp::{L4MatchAttributes, RouteDestination, TcpRoute, TlsMatchAttributes, TlsRoute};
pub use validate::MESH_GATEWAY;
pub(crate) use validate::check_destination;

/// How requests to a host are routed.
pub type VirtualService = Object<VirtualServiceSpec>;

/// Istio's `VirtualService` message.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct VirtualServiceSpec {
    /// Hosts that the routes apply to: DNS names, possibly with a wildcard as the first label, or IP addresses; short names
    /// belong to the object's own namespace. Empty makes this a delegate.
    pub hosts: Vec<String>,
    /// Gateways that apply the routes, as `NAME` or `NAMESPACE/NAME`; `mesh` means all sidecars, and is the default.
    pub gateways: Vec<String>,
    /// Routes for HTTP; the first that matches wins.
    pub http: Vec<HttpRoute>,
    /// Routes by TLS server name.
    pub tls: Vec<TlsRoute>,
    /// Routes for plain TCP.
    pub tcp: Vec<TcpRoute>,
    /// Namespaces that see it; see [`super::ExportTo`].
    pub export_to: Vec<String>,
}

/// One HTTP route: conditions, and exactly one of `route`, `redirect`, `directResponse` and `delegate`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRoute {
    /// Appears in access logs and route names.
    pub name: String,
    /// Alternatives; empty matches everything.
    #[serde(rename = "match")]
    pub matches: Vec<HttpMatchRequest>,
    /// Where requests go, by weight.
    pub route: Vec<HttpRouteDestination>,
    /// Answers with a redirect.
    pub redirect: Option<HttpRedirect>,
    /// Answers with a fixed response.
    pub direct_response: Option<HttpDirectResponse>,
    /// Another VirtualService that has the routes; not supported yet.
    pub delegate: Option<Delegate>,
    /// Changes path or authority before forwarding.
    pub rewrite: Option<HttpRewrite>,
    /// For the whole request, retries included; zero or absent: no limit.
    pub timeout: Option<ProtoDuration>,
    /// When to try again; the mesh's default if absent.
    pub retries: Option<HttpRetry>,
    /// Injected delays and errors; not supported yet.
    pub fault: Option<FaultInjection>,
    /// Copies requests to another destination; not supported yet.
    pub mirror: Option<Destination>,
    /// The same, several times; not supported yet.
    pub mirrors: Vec<HttpMirrorPolicy>,
    /// Deprecated by `mirrorPercentage`.
    pub mirror_percent: Option<u32>,
    /// Share of requests that `mirror` copies; 100% if absent.
    pub mirror_percentage: Option<Percent>,
    /// Cross-origin rules; not supported yet.
    pub cors_policy: Option<CorsPolicy>,
    /// Changes headers, for every destination of the route.
    pub headers: Option<Headers>,
}

/// Conditions of a route, all of which must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpMatchRequest {
    /// Appended to the route's name.
    pub name: String,
    /// The path with the query string removed.
    pub uri: Option<StringMatch>,
    /// `http` or `https`.
    pub scheme: Option<StringMatch>,
    /// The method.
    pub method: Option<StringMatch>,
    /// The `Host` or `:authority`.
    pub authority: Option<StringMatch>,
    /// By header name, in lower case.
    pub headers: BTreeMap<String, StringMatch>,
    /// The service's port.
    pub port: Option<u32>,
    /// Labels of the client's pod.
    pub source_labels: StringMap,
    /// Instead of the VirtualService's own `gateways`.
    pub gateways: Vec<String>,
    /// By name of a query parameter.
    pub query_params: BTreeMap<String, StringMatch>,
    /// For `exact` and `prefix` in `uri`.
    pub ignore_uri_case: bool,
    /// Headers that must not match.
    pub without_headers: BTreeMap<String, StringMatch>,
    /// The client's namespace.
    pub source_namespace: String,
    /// Prefix for statistics of the route; not supported yet.
    pub stat_prefix: String,
}

/// A service, possibly a part of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Destination {
    /// The service's host; short names belong to the object's own namespace.
    pub host: String,
    /// A subset that a DestinationRule defines; empty: the whole service.
    pub subset: String,
    /// The service's port; may be left out if it has only one.
    pub port: Option<PortSelector>,
}

/// A port by its number.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct PortSelector {
    /// 1 to 65535.
    pub number: u32,
}

/// One of a route's destinations.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRouteDestination {
    /// The service.
    pub destination: Option<Destination>,
    /// Share of the requests, relative to the sum of all weights. Without a meaning if the destination is the only one.
    pub weight: i32,
    /// Changes headers, for this destination alone.
    pub headers: Option<Headers>,
}

/// Changes of headers, of requests and of responses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Headers {
    /// On the way to the destination.
    pub request: Option<HeaderOperations>,
    /// On the way back.
    pub response: Option<HeaderOperations>,
}

/// Changes of headers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderOperations {
    /// Overwrite or add.
    pub set: StringMap,
    /// Append.
    pub add: StringMap,
    /// Take away.
    pub remove: Vec<String>,
}

/// An answer that sends the client elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRedirect {
    /// The new path and query; kept if empty.
    pub uri: String,
    /// The new authority; kept if empty.
    pub authority: String,
    /// The new port; excludes `derivePort`.
    pub port: Option<u32>,
    /// Where the port comes from; excludes `port`.
    pub derive_port: Option<RedirectPortSelection>,
    /// The new scheme, `http` or `https`; kept if empty.
    pub scheme: String,
    /// 301 if absent or 0; else 301, 302, 303, 307 or 308.
    pub redirect_code: Option<u32>,
    /// Replaces the matched path prefix; excludes `uri`.
    pub prefix_rewrite: String,
}

/// Where a redirect's port comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RedirectPortSelection {
    /// 80 for http, 443 for https.
    #[default]
    FromProtocolDefault,
    /// The request's own.
    FromRequestPort,
}

/// A fixed answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpDirectResponse {
    /// 200 to 599.
    pub status: u32,
    /// Empty if absent.
    pub body: Option<HttpBody>,
}

/// Exactly one of two forms of a body.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpBody {
    /// As text.
    pub string: Option<String>,
    /// As bytes.
    pub bytes: Option<super::Base64Bytes>,
}

/// Another VirtualService.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Delegate {
    /// Its name.
    pub name: String,
    /// Its namespace; the same if empty.
    pub namespace: String,
}

/// Changes of path and authority before forwarding.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRewrite {
    /// Replaces the matched prefix, or the whole path after an exact match.
    pub uri: String,
    /// Replaces the authority.
    pub authority: String,
    /// Replaces what a regex finds in the path; excludes `uri`.
    pub uri_regex_rewrite: Option<RegexRewrite>,
}

/// A substitution by regular expression.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct RegexRewrite {
    /// RE2; need not match the whole path.
    #[serde(rename = "match")]
    pub matches: String,
    /// With `\\1` for the first group.
    pub rewrite: String,
}

/// When to try a request again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRetry {
    /// Tries after the first; 0 turns retries off.
    pub attempts: i32,
    /// For each try; the route's timeout if absent.
    pub per_try_timeout: Option<ProtoDuration>,
    /// Conditions, separated by commas; the mesh's default if empty.
    pub retry_on: String,
    /// Whether other localities may be tried.
    pub retry_remote_localities: Option<bool>,
    /// Whether endpoints that failed are left out.
    pub retry_ignore_previous_hosts: Option<bool>,
    /// The first pause; later ones grow, up to ten times as long. 25 ms if absent.
    pub backoff: Option<ProtoDuration>,
}
