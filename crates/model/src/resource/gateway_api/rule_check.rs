//! What makes rules of routes valid, of several kinds alike.

use std::collections::BTreeSet;

use super::filters::{
    BackendFilter, CorsFilter, HeaderFilter, HttpRouteFilter, HttpRouteFilterType, MirrorFilter, PathModifier, PathModifierType,
    RedirectFilter,
};
use super::reference::{FilteredBackendRef, hostname};
use crate::resource::Issues;
use crate::resource::check::{self, Check, report, report_at};

/// The most filters, backends, and headers of one filter.
const MAX_ENTRIES: usize = 16;
/// The longest path.
const MAX_PATH: usize = 1024;

/// The parts of a rule that are checked together.
pub(super) struct RuleParts<'a, F> {
    pub(super) filters: &'a [F],
    pub(super) backends: &'a [FilteredBackendRef<F>],
    /// Whether the rule matches by one prefix of the path, which alone can be replaced.
    pub(super) one_prefix: bool,
}

/// A list that may have only so many entries.
pub(super) fn check_count(key: &str, count: usize, most: usize, issues: &mut Issues) {
    if count > most {
        issues.error_at(key, format!("has {count} entries; {most} are allowed"));
    }
}

/// The names of rules: each once.
pub(super) fn check_names<'a>(names: impl Iterator<Item = Option<&'a str>>, issues: &mut Issues) {
    let mut seen = BTreeSet::new();
    issues.field("rules", |issues| {
        for (index, name) in names.enumerate() {
            let Some(name) = name else { continue };
            issues.index(index, |issues| {
                report_at(issues, "name", check::dns_subdomain(name));
                if !seen.insert(name) {
                    issues.error_at("name", format!("{name} is the name of another rule"));
                }
            });
        }
    });
}

/// A path as it is matched and replaced: absolute, without elements that proxies would take away.
pub(super) fn plain_path(path: &str) -> Check {
    if !path.starts_with('/') {
        return Err("must begin with '/'".to_owned());
    }
    if path.len() > MAX_PATH {
        return Err(format!("is longer than {MAX_PATH} characters"));
    }
    for part in ["//", "/./", "/../", "%2f", "%2F", "#"] {
        if path.contains(part) {
            return Err(format!("must not contain {part:?}"));
        }
    }
    if path.ends_with("/..") || path.ends_with("/.") {
        return Err("must not end with '/.' or '/..'".to_owned());
    }
    if path.bytes().any(|b| b.is_ascii_whitespace() || b.is_ascii_control() || b == b'?') {
        return Err("must be a path, without a query and without spaces".to_owned());
    }
    Ok(())
}

/// Checks filters and backends.
pub(super) fn check_parts<F: BackendFilter>(rule: &RuleParts<'_, F>, issues: &mut Issues) {
    let filters: Vec<HttpRouteFilter> = rule.filters.iter().map(BackendFilter::to_http).collect();
    issues.field("filters", |issues| check_filters(&filters, rule.one_prefix, issues));
    check_count("backendRefs", rule.backends.len(), MAX_ENTRIES, issues);
    issues.each("backendRefs", rule.backends, |issues, backend| {
        backend.validate(issues);
        let own: Vec<HttpRouteFilter> = backend.filters.iter().map(BackendFilter::to_http).collect();
        issues.field("filters", |issues| check_filters(&own, rule.one_prefix, issues));
    });
    let redirects = filters.iter().any(|f| f.type_ == HttpRouteFilterType::RequestRedirect);
    if redirects && !rule.backends.is_empty() {
        issues.error_at("backendRefs", "must not be set beside the filter RequestRedirect, which answers by itself");
    }
}

/// Filters of single backends that cannot be kept apart from those of the others.
pub(super) fn unsupported_backends<F: BackendFilter>(backends: &[FilteredBackendRef<F>], issues: &mut Issues) {
    use HttpRouteFilterType::{Cors, RequestMirror, RequestRedirect, UrlRewrite};
    issues.each("backendRefs", backends, |issues, backend| {
        let filters: Vec<HttpRouteFilter> = backend.filters.iter().map(BackendFilter::to_http).collect();
        issues.each("filters", &filters, |issues, filter| {
            let beside = backends.len() > 1;
            match filter.type_ {
                Cors | RequestMirror => issues.error(format!(
                    "{} is not supported for a single backend by this version of Lateen: write it in the rule's filters",
                    filter.type_.name()
                )),
                RequestRedirect | UrlRewrite if beside => issues.error(format!(
                    "{} is supported only for a rule's only backend by this version of Lateen",
                    filter.type_.name()
                )),
                _ => {}
            }
        });
    });
}

