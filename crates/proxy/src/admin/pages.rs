//! The admin pages: what is in force, what is counted, and a few switches.

use super::server::{Answer, Ask};
use crate::control_plane::ads::Subscription;
use crate::shared::Shared;
use crate::upstream::Cluster;
use crate::worker::Job;
use http::{Method, StatusCode};
use lateen_policy::breaker::Resource;
use lateen_wire::json;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

const HELP: &str = "\
pages of the proxy:
  /ready                    whether the proxy is ready, and what it waits for
  /config/listeners         listeners in force          (JSON)
  /config/routes            route configurations        (JSON)
  /config/clusters          clusters                    (JSON)
  /config/endpoints         endpoints and their health  (JSON)
  /config/secrets           certificates, without keys  (JSON)
  /config/learnt            what was learnt on demand   (JSON)
  /config_dump              all of these, fields left aside, resources refused
  /clusters                 counters and health of each cluster's hosts
  /stats[?filter=REGEX][&usedonly][&format=json|prometheus]
                            counters of clusters that carried traffic, of authorization, of limits and of the process: all, or
                            those whose names the expression is found in, or that are not zero
  /stats/prometheus         metrics
  /certs                    certificates in force
  /server_info              version, node, uptime, state
  POST /drain_listeners     answer and leave: responses ask clients to close
  POST /quitquitquit        drain, then end
";

/// Answers an admin request.
pub(super) fn admin(shared: &Shared, subscription: &Subscription, ask: &Ask) -> Answer {
    let changes = matches!(ask.path.as_str(), "/drain_listeners" | "/quitquitquit");
    if changes != (ask.method == Method::POST) {
        let hint = if changes { "this page changes something: use POST\n" } else { "this page changes nothing: use GET\n" };
        return Answer::text(StatusCode::METHOD_NOT_ALLOWED, hint);
    }
    match ask.path.as_str() {
        "/" | "/help" => Answer::text(StatusCode::OK, HELP),
        "/ready" => super::ready(shared, subscription),
        "/config/listeners" => Answer::json(&listeners(shared)),
        "/config/routes" => Answer::json(&routes(subscription)),
        "/config/clusters" => Answer::json(&clusters(shared)),
        "/config/endpoints" => Answer::json(&endpoints(shared)),
        "/config/secrets" | "/certs" => Answer::json(&secrets(shared)),
        "/config/learnt" => Answer::json(&learnt(subscription)),
        "/config_dump" => Answer::json(&config_dump(shared, subscription)),
        "/clusters" => Answer::json(&cluster_counters(shared)),
        "/stats" => super::stats::page(shared, subscription, &ask.query),
        "/stats/prometheus" | "/metrics" => super::prometheus(shared, subscription),
        "/server_info" => Answer::json(&server_info(shared, subscription)),
        "/drain_listeners" => {
            shared.drain.start();
            shared.workers().iter().for_each(|w| w.send(Job::CloseIdle));
            Answer::json(&json!({"draining": true, "active": shared.drain.active()}))
        }
        "/quitquitquit" => {
            shared.drain.request_quit();
            Answer::text(StatusCode::OK, "draining, then ending\n")
        }
        _ => Answer::text(StatusCode::NOT_FOUND, HELP),
    }
}

/// What is asked for, and what serves it.
fn learnt(subscription: &Subscription) -> Value {
    let learnt = subscription.learned.iter();
    learnt.map(|(question, known, hosts)| json!({"name": question.name(), "known": known, "hosts": hosts})).collect()
}

fn sorted<'a>(items: impl Iterator<Item = (&'a str, Value)>) -> Value {
    let mut items: Vec<_> = items.collect();
    items.sort_by(|a, b| a.0.cmp(b.0));
    Value::Array(items.into_iter().map(|(_, v)| v).collect())
}

fn listeners(shared: &Shared) -> Value {
    sorted(shared.snapshot.load().listeners.values().map(|l| (&*l.name, json::listener(&l.model))))
}

