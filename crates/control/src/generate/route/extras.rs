//! Faults, cross-origin rules and mirroring of a VirtualService's routes.

use lateen_model::dataplane::{
    Cors, Fault, FaultAbort, FaultDelay, FaultError, Mirror, RouteFilters, SafeRegex, Share, StringMatch as Predicate,
    StringPredicate,
};
use lateen_model::resource::{CorsPolicy, Destination, FaultInjection, HttpRoute, Percent, StringMatch, UnmatchedPreflights};
use std::time::Duration;

/// What filters do on the route.
pub(super) fn filters(http: &HttpRoute) -> RouteFilters {
    RouteFilters { fault: http.fault.as_ref().and_then(fault), cors: http.cors_policy.as_ref().map(cors) }
}

/// Faults that hit nobody are left out. Absent percentages: of an abort nobody, of a delay what the deprecated field says.
fn fault(written: &FaultInjection) -> Option<Fault> {
    let delay = written.delay.as_ref().and_then(|delay| {
        let percent = delay.percentage.map_or_else(|| f64::from(delay.percent.unwrap_or(0)), |p| p.value);
        let duration = delay.fixed_delay.map(Duration::from)?;
        Some(FaultDelay { duration, share: Share::of_percent(percent) }).filter(|d| !d.share.is_none())
    });
    let abort = written.abort.as_ref().and_then(|abort| {
        let error = match abort.http_status {
            Some(status) => FaultError::Http(u16::try_from(status).ok()?),
            None => FaultError::Grpc(abort.grpc_code()?),
        };
        Some(FaultAbort { error, share: Share::of_percent(abort.percentage?.value) }).filter(|a| !a.share.is_none())
    });
    (delay.is_some() || abort.is_some()).then_some(Fault { delay, abort })
}

/// Where copies go. No percentage is all requests, and zero is none.
pub(super) fn mirrors(http: &HttpRoute, cluster: impl Fn(&Destination) -> String) -> Vec<Mirror> {
    let share = |percentage: Option<Percent>| percentage.map_or(Share::ALL, |p| Share::of_percent(p.value));
    let copy = |destination: &Destination, share| Mirror { cluster: cluster(destination), share, keep_host: true };
    let of_one = http.mirror.as_ref().map(|destination| {
        let deprecated = http.mirror_percent.map(|p| Percent { value: f64::from(p) });
        copy(destination, share(http.mirror_percentage.or(deprecated)))
    });
    let of_several = http.mirrors.iter().filter_map(|mirror| Some(copy(mirror.destination.as_ref()?, share(mirror.percentage))));
    of_one.into_iter().chain(of_several).filter(|mirror| !mirror.share.is_none()).collect()
}

fn cors(written: &CorsPolicy) -> Cors {
    let exact = |origin: &String| Predicate { predicate: StringPredicate::Exact(origin.clone()), ignore_case: false };
    let origins = if written.allow_origins.is_empty() {
        written.allow_origin.iter().map(exact).collect()
    } else {
        written.allow_origins.iter().filter_map(origin).collect()
    };
    Cors {
        origins,
        allow_methods: written.allow_methods.join(","),
        allow_headers: written.allow_headers.join(","),
        expose_headers: written.expose_headers.join(","),
        max_age: written.max_age.map(|age| Duration::from(age).as_secs().to_string()).unwrap_or_default(),
        allow_credentials: written.allow_credentials.unwrap_or(false),
        forward_unmatched_preflights: written.unmatched_preflights != UnmatchedPreflights::Ignore,
    }
}

/// An origin that cannot be compiled allows nobody.
fn origin(written: &StringMatch) -> Option<Predicate> {
    let predicate = match written {
        StringMatch::Exact(text) => StringPredicate::Exact(text.clone()),
        StringMatch::Prefix(text) => StringPredicate::Prefix(text.clone()),
        StringMatch::Regex(pattern) => StringPredicate::Regex(SafeRegex::try_new(pattern).ok()?),
        StringMatch::Present => return None,
    };
    Some(Predicate { predicate, ignore_case: false })
}
