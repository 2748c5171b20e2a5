//! What makes single values of an AuthorizationPolicy valid.

use super::Condition;
use crate::resource::check::{self, Check, report};
use crate::resource::{Issues, shorten};

/// The most values that `serviceAccounts` may have.
pub(super) const MAX_SERVICE_ACCOUNTS: usize = 16;
/// The longest value of `serviceAccounts`.
const MAX_SERVICE_ACCOUNT_LEN: usize = 320;

/// Keys of `when` that are whole words.
const KEYS: &[&str] = &[
    "source.ip",
    "remote.ip",
    "source.namespace",
    "source.principal",
    "source.serviceAccount",
    "source.trustDomain",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
    "destination.ip",
    "destination.port",
    "connection.sni",
];

pub(super) fn not_empty(value: &str) -> Check {
    match value {
        "" => Err("must not be empty".to_owned()),
        _ => Ok(()),
    }
}

pub(super) fn port(value: &str) -> Check {
    match value.parse::<i64>().ok().filter(|_| value.bytes().all(|b| b.is_ascii_digit())) {
        Some(number) => check::port(number),
        None => Err(format!("{:?} must be a port from 1 to 65535, in quotes", shorten(value))),
    }
}

/// A peer's identity. The scheme never matches, which in a `not…` list or a DENY policy would let everyone in.
pub(super) fn principal(value: &str) -> Check {
    if let Some(rest) = value.strip_prefix("spiffe://") {
        return Err(format!("must be written without spiffe://: {:?}", shorten(rest)));
    }
    not_empty(value)
}

/// `ACCOUNT` or `NAMESPACE/ACCOUNT`, exactly.
pub(super) fn service_account(value: &str) -> Check {
    if value.len() > MAX_SERVICE_ACCOUNT_LEN {
        return Err(format!("is longer than {MAX_SERVICE_ACCOUNT_LEN} characters"));
    }
    let (namespace, account) = match value.split_once('/') {
        Some((namespace, account)) => (Some(namespace), account),
        None => (None, value),
    };
    let good = namespace.is_none_or(|namespace| check::dns_label(namespace).is_ok()) && check::dns_subdomain(account).is_ok();
    match good {
        true => Ok(()),
        false => Err(format!("{:?} must be ACCOUNT or NAMESPACE/ACCOUNT, without wildcards", shorten(value))),
    }
}

/// A trust domain, or a part of one with a single `*` at an end.
pub(super) fn trust_domain(value: &str) -> Check {
    not_empty(value)?;
    let rest = value.strip_prefix('*').or_else(|| value.strip_suffix('*')).unwrap_or(value);
    match rest.contains(['*', '/']) {
        true => Err(format!("{:?} must be a trust domain, with at most one '*' at an end and without '/'", shorten(value))),
        false => Ok(()),
    }
}

/// A path: exact, with `*` at an end, or a template in which `{*}` is one segment and `{**}` any number of segments.
pub(super) fn path(value: &str) -> Check {
    not_empty(value)?;
    let segments = || value.split('/');
    let is_template = segments().any(|segment| matches!(segment, "{*}" | "{**}"));
    let mut any_seen = false;
    for segment in segments() {
        match segment {
            "{*}" | "{**}" if any_seen => return Err("{**} must be the last of the template's operators".to_owned()),
            "{**}" => any_seen = true,
            "{*}" => {}
            text if text.contains(['{', '}']) => {
                return Err(format!("{:?}: braces may only stand as the whole segments {{*}} and {{**}}", shorten(value)));
            }
            text if is_template && text.contains('*') => {
                return Err(format!("{:?}: a template must not have '*' outside of {{*}} and {{**}}", shorten(value)));
            }
            _ => {}
        }
    }
    Ok(())
}

