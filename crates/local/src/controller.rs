//! Makes what runs fit what the manifests say, again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lateen_model::resource::{Deployment, ObjectMeta, PodSpec, PodTemplateSpec, WorkloadRef};

use crate::environment::PodFields;
use crate::injection::{self, Question};
use crate::mesh::{Mesh, NODE};
use crate::names::{pod_name, template_hash};
use crate::pod::{self, Identity, Pod};
use crate::report::Kind;
use crate::resources::{Findings, ManifestPath, Resources, Watch};
use crate::rollout::{Target, View, step};

mod stateful;

/// The label by which Kubernetes tells the pods of one template from those of another.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// Follows manifests and pods for as long as the mesh lives.
pub(crate) struct Controller {
    mesh: Arc<Mesh>,
    serial: u64,
    /// Of which template the pods below the partition of a StatefulSet are, by its namespace and name.
    templates: BTreeMap<(String, String), PodTemplateSpec>,
}

/// A pod to be made.
struct Wanted<'a> {
    name: String,
    metadata: &'a ObjectMeta,
    namespace: &'a str,
    spec: &'a PodSpec,
    workload: WorkloadRef,
    template: String,
}

impl Controller {
    pub(crate) fn new(mesh: Arc<Mesh>) -> Self {
        Self { mesh, serial: 0, templates: BTreeMap::new() }
    }

    /// Reconciles at every change.
    pub(crate) async fn run(mut self) {
        let mut changes = self.mesh.changes();
        loop {
            changes.borrow_and_update();
            if self.mesh.is_stopping() {
                return;
            }
            let again = self.reconcile();
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = self.mesh.stopping() => return,
                () = tokio::time::sleep(Duration::from_millis(500)), if again => {}
            }
        }
    }

    /// One round; whether time alone may change the outcome (`minReadySeconds`).
    fn reconcile(&mut self) -> bool {
        let resources = self.mesh.resources();
        let pods = self.mesh.pods();
        let mut again = false;
        let mut owners = BTreeSet::new();
        for deployment in resources.deployments() {
            let workload = WorkloadRef { kind: "Deployment".to_owned(), name: deployment.metadata.name.clone() };
            owners.insert((workload.kind.clone(), deployment.metadata.namespace.clone(), workload.name.clone()));
            again |= deployment.spec.min_ready_seconds.unwrap_or(0) > 0;
            self.reconcile_deployment(&resources, deployment, &workload, &pods);
        }
        for set in resources.stateful_sets() {
            let workload = WorkloadRef { kind: "StatefulSet".to_owned(), name: set.metadata.name.clone() };
            owners.insert((workload.kind.clone(), set.metadata.namespace.clone(), workload.name.clone()));
            again |= set.spec.min_ready_seconds.unwrap_or(0) > 0;
            self.reconcile_stateful_set(&resources, set, &workload, &pods);
        }
        for single in resources.pods() {
            let workload = WorkloadRef { kind: "Pod".to_owned(), name: single.metadata.name.clone() };
            owners.insert((workload.kind.clone(), single.metadata.namespace.clone(), workload.name.clone()));
            let json = serde_json::to_string(single).unwrap_or_default();
            let wanted = Wanted {
                name: single.metadata.name.clone(),
                metadata: &single.metadata,
                namespace: &single.metadata.namespace,
                spec: &single.spec,
                workload,
                template: template_hash(&json),
            };
            let existing = pods.iter().find(|p| is_of(p, &wanted.workload, wanted.namespace));
            match existing {
                None => self.start(&resources, wanted),
                // The new one comes when nothing of the old one is left, for they have one name.
                Some(old) if old.identity.template != wanted.template => old.stop(),
                Some(_) => {}
            }
        }
        for orphan in pods {
            let id = &orphan.identity;
            let owner = (id.workload.kind.clone(), id.fields.namespace.clone(), id.workload.name.clone());
            if !owners.contains(&owner) {
                orphan.stop();
            }
        }
        again
    }

    fn reconcile_deployment(&mut self, resources: &Resources, d: &Deployment, workload: &WorkloadRef, pods: &[Arc<Pod>]) {
        let json = serde_json::to_string(&d.spec.template).unwrap_or_default();
        let target = Target::of(d, template_hash(&json));
        let patience = Duration::from_secs(u64::try_from(d.spec.min_ready_seconds.unwrap_or(0)).unwrap_or_default());
        let ours: Vec<&Arc<Pod>> = pods.iter().filter(|p| is_of(p, workload, &d.metadata.namespace)).collect();
        let views: Vec<View> = ours.iter().map(|p| view(p, patience)).collect();
        let next = step(&views, &target);
        for pod in ours.iter().filter(|p| next.stop.contains(&p.identity.fields.name)) {
            pod.stop();
        }
        for _ in 0..next.create {
            let wanted = Wanted {
                name: pod_name(&d.metadata.name, &target.template, self.serial + 1),
                metadata: &d.spec.template.metadata,
                namespace: &d.metadata.namespace,
                spec: &d.spec.template.spec,
                workload: workload.clone(),
                template: target.template.clone(),
            };
            self.start(resources, wanted);
        }
    }

    fn start(&mut self, resources: &Resources, wanted: Wanted<'_>) {
        let Some(addresses) = self.mesh.pod_pool.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            self.mesh.report.say(Kind::Problem, "the pods' network is full: no more pods can be started");
            return;
        };
        self.serial += 1;
        let mut labels = wanted.metadata.labels.clone();
        let mut annotations = wanted.metadata.annotations.clone();
        if wanted.workload.kind == "Deployment" {
            labels.insert(TEMPLATE_HASH.to_owned(), wanted.template.clone());
        }
        let namespace_labels = resources.namespace_labels(wanted.namespace);
        let injected = injection::is_injected(Question {
            namespace: wanted.namespace,
            namespace_labels: &namespace_labels,
            pod_labels: &labels,
            pod_annotations: &annotations,
            host_network: wanted.spec.host_network,
        });
        let gateway = injected && injection::is_gateway(&annotations);
        let (spec, proxy_container) = if injected { injection::split_proxy(wanted.spec) } else { (wanted.spec.clone(), None) };
        if injected {
            injection::decorate(&mut labels, &mut annotations, &wanted.workload.name);
        }
        if gateway && !wanted.metadata.labels.contains_key(injection::TLS_MODE) {
            // Istio's template for gateways has no such label.
            labels.remove(injection::TLS_MODE);
        }
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map(|d| d.as_millis()).unwrap_or_default();
        let created = u64::try_from(created).unwrap_or(u64::MAX);
        let uid = format!("{created:x}-{:x}", self.serial);
        let dir = self.mesh.dir.pod(&uid);
        let pod = Pod::new(Identity {
            fields: PodFields {
                name: wanted.name,
                namespace: wanted.namespace.to_owned(),
                uid,
                labels,
                annotations,
                service_account: wanted.spec.service_account_name().to_owned(),
                ips: self.mesh.network.ips(addresses),
                node_name: NODE.to_owned(),
                node_ip: self.mesh.network.node_ip(),
            },
            spec: Arc::new(spec),
            workload: wanted.workload,
            template: wanted.template,
            serial: self.serial,
            injected,
            gateway,
            proxy_container,
            addresses,
            created,
            dir,
        });
        if self.mesh.add(pod.clone()) {
            tokio::spawn(pod::live(self.mesh.clone(), pod));
        } else {
            self.mesh.pod_pool.lock().unwrap_or_else(PoisonError::into_inner).give_back(addresses);
        }
    }
}

