//! Rules of HTTPRoutes, as VirtualServices have them: each match a route of its own, which can be ordered among those of others.

use super::attach::{Converted, Route};
use super::backend;
use super::status::Problem;
use crate::world::World;
use lateen_model::resource::gateway_api::{
    BackendFilter, CorsFilter, FilteredBackendRef, HeaderFilter, HttpPathMatch, HttpRetryPolicy, HttpRouteFilter,
    HttpRouteFilterType, HttpTimeouts, HttpValueMatch, KubeHttpRouteMatch, KubeHttpRouteRule, MirrorFilter, PathMatchType,
    PathModifier, PathModifierType, RedirectFilter, UrlRewriteFilter, ValueMatchType,
};
use lateen_model::resource::{
    CorsPolicy, CreationOrder, HeaderOperations, Headers, HttpDirectResponse, HttpMatchRequest, HttpMirrorPolicy, HttpRedirect,
    HttpRetry, HttpRewrite, HttpRoute, HttpRouteDestination, Percent, ProtoDuration, RedirectPortSelection, RegexRewrite,
    StringMatch, UnmatchedPreflights,
};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

/// What is tried again beside the statuses that are written.
const RETRY_ON: &str = "connect-failure,refused-stream,unavailable,cancelled";
/// Tries after the first where none are written.
const RETRY_ATTEMPTS: i32 = 2;
/// How long browsers may keep the answer to a preflight, where nothing is written.
const CORS_MAX_AGE: u64 = 5;

/// One match of one rule.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    /// Which of two that match a request serves it: the lesser.
    pub(super) rank: Rank,
    /// What it does; with exactly one match.
    pub(super) http: HttpRoute,
}

/// The precedence of the Gateway API: exact paths, prefixes, regular expressions; longer paths; a method; more headers; more
/// parameters; older routes; the order of the rules.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub(super) kind: PathKind,
    pub(super) length: Reverse<usize>,
    pub(super) method: Reverse<bool>,
    pub(super) headers: Reverse<usize>,
    pub(super) query: Reverse<usize>,
    pub(super) age: CreationOrder,
    pub(super) place: (usize, usize),
}

/// How the path is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PathKind {
    Exact,
    Prefix,
    Regex,
}

/// What a rule does, whatever it matches.
#[derive(Default)]
pub(super) struct Action {
    pub(super) http: HttpRoute,
    /// What takes the place of the matched prefix.
    prefix: Option<String>,
}

pub(super) fn convert(world: &World, route: &Route<'_>, rules: &[KubeHttpRouteRule]) -> Converted {
    let mut out = Converted::default();
    for (index, rule) in rules.iter().enumerate() {
        let Some(mut action) = action(world, route, (&rule.filters, &rule.backend_refs), &mut out) else { continue };
        timeouts(&mut action.http, rule.timeouts, rule.retry.as_ref());
        action.http.name = name(route, rule.name.as_deref(), index);
        let everything = [KubeHttpRouteMatch::default()];
        let matches = if rule.matches.is_empty() { &everything[..] } else { &rule.matches };
        for (place, condition) in matches.iter().enumerate() {
            let path = condition.path.clone().unwrap_or_default();
            let (kind, length) = (kind(&path), path.value().len());
            let rank = Rank {
                kind,
                length: Reverse(length),
                method: Reverse(condition.method.is_some()),
                headers: Reverse(condition.headers.len()),
                query: Reverse(condition.query_params.len()),
                age: route.order(),
                place: (index, place),
            };
            for http in with_path(&action, &path) {
                let mut http = http;
                if let Some(request) = http.matches.first_mut() {
                    request.method = condition.method.clone().map(StringMatch::Exact);
                    request.headers = values(&condition.headers, true);
                    request.query_params = values(&condition.query_params, false);
                }
                out.http.push(Candidate { rank: rank.clone(), http });
            }
        }
    }
    out
}

