//! Authorization (`envoy.config.rbac.v3.RBAC`).
//!
//! A policy matches if any of its permissions and any of its principals match. ALLOW: the first policy that matches lets pass,
//! none refuses. DENY: the first that matches refuses. LOG: only records.
//!
//! **Rules are compared so that doubt refuses.** Each predicate is either one whose truth leads to a refusal (in a DENY policy, or
//! under a `not` in an ALLOW policy) or one whose truth leads to access. Of a header that is repeated
//! - a refusing predicate is true if *any single value or the joined value* satisfies it: a value cannot hide behind another
//!   (CVE-2026-26308);
//! - a granting predicate is true only if the *joined* value satisfies it. Envoy 1.39 and later also grants by a single value; that
//!   is stricter here, and differs only for repeated headers.
//!
//! On a connection without a request, predicates on the request are false in DENY and LOG policies (also under `not`, so that
//! `not method GET` refuses), and never grant: in an ALLOW policy neither a header predicate nor its negation is true.

mod template;
#[cfg(test)]
mod tests;

use crate::header_match::{HeaderMatcher, Purpose};
use crate::{CompileError, ConnectionView, Peer, RequestView};
use ipnet::IpNet;
use lateen_model::dataplane::{Permission, Principal, Rbac, RbacAction, RbacPolicy, StringMatch};
use std::net::IpAddr;
use template::PathTemplate;

/// The rules of one RBAC filter, compiled.
#[derive(Debug)]
pub struct Engine {
    action: RbacAction,
    policies: Vec<Policy>,
    stat_prefix: String,
}

#[derive(Debug)]
struct Policy {
    name: String,
    /// Any of them.
    permissions: Vec<Node>,
    /// Any of them.
    principals: Vec<Node>,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It passes; the policy that matched, if one did (ALLOW, LOG).
    Allow(Option<&'a str>),
    /// It is refused: by this policy (DENY), or because none matched (ALLOW). HTTP: 403, body `RBAC: access denied`; TCP: closed.
    Deny(Option<&'a str>),
}

impl<'a> Verdict<'a> {
    /// Whether it passes.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }

    /// The name of the policy that matched.
    pub fn policy(&self) -> Option<&'a str> {
        match self {
            Self::Allow(policy) | Self::Deny(policy) => *policy,
        }
    }
}

/// What Envoy writes into `%RESPONSE_CODE_DETAILS%` for a refusal: `rbac_access_denied_matched_policy[NAME]`, with white space
/// replaced by `_`.
pub fn denied_details(policy: Option<&str>) -> String {
    let name: String = policy.unwrap_or("none").chars().map(|c| if c.is_whitespace() { '_' } else { c }).collect();
    format!("rbac_access_denied_matched_policy[{name}]")
}

/// A predicate; the ones of permissions and principals together.
#[derive(Debug)]
enum Node {
    Any,
    And(Vec<Node>),
    Or(Vec<Node>),
    Not(Box<Node>),
    Header(HeaderMatcher),
    Path(StringMatch),
    PathTemplate(PathTemplate),
    DestinationIp(IpNet),
    DestinationPort(u16),
    ServerName(StringMatch),
    Authenticated(Option<StringMatch>),
    DirectRemoteIp(IpNet),
    RemoteIp(IpNet),
}

/// How deep predicates may be nested: evaluation recurses.
const MAX_DEPTH: usize = 64;

impl Engine {
    /// Compiles the rules, in order of policy name.
    ///
    /// # Errors
    /// A policy without permissions or principals, an empty `and`/`or`, a path template that is none, nesting beyond 64 levels. The
    /// caller must then refuse the resource, never run without it.
    pub fn compile(model: &Rbac) -> Result<Self, CompileError> {
        let compile =
            |policy: &RbacPolicy| Policy::compile(policy).map_err(|e| e.within(format_args!("policies[{}]", policy.name)));
        let mut policies = model.policies.iter().map(compile).collect::<Result<Vec<_>, _>>()?;
        policies.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { action: model.action, policies, stat_prefix: model.stat_prefix.clone() })
    }

    /// What a match means.
    pub fn action(&self) -> RbacAction {
        self.action
    }

    /// Prefix of the filter's statistics.
    pub fn stat_prefix(&self) -> &str {
        &self.stat_prefix
    }

