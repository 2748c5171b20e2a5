//! What the control plane's decisions cost by the number of services: `cargo run --release -p lateen-bench --example generation`.
//!
//! Each line is the median of several rounds on one thread: the world from manifests, all resources of a sidecar that sees all of
//! it, and the change of one pod's address.

#![expect(clippy::print_stdout, reason = "a command-line program")]

#[path = "../src/control/world.rs"]
#[allow(dead_code, reason = "this program makes a part of the edits")]
mod world;

use lateen_control::generate::Proxy;
use lateen_control::push::{Memo, View};
use lateen_control::store::{FileContent, Store};
use lateen_control::world::{Settings, World, WorldEvent};
use lateen_model::manifest;
use lateen_model::resource::ClusterState;
use lateen_xds::server::Watch;
use lateen_xds::{Generation, Node, NodeType, ResourceType};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Runs it several times and prints the median.
fn measure<T>(what: &str, rounds: usize, mut round: impl FnMut() -> T) {
    let mut times: Vec<Duration> = (0..rounds)
        .map(|_| {
            let start = Instant::now();
            black_box(round());
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!("{what:<70} {:>12.3} ms", times[rounds / 2].as_secs_f64() * 1e3);
}

fn events(manifests: &str) -> Vec<WorldEvent> {
    let documents = manifest::read(manifests, "world.yaml");
    Store::new().apply(vec![FileContent { file: "world.yaml".into(), documents }]).0
}

fn apply(world: &World, events: impl IntoIterator<Item = WorldEvent>) -> World {
    world.apply(events, tokio::time::Instant::now()).0
}

fn told(state: &Arc<ClusterState>) -> [WorldEvent; 1] {
    [WorldEvent::Cluster(Arc::clone(state))]
}

/// All resources of a sidecar; the endpoints are those of its clusters.
fn everything(world: &World, proxy: &Arc<Proxy>, memo: &Arc<Memo>) -> usize {
    let view = View::new(Generation(1), world, Arc::clone(proxy), memo);
    let clusters = view.generate(ResourceType::Cds, Watch::Wildcard).resources;
    let outbound = clusters.iter().map(|cluster| Arc::clone(cluster.name())).filter(|name| name.starts_with("outbound|"));
    let names: Vec<Arc<str>> = outbound.collect();
    let listeners = view.generate(ResourceType::Lds, Watch::Wildcard).resources;
    let endpoints = view.generate(ResourceType::Eds, Watch::Names(&names)).resources;
    let routes = view.generate(ResourceType::Rds, Watch::Names(&["80".into()])).resources;
    clusters.len() + listeners.len() + endpoints.len() + routes.len()
}

fn main() {
    for services in [100, 1000, 5000] {
        let size = world::Size { proxies: 0, services, endpoints: 2, scoped: false };
        let (manifests, first) = (size.manifests(), Arc::new(size.cluster(0, 1)));
        let build = || apply(&World::new(Settings::default()), events(&manifests).into_iter().chain(told(&first)));
        measure(&format!("{services} services: the world from its manifests and pods"), 3, build);
        let world = build();
        let workload = size.workload(0);
        let node = Node::new(NodeType::Sidecar, workload.ip, &workload.name, &workload.namespace, "cluster.local");
        let proxy = Arc::new(Proxy::new(&node, Some(&workload.namespace), &world));
        measure(&format!("{services} services: all resources of the first sidecar"), 5, || {
            everything(&world, &proxy, &Arc::new(Memo::default()))
        });
        let memo = Arc::new(Memo::default());
        everything(&world, &proxy, &memo);
        measure(&format!("{services} services: all resources of a further sidecar"), 5, || everything(&world, &proxy, &memo));
        let second = Arc::new(size.cluster(1, 2));
        measure(&format!("{services} services: the world after one pod has another address"), 21, || {
            apply(&world, told(&second))
        });
    }
}