fn check_filters(filters: &[HttpRouteFilter], one_prefix: bool, issues: &mut Issues) {
    if filters.len() > MAX_ENTRIES {
        issues.error(format!("has {} entries; {MAX_ENTRIES} are allowed", filters.len()));
    }
    let has = |kind| filters.iter().any(|f| f.type_ == kind);
    if has(HttpRouteFilterType::RequestRedirect) && has(HttpRouteFilterType::UrlRewrite) {
        issues.error("RequestRedirect and URLRewrite exclude each other");
    }
    let mut seen = Vec::new();
    for (index, filter) in filters.iter().enumerate() {
        issues.index(index, |issues| {
            let repeatable = matches!(filter.type_, HttpRouteFilterType::RequestMirror | HttpRouteFilterType::ExtensionRef);
            if seen.contains(&filter.type_) && !repeatable {
                issues.error(format!("{} stands here twice", filter.type_.name()));
            }
            check_fields(filter, issues);
            check_filter(filter, one_prefix, issues);
        });
        seen.push(filter.type_);
    }
}

/// The field of the filter's type is set, and no other.
fn check_fields(filter: &HttpRouteFilter, issues: &mut Issues) {
    use HttpRouteFilterType as T;
    for (type_, key, set) in [
        (T::RequestHeaderModifier, "requestHeaderModifier", filter.request_header_modifier.is_some()),
        (T::ResponseHeaderModifier, "responseHeaderModifier", filter.response_header_modifier.is_some()),
        (T::RequestMirror, "requestMirror", filter.request_mirror.is_some()),
        (T::RequestRedirect, "requestRedirect", filter.request_redirect.is_some()),
        (T::UrlRewrite, "urlRewrite", filter.url_rewrite.is_some()),
        (T::Cors, "cors", filter.cors.is_some()),
        (T::ExtensionRef, "extensionRef", filter.extension_ref.is_some()),
    ] {
        match (type_ == filter.type_, set) {
            (true, false) => issues.error_at(key, format!("is required for the type {}", type_.name())),
            (false, true) => issues.error_at(key, format!("must not be set for the type {}", filter.type_.name())),
            _ => {}
        }
    }
}

fn check_filter(filter: &HttpRouteFilter, one_prefix: bool, issues: &mut Issues) {
    issues.optional("requestHeaderModifier", filter.request_header_modifier.as_ref(), check_headers);
    issues.optional("responseHeaderModifier", filter.response_header_modifier.as_ref(), check_headers);
    issues.optional("requestMirror", filter.request_mirror.as_ref(), check_mirror);
    issues.optional("requestRedirect", filter.request_redirect.as_ref(), |issues, redirect| {
        check_redirect(redirect, issues);
        issues.optional("path", redirect.path.as_ref(), |issues, path| check_path_modifier(path, one_prefix, issues));
    });
    issues.optional("urlRewrite", filter.url_rewrite.as_ref(), |issues, rewrite| {
        if let Some(name) = &rewrite.hostname {
            report_at(issues, "hostname", precise_hostname(name));
        }
        issues.optional("path", rewrite.path.as_ref(), |issues, path| check_path_modifier(path, one_prefix, issues));
    });
    issues.optional("cors", filter.cors.as_ref(), check_cors);
    issues.optional("extensionRef", filter.extension_ref.as_ref(), |issues, reference| reference.validate(issues));
}

fn precise_hostname(name: &str) -> Check {
    if name.contains('*') { Err("must be one name, without a wildcard".to_owned()) } else { hostname(name) }
}

fn check_headers(issues: &mut Issues, headers: &HeaderFilter) {
    for (key, list) in [("set", &headers.set), ("add", &headers.add)] {
        check_count(key, list.len(), MAX_ENTRIES, issues);
        let mut seen = BTreeSet::new();
        issues.each(key, list, |issues, header| {
            report_at(issues, "name", check::header_name(&header.name));
            if header.value.is_empty() {
                issues.error_at("value", "is required");
            }
            if !seen.insert(header.name.to_ascii_lowercase()) {
                issues.error_at("name", "stands here twice");
            }
        });
    }
    check_count("remove", headers.remove.len(), MAX_ENTRIES, issues);
    issues.each("remove", &headers.remove, |issues, name| report(issues, check::header_name(name)));
}