/// `NAMESPACE.ROUTE.RULE`, for access logs.
pub(super) fn name(route: &Route<'_>, rule: Option<&str>, index: usize) -> String {
    let rule = rule.map_or_else(|| index.to_string(), str::to_owned);
    format!("{}.{}.{rule}", route.namespace(), route.metadata.name)
}

fn kind(path: &HttpPathMatch) -> PathKind {
    match path.type_ {
        PathMatchType::Exact => PathKind::Exact,
        PathMatchType::PathPrefix => PathKind::Prefix,
        PathMatchType::RegularExpression => PathKind::Regex,
    }
}

/// Of conditions with one name the first counts; names of headers have no case.
pub(super) fn values(written: &[HttpValueMatch], headers: bool) -> BTreeMap<String, StringMatch> {
    let mut out = BTreeMap::new();
    for value in written {
        let name = if headers { value.name.to_ascii_lowercase() } else { value.name.clone() };
        let text = value.value.clone();
        out.entry(name).or_insert(match value.type_ {
            ValueMatchType::Exact => StringMatch::Exact(text),
            ValueMatchType::RegularExpression => StringMatch::Regex(text),
        });
    }
    out
}

/// The route for a path. Where a prefix is taken away without a replacement, what is left must begin with one slash: the prefix
/// alone and what is below it are two routes then.
fn with_path(action: &Action, path: &HttpPathMatch) -> Vec<HttpRoute> {
    let matched = |uri: StringMatch| {
        let request = HttpMatchRequest { uri: Some(uri), ..HttpMatchRequest::default() };
        HttpRoute { matches: vec![request], ..action.http.clone() }
    };
    let value = path.value();
    match path.type_ {
        PathMatchType::Exact => return vec![matched(StringMatch::Exact(value.to_owned()))],
        PathMatchType::RegularExpression => return vec![matched(StringMatch::Regex(value.to_owned()))],
        PathMatchType::PathPrefix => {}
    }
    // `/a/` means the same as `/a`.
    let prefix = value.trim_end_matches('/');
    let whole = if prefix.is_empty() { "/" } else { prefix };
    let Some(replacement) = action.prefix.as_deref().map(|r| r.trim_end_matches('/')) else {
        return vec![matched(StringMatch::Prefix(whole.to_owned()))];
    };
    if prefix.is_empty() {
        let mut http = matched(StringMatch::Prefix("/".to_owned()));
        replace(&mut http, format!("{replacement}/"), false);
        return vec![http];
    }
    if !replacement.is_empty() {
        let mut http = matched(StringMatch::Prefix(prefix.to_owned()));
        replace(&mut http, replacement.to_owned(), false);
        return vec![http];
    }
    let mut alone = matched(StringMatch::Exact(prefix.to_owned()));
    replace(&mut alone, "/".to_owned(), true);
    let mut below = matched(StringMatch::Prefix(format!("{prefix}/")));
    replace(&mut below, "/".to_owned(), false);
    vec![alone, below]
}

fn replace(http: &mut HttpRoute, replacement: String, whole: bool) {
    match &mut http.redirect {
        Some(redirect) if whole => redirect.uri = replacement,
        Some(redirect) => redirect.prefix_rewrite = replacement,
        None => http.rewrite.get_or_insert_default().uri = replacement,
    }
}

/// What filters and backends come to. `None`: a filter that is not known, without which the rule must not be followed.
pub(super) fn action<F: BackendFilter>(
    world: &World,
    route: &Route<'_>,
    (filters, backends): (&[F], &[FilteredBackendRef<F>]),
    out: &mut Converted,
) -> Option<Action> {
    let mut filters: Vec<HttpRouteFilter> = filters.iter().map(BackendFilter::to_http).collect();
    if let [only] = backends {
        // What a rule's only backend does to requests, the rule does.
        filters.extend(only.filters.iter().map(BackendFilter::to_http).filter(changes_url));
    }
    let all = filters.iter().cloned().chain(backends.iter().flat_map(|b| b.filters.iter().map(BackendFilter::to_http)));
    if let Some(unknown) = all.into_iter().find(|f| f.type_ == HttpRouteFilterType::ExtensionRef) {
        let what = unknown.extension_ref.unwrap_or_default();
        let text = format!("ExtensionRef {:?} of the kind {:?} is not supported", what.name, what.kind.unwrap_or_default());
        out.refused.get_or_insert_with(|| Problem::new("InvalidFilter", text));
        return None;
    }
    let mut action = Action::default();
    for filter in &filters {
        apply(world, route, filter, (&mut action, out));
    }
    if action.http.redirect.is_none() {
        destinations(world, route, backends, (&mut action.http, out));
    }
    Some(action)
}

