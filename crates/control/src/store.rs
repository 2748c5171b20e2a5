//! The resources that are in force: the last good version of each document.
//!
//! A document that is refused is refused alone. What it was before stays in force while it is wrong; what no document holds
//! any more is gone. Which object a wrong document is a version of is known by its kind, namespace and name if these can
//! still be read, else every object that its file held and holds no longer stays.

use crate::generate::mesh;
use crate::world::WorldEvent;
use lateen_model::manifest::{Document, Finding, Rejection};
use lateen_model::mesh_config::{CONFIG_MAP_KEY, CONFIG_MAP_NAME, CONFIG_MAP_NAMESPACE, MeshConfig};
use lateen_model::resource::{
    Action, AuthorizationPolicy, AuthorizationPolicySpec, ConfigMap, FieldPath, Kind, MutualTls, MutualTlsMode, ObjectMeta,
    Origin, PeerAuthentication, PeerAuthenticationSpec, Resource, ResourceKey, Rule,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// What one file holds now.
#[derive(Clone, Debug)]
pub struct FileContent {
    /// Its path, as in messages.
    pub file: Arc<str>,
    /// Its documents in order; none if it is gone.
    pub documents: Vec<Result<Document, Rejection>>,
}

/// A document that is refused, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub rejection: Rejection,
    /// What is in force instead.
    pub in_force: InForce,
}

/// What is in force in place of a refused document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InForce {
    /// Nothing: there was no good version.
    Nothing,
    /// The last good version.
    LastGood,
    /// A security policy without a good version: what it guards is closed.
    Closed,
}

impl InForce {
    /// For logs and debug pages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::LastGood => "the last good version",
            Self::Closed => "nothing is let through: there is no good version of a security policy",
        }
    }
}

#[derive(Debug, Default)]
struct FileState {
    /// Good objects, those kept in place of refused documents included.
    objects: BTreeMap<ResourceKey, Resource>,
    refusals: Vec<Refusal>,
}

/// All resources of all files.
#[derive(Debug, Default)]
pub struct Store {
    files: BTreeMap<Arc<str>, FileState>,
    /// Which files hold an object; the first one's is in force.
    holders: HashMap<ResourceKey, BTreeSet<Arc<str>>>,
    in_force: HashMap<ResourceKey, Resource>,
    /// Rank of first sight, by which the older of two objects is told.
    sequence: HashMap<ResourceKey, u64>,
    last_sequence: u64,
    /// Whether the sources were read once: until then it is not known which versions were in force before.
    started: bool,
    mesh_refusal: Option<Refusal>,
    mesh_last_good: bool,
    /// Which namespaces are known.
    selection: selection::Selection,
}

impl Store {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The sources were read once: security policies that are refused from now on were never in force.
    pub fn set_started(&mut self) {
        self.started = true;
    }

