//! A VirtualService's HTTP routes.

use super::extras::{filters, mirrors};
use super::{RouteContext, Via, everything, forward};
use crate::generate::gateway;
use crate::generate::scope::destination_host;
use crate::generate::{hash, mesh, retry};
use crate::names;
use crate::world::{Entry, Semantics};
use lateen_model::dataplane::{
    ClusterSpecifier, DirectResponse, Forward, HeaderAppend, HeaderMatch, HeaderMutation, HeaderPredicate, HeaderValueOp,
    HostRewrite, PathMatch, PathRewrite, QueryMatch, QueryPredicate, Redirect, RedirectPath, RetryPolicy, Route, RouteAction,
    RouteMatch, SafeRegex, StringMatch as Predicate, StringPredicate, WeightedCluster,
};
use lateen_model::mesh_config::MeshConfig;
use lateen_model::resource::{
    Destination, HeaderOperations, Headers, HttpDirectResponse, HttpMatchRequest, HttpRedirect, HttpRewrite, HttpRoute,
    HttpRouteDestination, MESH_GATEWAY, RedirectPortSelection, StringMatch, VirtualService, is_subset,
};
use std::collections::BTreeMap;
use std::time::Duration;

/// The mesh's retries for routes that say nothing of them.
pub fn default_retry(mesh: &MeshConfig) -> Option<RetryPolicy> {
    retry::policy(mesh::default_retry(mesh), None)
}

/// The routes that hold on a port, in order. What comes after a route that matches everything is left out.
pub(super) fn routes(context: RouteContext<'_>, entry: &Entry<VirtualService>, port: u16) -> Vec<Route> {
    let mut out = Vec::new();
    for http in &entry.resource.spec.http {
        let matches: Vec<Option<&HttpMatchRequest>> = match http.matches.as_slice() {
            [] => vec![None],
            some => some.iter().map(Some).collect(),
        };
        for request in matches {
            if !request.is_none_or(|m| holds_here(context, entry, m, port)) {
                continue;
            }
            let Some(route) = route(context, entry, (http, request), port) else { continue };
            let catch_all = is_catch_all(&route.matches);
            out.push(route);
            if catch_all {
                return out;
            }
        }
    }
    out
}

/// The conditions that are decided here and not by each request.
fn holds_here(context: RouteContext<'_>, entry: &Entry<VirtualService>, request: &HttpMatchRequest, port: u16) -> bool {
    if request.port.is_some_and(|p| p != u32::from(port)) {
        return false;
    }
    // Where gateways are named, they alone decide.
    if !request.gateways.is_empty() {
        let here = match context.via {
            Via::Mesh => MESH_GATEWAY,
            Via::Gateway { name, .. } => name,
        };
        return request.gateways.iter().any(|g| gateway::full_name(g, entry.namespace()) == here);
    }
    let namespace = request.source_namespace.is_empty() || *request.source_namespace == *context.proxy.namespace;
    namespace && is_subset(&request.source_labels, &context.proxy.labels)
}

pub(super) fn is_catch_all(matches: &RouteMatch) -> bool {
    let path = match &matches.path {
        PathMatch::Prefix(p) => p == "/" || p.is_empty(),
        PathMatch::Regex(r) => r.pattern() == ".*",
        PathMatch::Exact(_) | PathMatch::PathSeparatedPrefix(_) => false,
    };
    path && matches.headers.is_empty() && matches.query.is_empty()
}

fn route(
    context: RouteContext<'_>,
    entry: &Entry<VirtualService>,
    (http, request): (&HttpRoute, Option<&HttpMatchRequest>),
    port: u16,
) -> Option<Route> {
    let matches = match request {
        Some(request) => by_elements(entry.semantics, route_match(request)?),
        None => everything(),
    };
    let mut own = headers(http.headers.as_ref());
    let action = if let Some(redirect_spec) = &http.redirect {
        RouteAction::Redirect(redirect(redirect_spec, &matches, (port, context.via.is_tls()))?)
    } else if let Some(response) = &http.direct_response {
        RouteAction::DirectResponse(direct_response(response)?)
    } else {
        if let Some(authority) = http.rewrite.as_ref().map(|r| r.authority.as_str()).filter(|a| !a.is_empty()) {
            own.host = Some(authority.to_owned());
        }
        RouteAction::Forward(Box::new(forward_to(context, entry, (http, &mut own), port)?))
    };
    Some(Route {
        name: route_name(http, request),
        operation: operation(context, entry, http, &matches, port),
        matches,
        action,
        request_headers: own.request,
        response_headers: own.response,
        filters: filters(http),
        config_source: Some(names::config_source("virtual-service", entry.namespace(), entry.name())),
    })
}