fn changes_url(filter: &HttpRouteFilter) -> bool {
    matches!(filter.type_, HttpRouteFilterType::RequestRedirect | HttpRouteFilterType::UrlRewrite)
}

fn apply(world: &World, route: &Route<'_>, filter: &HttpRouteFilter, (action, out): (&mut Action, &mut Converted)) {
    let http = &mut action.http;
    if let Some(headers) = &filter.request_header_modifier {
        http.headers.get_or_insert_default().request = Some(operations(headers));
    }
    if let Some(headers) = &filter.response_header_modifier {
        http.headers.get_or_insert_default().response = Some(operations(headers));
    }
    if let Some(written) = &filter.request_mirror {
        http.mirrors.extend(mirror(world, route, written, out));
    }
    if let Some(written) = &filter.request_redirect {
        http.redirect = Some(redirect(written));
        action.prefix = prefix_of(written.path.as_ref());
    }
    if let Some(written) = &filter.url_rewrite {
        http.rewrite = Some(rewrite(written));
        action.prefix = prefix_of(written.path.as_ref());
    }
    if let Some(written) = &filter.cors {
        http.cors_policy = Some(cors(written));
    }
}

fn prefix_of(path: Option<&PathModifier>) -> Option<String> {
    let path = path.filter(|p| p.type_ == PathModifierType::ReplacePrefixMatch)?;
    Some(path.replace_prefix_match.clone().unwrap_or_default())
}

