//! What a route does, with everything parsed that can be parsed before a request comes.

use super::CompiledRoute;
use super::rewrite::CompiledPathRewrite;
use crate::request::split_path;
use crate::template::HeaderOps;
use crate::{CompileError, RequestView, WeightedIndex};
use lateen_model::dataplane::{
    ClusterSpecifier, DirectResponse, Forward, HostRewrite, Redirect, RedirectPath, RouteAction, WeightedCluster,
};
use std::borrow::Cow;

/// What a route does with a request.
#[derive(Debug)]
pub enum Action {
    /// Sends it on.
    Forward(Box<CompiledForward>),
    /// Answers with a redirect.
    Redirect(CompiledRedirect),
    /// Answers at once.
    DirectResponse(DirectResponse),
}

/// Sends a request to a cluster.
#[derive(Debug)]
pub struct CompiledForward {
    model: Forward,
    targets: Vec<ClusterTarget>,
    weights: WeightedIndex,
    path_rewrite: Option<CompiledPathRewrite>,
}

/// One cluster that a route may choose.
#[derive(Debug)]
pub struct ClusterTarget {
    name: String,
    host_rewrite: Option<String>,
    request_headers: HeaderOps,
    response_headers: HeaderOps,
}

/// How the host of a request is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostChange<'a> {
    /// Not at all.
    Keep,
    /// To this.
    Literal(&'a str),
    /// To the endpoint's host name.
    Auto,
}

/// Answers with a redirect.
#[derive(Debug)]
pub struct CompiledRedirect(Redirect);

impl Action {
    pub(super) fn compile(model: &RouteAction, max_body: u32) -> Result<Self, CompileError> {
        match model {
            RouteAction::Forward(forward) => {
                CompiledForward::compile(forward).map(|f| Self::Forward(Box::new(f))).map_err(|e| e.within("route"))
            }
            RouteAction::Redirect(redirect) => Ok(Self::Redirect(CompiledRedirect(redirect.clone()))),
            RouteAction::DirectResponse(direct) => {
                if u64::try_from(direct.body.len()).is_ok_and(|n| n > u64::from(max_body)) {
                    let reason =
                        format!("{} bytes are more than the {max_body} that the configuration allows", direct.body.len());
                    return Err(CompileError::new("direct_response.body", reason));
                }
                Ok(Self::DirectResponse(direct.clone()))
            }
        }
    }
}

impl CompiledForward {
    fn compile(model: &Forward) -> Result<Self, CompileError> {
        let (targets, weights): (Vec<_>, Vec<u32>) = match &model.cluster {
            ClusterSpecifier::Single(name) => (vec![ClusterTarget::single(name)], vec![1]),
            ClusterSpecifier::Weighted(branches) => {
                let compile =
                    |(i, branch)| ClusterTarget::weighted(branch).map_err(|e| e.within(format_args!("weighted_clusters[{i}]")));
                let targets = branches.iter().enumerate().map(compile).collect::<Result<_, _>>()?;
                (targets, branches.iter().map(|b| b.weight).collect())
            }
        };
        let weights = WeightedIndex::new(weights)
            .ok_or_else(|| CompileError::new("weighted_clusters", "the weights sum up to zero; at least one must be positive"))?;
        let path_rewrite = model.path_rewrite.as_ref().map(CompiledPathRewrite::compile).transpose()?;
        Ok(Self { model: model.clone(), targets, weights, path_rewrite })
    }

    /// Timeouts, retries and what else needs no compiling.
    pub fn model(&self) -> &Forward {
        &self.model
    }

    /// The clusters that may be chosen, in the order of the configuration.
    pub fn targets(&self) -> &[ClusterTarget] {
        &self.targets
    }

    /// The cluster for a uniformly random number.
    pub fn choose(&self, random: u64) -> &ClusterTarget {
        &self.targets[self.choose_index(random)]
    }

    /// The index into [`Self::targets`] for a uniformly random number.
    pub fn choose_index(&self, random: u64) -> usize {
        self.weights.choose(random)
    }

    /// How the host changes when `target` was chosen: the route's own rewrite, else the branch's.
    pub fn host_change<'a>(&'a self, target: &'a ClusterTarget) -> HostChange<'a> {
        match (&self.model.host_rewrite, &target.host_rewrite) {
            (Some(HostRewrite::Literal(host)), _) => HostChange::Literal(host),
            (Some(HostRewrite::Auto), _) => HostChange::Auto,
            (None, Some(host)) => HostChange::Literal(host),
            (None, None) => HostChange::Keep,
        }
    }
}

