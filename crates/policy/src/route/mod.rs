//! HTTP routes: which virtual host, which route, and what it does with a request.

mod action;
mod host;
mod index;
mod rewrite;
#[cfg(test)]
mod tests;

pub use action::{Action, ClusterTarget, CompiledForward, CompiledRedirect, HostChange};

use crate::header_match::{HeaderMatcher, Purpose, QueryMatcher};
use crate::template::HeaderOps;
use crate::{CompileError, RequestView};
use host::HostIndex;
pub use host::without_port;
use index::PathIndex;
use lateen_model::dataplane::{
    HeaderMutation, PathMatch, Redirect, RedirectPath, Route, RouteAction, RouteConfiguration, RouteFilters, RouteMatch,
    VirtualHost,
};
use std::sync::Arc;

/// The routes of one port, compiled.
#[derive(Debug)]
pub struct RouteTable {
    name: String,
    hosts: HostIndex,
    virtual_hosts: Vec<CompiledVirtualHost>,
    ignore_port: bool,
}

/// A virtual host, compiled.
#[derive(Debug)]
pub struct CompiledVirtualHost {
    name: String,
    routes: Vec<Arc<CompiledRoute>>,
    index: PathIndex,
    include_request_attempt_count: bool,
    /// What plain requests get where TLS is required.
    to_https: Option<Arc<CompiledRoute>>,
}

/// A route, compiled. It is shared, so that a request can hold on to it when its table is replaced.
#[derive(Debug)]
pub struct CompiledRoute {
    name: String,
    operation: Option<String>,
    config_source: Option<String>,
    path: PathMatch,
    case_sensitive: bool,
    headers: Vec<HeaderMatcher>,
    query: Vec<QueryMatcher>,
    action: Action,
    filters: RouteFilters,
    request_headers: HeaderOps,
    response_headers: HeaderOps,
}

/// What was found for a request.
#[derive(Clone, Copy, Debug)]
pub struct RouteMatchResult<'a> {
    /// The virtual host.
    pub virtual_host: &'a CompiledVirtualHost,
    /// Its first route that matches.
    pub route: &'a Arc<CompiledRoute>,
}

impl RouteTable {
    /// Compiles a route configuration.
    ///
    /// # Errors
    /// A domain that stands twice, a weighted route without weight, a rewrite that is no regular expression, a body that is too
    /// long, or a header value with an operator that is not supported; the error names the field.
    pub fn compile(config: &RouteConfiguration) -> Result<Self, CompileError> {
        let mut virtual_hosts = Vec::with_capacity(config.virtual_hosts.len());
        for (i, host) in config.virtual_hosts.iter().enumerate() {
            let compiled = CompiledVirtualHost::compile(host, config.max_direct_response_body_bytes)
                .map_err(|e| e.within(format_args!("virtual_hosts[{i}]")))?;
            virtual_hosts.push(compiled);
        }
        let hosts = HostIndex::build(config.virtual_hosts.iter().map(|h| h.domains.as_slice()))?;
        Ok(Self { name: config.name.clone(), hosts, virtual_hosts, ignore_port: config.ignore_port_in_host_matching })
    }

    /// The resource's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The virtual hosts, in the order of the configuration.
    pub fn virtual_hosts(&self) -> &[CompiledVirtualHost] {
        &self.virtual_hosts
    }

    /// The virtual host of an authority: exact, then the longest suffix wildcard, then the longest prefix wildcard, then `*`.
    pub fn find_host(&self, authority: &str) -> Option<&CompiledVirtualHost> {
        let host = if self.ignore_port { without_port(authority) } else { authority };
        self.hosts.find(host).map(|i| &self.virtual_hosts[i])
    }

    /// The first route that matches, within the one virtual host that the authority selects. `None` is answered with 404 (`NR`).
    pub fn find<R: RequestView>(&self, request: &R) -> Option<RouteMatchResult<'_>> {
        let virtual_host = self.find_host(request.authority())?;
        let route = virtual_host.find(request)?;
        Some(RouteMatchResult { virtual_host, route })
    }
}

impl CompiledVirtualHost {
    fn compile(model: &VirtualHost, max_body: u32) -> Result<Self, CompileError> {
        let compile =
            |(i, route)| CompiledRoute::compile(route, max_body).map(Arc::new).map_err(|e| e.within(format_args!("routes[{i}]")));
        let routes = model.routes.iter().enumerate().map(compile).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            name: model.name.clone(),
            index: PathIndex::build(&model.routes),
            routes,
            include_request_attempt_count: model.include_request_attempt_count,
            to_https: model.require_tls.then(|| CompiledRoute::compile(&to_https(), max_body).map(Arc::new)).transpose()?,
        })
    }

    /// The name, e.g. `order-service.production.svc.cluster.local:80`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The routes, in order.
    pub fn routes(&self) -> &[Arc<CompiledRoute>] {
        &self.routes
    }

    /// Whether `x-envoy-attempt-count` is added to requests.
    pub fn include_request_attempt_count(&self) -> bool {
        self.include_request_attempt_count
    }

    /// The first route that matches; where TLS is required and the client did not use it, the way to the same URL with it.
    pub fn find<R: RequestView>(&self, request: &R) -> Option<&Arc<CompiledRoute>> {
        if let Some(route) = self.to_https.as_ref().filter(|_| request.scheme() != "https") {
            return Some(route);
        }
        let path = request.path();
        self.index.candidates(path).map(|i| &self.routes[i]).find(|route| route.matches_path(path) && route.matches_rest(request))
    }
}