fn route_name(http: &HttpRoute, request: Option<&HttpMatchRequest>) -> String {
    let of_match = request.map(|r| r.name.as_str()).unwrap_or_default();
    match (http.name.as_str(), of_match) {
        (name, "") => name.to_owned(),
        ("", name) => name.to_owned(),
        (name, of_match) => format!("{name}.{of_match}"),
    }
}

/// `HOST:PORT/PATH*` of the first destination; else the VirtualService's name stands for it.
fn operation(
    context: RouteContext<'_>,
    entry: &Entry<VirtualService>,
    http: &HttpRoute,
    matches: &RouteMatch,
    port: u16,
) -> Option<String> {
    let path = match &matches.path {
        PathMatch::Prefix(p) | PathMatch::PathSeparatedPrefix(p) => format!("{p}*"),
        PathMatch::Exact(p) => p.clone(),
        PathMatch::Regex(r) => r.pattern().to_owned(),
    };
    match http.route.first().and_then(|r| r.destination.as_ref()) {
        Some(destination) => {
            let host = destination_host(context.world, destination, entry.namespace());
            Some(format!("{host}:{}{path}", destination_port(context, destination, &host, port)))
        }
        None => Some(format!("{}:{port}{path}", entry.name())),
    }
}

fn forward_to(
    context: RouteContext<'_>,
    entry: &Entry<VirtualService>,
    (http, own): (&HttpRoute, &mut Changes),
    port: u16,
) -> Option<Forward> {
    let (cluster, only_branch) = cluster(context, entry, &http.route, port)?;
    let timeout = http.timeout.map(Duration::from).filter(|t| !t.is_zero());
    if let Some(branch) = only_branch {
        own.append(branch);
    }
    let made = Forward {
        timeout,
        max_grpc_timeout: Some(timeout.unwrap_or(Duration::ZERO)),
        path_rewrite: http.rewrite.as_ref().and_then(path_rewrite),
        host_rewrite: own.host.take().map(HostRewrite::Literal),
        retry: retry::policy(mesh::default_retry(context.world.mesh()), http.retries.as_ref()),
        mirrors: mirrors(http, |destination| cluster_name(context, entry, destination, port)),
        cluster_not_found_status: match entry.semantics {
            Semantics::Istio => 503,
            Semantics::GatewayApi => 500,
        },
        ..forward(cluster)
    };
    let written = http.retries.as_ref().or(mesh::default_retry(context.world.mesh()));
    let avoids = written.is_some_and(|r| r.retry_ignore_previous_hosts == Some(true));
    Some(hash::complete(context.world, context.proxy, made, avoids))
}

/// What `headers` asks for.
#[derive(Default)]
struct Changes {
    request: HeaderMutation,
    response: HeaderMutation,
    /// The new host.
    host: Option<String>,
}

impl Changes {
    /// A single destination's own changes come after the route's; the route's host wins.
    fn append(&mut self, later: Self) {
        for (mine, theirs) in [(&mut self.request, later.request), (&mut self.response, later.response)] {
            mine.remove.extend(theirs.remove);
            mine.set.extend(theirs.set);
        }
        self.host = self.host.take().or(later.host);
    }
}

/// One destination stands for itself, whatever its weight; of several those without weight are left out.
fn cluster(
    context: RouteContext<'_>,
    entry: &Entry<VirtualService>,
    destinations: &[HttpRouteDestination],
    port: u16,
) -> Option<(ClusterSpecifier, Option<Changes>)> {
    let name = |d: &HttpRouteDestination| Some(cluster_name(context, entry, d.destination.as_ref()?, port));
    if let [single] = destinations {
        return Some((ClusterSpecifier::Single(name(single)?), Some(headers(single.headers.as_ref()))));
    }
    let mut branches = Vec::new();
    for destination in destinations {
        let Some(weight) = u32::try_from(destination.weight).ok().filter(|w| *w > 0) else { continue };
        let Changes { request, response, host } = headers(destination.headers.as_ref());
        let name = name(destination)?;
        branches.push(WeightedCluster { name, weight, request_headers: request, response_headers: response, host_rewrite: host });
    }
    (!branches.is_empty()).then_some((ClusterSpecifier::Weighted(branches), None))
}

