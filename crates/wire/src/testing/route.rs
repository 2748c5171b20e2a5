//! Routes.

use super::common::{boxed, duration, duration_or_zero, header_match, header_name, name, regex, string_match, text};
use lateen_model::dataplane::{
    ClusterSpecifier, Cors, DirectResponse, Fault, FaultAbort, FaultDelay, FaultError, Forward, HashCookie, HashKey, HashPolicy,
    HeaderAppend, HeaderMutation, HeaderValueOp, HostRewrite, Mirror, PathMatch, PathRewrite, QueryMatch, QueryPredicate,
    Redirect, RedirectPath, RetryBackOff, RetryOn, RetryPolicy, Route, RouteAction, RouteConfiguration, RouteFilters, RouteMatch,
    Share, VirtualHost, WeightedCluster,
};
use proptest::collection::{btree_set, vec};
use proptest::option::of;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::{select, subsequence};

fn mutation() -> impl Strategy<Value = HeaderMutation> {
    let append = prop_oneof![
        Just(HeaderAppend::AppendOrAdd),
        Just(HeaderAppend::AddIfAbsent),
        Just(HeaderAppend::OverwriteOrAdd),
        Just(HeaderAppend::OverwriteIfExists),
    ];
    let value = prop_oneof![Just(String::new()), text()];
    let op = (header_name(), value, append).prop_map(|(name, value, append)| HeaderValueOp { name, value, append });
    (vec(header_name(), 0..3), vec(op, 0..3)).prop_map(|(remove, set)| HeaderMutation { remove, set })
}

fn route_match() -> impl Strategy<Value = RouteMatch> {
    let path = prop_oneof![
        "/[a-zA-Z/]{0,8}".prop_map(PathMatch::Prefix),
        "/[a-zA-Z/]{0,8}".prop_map(PathMatch::PathSeparatedPrefix),
        "/[a-zA-Z/]{0,8}".prop_map(PathMatch::Exact),
        regex().prop_map(PathMatch::Regex),
    ];
    let predicate = prop_oneof![any::<bool>().prop_map(QueryPredicate::Present), string_match().prop_map(QueryPredicate::Value)];
    let query = (text(), predicate).prop_map(|(name, predicate)| QueryMatch { name, predicate });
    (path, any::<bool>(), vec(header_match(), 0..3), vec(query, 0..3))
        .prop_map(|(path, case_sensitive, headers, query)| RouteMatch { path, case_sensitive, headers, query })
}

fn retry() -> impl Strategy<Value = RetryPolicy> {
    let conditions = vec![
        RetryOn::SERVER_ERROR,
        RetryOn::RESET_BEFORE_REQUEST,
        RetryOn::CONNECT_FAILURE,
        RetryOn::REFUSED_STREAM,
        RetryOn::RETRIABLE_STATUS_CODES,
        RetryOn::GRPC_UNAVAILABLE,
        RetryOn::GRPC_CANCELLED,
    ];
    let on = subsequence(conditions, 1..4).prop_map(|on| on.into_iter().fold(RetryOn::default(), RetryOn::union));
    let back_off = (duration(), duration()).prop_map(|(a, b)| RetryBackOff { base: a.min(b), max: a.max(b) });
    let priorities = of(0_u32..=0x7fff_ffff);
    (on, 1_u32.., of(duration()), vec(100_u16..600, 0..3), any::<bool>(), any::<u32>(), priorities, back_off).prop_map(
        |(on, num_retries, per_try_timeout, statuses, hosts, attempts, priorities, back_off)| RetryPolicy {
            on,
            num_retries,
            per_try_timeout,
            retriable_statuses: statuses,
            avoid_previous_hosts: hosts,
            host_selection_attempts: attempts,
            avoid_previous_priorities: priorities,
            back_off,
        },
    )
}

fn cluster_specifier() -> impl Strategy<Value = ClusterSpecifier> {
    let branch = (name(), 1_u32..1_000_000, mutation(), mutation(), of(name())).prop_map(
        |(name, weight, request_headers, response_headers, host_rewrite)| WeightedCluster {
            name,
            weight,
            request_headers,
            response_headers,
            host_rewrite,
        },
    );
    prop_oneof![name().prop_map(ClusterSpecifier::Single), vec(branch, 1..4).prop_map(ClusterSpecifier::Weighted)]
}

fn forward() -> impl Strategy<Value = Forward> {
    let path = prop_oneof![
        "/[a-z/]{0,8}".prop_map(PathRewrite::Prefix),
        (regex(), "[a-z\\\\1]{0,4}")
            .prop_map(|(pattern, substitution)| PathRewrite::Regex { pattern: pattern.pattern().to_owned(), substitution }),
    ];
    let host = prop_oneof![name().prop_map(HostRewrite::Literal), Just(HostRewrite::Auto)];
    let timeouts = (of(duration()), of(duration_or_zero()), of(duration_or_zero()));
    let mirror = (name(), share(), any::<bool>()).prop_map(|(cluster, share, keep_host)| Mirror { cluster, share, keep_host });
    let rest = (of(retry()), vec(mirror, 0..3), vec(hash_policy(), 0..3), select(vec![404_u16, 500, 503]));
    (cluster_specifier(), timeouts, of(path), of(host), rest).prop_map(
        |(
            cluster,
            (timeout, idle_timeout, max_grpc_timeout),
            path_rewrite,
            host_rewrite,
            (retry, mirrors, hash_policies, status),
        )| Forward {
            mirrors,
            hash_policies,
            cluster,
            timeout,
            idle_timeout,
            max_grpc_timeout,
            path_rewrite,
            host_rewrite,
            retry,
            cluster_not_found_status: status,
        },
    )
}