impl ClusterTarget {
    fn single(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            host_rewrite: None,
            request_headers: HeaderOps::default(),
            response_headers: HeaderOps::default(),
        }
    }

    fn weighted(model: &WeightedCluster) -> Result<Self, CompileError> {
        Ok(Self {
            name: model.name.clone(),
            host_rewrite: model.host_rewrite.clone(),
            request_headers: HeaderOps::for_request(&model.request_headers).map_err(|e| e.within("request_headers"))?,
            response_headers: HeaderOps::for_response(&model.response_headers).map_err(|e| e.within("response_headers"))?,
        })
    }

    /// The cluster's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Changes of this branch to the request's headers.
    pub fn request_headers(&self) -> &HeaderOps {
        &self.request_headers
    }

    /// Changes of this branch to the response's headers.
    pub fn response_headers(&self) -> &HeaderOps {
        &self.response_headers
    }
}

impl CompiledRoute {
    /// The path and query that go upstream; borrowed if the route has no rewrite, owned also where that changes
    /// nothing. Always begins with `/` where the request's did.
    pub fn rewrite_path<'a>(&self, path_and_query: &'a str) -> Cow<'a, str> {
        let Action::Forward(forward) = &self.action else {
            return Cow::Borrowed(path_and_query);
        };
        let Some(rewrite) = &forward.path_rewrite else {
            return Cow::Borrowed(path_and_query);
        };
        let (path, _) = split_path(path_and_query);
        rewrite.apply(path_and_query, path.len(), self.matched_len(path))
    }

    /// The `Location` of a redirect; `None` if the route is not one.
    ///
    /// `forwarded_proto` is the scheme that the client used, as far as it is known: where the redirect changes it, a default port
    /// of the old scheme is cut off the host.
    pub fn redirect_location<R: RequestView>(&self, request: &R, forwarded_proto: &str) -> Option<String> {
        let Action::Redirect(CompiledRedirect(redirect)) = &self.action else {
            return None;
        };
        let scheme = redirect.scheme.as_deref().unwrap_or_else(|| request.scheme());
        let host = match &redirect.host {
            Some(host) => host.as_str(),
            None => redirected_host(request.authority(), scheme, forwarded_proto, redirect.port.is_some()),
        };
        let mut location = format!("{scheme}://{host}");
        if let Some(port) = redirect.port {
            location.push(':');
            location.push_str(&port.to_string());
        }
        self.push_redirect_path(redirect, request.path_and_query(), &mut location);
        Some(location)
    }

    /// A replacement that has a query of its own keeps it; else the request's query follows, unless it is to be stripped.
    fn push_redirect_path(&self, redirect: &Redirect, path_and_query: &str, location: &mut String) {
        let (path, query) = split_path(path_and_query);
        match &redirect.path {
            RedirectPath::Keep => location.push_str(path),
            RedirectPath::Replace(text) => {
                push_absolute(text, location);
                if text.contains('?') {
                    return;
                }
            }
            RedirectPath::Prefix(text) => {
                push_absolute(text, location);
                location.push_str(path.get(self.matched_len(path)..).unwrap_or_default());
            }
        }
        if let Some(query) = query.filter(|_| !redirect.strip_query) {
            location.push('?');
            location.push_str(query);
        }
    }
}

impl CompiledRedirect {
    /// 301, 302, 303, 307 or 308.
    pub fn status(&self) -> u16 {
        self.0.status
    }
}

/// Appends a path so that it cannot run into the host: `//host.example` + `evil` would be another site.
fn push_absolute(path: &str, location: &mut String) {
    if !path.starts_with('/') {
        location.push('/');
    }
    location.push_str(path);
}

fn redirected_host<'a>(authority: &'a str, scheme: &str, forwarded_proto: &str, new_port: bool) -> &'a str {
    let host = super::host::without_port(authority);
    let port = &authority[host.len()..];
    let was_default = scheme != forwarded_proto && matches!((forwarded_proto, port), ("https", ":443") | ("http", ":80"));
    if new_port || was_default { host } else { authority }
}
