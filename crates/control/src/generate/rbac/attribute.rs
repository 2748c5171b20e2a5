//! Attributes of requests and connections, each as a predicate.

use super::{Context, Layer};
use ipnet::IpNet;
use lateen_model::dataplane::{HeaderMatch, HeaderPredicate, Permission, Principal, SafeRegex, StringMatch, StringPredicate};
use lateen_model::resource::{Condition, Operation, Source};
use std::net::IpAddr;

/// The attribute does not exist at the layer, or the value cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unusable;

type Attempt<T> = Result<T, Unusable>;

/// Which half of a rule a condition belongs to.
pub(super) enum Part {
    What(Vec<Permission>),
    Who(Vec<Principal>),
}

/// `from[].source`: one entry for each field that is set.
pub(super) fn source(context: &Context<'_>, source: &Source) -> Vec<Attempt<Principal>> {
    let mut out = Vec::new();
    let mut add = |values: &[String], not: &[String], one: &dyn Fn(&str) -> Attempt<Principal>| {
        out.extend(any_of(values, one, Principal::Or));
        out.extend(any_of(not, one, Principal::Or).map(|p| p.map(|p| Principal::Not(Box::new(p)))));
    };
    add(&source.principals, &source.not_principals, &|v| principal(context, v));
    add(&source.request_principals, &source.not_request_principals, &|_| Err(Unusable));
    add(&source.namespaces, &source.not_namespaces, &namespace);
    add(&source.service_accounts, &source.not_service_accounts, &|v| service_account(context, v));
    add(&source.trust_domains, &source.not_trust_domains, &trust_domain);
    add(&source.ip_blocks, &source.not_ip_blocks, &|v| Ok(Principal::DirectRemoteIp(cidr(v)?)));
    add(&source.remote_ip_blocks, &source.not_remote_ip_blocks, &|v| Ok(Principal::RemoteIp(cidr(v)?)));
    out
}

/// `to[].operation`: one entry for each field that is set.
pub(super) fn operation(context: &Context<'_>, operation: &Operation) -> Vec<Attempt<Permission>> {
    let mut out = Vec::new();
    let mut add = |values: &[String], not: &[String], one: &dyn Fn(&str) -> Attempt<Permission>| {
        out.extend(any_of(values, one, Permission::Or));
        out.extend(any_of(not, one, Permission::Or).map(|p| p.map(|p| Permission::Not(Box::new(p)))));
    };
    add(&operation.hosts, &operation.not_hosts, &|v| http(context, Permission::Header(header(":authority", v, true))));
    add(&operation.methods, &operation.not_methods, &|v| http(context, Permission::Header(header(":method", v, false))));
    add(&operation.paths, &operation.not_paths, &|v| http(context, path(v)?));
    add(&operation.ports, &operation.not_ports, &|v| port(v));
    out
}

/// `when[]`: `values` and `notValues` of one key, both of which must hold.
pub(super) fn condition(context: &Context<'_>, condition: &Condition) -> Attempt<Part> {
    let who = |one: &dyn Fn(&str) -> Attempt<Principal>| {
        let mut parts = Vec::new();
        if let Some(p) = any_of(&condition.values, one, Principal::Or) {
            parts.push(p?);
        }
        if let Some(p) = any_of(&condition.not_values, one, Principal::Or) {
            parts.push(Principal::Not(Box::new(p?)));
        }
        Ok(Part::Who(parts))
    };
    let what = |one: &dyn Fn(&str) -> Attempt<Permission>| {
        let mut parts = Vec::new();
        if let Some(p) = any_of(&condition.values, one, Permission::Or) {
            parts.push(p?);
        }
        if let Some(p) = any_of(&condition.not_values, one, Permission::Or) {
            parts.push(Permission::Not(Box::new(p?)));
        }
        Ok(Part::What(parts))
    };
    match condition.key.as_str() {
        "source.principal" => who(&|v| principal(context, v)),
        "source.namespace" => who(&namespace),
        "source.serviceAccount" => who(&|v| service_account(context, v)),
        "source.trustDomain" => who(&trust_domain),
        "source.ip" => who(&|v| Ok(Principal::DirectRemoteIp(cidr(v)?))),
        "remote.ip" => who(&|v| Ok(Principal::RemoteIp(cidr(v)?))),
        "destination.ip" => what(&|v| Ok(Permission::DestinationIp(cidr(v)?))),
        "destination.port" => what(&port),
        "connection.sni" => what(&|v| Ok(Permission::RequestedServerName(string(v)))),
        key => {
            let name = key.strip_prefix("request.headers[").and_then(|k| k.strip_suffix(']')).ok_or(Unusable)?;
            let name = name.to_ascii_lowercase();
            match context.layer {
                Layer::Http => who(&|v| Ok(Principal::Header(header(&name, v, false)))),
                Layer::Tcp => Err(Unusable),
            }
        }
    }
}

/// Any of the values; `None` without values.
fn any_of<T>(values: &[String], one: impl Fn(&str) -> Attempt<T>, or: fn(Vec<T>) -> T) -> Option<Attempt<T>> {
    let mut parts: Vec<T> = match values.iter().map(|v| one(v)).collect() {
        Ok(parts) => parts,
        Err(unusable) => return Some(Err(unusable)),
    };
    match parts.len() {
        0 => None,
        1 => Some(Ok(parts.remove(0))),
        _ => Some(Ok(or(parts))),
    }
}