    /// Decides about a request.
    pub fn check<C: ConnectionView, R: RequestView>(&self, connection: &C, request: &R) -> Verdict<'_> {
        self.verdict(&Http { connection, request })
    }

    /// Decides about a connection of which no request is known.
    pub fn check_connection<C: ConnectionView>(&self, connection: &C) -> Verdict<'_> {
        self.verdict(&Network { connection })
    }

    fn verdict<S: Subject>(&self, subject: &S) -> Verdict<'_> {
        let mode = Mode::of(self.action);
        let found = self.policies.iter().find(|policy| policy.matches(subject, mode));
        let name = found.map(|policy| policy.name.as_str());
        match (self.action, name) {
            (RbacAction::Allow, Some(_)) | (RbacAction::Log, _) | (RbacAction::Deny, None) => Verdict::Allow(name),
            (RbacAction::Allow, None) | (RbacAction::Deny, Some(_)) => Verdict::Deny(name),
        }
    }
}

impl Policy {
    fn compile(model: &RbacPolicy) -> Result<Self, CompileError> {
        if model.permissions.is_empty() {
            return Err(CompileError::new("permissions", "at least one is needed; 'any' is everything"));
        }
        if model.principals.is_empty() {
            return Err(CompileError::new("principals", "at least one is needed; 'any' is everybody"));
        }
        let permission = |(i, p)| Node::permission(p, 0).map_err(|e| e.within(format_args!("permissions[{i}]")));
        let principal = |(i, p)| Node::principal(p, 0).map_err(|e| e.within(format_args!("principals[{i}]")));
        Ok(Self {
            name: model.name.clone(),
            permissions: model.permissions.iter().enumerate().map(permission).collect::<Result<_, _>>()?,
            principals: model.principals.iter().enumerate().map(principal).collect::<Result<_, _>>()?,
        })
    }

    fn matches<S: Subject>(&self, subject: &S, mode: Mode) -> bool {
        self.principals.iter().any(|p| p.matches(subject, mode)) && self.permissions.iter().any(|p| p.matches(subject, mode))
    }
}

/// What the truth of the predicate at hand leads to.
#[derive(Clone, Copy)]
struct Mode {
    /// A match of the whole policy lets pass.
    policy_grants: bool,
    /// Being true leads to access: differs from `policy_grants` under an odd number of negations.
    granting: bool,
}

impl Mode {
    fn of(action: RbacAction) -> Self {
        let grants = action == RbacAction::Allow;
        Self { policy_grants: grants, granting: grants }
    }

    fn negated(self) -> Self {
        Self { granting: !self.granting, ..self }
    }

    fn purpose(self) -> Purpose {
        if self.granting { Purpose::Grant } else { Purpose::Refuse }
    }

    /// The value of a predicate on a request where there is none: false, except that under a `not` it must not grant.
    fn without_request(self) -> bool {
        self.policy_grants && !self.granting
    }
}

/// Who is asked about: a request on its connection, or a connection alone.
trait Subject {
    type Connection: ConnectionView;

    fn connection(&self) -> &Self::Connection;
    fn header(&self, matcher: &HeaderMatcher, purpose: Purpose) -> Option<bool>;
    fn path(&self) -> Option<&str>;
}

struct Http<'a, C, R> {
    connection: &'a C,
    request: &'a R,
}

impl<C: ConnectionView, R: RequestView> Subject for Http<'_, C, R> {
    type Connection = C;

    fn connection(&self) -> &C {
        self.connection
    }

    fn header(&self, matcher: &HeaderMatcher, purpose: Purpose) -> Option<bool> {
        Some(matcher.matches(self.request, purpose))
    }

    fn path(&self) -> Option<&str> {
        Some(self.request.path())
    }
}

struct Network<'a, C> {
    connection: &'a C,
}

impl<C: ConnectionView> Subject for Network<'_, C> {
    type Connection = C;

    fn connection(&self) -> &C {
        self.connection
    }

    fn header(&self, _: &HeaderMatcher, _: Purpose) -> Option<bool> {
        None
    }

    fn path(&self) -> Option<&str> {
        None
    }
}