fn routes(subscription: &Subscription) -> Value {
    let routes: Vec<_> = subscription.store.route_models().collect();
    sorted(routes.iter().map(|r| (r.name.as_str(), json::route_configuration(r))))
}

fn clusters(shared: &Shared) -> Value {
    sorted(shared.snapshot.load().clusters.values().filter_map(|c| Some((&**c.name(), json::cluster(&c.model()?)))))
}

fn endpoints(shared: &Shared) -> Value {
    let snapshot = shared.snapshot.load();
    let clusters: Vec<_> = snapshot.clusters.values().filter_map(|c| c.peek()).collect();
    sorted(clusters.iter().filter(|c| c.hosts().iter().next().is_some()).map(|c| (&*c.name, cluster_endpoints(c))))
}

fn cluster_endpoints(cluster: &Cluster) -> Value {
    let hosts = cluster.hosts();
    let mut list: Vec<_> = hosts.iter().collect();
    list.sort_by_key(|h| h.address);
    let endpoints: Vec<Value> = list
        .into_iter()
        .map(|h| {
            let workload = h.endpoint.workload.as_ref().map(|w| format!("{}/{}", w.namespace, w.workload));
            json!({
                "address": h.address.to_string(),
                "health": format!("{:?}", h.endpoint.health).to_lowercase(),
                "outlier": if h.state.health.is_ejected() { "ejected" } else { "ok" },
                "ejections": h.state.health.ejections(),
                "tls": format!("{:?}", h.endpoint.tls_mode).to_lowercase(),
                "weight": h.endpoint.weight,
                "priority": h.priority,
                "workload": workload,
                "active_requests": h.state.active_requests.load(Ordering::Relaxed),
                "requests": h.state.stats.rq_total.get(),
                "errors": h.state.stats.rq_error.get(),
                "connect_failures": h.state.stats.cx_connect_fail.get(),
            })
        })
        .collect();
    json!({"name": &*cluster.name, "endpoints": endpoints})
}

