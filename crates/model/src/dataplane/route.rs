//! HTTP routes (`envoy.config.route.v3`).

use super::hash_policy::HashPolicy;
use super::matcher::{HeaderMatch, QueryMatch, SafeRegex};
use super::route_filters::{Cors, Fault, Mirror};
use serde::Serialize;
use std::time::Duration;

/// The routes of one port (RDS).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouteConfiguration {
    /// The resource's name, e.g. `80` or `inbound|8080||`.
    pub name: String,
    /// Virtual hosts; no domain stands in two of them.
    pub virtual_hosts: Vec<VirtualHost>,
    /// Whether `:port` is cut off the request's host before domains are compared.
    pub ignore_port_in_host_matching: bool,
    /// The longest direct response body, in bytes.
    pub max_direct_response_body_bytes: u32,
}

/// A set of domains and their routes, first match wins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VirtualHost {
    /// e.g. `order-service.production.svc.cluster.local:80`.
    pub name: String,
    /// Exact names, `*.suffix`, `prefix.*` or `*`; lower case.
    pub domains: Vec<String>,
    /// In order.
    pub routes: Vec<Route>,
    /// Whether `x-envoy-attempt-count` is added to requests.
    pub include_request_attempt_count: bool,
    /// Whether plain requests are answered with 301 to the same URL with `https` (`require_tls: ALL`).
    pub require_tls: bool,
}

/// One route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Route {
    /// For `%ROUTE_NAME%`; may be empty.
    pub name: String,
    /// When it applies.
    pub matches: RouteMatch,
    /// What is done.
    pub action: RouteAction,
    /// Operation name of spans (`decorator.operation`); `None` means the span is named by the route.
    pub operation: Option<String>,
    /// What HTTP filters do on this route.
    pub filters: RouteFilters,
    /// Changes to the request's headers.
    pub request_headers: HeaderMutation,
    /// Changes to the response's headers.
    pub response_headers: HeaderMutation,
    /// The Istio resource behind the route, e.g. `/apis/networking.istio.io/v1/namespaces/ns/virtual-service/name`.
    pub config_source: Option<String>,
}

/// What HTTP filters do on a route (`typed_per_filter_config`); each needs its filter in the connection manager.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RouteFilters {
    /// For [`HttpFilter::Fault`](super::HttpFilter::Fault).
    pub fault: Option<Fault>,
    /// For [`HttpFilter::Cors`](super::HttpFilter::Cors).
    pub cors: Option<Cors>,
}

/// When a route applies: all of its parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouteMatch {
    /// The path.
    pub path: PathMatch,
    /// Whether the path's case matters (not for a regex).
    pub case_sensitive: bool,
    /// All of them.
    pub headers: Vec<HeaderMatch>,
    /// All of them.
    pub query: Vec<QueryMatch>,
}

/// A predicate on the path without its query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PathMatch {
    /// Starts with; a plain string prefix.
    Prefix(String),
    /// Equal, or followed by `/`.
    PathSeparatedPrefix(String),
    /// Equal.
    Exact(String),
    /// The whole path matches.
    Regex(SafeRegex),
}

/// What a route does with a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteAction {
    /// Sends it on.
    Forward(Box<Forward>),
    /// Answers with a redirect.
    Redirect(Redirect),
    /// Answers at once.
    DirectResponse(DirectResponse),
}

/// Sends a request to a cluster (`RouteAction`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Forward {
    /// Where to.
    pub cluster: ClusterSpecifier,
    /// From the end of the request to the end of the response, all tries together; `None` is unlimited.
    #[serde(serialize_with = "super::json::optional_duration")]
    pub timeout: Option<Duration>,
    /// No activity for this long ends the stream; `None` leaves the connection manager's setting.
    #[serde(serialize_with = "super::json::optional_duration")]
    pub idle_timeout: Option<Duration>,
    /// The longest `grpc-timeout` that is honoured as the timeout; `None`: `grpc-timeout` is ignored; zero: no limit.
    #[serde(serialize_with = "super::json::optional_duration")]
    pub max_grpc_timeout: Option<Duration>,
    /// How the path is changed.
    pub path_rewrite: Option<PathRewrite>,
    /// How the host is changed.
    pub host_rewrite: Option<HostRewrite>,
    /// When to try again; `None` is never.
    pub retry: Option<RetryPolicy>,
    /// Copies of its requests.
    pub mirrors: Vec<Mirror>,
    /// What of a request a consistent choice of endpoints goes by.
    pub hash_policies: Vec<HashPolicy>,
    /// Status that answers when the cluster does not exist (503 by default in Istio).
    pub cluster_not_found_status: u16,
}

