//! Whose routes hold for a service: a VirtualService of another namespace does not take over what it does not own.

use crate::world::{Entry, Semantics, Service, World};
use lateen_model::resource::VirtualService;

/// Whether a VirtualService decides how clients in the namespace `client` reach a service. Its own namespace's does, and the
/// client's own, which concerns nobody else, and the mesh's root namespace's, whose owners run the mesh; any other one's only if
/// the service agrees by the annotation [`ROUTES_FROM`](lateen_model::resource::ROUTES_FROM), or if the control plane was told
/// to do without (`--foreign-routes`), which is how Istio does it.
pub fn may_route(world: &World, client: &str, entry: &Entry<VirtualService>, service: &Service) -> bool {
    let from = entry.namespace();
    world.settings().foreign_routes
        // Which routes hold where is in the Gateway API's own rules, and was decided when they were translated.
        || entry.semantics == Semantics::GatewayApi
        || from == &*service.namespace
        || from == client
        || from == world.root_namespace()
        || service.routes_from.contains("*")
        || service.routes_from.contains(from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::fixture::world;
    use crate::world::{Settings, WorldEvent};
    use lateen_model::manifest;
    use tokio::time::Instant;

    fn routes(namespace: &str) -> String {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: r, namespace: {namespace}}}\n\
             spec: {{hosts: [web.shop.svc.cluster.local], http: [{{directResponse: {{status: 418}}}}]}}\n---\n"
        )
    }

    fn web(annotation: &str) -> String {
        let annotations = if annotation.is_empty() {
            String::new()
        } else {
            format!(", annotations: {{networking.lateen.dev/routes-from: \"{annotation}\"}}")
        };
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop{annotations}}}\nspec: {{ports: [{{port: 80}}]}}\n---\n"
        )
    }

    fn decides(world: &World, from: &str, client: &str) -> bool {
        let entry = world.namespace(from).unwrap().virtual_services.get("r").unwrap();
        let service = &world.namespace("shop").unwrap().services["web"];
        may_route(world, client, entry, service)
    }

    #[test]
    fn who_may_route() {
        for (annotation, from, client, expected) in [
            ("", "shop", "other", true),
            ("", "other", "other", true),
            ("", "other", "shop", false),
            ("", "other", "third", false),
            ("", "istio-system", "third", true),
            ("other", "other", "third", true),
            ("a, other", "other", "shop", true),
            ("a,b", "other", "shop", false),
            ("*", "other", "shop", true),
        ] {
            let world = world(&format!("{}{}", web(annotation), routes(from)), &[]);
            assert_eq!(decides(&world, from, client), expected, "{annotation:?}: of {from} for {client}");
        }
    }

    #[test]
    fn the_mesh_can_do_without() {
        let events: Vec<WorldEvent> = manifest::read(&format!("{}{}", web(""), routes("other")), "t.yaml")
            .into_iter()
            .map(|document| WorldEvent::Put(document.unwrap().resource))
            .collect();
        let world = World::new(Settings { foreign_routes: true, ..Settings::default() });
        let (world, _) = world.apply(events, Instant::now());
        assert!(decides(&world, "other", "third"));
    }
}