fn http<T>(context: &Context<'_>, value: T) -> Attempt<T> {
    if context.layer == Layer::Http { Ok(value) } else { Err(Unusable) }
}

/// `abc*` is a prefix, `*abc` a suffix, `*` anything but nothing; else the text itself.
fn predicate(value: &str) -> Option<StringPredicate> {
    if value == "*" {
        None
    } else if let Some(suffix) = value.strip_prefix('*') {
        Some(StringPredicate::Suffix(suffix.to_owned()))
    } else if let Some(prefix) = value.strip_suffix('*') {
        Some(StringPredicate::Prefix(prefix.to_owned()))
    } else {
        Some(StringPredicate::Exact(value.to_owned()))
    }
}

fn string(value: &str) -> StringMatch {
    match predicate(value) {
        Some(predicate) => StringMatch { predicate, ignore_case: false },
        None => StringMatch::regex(not_empty()),
    }
}

/// Compiles a pattern that is put together here from escaped parts.
fn regex(pattern: &str) -> Attempt<SafeRegex> {
    SafeRegex::try_new(pattern).map_err(|_| Unusable)
}

fn not_empty() -> SafeRegex {
    SafeRegex::try_new(".+").expect("a constant pattern")
}

fn header(name: &str, value: &str, ignore_case: bool) -> HeaderMatch {
    let predicate = match predicate(value) {
        Some(predicate) => HeaderPredicate::Value(StringMatch { predicate, ignore_case }),
        None => HeaderPredicate::Present(true),
    };
    HeaderMatch { name: name.to_owned(), predicate, invert: false, missing_is_empty: false }
}

fn path(value: &str) -> Attempt<Permission> {
    if value.contains("{*}") || value.contains("{**}") {
        return Ok(Permission::PathTemplate(value.to_owned()));
    }
    if value.contains(['{', '}']) {
        return Err(Unusable);
    }
    Ok(Permission::Path(string(value)))
}

fn port(value: &str) -> Attempt<Permission> {
    value.parse().ok().filter(|p| *p > 0).map(Permission::DestinationPort).ok_or(Unusable)
}

fn cidr(value: &str) -> Attempt<IpNet> {
    let net = value.parse::<IpNet>().ok().or_else(|| value.parse::<IpAddr>().ok().map(IpNet::from));
    net.map(|n| n.trunc()).ok_or(Unusable)
}

/// A peer by its whole principal, under each name of the trust domain.
fn principal(context: &Context<'_>, value: &str) -> Attempt<Principal> {
    if value == "*" {
        return Ok(Principal::Authenticated(Some(StringMatch::regex(not_empty()))));
    }
    if let Some(suffix) = value.strip_prefix('*') {
        let pattern = format!("spiffe://.*{}", regex_escape(suffix));
        return Ok(Principal::Authenticated(Some(StringMatch::regex(regex(&pattern)?))));
    }
    let mut matches: Vec<Principal> = Vec::new();
    for value in with_aliases(context, value) {
        let predicate = match value.strip_suffix('*') {
            Some(prefix) => StringMatch::prefix(format!("spiffe://{prefix}")),
            None => StringMatch::exact(format!("spiffe://{value}")),
        };
        matches.push(Principal::Authenticated(Some(predicate)));
    }
    Ok(if matches.len() == 1 { matches.remove(0) } else { Principal::Or(matches) })
}

/// A principal whose trust domain is one of the mesh's names, or the default one, stands for all names.
fn with_aliases(context: &Context<'_>, value: &str) -> Vec<String> {
    let Some((domain, rest)) = value.split_once('/') else { return vec![value.to_owned()] };
    if domain != "cluster.local" && !context.trust_domains.contains(&domain) {
        return vec![value.to_owned()];
    }
    context.trust_domains.iter().map(|td| format!("{td}/{rest}")).collect()
}

/// In a namespace every `*` stands for any text.
fn namespace(value: &str) -> Attempt<Principal> {
    let name: Vec<String> = value.split('*').map(regex_escape).collect();
    let pattern = format!(".*/ns/{}/.*", name.join(".*"));
    Ok(Principal::Authenticated(Some(StringMatch::regex(regex(&pattern)?))))
}

/// `ACCOUNT` in the policy's namespace, or `NAMESPACE/ACCOUNT`.
fn service_account(context: &Context<'_>, value: &str) -> Attempt<Principal> {
    let (namespace, account) = value.split_once('/').unwrap_or((context.namespace, value));
    let (namespace, account) = (regex_escape(namespace), regex_escape(account));
    let pattern = format!("spiffe://.+/ns/{namespace}/(.+/|)sa/{account}(/.+)?");
    Ok(Principal::Authenticated(Some(StringMatch::regex(regex(&pattern)?))))
}

fn trust_domain(value: &str) -> Attempt<Principal> {
    let name = match value.strip_prefix('*') {
        Some("") => "[^/]+".to_owned(),
        Some(suffix) => format!("[^/]*{}", regex_escape(suffix)),
        None => match value.strip_suffix('*') {
            Some(prefix) => format!("{}[^/]*", regex_escape(prefix)),
            None => regex_escape(value),
        },
    };
    Ok(Principal::Authenticated(Some(StringMatch::regex(regex(&format!("spiffe://{name}/.*"))?))))
}

/// Makes every character of a name stand for itself. RE2 and Rust's regex crate agree on these escapes.
fn regex_escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if "\\.+*?()|[]{}^$".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}
