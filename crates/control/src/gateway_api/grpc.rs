//! Rules of GRPCRoutes: the method of a call is the path of its request, `/SERVICE/METHOD`.

use super::attach::{Converted, Route};
use super::http::{Candidate, PathKind, Rank, action, name, values};
use crate::world::World;
use lateen_model::resource::gateway_api::{GrpcMethodMatch, GrpcMethodMatchType, GrpcRouteMatch, GrpcRouteRule};
use lateen_model::resource::{HttpMatchRequest, HttpRoute, StringMatch};
use std::cmp::Reverse;

pub(super) fn convert(world: &World, route: &Route<'_>, rules: &[GrpcRouteRule]) -> Converted {
    let mut out = Converted::default();
    for (index, rule) in rules.iter().enumerate() {
        let Some(action) = action(world, route, (&rule.filters, &rule.backend_refs), &mut out) else { continue };
        let everything = [GrpcRouteMatch::default()];
        let matches = if rule.matches.is_empty() { &everything[..] } else { &rule.matches };
        for (place, condition) in matches.iter().enumerate() {
            let (uri, kind, length) = path(condition.method.as_ref());
            let rank = Rank {
                kind,
                length: Reverse(length),
                method: Reverse(false),
                headers: Reverse(condition.headers.len()),
                query: Reverse(0),
                age: route.order(),
                place: (index, place),
            };
            let request =
                HttpMatchRequest { uri: Some(uri), headers: values(&condition.headers, true), ..HttpMatchRequest::default() };
            let http =
                HttpRoute { name: name(route, rule.name.as_deref(), index), matches: vec![request], ..action.http.clone() };
            out.http.push(Candidate { rank, http });
        }
    }
    out
}

/// The path, how it is compared, and how much of it is given.
fn path(method: Option<&GrpcMethodMatch>) -> (StringMatch, PathKind, usize) {
    let part = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
    let (service, name) = method.map_or((None, None), |m| (part(&m.service), part(&m.method)));
    let length = service.as_ref().map_or(0, String::len) + name.as_ref().map_or(0, String::len);
    let exact = method.is_none_or(|m| m.type_ == GrpcMethodMatchType::Exact);
    let regex = |text: String| (StringMatch::Regex(text), PathKind::Regex, length);
    match (service, name, exact) {
        (None, None, _) => (StringMatch::Prefix("/".to_owned()), PathKind::Prefix, 1),
        (Some(service), Some(name), true) => (StringMatch::Exact(format!("/{service}/{name}")), PathKind::Exact, length),
        (Some(service), None, true) => (StringMatch::Prefix(format!("/{service}/")), PathKind::Prefix, length),
        (None, Some(name), _) => regex(format!("/[^/]+/{name}")),
        (Some(service), None, false) => regex(format!("/{service}/.+")),
        (Some(service), Some(name), false) => regex(format!("/{service}/{name}")),
    }
}