    /// All resources that are in force, in no particular order.
    pub fn in_force(&self) -> impl Iterator<Item = Resource> + '_ {
        self.in_force.values().cloned()
    }

    /// Whether an object is in force.
    pub fn holds(&self, key: &ResourceKey) -> bool {
        self.in_force.contains_key(key)
    }

    /// How many resources are in force.
    pub fn len(&self) -> usize {
        self.in_force.len()
    }

    /// Whether nothing is in force.
    pub fn is_empty(&self) -> bool {
        self.in_force.is_empty()
    }

    /// All documents that are refused now: by file, then by place; also objects that another file holds already.
    pub fn refusals(&self) -> Vec<Refusal> {
        let mut out: Vec<Refusal> = self.files.values().flat_map(|f| f.refusals.iter().cloned()).collect();
        for (key, files) in &self.holders {
            let Some(first) = files.first() else { continue };
            for file in files.iter().skip(1) {
                let state = self.files.get(file).and_then(|f| f.objects.get(key));
                out.extend(state.map(|resource| duplicate(key, resource, first)));
            }
        }
        out.extend(self.mesh_refusal.clone());
        out.sort_by(|a, b| a.rejection.origin.cmp(&b.rejection.origin));
        out
    }

    /// Takes over what files hold now; answers what is different for the world, and what is newly refused.
    pub fn apply(&mut self, files: Vec<FileContent>) -> (Vec<WorldEvent>, Vec<Refusal>) {
        let before: Vec<Refusal> = self.refusals();
        let mut touched: BTreeSet<ResourceKey> = BTreeSet::new();
        for content in files {
            self.apply_file(content, &mut touched);
        }
        let mut events = Vec::new();
        for key in touched {
            self.settle(&key, &mut events);
        }
        self.select(&mut events);
        let refused = self.refusals().into_iter().filter(|r| !before.contains(r)).collect();
        (events, refused)
    }

    fn apply_file(&mut self, content: FileContent, touched: &mut BTreeSet<ResourceKey>) {
        let old = self.files.remove(&content.file).unwrap_or_default();
        let mut new = FileState::default();
        let mut rejected = Vec::new();
        for document in content.documents {
            match document {
                Ok(document) => {
                    for warning in &document.warnings {
                        tracing::warn!("{warning}");
                    }
                    self.take(document.resource, &mut new);
                }
                Err(rejection) => rejected.push(rejection),
            }
        }
        for rejection in rejected {
            let in_force = self.replacement(&rejection, &old, &mut new);
            new.refusals.push(Refusal { rejection, in_force });
        }
        for key in old.objects.keys().chain(new.objects.keys()) {
            touched.insert(key.clone());
        }
        for key in old.objects.keys().filter(|k| !new.objects.contains_key(*k)) {
            if let Some(files) = self.holders.get_mut(key) {
                files.remove(&content.file);
            }
        }
        for key in new.objects.keys() {
            self.holders.entry(key.clone()).or_default().insert(Arc::clone(&content.file));
        }
        if !new.objects.is_empty() || !new.refusals.is_empty() {
            self.files.insert(content.file, new);
        }
    }

    /// A good document; the second one of a key in a file is refused.
    fn take(&mut self, mut resource: Resource, new: &mut FileState) {
        let key = resource.key();
        if let Some(first) = new.objects.get(&key) {
            let refusal = duplicate(&key, &resource, &first.origin().to_string());
            new.refusals.push(refusal);
            return;
        }
        let next = self.last_sequence + 1;
        let sequence = *self.sequence.entry(key.clone()).or_insert(next);
        self.last_sequence = self.last_sequence.max(sequence);
        resource.metadata_mut().provenance.sequence = sequence;
        new.objects.insert(key, resource);
    }

    /// Puts what is in force in place of a refused document into `new`.
    fn replacement(&mut self, rejection: &Rejection, old: &FileState, new: &mut FileState) -> InForce {
        let Some(key) = &rejection.key else {
            let lost: Vec<_> = old.objects.iter().filter(|(k, _)| !new.objects.contains_key(*k)).collect();
            let any = !lost.is_empty();
            for (key, resource) in lost {
                new.objects.insert(key.clone(), resource.clone());
            }
            return if any { InForce::LastGood } else { InForce::Nothing };
        };
        if new.objects.contains_key(key) {
            return InForce::Nothing;
        }
        let elsewhere = || self.in_force.get(key).filter(|r| is_closed(r) || r.origin().file == rejection.origin.file);
        if let Some(good) = old.objects.get(key).or_else(elsewhere) {
            let state = if is_closed(good) { InForce::Closed } else { InForce::LastGood };
            new.objects.insert(key.clone(), good.clone());
            return state;
        }
        match closed(key, &rejection.origin) {
            Some(resource) if !self.started => {
                self.take(resource, new);
                InForce::Closed
            }
            _ => InForce::Nothing,
        }
    }

    /// Decides which version of an object is in force.
    fn settle(&mut self, key: &ResourceKey, events: &mut Vec<WorldEvent>) {
        let holder = self.holders.get(key).and_then(|files| files.first());
        let wanted = holder.and_then(|file| self.files.get(file)).and_then(|f| f.objects.get(key)).cloned();
        match wanted {
            Some(mut resource) => {
                let old = self.in_force.get(key);
                let same = old.is_some_and(|old| old.same_content(&resource));
                // As an API server counts: what is wanted has changed, not what it is labelled with.
                let generation =
                    old.map_or(1, |old| old.metadata().generation.unwrap_or(1) + i64::from(!same && !old.same_spec(&resource)));
                resource.metadata_mut().generation = Some(generation);
                self.in_force.insert(key.clone(), resource.clone());
                if !same {
                    self.mesh_config(key, Some(&resource), events);
                    events.push(WorldEvent::Put(resource));
                }
            }
            None => {
                self.holders.remove(key);
                self.sequence.remove(key);
                if self.in_force.remove(key).is_some() {
                    self.mesh_config(key, None, events);
                    events.push(WorldEvent::Remove(key.clone()));
                }
            }
        }
    }

    /// The ConfigMap that holds the mesh's configuration: a wrong one leaves the last good one in force.
    fn mesh_config(&mut self, key: &ResourceKey, resource: Option<&Resource>, events: &mut Vec<WorldEvent>) {
        let is_mesh = key.kind == Kind::ConfigMap && key.namespace == CONFIG_MAP_NAMESPACE && key.name == CONFIG_MAP_NAME;
        if !is_mesh {
            return;
        }
        let parsed = match resource {
            Some(Resource::ConfigMap(map)) => parse_mesh(map),
            _ => Ok(MeshConfig::default()),
        };
        match parsed {
            Ok(config) => {
                self.mesh_refusal = None;
                self.mesh_last_good = true;
                self.selection.configure(&config);
                events.push(WorldEvent::Mesh(Arc::new(config)));
            }
            Err(rejection) => {
                let in_force = if self.mesh_last_good { InForce::LastGood } else { InForce::Nothing };
                self.mesh_refusal = Some(Refusal { rejection, in_force });
            }
        }
    }
}