/// The cluster of a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClusterSpecifier {
    /// One.
    Single(String),
    /// Chosen by weight; the sum is not zero.
    Weighted(Vec<WeightedCluster>),
}

/// One branch of a weighted route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WeightedCluster {
    /// The cluster's name.
    pub name: String,
    /// Relative to the sum of all.
    pub weight: u32,
    /// Applied before the route's own, so that a value that both set is the route's (as Envoy does).
    pub request_headers: HeaderMutation,
    /// Applied before the route's own.
    pub response_headers: HeaderMutation,
    /// `host_rewrite_literal` of this branch, where the route has none.
    pub host_rewrite: Option<String>,
}

/// How a path is rewritten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PathRewrite {
    /// The matched prefix (or whole exact path) is replaced (`prefix_rewrite`).
    Prefix(String),
    /// Every match in the path is substituted; the query stays (`regex_rewrite`; `\1` refers to a group).
    Regex {
        /// What is looked for; not anchored.
        pattern: String,
        /// What it becomes.
        substitution: String,
    },
}

/// How the host is rewritten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HostRewrite {
    /// To this (`host_rewrite_literal`).
    Literal(String),
    /// To the endpoint's host name (`auto_host_rewrite`).
    Auto,
}

/// A redirect (`RedirectAction`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Redirect {
    /// `https_redirect` or `scheme_redirect`; `None` keeps the scheme.
    pub scheme: Option<String>,
    /// `None` keeps the host.
    pub host: Option<String>,
    /// `None` keeps the port.
    pub port: Option<u16>,
    /// How the path changes.
    pub path: RedirectPath,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// Whether the query is dropped.
    pub strip_query: bool,
}

/// The path of a redirect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RedirectPath {
    /// As it was.
    Keep,
    /// Replaced, with the query if the text has one.
    Replace(String),
    /// The matched prefix is replaced.
    Prefix(String),
}

/// An answer that needs no upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DirectResponse {
    /// 200 to 599.
    pub status: u16,
    /// The body; empty is none.
    pub body: Vec<u8>,
}

/// Changes to headers: removals first, then values, in order (as Envoy's `HeaderParser`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HeaderMutation {
    /// Lower-case names to remove.
    pub remove: Vec<String>,
    /// Values to set or add.
    pub set: Vec<HeaderValueOp>,
}

impl HeaderMutation {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty()
    }
}

/// One header value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeaderValueOp {
    /// Lower-case name.
    pub name: String,
    /// The value; may hold Envoy's `%COMMAND%` operators.
    pub value: String,
    /// What happens to values that are there.
    pub append: HeaderAppend,
}

/// `HeaderValueOption.append_action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HeaderAppend {
    /// Added beside.
    AppendOrAdd,
    /// Added only if absent.
    AddIfAbsent,
    /// Replaced, or added.
    OverwriteOrAdd,
    /// Replaced only if there.
    OverwriteIfExists,
}

/// When and how a request is tried again (`RetryPolicy`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RetryPolicy {
    /// Under which conditions.
    pub on: RetryOn,
    /// How many more times after the first; at least 1.
    pub num_retries: u32,
    /// The time for one try, from sending the request to the head of the response; `None`: the route's timeout.
    #[serde(serialize_with = "super::json::optional_duration")]
    pub per_try_timeout: Option<Duration>,
    /// Statuses for [`RetryOn::RETRIABLE_STATUS_CODES`].
    pub retriable_statuses: Vec<u16>,
    /// Whether hosts that were tried are avoided (`previous_hosts`).
    pub avoid_previous_hosts: bool,
    /// How often another host is picked because a predicate refused one (`host_selection_retry_max_attempts`).
    pub host_selection_attempts: u32,
    /// Whether priorities that were tried are avoided (`previous_priorities`), after this many tries.
    pub avoid_previous_priorities: Option<u32>,
    /// The pause between tries.
    pub back_off: RetryBackOff,
}