/// As Prometheus and JSON carry times.
pub(super) fn seconds_since_epoch(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn secrets(shared: &Shared) -> Value {
    let certificate = shared.identity.credential().load().map(|credential| {
        let leaf = credential.leaf();
        json!({
            "name": "default",
            "type": "certificate",
            "identity": leaf.identity().map(|id| id.as_uri().to_owned()),
            "serial": leaf.serial_hex(),
            "not_before": seconds_since_epoch(leaf.not_before()),
            "not_after": seconds_since_epoch(leaf.not_after()),
            "valid": leaf.not_before() <= SystemTime::now() && SystemTime::now() < leaf.not_after(),
        })
    });
    let roots = shared
        .identity
        .trust()
        .load()
        .map(|b| json!({"name": "ROOTCA", "type": "roots", "roots": b.root_count(), "pem": b.pem()}));
    Value::Array(certificate.into_iter().chain(roots).collect())
}

fn config_dump(shared: &Shared, subscription: &Subscription) -> Value {
    let ignored: Vec<Value> = subscription
        .store
        .ignored()
        .iter()
        .map(|((ty, name), fields)| json!({"type": ty.short_name(), "name": name, "fields": fields}))
        .collect();
    let rejected: Vec<Value> = subscription
        .store
        .rejected()
        .iter()
        .map(|((ty, name), reason)| json!({"type": ty.short_name(), "name": name, "reason": reason}))
        .collect();
    json!({
        "listeners": listeners(shared),
        "routes": routes(subscription),
        "clusters": clusters(shared),
        "endpoints": endpoints(shared),
        "secrets": secrets(shared),
        "learnt": learnt(subscription),
        "left_aside": ignored,
        "rejected": rejected,
    })
}

/// Gauges of a cluster, beside its counters.
fn gauges(cluster: &Cluster) -> Vec<(&'static str, u64)> {
    let breakers = &cluster.breakers;
    let mut all = vec![
        ("upstream_cx_active", u64::from(breakers.active(Resource::Connections))),
        ("upstream_rq_active", u64::from(breakers.active(Resource::Requests))),
        ("upstream_rq_pending_active", u64::from(breakers.active(Resource::Pending))),
        ("upstream_rq_pending_overflow", breakers.overflows(Resource::Pending) + breakers.overflows(Resource::Requests)),
        ("upstream_cx_overflow", breakers.overflows(Resource::Connections)),
    ];
    if let Some(detector) = cluster.detector() {
        let counts = detector.counts();
        all.push(("outlier_detection.ejections_active", u64::from(counts.active)));
        all.push(("outlier_detection.ejections_enforced_total", counts.enforced));
        all.push(("outlier_detection.ejections_overflow", counts.overflow));
    }
    all
}

/// All numbers of a cluster, by Envoy's names.
pub(super) fn numbers(cluster: &Cluster) -> impl Iterator<Item = (&'static str, u64)> {
    cluster.stats.all().into_iter().chain(gauges(cluster))
}

fn cluster_counters(shared: &Shared) -> Value {
    let snapshot = shared.snapshot.load();
    let clusters: Vec<_> = snapshot.clusters.values().filter_map(|c| c.peek()).collect();
    sorted(clusters.iter().map(|c| {
        let mut value = cluster_endpoints(c);
        let mut stats: serde_json::Map<_, _> = numbers(c).map(|(name, number)| (name.to_owned(), json!(number))).collect();
        stats.extend(c.stats.answers.all().map(|(status, count)| (format!("upstream_rq_{status}"), json!(count))));
        value["stats"] = stats.into();
        (&*c.name, value)
    }))
}

/// Those that carried traffic, or were to, by name.
pub(super) fn used_clusters(shared: &Shared) -> Vec<Arc<Cluster>> {
    let used = |c: &&Arc<Cluster>| numbers(c).any(|(_, number)| number > 0);
    let mut clusters: Vec<_> = shared.snapshot.load().compiled_clusters().filter(used).cloned().collect();
    clusters.sort_by(|a, b| a.name.cmp(&b.name));
    clusters
}

pub(super) fn process_numbers(shared: &Shared) -> [(&'static str, u64); 5] {
    [
        ("server.uptime", shared.started.elapsed().as_secs()),
        ("server.concurrency", shared.workers().len() as u64),
        ("server.requests_active", u64::from(shared.drain.active())),
        ("identity.renewals_succeeded", shared.renewals.succeeded.load(Ordering::Relaxed)),
        ("identity.renewals_failed", shared.renewals.failed.load(Ordering::Relaxed)),
    ]
}

fn server_info(shared: &Shared, subscription: &Subscription) -> Value {
    let connection = subscription.connection().borrow().clone();
    let warming = subscription.store.warming();
    let types: serde_json::Map<String, Value> = subscription
        .types
        .iter()
        .map(|(ty, s)| {
            let status =
                json!({"version": s.version, "updates": s.updates, "rejected": s.rejected, "last_rejection": s.last_rejection});
            (ty.short_name().to_owned(), status)
        })
        .collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "node": shared.settings.node_id,
        "identity": shared.settings.identity.as_uri(),
        "uptime_seconds": shared.started.elapsed().as_secs(),
        "draining": shared.drain.is_draining(),
        "active": shared.drain.active(),
        "opening": shared.drain.opening_now(),
        "late": shared.drain.late(),
        "workers": shared.workers().iter().map(crate::worker::WorkerHandle::connections).collect::<Vec<_>>(),
        "warming": {"listeners": warming.listeners, "clusters": warming.clusters, "routes": warming.routes},
        "control_plane": {
            "address": shared.settings.discovery_address,
            "connected": connection.connected,
            "connections": connection.connections,
            "failures": connection.failures,
            "last_error": connection.last_error,
            "types": types,
        },
    })
}
