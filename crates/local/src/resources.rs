//! The manifests: read, watched, and kept in the last good version.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use lateen_model::analysis;
use lateen_model::manifest::{self, Rejection};
use lateen_model::resource::gateway_api::{GatewayClass, KubeGateway};
use lateen_model::resource::{
    ConfigMap, Deployment, EndpointSlice, Endpoints, Gateway, Kind, Namespace, Pod, Resource, ResourceKey, Secret, Service,
    ServiceEntry, StatefulSet, StringMap, WorkloadProxyConfig,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// What people gave on the command line: a path to read, and how they wrote it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ManifestPath {
    pub(crate) path: PathBuf,
    pub(crate) written: PathBuf,
}

/// All resources that are in force.
#[derive(Debug, Clone, Default)]
pub(crate) struct Resources {
    by_key: BTreeMap<ResourceKey, Resource>,
    /// The keys that each file held when it was last read without an unidentified document.
    by_file: BTreeMap<PathBuf, BTreeSet<ResourceKey>>,
    /// When each object was first seen, as the control plane counts it: of several resources the oldest may win.
    sequences: BTreeMap<ResourceKey, u64>,
    last_sequence: u64,
}

/// What reading found besides the resources.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// Refused documents and unreadable files, one text each.
    pub(crate) errors: BTreeSet<String>,
    /// What is probably not meant.
    pub(crate) warnings: BTreeSet<String>,
}

mod managed;