fn check_mirror(issues: &mut Issues, mirror: &MirrorFilter) {
    issues.field("backendRef", |issues| {
        mirror.backend_ref.validate(issues);
        if mirror.backend_ref.weight.is_some() {
            issues.error_at("weight", "must not be set: percent and fraction say the share of a copy");
        }
    });
    if mirror.percent.is_some() && mirror.fraction.is_some() {
        issues.error("percent and fraction exclude each other");
    }
    if mirror.percent.is_some_and(|p| !(0..=100).contains(&p)) {
        issues.error_at("percent", "must be 0 to 100");
    }
    issues.optional("fraction", mirror.fraction.as_ref(), |issues, fraction| {
        let whole = fraction.denominator.unwrap_or(100);
        if whole < 1 {
            issues.error_at("denominator", "must be above zero");
        }
        if fraction.numerator < 0 || fraction.numerator > whole {
            issues.error_at("numerator", "must be 0 to denominator");
        }
    });
}

fn check_redirect(redirect: &RedirectFilter, issues: &mut Issues) {
    if let Some(scheme) = &redirect.scheme
        && !matches!(scheme.as_str(), "http" | "https")
    {
        issues.error_at("scheme", "must be http or https");
    }
    if let Some(name) = &redirect.hostname {
        report_at(issues, "hostname", precise_hostname(name));
    }
    if let Some(port) = redirect.port {
        report_at(issues, "port", check::port(port));
    }
    if redirect.status_code.is_some_and(|code| !matches!(code, 301 | 302 | 303 | 307 | 308)) {
        issues.error_at("statusCode", "must be 301, 302, 303, 307 or 308");
    }
}

fn check_path_modifier(path: &PathModifier, one_prefix: bool, issues: &mut Issues) {
    let (full, prefix) = (&path.replace_full_path, &path.replace_prefix_match);
    let (wanted, other) = match path.type_ {
        PathModifierType::ReplaceFullPath => (("replaceFullPath", full), ("replacePrefixMatch", prefix)),
        PathModifierType::ReplacePrefixMatch => (("replacePrefixMatch", prefix), ("replaceFullPath", full)),
    };
    match wanted.1 {
        None => issues.error_at(wanted.0, "is required for this type"),
        Some(value) => {
            if value.contains(['?', '#']) || (!value.is_empty() && !value.starts_with('/')) {
                issues.error_at(wanted.0, "must be a path that begins with '/', without a query");
            }
        }
    }
    if other.1.is_some() {
        issues.error_at(other.0, "must not be set for this type");
    }
    if path.type_ == PathModifierType::ReplacePrefixMatch && !one_prefix {
        issues.error_at("type", "ReplacePrefixMatch needs a rule with exactly one match, by PathPrefix");
    }
}

fn check_cors(issues: &mut Issues, cors: &CorsFilter) {
    issues.each("allowOrigins", &cors.allow_origins, |issues, origin| {
        let rest = origin.split_once("://").filter(|(scheme, _)| check::is_token(scheme));
        let host = rest.map(|(_, host)| host.rsplit_once(':').map_or(host, |(host, _)| host));
        if origin != "*" && host.is_none_or(|host| host.is_empty() || host.contains('/')) {
            issues.error("must be \"*\" or SCHEME://HOST[:PORT]");
        }
    });
    if cors.allow_origins.len() > 1 && cors.allow_origins.iter().any(|o| o == "*") {
        issues.error_at("allowOrigins", "\"*\" must stand alone: it contains all others");
    }
    for (key, names) in
        [("allowMethods", &cors.allow_methods), ("allowHeaders", &cors.allow_headers), ("exposeHeaders", &cors.expose_headers)]
    {
        issues.each(key, names, |issues, name| {
            if !check::is_token(name) {
                issues.error("must be a name, or \"*\"");
            }
        });
    }
    if cors.max_age.is_some_and(|age| age < 1) {
        issues.error_at("maxAge", "must be at least 1 second");
    }
}
