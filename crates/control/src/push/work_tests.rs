//! How much is worked out and sent for a change, in numbers of resources: with the change, not with the mesh or the proxies.

use super::{Hub, HubControlPlane};
use crate::generate::fixture;
use crate::metrics::Metrics;
use crate::world::{World, WorldEvent};
use lateen_model::manifest;
use lateen_model::resource::{ClusterChange, PodRecord};
use lateen_xds::server::{ClientInfo, ConnectionId, Connections, ControlPlane, Generator, Protocol, Watch};
use lateen_xds::{Node, NodeType, ResourceType};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::time::Instant;

const EDITED: &str = "outbound|80||edited.shared.svc.cluster.local";

/// A mesh of services in namespaces that see themselves and one service, with connected proxies.
struct Bench {
    hub: Arc<Hub>,
    world: World,
    generators: Vec<Box<dyn Generator>>,
}

fn edited(ip: u8) -> PodRecord {
    fixture::pod("shared", "edited-0", [10, 250, 0, ip], &[("app", "edited")])
}

impl Bench {
    fn new(services: usize, proxies: usize) -> Self {
        let mut text = service("shared", "edited");
        let mut pods = vec![edited(1)];
        for n in 0..services {
            let namespace = format!("ns-{}", n / 5);
            text += &service(&namespace, &format!("service-{n}"));
            let ip = [10, 1, u8::try_from(n / 256).unwrap(), u8::try_from(n % 256).unwrap()];
            pods.push(fixture::pod(&namespace, &format!("service-{n}-0"), ip, &[("app", &format!("service-{n}"))]));
            if n % 5 == 0 {
                let _ = writeln!(
                    text,
                    "---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: default, namespace: {namespace}}}\nspec: {{egress: [{{hosts: ['./*', 'shared/*']}}]}}"
                );
            }
        }
        let world = fixture::world(&text, &pods);
        let hub = Hub::new(world.clone(), Connections::new(), Arc::new(Metrics::default()));
        hub.set_ready();
        let generators = (0..proxies).map(|n| connect(&hub, n, services)).collect();
        let mut bench = Self { hub, world, generators };
        bench.ask_all();
        bench
    }

    /// As sidecars do when they connect.
    fn ask_all(&mut self) {
        for generator in &mut self.generators {
            let _ = generator.generate(ResourceType::Cds, Watch::Wildcard);
            let _ = generator.generate(ResourceType::Lds, Watch::Wildcard);
            let _ = generator.generate(ResourceType::Eds, Watch::Names(&[EDITED.into()]));
            let _ = generator.generate(ResourceType::Rds, Watch::Names(&["80".into()]));
        }
    }

    /// What an event has worked out, by type, and the bytes that each proxy is sent.
    fn cost(&mut self, event: WorldEvent) -> Vec<(&'static str, u64)> {
        let before = self.hub.work();
        let (world, changes) = self.world.apply([event], Instant::now());
        self.world = world.clone();
        self.hub.push(world, &changes);
        self.ask_all();
        self.hub.work().into_iter().zip(before).map(|((ty, now), (_, then))| (ty, now - then)).collect()
    }

    fn endpoint(&mut self, base: u64) -> Vec<(&'static str, u64)> {
        let change = ClusterChange {
            base,
            generation: base + 1,
            pods: vec![edited(u8::try_from(base).unwrap() + 1)],
            ..ClusterChange::default()
        };
        self.cost(WorldEvent::ClusterChange(Arc::new(change)))
    }

    fn route(&mut self, value: &str) -> Vec<(&'static str, u64)> {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: edited, namespace: shared}}\nspec: {{hosts: [edited], http: [{{route: [{{destination: {{host: edited}}}}], headers: {{response: {{set: {{x: '{value}'}}}}}}}}]}}"
        );
        let document = manifest::read(&text, "x").remove(0).unwrap();
        self.cost(WorldEvent::Put(document.resource))
    }
}

fn service(namespace: &str, name: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{selector: {{app: {name}}}, ports: [{{name: http, port: 80}}]}}\n"
    )
}

fn connect(hub: &Arc<Hub>, number: usize, services: usize) -> Box<dyn Generator> {
    let service = number % services;
    let name = format!("service-{service}-0");
    let namespace = format!("ns-{}", service / 5);
    let node = Node::new(NodeType::Sidecar, [10, 1, 0, 1].into(), &name, &namespace, "cluster.local");
    let client = ClientInfo {
        connection: ConnectionId(number as u64 + 1),
        node,
        identity: None,
        address: None,
        protocol: Protocol::Delta,
        connected: SystemTime::UNIX_EPOCH,
    };
    HubControlPlane(Arc::clone(hub)).connect(&Arc::new(client)).unwrap()
}

#[test]
fn an_endpoint_is_worked_out_once_however_large_the_mesh_is() {
    let expected = [("scope", 0), ("cds", 0), ("eds", 1), ("lds", 0), ("rds", 0)];
    for (services, proxies) in [(10, 1), (10, 100), (200, 100)] {
        let mut bench = Bench::new(services, proxies);
        assert_eq!(bench.endpoint(1), expected, "{services} services, {proxies} proxies");
        assert_eq!(bench.endpoint(2), expected, "{services} services, {proxies} proxies");
    }
}

#[test]
fn a_route_is_worked_out_once_for_each_scope_and_not_for_each_proxy() {
    for proxies in [10, 20, 40] {
        // Two namespaces, so that there are two scopes.
        let mut bench = Bench::new(10, proxies);
        bench.route("1");
        assert_eq!(bench.route("2"), [("scope", 2), ("cds", 0), ("eds", 0), ("lds", 0), ("rds", 2)], "{proxies} proxies");
    }
}

#[test]
fn equal_content_is_one_object() {
    let mut bench = Bench::new(10, 5);
    let of = |bench: &mut Bench, n: usize, ty, watch: Watch<'_>| bench.generators[n].generate(ty, watch).resources;
    let route: [Arc<str>; 1] = ["80".into()];
    for ty in [ResourceType::Cds, ResourceType::Lds] {
        let (one, other) = (of(&mut bench, 0, ty, Watch::Wildcard), of(&mut bench, 4, ty, Watch::Wildcard));
        let shared = one.iter().filter(|a| other.iter().any(|b| Arc::ptr_eq(a, b))).count();
        let equal = one.iter().filter(|a| other.iter().any(|b| a == &b)).count();
        assert_eq!(shared, equal, "{ty}");
        assert!(shared >= 1, "{ty}: {shared} of {}", one.len());
    }
    let (one, other) =
        (of(&mut bench, 0, ResourceType::Rds, Watch::Names(&route)), of(&mut bench, 4, ResourceType::Rds, Watch::Names(&route)));
    assert!(Arc::ptr_eq(&one[0], &other[0]));
}