pub(super) fn condition(condition: &Condition, issues: &mut Issues) {
    if issues.require("key", &condition.key) {
        check::report_at(issues, "key", key(&condition.key));
    }
    if condition.values.is_empty() && condition.not_values.is_empty() {
        issues.error("must set values or notValues");
    }
    let check: fn(&str) -> Check = match condition.key.as_str() {
        "source.ip" | "remote.ip" | "destination.ip" => check::ip_block,
        "destination.port" => port,
        "source.serviceAccount" => service_account,
        "source.trustDomain" => trust_domain,
        "source.principal" => principal,
        _ => not_empty,
    };
    for (field, values) in [("values", &condition.values), ("notValues", &condition.not_values)] {
        issues.each(field, values, |issues, value| report(issues, check(value)));
    }
}

/// Whether a key of `when` is about the peer's or the user's identity.
pub(super) fn is_identity_key(key: &str) -> bool {
    let peers = ["source.namespace", "source.principal", "source.serviceAccount", "source.trustDomain"];
    peers.contains(&key) || key.starts_with("request.auth.")
}

fn key(key: &str) -> Check {
    if KEYS.contains(&key) {
        return Ok(());
    }
    let argument = |prefix: &str| key.strip_prefix(prefix).map(|rest| rest.strip_suffix(']').filter(|name| !name.is_empty()));
    let wrong = |form: &str| Err(format!("{:?} must be of the form {form}", shorten(key)));
    if let Some(name) = argument("request.headers[") {
        return match name.filter(|name| check::is_token(name.strip_prefix(':').unwrap_or(name))) {
            Some(_) => Ok(()),
            None => wrong("request.headers[NAME]"),
        };
    }
    if let Some(name) = argument("request.auth.claims[") {
        let plain = |name: &str| name.split("][").all(|part| !part.is_empty() && !part.contains(['[', ']']));
        return match name.filter(|name| plain(name)) {
            Some(_) => Ok(()),
            None => wrong("request.auth.claims[NAME] or request.auth.claims[NAME][NAME]"),
        };
    }
    if let Some(rest) = key.strip_prefix("experimental.envoy.filters.") {
        let well_formed =
            rest.split_once('[').is_some_and(|(filter, name)| !filter.is_empty() && name.len() > 1 && name.ends_with(']'));
        return if well_formed { Ok(()) } else { wrong("experimental.envoy.filters.FILTER[KEY]") };
    }
    let removed = ["destination.namespace", "destination.labels", "destination.name", "destination.user"];
    if removed.iter().any(|name| key == *name || key.starts_with(&format!("{name}["))) {
        return Err(format!("{:?} is no longer part of Istio: use the policy's namespace and selector", shorten(key)));
    }
    Err(format!(
        "{:?} is not an attribute; known: {}, request.headers[NAME], request.auth.claims[NAME]",
        shorten(key),
        KEYS.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(check: fn(&str) -> Check, good: &[&str], bad: &[&str]) {
        for text in good {
            assert_eq!(check(text), Ok(()), "{text:?}");
        }
        for text in bad {
            assert!(check(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn values() {
        table(
            path,
            &["/", "/a", "/a/*", "*", "*.jpg", "/a/{*}/b", "/a/{**}", "/{*}/{**}/end"],
            &["", "/a/{b}", "/{**}/{*}", "/{**}/{**}", "/a{*}", "/{*}/b*", "/{", "/}"],
        );
        table(port, &["1", "8080", "65535"], &["", "0", "65536", "http", "-1", "+1", "80 "]);
        table(principal, &["*", "cluster.local/ns/a/sa/b", "*/sa/b"], &["", "spiffe://cluster.local/ns/a/sa/b"]);
        table(service_account, &["a", "ns/a"], &["", "*", "ns/*", "a/b/c", "/a", "ns/"]);
        table(trust_domain, &["*", "cluster.local", "*.local", "cluster*"], &["", "a*b", "*a*", "a/b"]);
        table(
            key,
            &[
                "source.ip",
                "request.headers[X-Team]",
                "request.headers[:method]",
                "request.auth.claims[a][b]",
                "connection.sni",
                "experimental.envoy.filters.network.mysql_proxy[db.table]",
            ],
            &[
                "",
                "source",
                "request.headers",
                "request.headers[]",
                "request.headers[a b]",
                "request.auth.claims[a]b]",
                "request.auth.claims[]",
                "destination.labels[app]",
                "experimental.envoy.filters.a",
            ],
        );
    }
}