fn is_of(pod: &Pod, workload: &WorkloadRef, namespace: &str) -> bool {
    pod.identity.workload == *workload && pod.identity.fields.namespace == namespace
}

fn view(pod: &Pod, patience: Duration) -> View {
    let available = pod.ready() && pod.state().ready_since.is_some_and(|since| since.elapsed() >= patience);
    View {
        name: pod.identity.fields.name.clone(),
        template: pod.identity.template.clone(),
        available,
        terminating: pod.is_stopping(),
        serial: pod.identity.serial,
    }
}

/// Reads the manifests now and at every edit.
pub(crate) async fn follow_manifests(mesh: Arc<Mesh>, paths: Vec<ManifestPath>, mut watch: Watch, mut known: Findings) {
    loop {
        watch.changed().await;
        let (next, findings) = mesh.resources().reread(&paths);
        say_new(&mesh, &findings, &known);
        say_changes(&mesh, &next.changes_since(&mesh.resources()));
        if known.errors.iter().any(|e| !findings.errors.contains(e)) && findings.errors.is_empty() {
            mesh.report.say(Kind::Done, "all manifests are in force");
        }
        known = findings;
        mesh.set_resources(next);
        for pod in mesh.pods().iter().filter(|p| p.network().is_some() && !p.is_stopping()) {
            // Files follow their ConfigMap or Secret; one that has gone leaves the files as they were.
            if let Err(error) = pod::make_files(&mesh, pod) {
                tracing::debug!(pod = pod.key(), error, "files not renewed");
            }
        }
    }
}

/// Prints what an edit has done, unless it has done very much.
fn say_changes(mesh: &Mesh, changes: &[String]) {
    const MOST: usize = 8;
    if changes.len() > MOST + 1 {
        let (first, rest) = changes.split_at(MOST);
        return mesh.report.tell(&format!("{}\nand {} more", first.join("\n"), rest.len()));
    }
    for change in changes {
        mesh.report.tell(change);
    }
}

/// Prints what was not known before.
pub(crate) fn say_new(mesh: &Mesh, findings: &Findings, known: &Findings) {
    for text in findings.errors.difference(&known.errors) {
        mesh.report.say(Kind::Problem, text);
    }
    for text in findings.warnings.difference(&known.warnings) {
        mesh.report.say(Kind::Note, &format!("warning: {text}"));
    }
}