macro_rules! of_kind {
    ($(#[$doc:meta])* $all:ident, $one:ident, $kind:ident) => {
        $(#[$doc])*
        #[allow(dead_code, reason = "made for every kind alike")]
        pub(crate) fn $all(&self) -> impl Iterator<Item = &$kind> + Clone {
            self.by_key.values().filter_map(|r| match r {
                Resource::$kind(object) => Some(object.as_ref()),
                _ => None,
            })
        }

        /// One of them, by namespace and name.
        #[allow(dead_code, reason = "made for every kind alike")]
        pub(crate) fn $one(&self, namespace: &str, name: &str) -> Option<&$kind> {
            let key = ResourceKey { kind: Kind::$kind, namespace: namespace.to_owned(), name: name.to_owned() };
            match self.by_key.get(&key) {
                Some(Resource::$kind(object)) => Some(object.as_ref()),
                _ => None,
            }
        }
    };
}

impl Resources {
    of_kind!(
        /// Every `Namespace`.
        namespaces, namespace, Namespace
    );
    of_kind!(
        /// Every `Service`.
        services, service, Service
    );
    of_kind!(
        /// Every `Deployment`.
        deployments, deployment, Deployment
    );
    of_kind!(
        /// Every `StatefulSet`.
        stateful_sets, stateful_set, StatefulSet
    );
    of_kind!(
        /// Every `EndpointSlice`.
        endpoint_slices, endpoint_slice, EndpointSlice
    );
    of_kind!(
        /// Every `v1 Endpoints`.
        all_endpoints, endpoints, Endpoints
    );
    of_kind!(
        /// Every `Pod`.
        pods, pod, Pod
    );
    of_kind!(
        /// Every `ConfigMap`.
        config_maps, config_map, ConfigMap
    );
    of_kind!(
        /// Every `Gateway`.
        gateways, gateway, Gateway
    );
    of_kind!(
        /// Every `ProxyConfig`.
        proxy_configs, proxy_config, WorkloadProxyConfig
    );
    of_kind!(
        /// Every `ServiceEntry`.
        service_entries, service_entry, ServiceEntry
    );
    of_kind!(
        /// Every `Secret`.
        secrets, secret, Secret
    );

    of_kind!(
        /// Every `Gateway` of the Gateway API.
        kube_gateways, kube_gateway, KubeGateway
    );
    of_kind!(
        /// Every `GatewayClass`.
        gateway_classes, gateway_class, GatewayClass
    );

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// The labels of a namespace; none for one that no manifest speaks of.
    pub(crate) fn namespace_labels(&self, name: &str) -> StringMap {
        self.namespace("", name).map(|n| n.metadata.labels.clone()).unwrap_or_default()
    }

    /// Whether a service account may be used: it is written, or it is `default`, which every namespace has.
    pub(crate) fn has_service_account(&self, namespace: &str, name: &str) -> bool {
        let key = ResourceKey { kind: Kind::ServiceAccount, namespace: namespace.to_owned(), name: name.to_owned() };
        name == "default" || self.by_key.contains_key(&key)
    }

    /// Reads every file anew. What cannot be read stays as it was in `self`.
    pub(crate) fn reread(&self, paths: &[ManifestPath]) -> (Self, Findings) {
        let mut next = Self { sequences: self.sequences.clone(), last_sequence: self.last_sequence, ..Self::default() };
        let mut findings = Findings::default();
        for (path, shown) in files(paths, &mut findings) {
            let kept = self.by_file.get(&path).cloned().unwrap_or_default();
            match fs::read_to_string(&path) {
                Ok(text) => self.read_file(&text, (&path, &shown), &mut next, &mut findings),
                Err(e) => {
                    findings.errors.insert(refusal(&format!("{}: {e}", shown.display()), !kept.is_empty()));
                    self.keep(&kept, &path, &mut next);
                }
            }
        }
        next.add_managed();
        next.analyze(&mut findings);
        (next, findings)
    }

    fn read_file(&self, text: &str, (path, shown): (&Path, &Path), next: &mut Self, findings: &mut Findings) {
        let file = shown.display().to_string();
        let before = self.by_file.get(path).cloned().unwrap_or_default();
        let mut unidentified = false;
        for document in manifest::read(text, &file) {
            match document {
                Ok(document) => {
                    findings.warnings.extend(document.warnings.iter().map(ToString::to_string));
                    next.insert(document.resource, path, findings);
                }
                Err(rejection) => {
                    let Rejection { key, .. } = &rejection;
                    let kept = match key {
                        Some(key) => {
                            self.keep(&BTreeSet::from([key.clone()]), path, next);
                            self.by_key.contains_key(key)
                        }
                        None => {
                            unidentified = true;
                            !before.is_empty()
                        }
                    };
                    findings.errors.insert(refusal(&rejection, kept));
                }
            }
        }
        if unidentified {
            // Which object the bad document was cannot be told, so none that the file held goes away.
            self.keep(&before, path, next);
        }
    }

    /// Takes over the versions in force of `keys`, unless a new one was read.
    fn keep(&self, keys: &BTreeSet<ResourceKey>, path: &Path, next: &mut Self) {
        for key in keys {
            if let Some(old) = self.by_key.get(key).filter(|_| !next.by_key.contains_key(key)) {
                next.by_key.insert(key.clone(), old.clone());
                next.by_file.entry(path.to_owned()).or_default().insert(key.clone());
            }
        }
    }

    fn insert(&mut self, mut resource: Resource, path: &Path, findings: &mut Findings) {
        let key = resource.key();
        if let Some(first) = self.by_key.get(&key) {
            let text = format!("{}: {key} is already defined at {}", resource.origin(), first.origin());
            findings.errors.insert(refusal(&text, false));
            return;
        }
        let next = self.last_sequence + 1;
        let sequence = *self.sequences.entry(key.clone()).or_insert(next);
        self.last_sequence = self.last_sequence.max(sequence);
        resource.metadata_mut().provenance.sequence = sequence;
        self.by_file.entry(path.to_owned()).or_default().insert(key.clone());
        self.by_key.insert(key, resource);
    }

    /// What is strange between resources that are each in order.
    fn analyze(&mut self, findings: &mut Findings) {
        self.sequences.retain(|key, _| self.by_key.contains_key(key));
        // What the control plane, which has this environment too, is told.
        let foreign_routes = std::env::var("LATEEN_FOREIGN_ROUTES").is_ok_and(|value| value == "true");
        let context = analysis::Context { foreign_routes, ..analysis::Context::default() };
        findings.warnings.extend(analysis::analyze(self.by_key.values(), &context).iter().map(ToString::to_string));
    }

    /// What an edit has changed since `before`, a line for each object.
    pub(crate) fn changes_since(&self, before: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        for (key, resource) in &self.by_key {
            match before.by_key.get(key) {
                None => changes.push(format!("{key} created")),
                Some(old) if !old.same_content(resource) => changes.push(format!("{key} changed")),
                Some(_) => {}
            }
        }
        changes.extend(before.by_key.keys().filter(|key| !self.by_key.contains_key(key)).map(|key| format!("{key} deleted")));
        changes
    }

    /// For tests of other modules.
    #[cfg(test)]
    pub(crate) fn from_text(text: &str) -> Self {
        let mut next = Self::default();
        let mut findings = Findings::default();
        Self::default().read_file(text, (Path::new("t.yaml"), Path::new("t.yaml")), &mut next, &mut findings);
        assert_eq!(findings, Findings::default());
        next
    }
}

/// What is wrong, and what that means.
fn refusal(problem: &impl ToString, has_good_version: bool) -> String {
    let consequence = if has_good_version { "refused; what was in force before stays" } else { "refused" };
    format!("{}\n({consequence})", problem.to_string())
}

/// The manifest files that paths stand for, each once, in order, as `lateen up` reads them; and what is wrong with the paths.
#[must_use]
pub fn manifest_files(paths: &[PathBuf]) -> (Vec<PathBuf>, Vec<String>) {
    let mut findings = Findings::default();
    let written: Vec<ManifestPath> = paths.iter().map(|p| ManifestPath { path: p.clone(), written: p.clone() }).collect();
    let found = files(&written, &mut findings).into_iter().map(|(path, _)| path).collect();
    (found, findings.errors.into_iter().collect())
}

/// The files that the paths stand for, each once, in order, with the names to show.
fn files(paths: &[ManifestPath], findings: &mut Findings) -> Vec<(PathBuf, PathBuf)> {
    let mut all: Vec<(PathBuf, PathBuf)> = Vec::new();
    for path in paths {
        if let Err(e) = collect(&path.path, &path.written, &mut all) {
            findings.errors.insert(format!("{}: {e}", path.written.display()));
        }
    }
    let mut seen = BTreeSet::new();
    all.retain(|(path, _)| seen.insert(path.clone()));
    all
}

fn collect(path: &Path, shown: &Path, all: &mut Vec<(PathBuf, PathBuf)>) -> std::io::Result<()> {
    if !fs::metadata(path)?.is_dir() {
        all.push((path.to_owned(), shown.to_owned()));
        return Ok(());
    }
    let mut entries: Vec<_> = fs::read_dir(path)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, shown) = (entry.path(), shown.join(entry.file_name()));
        // Hidden ones are editors' and version control's.
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if path.is_dir() {
            collect(&path, &shown, all)?;
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json") {
            all.push((path, shown));
        }
    }
    Ok(())
}