impl Node {
    fn permission(model: &Permission, depth: usize) -> Result<Self, CompileError> {
        Ok(match model {
            Permission::Any => Self::Any,
            Permission::And(all) => Self::And(children(all, "and_rules", depth, Self::permission)?),
            Permission::Or(any) => Self::Or(children(any, "or_rules", depth, Self::permission)?),
            Permission::Not(inner) => Self::Not(Box::new(child(inner.as_ref(), depth, Self::permission)?)),
            Permission::Header(header) => Self::Header(HeaderMatcher::new(header)),
            Permission::Path(path) => Self::Path(path.clone()),
            Permission::PathTemplate(template) => Self::PathTemplate(PathTemplate::compile(template)?),
            Permission::DestinationIp(net) => Self::DestinationIp(*net),
            Permission::DestinationPort(port) => Self::DestinationPort(*port),
            Permission::RequestedServerName(name) => Self::ServerName(name.clone()),
        })
    }

    fn principal(model: &Principal, depth: usize) -> Result<Self, CompileError> {
        Ok(match model {
            Principal::Any => Self::Any,
            Principal::And(all) => Self::And(children(all, "and_ids", depth, Self::principal)?),
            Principal::Or(any) => Self::Or(children(any, "or_ids", depth, Self::principal)?),
            Principal::Not(inner) => Self::Not(Box::new(child(inner.as_ref(), depth, Self::principal)?)),
            Principal::Authenticated(name) => Self::Authenticated(name.clone()),
            Principal::DirectRemoteIp(net) => Self::DirectRemoteIp(*net),
            Principal::RemoteIp(net) => Self::RemoteIp(*net),
            Principal::Header(header) => Self::Header(HeaderMatcher::new(header)),
            Principal::Path(path) => Self::Path(path.clone()),
        })
    }

    fn matches<S: Subject>(&self, subject: &S, mode: Mode) -> bool {
        let connection = subject.connection();
        let unknown = mode.without_request();
        match self {
            Self::Any => true,
            Self::And(all) => all.iter().all(|n| n.matches(subject, mode)),
            Self::Or(any) => any.iter().any(|n| n.matches(subject, mode)),
            Self::Not(inner) => !inner.matches(subject, mode.negated()),
            Self::Header(matcher) => subject.header(matcher, mode.purpose()).unwrap_or(unknown),
            Self::Path(path) => subject.path().map_or(unknown, |p| path.matches(p)),
            Self::PathTemplate(template) => subject.path().map_or(unknown, |p| template.matches(p)),
            Self::DestinationIp(net) => contains(net, connection.destination().ip()),
            Self::DestinationPort(port) => connection.destination().port() == *port,
            // Envoy compares the empty string where there is no SNI.
            Self::ServerName(name) => name.matches(connection.server_name().unwrap_or_default()),
            Self::Authenticated(name) => is_authenticated(connection.peer(), name.as_ref()),
            Self::DirectRemoteIp(net) => contains(net, connection.direct_remote()),
            Self::RemoteIp(net) => contains(net, connection.client()),
        }
    }
}

type Build<T> = fn(&T, usize) -> Result<Node, CompileError>;

fn child<T>(inner: &T, depth: usize, build: Build<T>) -> Result<Node, CompileError> {
    if depth >= MAX_DEPTH {
        return Err(CompileError::new("not_rule", format!("rules are nested more than {MAX_DEPTH} deep")));
    }
    build(inner, depth + 1)
}

fn children<T>(list: &[T], field: &str, depth: usize, build: Build<T>) -> Result<Vec<Node>, CompileError> {
    if list.is_empty() {
        return Err(CompileError::new(field, "at least one is needed"));
    }
    if depth >= MAX_DEPTH {
        return Err(CompileError::new(field, format!("rules are nested more than {MAX_DEPTH} deep")));
    }
    let build = |(i, item)| build(item, depth + 1).map_err(|e| e.within(format_args!("{field}[{i}]")));
    list.iter().enumerate().map(build).collect()
}

fn is_authenticated(peer: Peer<'_>, name: Option<&StringMatch>) -> bool {
    match (peer, name) {
        (Peer::Unauthenticated, _) | (Peer::Verified(None), Some(_)) => false,
        (Peer::Verified(_), None) => true,
        (Peer::Verified(Some(san)), Some(name)) => name.matches(san),
    }
}

/// Whether the network holds the address. An IPv4 address is the same in its IPv6-mapped form, on either side; `::/0` is still
/// IPv6 only.
fn contains(net: &IpNet, address: IpAddr) -> bool {
    match (net, address.to_canonical()) {
        (IpNet::V6(v6), IpAddr::V4(v4)) => v6.prefix_len() >= 96 && v6.contains(&v4.to_ipv6_mapped()),
        (net, address) => net.contains(&address),
    }
}
