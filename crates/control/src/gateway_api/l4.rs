//! Rules of TCPRoutes and TLSRoutes.

use super::attach::{Converted, Route};
use super::backend;
use crate::world::World;
use lateen_model::resource::RouteDestination;
use lateen_model::resource::gateway_api::L4RouteRule;

/// Where connections go. Backends that there are not keep their share, and their connections are closed.
pub(super) fn convert(world: &World, route: &Route<'_>, rules: &[L4RouteRule]) -> Converted {
    let mut out = Converted::default();
    for reference in rules.iter().flat_map(|r| &r.backend_refs) {
        let resolved = backend::resolve(world, (route.kind.name(), route.namespace()), reference);
        out.note(&resolved);
        let weight = i32::try_from(reference.weight()).unwrap_or(i32::MAX);
        if weight == 0 {
            continue;
        }
        let destination = resolved.map_or_else(|_| backend::missing(reference.port), |backend| backend.destination());
        out.connections.push(RouteDestination { destination: Some(destination), weight });
    }
    if out.connections.is_empty() {
        out.connections.push(RouteDestination { destination: Some(backend::missing(None)), weight: 1 });
    }
    out
}