/// Whether any manifest file exists under the paths: for the first check, before anything is started.
pub(crate) fn any_file(paths: &[ManifestPath]) -> bool {
    !files(paths, &mut Findings::default()).is_empty()
}

/// Tells when something under the paths may have changed.
pub(crate) struct Watch {
    _watcher: notify::RecommendedWatcher,
    changed: mpsc::UnboundedReceiver<()>,
}

impl Watch {
    pub(crate) fn new(paths: &[ManifestPath]) -> notify::Result<Self> {
        use notify::{RecursiveMode, Watcher};
        let (tell, changed) = mpsc::unbounded_channel();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading the files is an event too, and must not cause another reading.
            if event.is_ok_and(|e| !e.kind.is_access()) {
                let _ = tell.send(());
            }
        })?;
        for path in paths {
            // Editors replace a file by renaming, which only its directory sees.
            match path.path.is_dir() {
                true => watcher.watch(&path.path, RecursiveMode::Recursive)?,
                false => watcher.watch(path.path.parent().unwrap_or(Path::new("/")), RecursiveMode::NonRecursive)?,
            }
        }
        Ok(Self { _watcher: watcher, changed })
    }

    /// Waits for a change, and then until nothing has changed for a moment: an editor writes in several steps.
    pub(crate) async fn changed(&mut self) {
        const QUIET: std::time::Duration = std::time::Duration::from_millis(50);
        if self.changed.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
        while let Ok(Some(())) = tokio::time::timeout(QUIET, self.changed.recv()).await {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str =
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n";

    fn at(dir: &Path) -> Vec<ManifestPath> {
        vec![ManifestPath { path: dir.to_owned(), written: "demo".into() }]
    }

    fn names(r: &Resources) -> Vec<&str> {
        r.namespaces().map(|n| n.metadata.name.as_str()).collect()
    }

    #[test]
    fn a_bad_document_leaves_its_last_good_version_and_the_others_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("n.yaml");
        fs::write(&file, TWO).unwrap();
        let (first, findings) = Resources::default().reread(&at(dir.path()));
        assert_eq!(findings, Findings::default());
        assert_eq!(names(&first), ["a", "b"]);
        // A field that does not exist, in one of the two.
        fs::write(&file, TWO.replace("{name: b}", "{name: b, lables: {}}")).unwrap();
        let (second, findings) = first.reread(&at(dir.path()));
        assert_eq!(names(&second), ["a", "b"]);
        let error = findings.errors.first().unwrap();
        assert!(error.starts_with("demo/n.yaml:7"), "{error}");
        // Not YAML at all: nothing of the file goes.
        fs::write(&file, "a: [").unwrap();
        assert_eq!(names(&second.reread(&at(dir.path())).0), ["a", "b"]);
        // Deleted: gone.
        fs::write(&file, TWO.split("---").next().unwrap()).unwrap();
        let (third, _) = second.reread(&at(dir.path()));
        assert_eq!(names(&third), ["a"]);
        assert_eq!(third.changes_since(&second), ["Namespace b deleted"]);
        assert_eq!(second.changes_since(&third), ["Namespace b created"]);
        // Another file, another line: the same object. Another label: not.
        fs::remove_file(&file).unwrap();
        let text = format!("# renamed\n{TWO}").replace("{name: b}", "{name: b, labels: {kept: no-more}}");
        fs::write(dir.path().join("m.yaml"), text).unwrap();
        assert_eq!(second.reread(&at(dir.path())).0.changes_since(&second), ["Namespace b changed"]);
    }

    #[test]
    fn a_refusal_says_whether_anything_stays_in_force() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("n.yaml"), TWO.replace("{name: b}", "{name: b, lables: {}}")).unwrap();
        let (_, findings) = Resources::default().reread(&at(dir.path()));
        assert!(findings.errors.first().unwrap().ends_with("\n(refused)"), "{findings:?}");
        fs::write(dir.path().join("n.yaml"), TWO).unwrap();
        let (good, _) = Resources::default().reread(&at(dir.path()));
        fs::write(dir.path().join("n.yaml"), TWO.replace("{name: b}", "{name: b, lables: {}}")).unwrap();
        let (_, findings) = good.reread(&at(dir.path()));
        assert!(findings.errors.first().unwrap().ends_with("(refused; what was in force before stays)"), "{findings:?}");
    }

    #[test]
    fn the_second_definition_of_an_object_is_refused_with_the_place_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("1.yaml"), TWO).unwrap();
        fs::write(dir.path().join("2.yml"), TWO.split("---").next().unwrap()).unwrap();
        fs::write(dir.path().join(".3.yaml"), "not: read").unwrap();
        fs::write(dir.path().join("notes.txt"), "not read").unwrap();
        let (resources, findings) = Resources::default().reread(&at(dir.path()));
        assert_eq!(resources.len(), 2);
        let errors: Vec<_> = findings.errors.into_iter().collect();
        assert_eq!(errors.len(), 1);
        assert!(errors[0].starts_with("demo/2.yml:1") && errors[0].contains("already defined at demo/1.yaml:1"), "{errors:?}");
    }
}
