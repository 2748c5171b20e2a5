//! Which namespaces the mesh knows (`MeshConfig.discoverySelectors`): what is in another one is as if it were not there.

use super::Store;
use crate::world::WorldEvent;
use lateen_model::mesh_config::MeshConfig;
use lateen_model::resource::{Kind, LabelSelector, Resource, ResourceKey};
use std::collections::BTreeSet;

/// What decides, and what it came to last.
#[derive(Debug, Default)]
pub(super) struct Selection {
    selectors: Vec<LabelSelector>,
    root_namespace: String,
    /// Namespaces that hold something and are not known.
    hidden: BTreeSet<String>,
}

impl Selection {
    pub(super) fn configure(&mut self, mesh: &MeshConfig) {
        self.selectors.clone_from(&mesh.discovery_selectors);
        self.root_namespace.clone_from(&mesh.root_namespace);
    }
}

impl Store {
    /// Takes out of `events` what is in unknown namespaces, and adds what namespaces that become known or unknown hold.
    pub(super) fn select(&mut self, events: &mut Vec<WorldEvent>) {
        let before = std::mem::take(&mut self.selection.hidden);
        let now = self.hidden_namespaces();
        if before.is_empty() && now.is_empty() {
            return;
        }
        events.retain(|event| match event {
            WorldEvent::Put(resource) => !now.contains(&resource.metadata().namespace),
            WorldEvent::Remove(key) => !before.contains(&key.namespace),
            WorldEvent::Cluster(_) | WorldEvent::ClusterChange(_) | WorldEvent::Mesh(_) | WorldEvent::Roots(_) => true,
        });
        for (key, resource) in &self.in_force {
            match (before.contains(&key.namespace), now.contains(&key.namespace)) {
                (false, true) => events.push(WorldEvent::Remove(key.clone())),
                (true, false) => events.push(WorldEvent::Put(resource.clone())),
                _ => {}
            }
        }
        self.selection.hidden = now;
    }

    fn hidden_namespaces(&self) -> BTreeSet<String> {
        let Selection { selectors, root_namespace, .. } = &self.selection;
        if selectors.is_empty() {
            return BTreeSet::new();
        }
        let all: BTreeSet<&String> = self.in_force.keys().map(|key| &key.namespace).collect();
        let is_known = |name: &str| {
            let key = ResourceKey { kind: Kind::Namespace, namespace: String::new(), name: name.to_owned() };
            let mut labels = self.in_force.get(&key).map(|r: &Resource| r.metadata().labels.clone()).unwrap_or_default();
            // As an API server labels every namespace.
            labels.insert("kubernetes.io/metadata.name".to_owned(), name.to_owned());
            selectors.iter().any(|s| s.matches(&labels))
        };
        all.into_iter().filter(|name| !name.is_empty() && *name != root_namespace && !is_known(name)).cloned().collect()
    }
}