fn parse_mesh(map: &ConfigMap) -> Result<MeshConfig, Rejection> {
    let origin = &map.metadata.provenance.origin;
    let name = format!("{origin}: ConfigMap {CONFIG_MAP_NAMESPACE}/{CONFIG_MAP_NAME}: data.{CONFIG_MAP_KEY}");
    let text = map.data.get(CONFIG_MAP_KEY).map(String::as_str).unwrap_or_default();
    let parsed = MeshConfig::parse(text, &name)?;
    for warning in &parsed.warnings {
        tracing::warn!("{warning}");
    }
    let problems: Vec<Finding> = mesh::inexpressible(&parsed.config)
        .into_iter()
        .map(|(field, text)| Finding { origin: origin.clone(), path: FieldPath::root(), text: format!("{field}: {text}") })
        .collect();
    if problems.is_empty() { Ok(parsed.config) } else { Err(Rejection { origin: origin.clone(), key: None, problems }) }
}

fn duplicate(key: &ResourceKey, resource: &Resource, first: &str) -> Refusal {
    let origin = resource.origin().clone();
    let text = format!("{key} is defined a second time; {first} has it already: remove one of the two, or rename it");
    let problems = vec![Finding { origin: origin.clone(), path: FieldPath::root(), text }];
    Refusal { rejection: Rejection { origin, key: Some(key.clone()), problems }, in_force: InForce::LastGood }
}

/// Marks a policy that stands for one that cannot be read.
const CLOSED: &str = "lateen.dev/closed-in-place-of-a-refused-policy";

fn is_closed(resource: &Resource) -> bool {
    resource.metadata().annotations.contains_key(CLOSED)
}

/// What stands for a security policy that cannot be read and of which no good version is known: everything that the policy
/// could guard is closed. `None` for other kinds.
fn closed(key: &ResourceKey, origin: &Origin) -> Option<Resource> {
    let mut metadata = ObjectMeta { name: key.name.clone(), namespace: key.namespace.clone(), ..ObjectMeta::default() };
    metadata.annotations.insert(CLOSED.to_owned(), "true".to_owned());
    metadata.provenance.origin = origin.clone();
    match key.kind {
        Kind::AuthorizationPolicy => {
            let spec = AuthorizationPolicySpec {
                action: Action::Deny,
                rules: vec![Rule::default()],
                ..AuthorizationPolicySpec::default()
            };
            Some(AuthorizationPolicy { metadata, spec, ..AuthorizationPolicy::default() }.into())
        }
        Kind::PeerAuthentication => {
            let mtls = Some(MutualTls { mode: MutualTlsMode::Strict });
            let spec = PeerAuthenticationSpec { mtls, ..PeerAuthenticationSpec::default() };
            Some(PeerAuthentication { metadata, spec, ..PeerAuthentication::default() }.into())
        }
        _ => None,
    }
}

mod selection;
#[cfg(test)]
mod tests;