/// Envoy's answer where a virtual host has `require_tls`.
fn to_https() -> Route {
    let redirect = Redirect {
        scheme: Some("https".to_owned()),
        host: None,
        port: None,
        path: RedirectPath::Keep,
        status: 301,
        strip_query: false,
    };
    Route {
        name: String::new(),
        matches: RouteMatch {
            path: PathMatch::Prefix(String::new()),
            case_sensitive: true,
            headers: Vec::new(),
            query: Vec::new(),
        },
        action: RouteAction::Redirect(redirect),
        operation: None,
        filters: RouteFilters::default(),
        request_headers: HeaderMutation::default(),
        response_headers: HeaderMutation::default(),
        config_source: None,
    }
}

impl CompiledRoute {
    fn compile(model: &Route, max_body: u32) -> Result<Self, CompileError> {
        Ok(Self {
            name: model.name.clone(),
            operation: model.operation.clone(),
            config_source: model.config_source.clone(),
            path: model.matches.path.clone(),
            case_sensitive: model.matches.case_sensitive,
            headers: model.matches.headers.iter().map(HeaderMatcher::new).collect(),
            query: model.matches.query.iter().map(QueryMatcher::new).collect(),
            action: Action::compile(&model.action, max_body)?,
            filters: model.filters.clone(),
            request_headers: HeaderOps::for_request(&model.request_headers).map_err(|e| e.within("request_headers"))?,
            response_headers: HeaderOps::for_response(&model.response_headers).map_err(|e| e.within("response_headers"))?,
        })
    }

    /// For `%ROUTE_NAME%`; may be empty.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The operation name of spans.
    pub fn operation(&self) -> Option<&str> {
        self.operation.as_deref()
    }

    /// The Istio resource behind the route.
    pub fn config_source(&self) -> Option<&str> {
        self.config_source.as_deref()
    }

    /// What is done.
    pub fn action(&self) -> &Action {
        &self.action
    }

    /// What filters do on it.
    pub fn filters(&self) -> &RouteFilters {
        &self.filters
    }

    /// Changes to the request's headers. Envoy applies those of a weighted cluster ([`ClusterTarget::request_headers`]) first,
    /// then these.
    pub fn request_headers(&self) -> &HeaderOps {
        &self.request_headers
    }

    /// Changes to the response's headers; a weighted cluster's come first, as for requests.
    pub fn response_headers(&self) -> &HeaderOps {
        &self.response_headers
    }

    /// Whether the whole route applies to the request.
    pub fn matches<R: RequestView>(&self, request: &R) -> bool {
        self.matches_path(request.path()) && self.matches_rest(request)
    }

    fn matches_rest<R: RequestView>(&self, request: &R) -> bool {
        self.headers.iter().all(|h| h.matches(request, Purpose::Route))
            && (self.query.is_empty() || self.query.iter().all(|q| q.matches(request.query())))
    }

    fn matches_path(&self, path: &str) -> bool {
        let starts_with =
            |prefix: &str| path.len() >= prefix.len() && self.same(&path.as_bytes()[..prefix.len()], prefix.as_bytes());
        match &self.path {
            PathMatch::Prefix(prefix) => starts_with(prefix),
            PathMatch::PathSeparatedPrefix(prefix) => {
                starts_with(prefix) && path.as_bytes().get(prefix.len()).is_none_or(|b| *b == b'/')
            }
            PathMatch::Exact(exact) => self.same(path.as_bytes(), exact.as_bytes()),
            PathMatch::Regex(regex) => regex.is_match(path),
        }
    }

    fn same(&self, a: &[u8], b: &[u8]) -> bool {
        if self.case_sensitive { a == b } else { a.eq_ignore_ascii_case(b) }
    }

    /// The part of a path that "the matched prefix" means in a rewrite: the prefix, or the whole path for an exact or regex match.
    fn matched_len(&self, path: &str) -> usize {
        match &self.path {
            PathMatch::Prefix(prefix) | PathMatch::PathSeparatedPrefix(prefix) => prefix.len().min(path.len()),
            PathMatch::Exact(_) | PathMatch::Regex(_) => path.len(),
        }
    }
}