/// Exponential back-off with full jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RetryBackOff {
    /// First interval; Envoy's default is 25 ms.
    #[serde(serialize_with = "super::json::duration")]
    pub base: Duration,
    /// Longest interval; Envoy's default is ten times the base.
    #[serde(serialize_with = "super::json::duration")]
    pub max: Duration,
}

impl Default for RetryBackOff {
    fn default() -> Self {
        Self { base: Duration::from_millis(25), max: Duration::from_millis(250) }
    }
}

/// A set of retry conditions (`retry_on`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn(u32);

/// Name and bit of each condition, in the order in which they are written out.
const CONDITIONS: [(&str, RetryOn); 16] = [
    ("5xx", RetryOn::SERVER_ERROR),
    ("gateway-error", RetryOn::GATEWAY_ERROR),
    ("reset", RetryOn::RESET),
    ("reset-before-request", RetryOn::RESET_BEFORE_REQUEST),
    ("connect-failure", RetryOn::CONNECT_FAILURE),
    ("retriable-4xx", RetryOn::RETRIABLE_4XX),
    ("refused-stream", RetryOn::REFUSED_STREAM),
    ("retriable-status-codes", RetryOn::RETRIABLE_STATUS_CODES),
    ("retriable-headers", RetryOn::RETRIABLE_HEADERS),
    ("envoy-ratelimited", RetryOn::ENVOY_RATE_LIMITED),
    ("http3-post-connect-failure", RetryOn::HTTP3_POST_CONNECT_FAILURE),
    ("cancelled", RetryOn::GRPC_CANCELLED),
    ("deadline-exceeded", RetryOn::GRPC_DEADLINE_EXCEEDED),
    ("internal", RetryOn::GRPC_INTERNAL),
    ("resource-exhausted", RetryOn::GRPC_RESOURCE_EXHAUSTED),
    ("unavailable", RetryOn::GRPC_UNAVAILABLE),
];

impl RetryOn {
    /// `5xx`: any 5xx, or no response at all (disconnect, reset, timeout of a try).
    pub const SERVER_ERROR: Self = Self(1);
    /// `gateway-error`: 502, 503 or 504.
    pub const GATEWAY_ERROR: Self = Self(1 << 1);
    /// `reset`: the upstream did not respond at all.
    pub const RESET: Self = Self(1 << 2);
    /// `reset-before-request`: reset before the request's headers were sent.
    pub const RESET_BEFORE_REQUEST: Self = Self(1 << 3);
    /// `connect-failure`.
    pub const CONNECT_FAILURE: Self = Self(1 << 4);
    /// `retriable-4xx`: 409.
    pub const RETRIABLE_4XX: Self = Self(1 << 5);
    /// `refused-stream`: HTTP/2 REFUSED_STREAM.
    pub const REFUSED_STREAM: Self = Self(1 << 6);
    /// `retriable-status-codes`.
    pub const RETRIABLE_STATUS_CODES: Self = Self(1 << 7);
    /// `retriable-headers`.
    pub const RETRIABLE_HEADERS: Self = Self(1 << 8);
    /// `envoy-ratelimited`.
    pub const ENVOY_RATE_LIMITED: Self = Self(1 << 9);
    /// `http3-post-connect-failure`.
    pub const HTTP3_POST_CONNECT_FAILURE: Self = Self(1 << 10);
    /// gRPC status 1.
    pub const GRPC_CANCELLED: Self = Self(1 << 11);
    /// gRPC status 4.
    pub const GRPC_DEADLINE_EXCEEDED: Self = Self(1 << 12);
    /// gRPC status 13.
    pub const GRPC_INTERNAL: Self = Self(1 << 13);
    /// gRPC status 8.
    pub const GRPC_RESOURCE_EXHAUSTED: Self = Self(1 << 14);
    /// gRPC status 14.
    pub const GRPC_UNAVAILABLE: Self = Self(1 << 15);

    /// The condition of this name, as in `retryOn`.
    pub fn from_name(name: &str) -> Option<Self> {
        CONDITIONS.iter().find(|(n, _)| *n == name).map(|(_, c)| *c)
    }

    /// Both sets together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether any condition of `other` is in this set.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether no condition is set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The names of the conditions, in a fixed order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        CONDITIONS.iter().filter(move |(_, c)| self.intersects(*c)).map(|(n, _)| *n)
    }
}