fn full_of(path: Option<&PathModifier>) -> Option<&str> {
    let path = path.filter(|p| p.type_ == PathModifierType::ReplaceFullPath)?;
    Some(path.replace_full_path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/"))
}

fn operations(written: &HeaderFilter) -> HeaderOperations {
    let map = |list: &[lateen_model::resource::gateway_api::HeaderValue]| {
        list.iter().map(|h| (h.name.to_ascii_lowercase(), h.value.clone())).collect()
    };
    HeaderOperations { set: map(&written.set), add: map(&written.add), remove: written.remove.clone() }
}

fn mirror(world: &World, route: &Route<'_>, written: &MirrorFilter, out: &mut Converted) -> Option<HttpMirrorPolicy> {
    let resolved = backend::resolve(world, (route.kind.name(), route.namespace()), &written.backend_ref);
    out.note(&resolved);
    let share = match (written.percent, written.fraction) {
        (Some(percent), _) => Some(f64::from(percent)),
        (None, Some(f)) => Some(100.0 * f64::from(f.numerator) / f64::from(f.denominator.unwrap_or(100).max(1))),
        (None, None) => None,
    };
    let percentage = share.map(|value| Percent { value });
    Some(HttpMirrorPolicy { destination: Some(resolved.ok()?.destination()), percentage })
}

fn redirect(written: &RedirectFilter) -> HttpRedirect {
    // Without a scheme and a port it stays the listener's.
    let keeps_port = written.port.is_none() && written.scheme.is_none();
    HttpRedirect {
        uri: full_of(written.path.as_ref()).unwrap_or_default().to_owned(),
        authority: written.hostname.clone().unwrap_or_default(),
        port: written.port.and_then(|p| u32::try_from(p).ok()),
        derive_port: keeps_port.then_some(RedirectPortSelection::FromRequestPort),
        scheme: written.scheme.clone().unwrap_or_default(),
        redirect_code: Some(written.status_code.unwrap_or(302)),
        prefix_rewrite: String::new(),
    }
}

fn rewrite(written: &UrlRewriteFilter) -> HttpRewrite {
    HttpRewrite {
        uri: String::new(),
        authority: written.hostname.clone().unwrap_or_default(),
        uri_regex_rewrite: full_of(written.path.as_ref()).map(|path| RegexRewrite {
            matches: "/.*".to_owned(),
            // A backslash would begin the reference to a group.
            rewrite: path.replace('\\', "\\\\"),
        }),
    }
}

fn cors(written: &CorsFilter) -> CorsPolicy {
    CorsPolicy {
        allow_origins: written.allow_origins.iter().map(|o| origin(o)).collect(),
        allow_methods: written.allow_methods.clone(),
        allow_headers: written.allow_headers.clone(),
        expose_headers: written.expose_headers.clone(),
        max_age: Some(ProtoDuration::new(Duration::from_secs(
            written.max_age.and_then(|age| u64::try_from(age).ok()).unwrap_or(CORS_MAX_AGE),
        ))),
        allow_credentials: written.allow_credentials,
        unmatched_preflights: UnmatchedPreflights::Ignore,
        ..CorsPolicy::default()
    }
}

/// `*` in an origin stands for anything.
fn origin(written: &str) -> StringMatch {
    if !written.contains('*') {
        return StringMatch::Exact(written.to_owned());
    }
    let parts: Vec<String> = written.split('*').map(escape).collect();
    StringMatch::Regex(parts.join(".*"))
}

/// A text as a regular expression that matches it alone.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if !c.is_ascii_alphanumeric() && c.is_ascii() && !matches!(c, '/' | '_' | '-' | ':') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

fn timeouts(http: &mut HttpRoute, written: Option<HttpTimeouts>, retry: Option<&HttpRetryPolicy>) {
    let written = written.unwrap_or_default();
    http.timeout = written.request;
    if let Some(retry) = retry {
        let mut on = RETRY_ON.to_owned();
        for code in &retry.codes {
            on.push_str(&format!(",{code}"));
        }
        http.retries = Some(HttpRetry {
            attempts: retry.attempts.unwrap_or(RETRY_ATTEMPTS),
            per_try_timeout: written.backend_request,
            retry_on: on,
            backoff: retry.backoff,
            ..HttpRetry::default()
        });
    } else if let Some(backend) = written.backend_request.filter(|t| !t.get().is_zero()) {
        http.timeout = Some(backend);
    }
}

/// Where requests go. Backends that there are not keep their share, which is answered with 500, and so is everything if there is
/// none at all.
fn destinations<F: BackendFilter>(
    world: &World,
    route: &Route<'_>,
    backends: &[FilteredBackendRef<F>],
    (http, out): (&mut HttpRoute, &mut Converted),
) {
    let mut any = false;
    for reference in backends {
        let resolved = backend::resolve(world, (route.kind.name(), route.namespace()), &reference.target());
        out.note(&resolved);
        let weight = i32::try_from(reference.weight()).unwrap_or(i32::MAX);
        if weight == 0 {
            continue;
        }
        any |= resolved.is_ok();
        let destination = resolved.map_or_else(|_| backend::missing(reference.port), |backend| backend.destination());
        http.route.push(HttpRouteDestination { destination: Some(destination), weight, headers: headers(&reference.filters) });
    }
    if !any {
        http.route.clear();
        http.rewrite = None;
        http.direct_response = Some(HttpDirectResponse { status: 500, body: None });
    }
}

fn headers<F: BackendFilter>(filters: &[F]) -> Option<Headers> {
    let mut out = Headers::default();
    for filter in filters.iter().map(BackendFilter::to_http) {
        out.request = filter.request_header_modifier.as_ref().map(operations).or(out.request);
        out.response = filter.response_header_modifier.as_ref().map(operations).or(out.response);
    }
    (out != Headers::default()).then_some(out)
}