fn cluster_name(context: RouteContext<'_>, entry: &Entry<VirtualService>, destination: &Destination, port: u16) -> String {
    let host = destination_host(context.world, destination, entry.namespace());
    let port = destination_port(context, destination, &host, port);
    names::outbound_cluster(port, &destination.subset, &host)
}

/// The port that is written, else the service's only one, else the listener's.
fn destination_port(context: RouteContext<'_>, destination: &Destination, host: &str, listener: u16) -> u16 {
    if let Some(port) = destination.port.as_ref().and_then(|p| u16::try_from(p.number).ok()) {
        return port;
    }
    match context.scope.service_or_visible(context.world, host).map(|s| s.ports.as_slice()) {
        Some([only]) => only.number,
        _ => listener,
    }
}

/// `None` if a regular expression cannot be compiled; such a route is left out rather than widened.
fn route_match(request: &HttpMatchRequest) -> Option<RouteMatch> {
    let path = match &request.uri {
        None | Some(StringMatch::Present) => PathMatch::Prefix("/".into()),
        Some(StringMatch::Exact(p)) => PathMatch::Exact(p.clone()),
        Some(StringMatch::Prefix(p)) => PathMatch::Prefix(if p.is_empty() { "/".into() } else { p.clone() }),
        Some(StringMatch::Regex(r)) => PathMatch::Regex(SafeRegex::try_new(r).ok()?),
    };
    let mut headers = Vec::new();
    for (name, value) in &request.headers {
        headers.push(header_match(name, value, false)?);
    }
    for (name, value) in &request.without_headers {
        headers.push(header_match(name, value, true)?);
    }
    let pseudo = [(":method", &request.method), (":authority", &request.authority), (":scheme", &request.scheme)];
    for (name, value) in pseudo {
        if let Some(value) = value {
            headers.push(header_match(name, value, false)?);
        }
    }
    let mut query = Vec::new();
    for (name, value) in &request.query_params {
        let predicate = match predicate(value)? {
            Some(predicate) => QueryPredicate::Value(predicate),
            None => QueryPredicate::Present(true),
        };
        query.push(QueryMatch { name: name.clone(), predicate });
    }
    let case_sensitive = !request.ignore_uri_case || matches!(path, PathMatch::Regex(_));
    Some(RouteMatch { path, case_sensitive, headers, query })
}

/// Prefixes of the Gateway API are whole elements of a path: `/a` is none of `/ab`. One that ends in `/` is so as it stands.
fn by_elements(semantics: Semantics, matches: RouteMatch) -> RouteMatch {
    let path = match matches.path {
        PathMatch::Prefix(p) if semantics == Semantics::GatewayApi && !p.ends_with('/') => PathMatch::PathSeparatedPrefix(p),
        other => other,
    };
    RouteMatch { path, ..matches }
}

/// `Some(None)` asks for presence only.
#[expect(clippy::option_option, reason = "cannot be compiled, presence, or a predicate")]
fn predicate(value: &StringMatch) -> Option<Option<Predicate>> {
    let predicate = match value {
        StringMatch::Present => return Some(None),
        StringMatch::Regex(r) if r == "*" => return Some(None),
        StringMatch::Exact(text) => StringPredicate::Exact(text.clone()),
        StringMatch::Prefix(text) if text.is_empty() => return Some(None),
        StringMatch::Prefix(text) => StringPredicate::Prefix(text.clone()),
        StringMatch::Regex(r) => StringPredicate::Regex(SafeRegex::try_new(r).ok()?),
    };
    Some(Some(Predicate { predicate, ignore_case: false }))
}

/// A header that must not match: one that is absent counts as empty, except where only presence is asked for.
fn header_match(name: &str, value: &StringMatch, invert: bool) -> Option<HeaderMatch> {
    let name = name.to_ascii_lowercase();
    Some(match predicate(value)? {
        None => HeaderMatch { name, predicate: HeaderPredicate::Present(!invert), invert: false, missing_is_empty: false },
        Some(p) => HeaderMatch { name, predicate: HeaderPredicate::Value(p), invert, missing_is_empty: invert },
    })
}