fn hash_policy() -> impl Strategy<Value = HashPolicy> {
    let attributes = vec((name(), name()), 0..3);
    let cookie = (name(), of(duration_or_zero()), "/[a-z]{0,4}", attributes)
        .prop_map(|(name, ttl, path, attributes)| HashCookie { name, ttl, path, attributes });
    let key = prop_oneof![
        name().prop_map(|name| HashKey::Header(name.to_ascii_lowercase())),
        cookie.prop_map(HashKey::Cookie),
        Just(HashKey::SourceIp),
        name().prop_map(HashKey::QueryParameter),
    ];
    (key, any::<bool>()).prop_map(|(key, terminal)| HashPolicy { key, terminal })
}

fn redirect() -> impl Strategy<Value = Redirect> {
    let path = prop_oneof![
        Just(RedirectPath::Keep),
        "/[a-z?]{0,8}".prop_map(RedirectPath::Replace),
        "/[a-z]{0,8}".prop_map(RedirectPath::Prefix),
    ];
    let scheme = of(select(vec!["http".to_owned(), "https".to_owned()]));
    (scheme, of(name()), of(1_u16..), path, select(vec![301_u16, 302, 303, 307, 308]), any::<bool>())
        .prop_map(|(scheme, host, port, path, status, strip_query)| Redirect { scheme, host, port, path, status, strip_query })
}

fn share() -> impl Strategy<Value = Share> {
    (0_u32..=1_000_000).prop_map(|millionths| Share::of_million(millionths).unwrap_or(Share::ALL))
}

fn filters() -> impl Strategy<Value = RouteFilters> {
    let delay = (duration(), share()).prop_map(|(duration, share)| FaultDelay { duration, share });
    let error = prop_oneof![(200_u16..600).prop_map(FaultError::Http), (0_u32..17).prop_map(FaultError::Grpc)];
    let abort = (error, share()).prop_map(|(error, share)| FaultAbort { error, share });
    let fault = (of(delay), of(abort)).prop_map(|(delay, abort)| Fault { delay, abort });
    let texts = ("[A-Z,]{0,8}", "[a-z,-]{0,8}", "[a-z,-]{0,8}", "[0-9]{0,4}");
    let cors = (vec(string_match(), 0..3), texts, any::<bool>(), any::<bool>()).prop_map(
        |(origins, (allow_methods, allow_headers, expose_headers, max_age), allow_credentials, forward)| Cors {
            origins,
            allow_methods,
            allow_headers,
            expose_headers,
            max_age,
            allow_credentials,
            forward_unmatched_preflights: forward,
        },
    );
    (of(fault), of(cors)).prop_map(|(fault, cors)| RouteFilters { fault, cors })
}

fn route() -> impl Strategy<Value = Route> {
    let action = prop_oneof![
        3 => boxed(forward().prop_map(|f| RouteAction::Forward(Box::new(f)))),
        1 => boxed(redirect().prop_map(RouteAction::Redirect)),
        1 => boxed((200_u16..600, vec(any::<u8>(), 0..8))
            .prop_map(|(status, body)| RouteAction::DirectResponse(DirectResponse { status, body }))),
    ];
    ("[a-z]{0,6}", route_match(), action, of(text()), filters(), mutation(), mutation(), of(text())).prop_map(
        |(name, matches, action, operation, filters, request_headers, response_headers, config_source)| Route {
            filters,
            name,
            matches,
            action,
            operation,
            request_headers,
            response_headers,
            config_source,
        },
    )
}

/// Any route configuration.
pub fn route_configuration() -> impl Strategy<Value = RouteConfiguration> {
    let domain = prop_oneof!["[a-z.]{1,10}(:[0-9]{1,4})?", "\\*[.][a-z.]{1,8}", "[a-z]{1,8}[.]\\*"];
    let domains = btree_set(domain, 1..7).prop_map(|domains| domains.into_iter().collect::<Vec<String>>());
    let hosts = (domains, vec((name(), vec(route(), 0..4), any::<bool>(), any::<bool>()), 1..3)).prop_map(|(domains, hosts)| {
        // Each host gets its share of the domains, none twice.
        let share = domains.len().div_ceil(hosts.len()).max(1);
        let chunks = domains.chunks(share).map(<[String]>::to_vec);
        chunks
            .zip(hosts)
            .map(|(domains, (name, routes, include_request_attempt_count, require_tls))| VirtualHost {
                name,
                domains,
                routes,
                include_request_attempt_count,
                require_tls,
            })
            .collect::<Vec<_>>()
    });
    (name(), hosts, any::<bool>(), any::<u32>()).prop_map(|(name, virtual_hosts, ignore_port, body)| RouteConfiguration {
        name,
        virtual_hosts,
        ignore_port_in_host_matching: ignore_port,
        max_direct_response_body_bytes: body,
    })
}