/// Changes of requests and of responses, and what becomes of the host.
fn headers(headers: Option<&Headers>) -> Changes {
    let (request, host) = mutation(headers.and_then(|h| h.request.as_ref()));
    let (response, _) = mutation(headers.and_then(|h| h.response.as_ref()));
    Changes { request, response, host }
}

/// `set` before `add`, each in order of name. A new `:authority` or `host` is a rewrite of the host; other pseudo-headers
/// cannot be changed.
fn mutation(operations: Option<&HeaderOperations>) -> (HeaderMutation, Option<String>) {
    let Some(operations) = operations else { return Default::default() };
    let mut host = None;
    let mut out = HeaderMutation::default();
    let mut values = |map: &BTreeMap<String, String>, append: HeaderAppend| {
        for (name, value) in map {
            let name = name.to_ascii_lowercase();
            if name == ":authority" || name == "host" {
                host = Some(value.clone());
            } else if !name.starts_with(':') {
                out.set.push(HeaderValueOp { name, value: value.clone(), append });
            }
        }
    };
    values(&operations.set, HeaderAppend::OverwriteOrAdd);
    values(&operations.add, HeaderAppend::AppendOrAdd);
    let removable = |name: &String| !name.starts_with(':') && name != "host";
    out.remove = operations.remove.iter().map(|n| n.to_ascii_lowercase()).filter(removable).collect();
    (out, host)
}

fn path_rewrite(rewrite: &HttpRewrite) -> Option<PathRewrite> {
    if let Some(regex) = &rewrite.uri_regex_rewrite {
        return Some(PathRewrite::Regex { pattern: regex.matches.clone(), substitution: regex.rewrite.clone() });
    }
    (!rewrite.uri.is_empty()).then(|| PathRewrite::Prefix(rewrite.uri.clone()))
}

/// `None`: a status that Envoy has no redirect for.
fn redirect(written: &HttpRedirect, matches: &RouteMatch, (listener, tls): (u16, bool)) -> Option<Redirect> {
    let status = match written.redirect_code {
        None | Some(0) => 301,
        Some(code @ (301 | 302 | 303 | 307 | 308)) => u16::try_from(code).ok()?,
        Some(_) => return None,
    };
    let path = match (written.uri.as_str(), written.prefix_rewrite.as_str()) {
        (uri, _) if !uri.is_empty() => RedirectPath::Replace(uri.to_owned()),
        (_, prefix) if !prefix.is_empty() && matches!(matches.path, PathMatch::Prefix(_) | PathMatch::PathSeparatedPrefix(_)) => {
            RedirectPath::Prefix(prefix.to_owned())
        }
        _ => RedirectPath::Keep,
    };
    let scheme = (!written.scheme.is_empty()).then(|| written.scheme.to_ascii_lowercase());
    // Without a scheme it stays what it is: TLS only at a gateway that ends it.
    let secure = scheme.as_deref().map_or(tls, |s| s == "https");
    let port = match (written.port, written.derive_port) {
        (Some(port), _) => u16::try_from(port).ok().filter(|p| *p != 0),
        // Routes are made for one port, which is the request's.
        (None, Some(RedirectPortSelection::FromRequestPort)) => Some(listener),
        (None, Some(RedirectPortSelection::FromProtocolDefault) | None) => None,
    };
    let port = port.filter(|p| !matches!((secure, *p), (false, 80) | (true, 443)));
    let host = (!written.authority.is_empty()).then(|| written.authority.clone());
    Some(Redirect { scheme, host, port, path, status, strip_query: false })
}

fn direct_response(written: &HttpDirectResponse) -> Option<DirectResponse> {
    let status = u16::try_from(written.status).ok().filter(|s| (200..600).contains(s))?;
    let body = written.body.as_ref().map(|b| match (&b.string, &b.bytes) {
        (Some(text), _) => text.clone().into_bytes(),
        (None, Some(bytes)) => bytes.as_bytes().to_vec(),
        (None, None) => Vec::new(),
    });
    Some(DirectResponse { status, body: body.unwrap_or_default() })
}
