//! Changes of the Gateway API: what is made from it stands among what people write.

use super::edit::Edit;
use super::namespace::{List, Listed, NamespaceWorld, Semantics, entry};
use super::{Entry, Kind, Name, Rev};
use crate::gateway_api::{self, Status, Translation};
use lateen_model::resource::{Kind as ResourceKind, Object, Resource, ResourceKey};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What was made from the objects of the Gateway API.
#[derive(Clone, Debug, Default)]
pub(super) struct Translated {
    /// Gateways, VirtualServices and DestinationRules, by kind, namespace and name.
    made: BTreeSet<ResourceKey>,
    /// Services of Gateways, by namespace and name.
    services: BTreeSet<(String, String)>,
    /// Services whose endpoints the statuses tell of.
    fronts: BTreeSet<(String, String)>,
    /// What became of each object.
    pub(super) statuses: Arc<BTreeMap<ResourceKey, Status>>,
}

impl Edit {
    /// Takes in what belongs to the Gateway API, or decides about it.
    pub(super) fn put_gateway_api(&mut self, resource: &Resource) {
        let key = resource.key();
        if key.kind == ResourceKind::Service {
            // One that is written takes the place of one that was made.
            self.forget_managed(&key);
        }
        let relevant = is_source(key.kind);
        if relevant && Arc::make_mut(&mut self.world.gateway_api).put(resource) {
            self.note_source(&key);
        }
    }

    /// Forgets what belonged to the Gateway API, or decided about it.
    pub(super) fn remove_gateway_api(&mut self, key: &ResourceKey) {
        if is_source(key.kind) && Arc::make_mut(&mut self.world.gateway_api).remove(key) {
            self.note_source(key);
        }
        if key.kind == ResourceKind::Service {
            self.stale_gateway_api |= self.world.gateway_api.is_active();
        }
    }

    fn note_source(&mut self, key: &ResourceKey) {
        self.stale_gateway_api |= key.kind.is_gateway_api() || self.world.gateway_api.is_active();
        if key.kind == ResourceKind::ConfigMap && self.world.gateway_api.serves_roots(&key.namespace) {
            // Proxies ask for its roots as for those of a Secret.
            self.changed(Kind::Secret, &key.namespace, &key.name);
        }
    }

    fn forget_managed(&mut self, key: &ResourceKey) {
        let id = (key.namespace.clone(), key.name.clone());
        if self.world.translated.services.contains(&id) {
            Arc::make_mut(&mut self.world.translated).services.remove(&id);
        }
    }

    /// Makes and removes the Services of Gateways.
    pub(super) fn refresh_managed_services(&mut self) {
        if !self.stale_gateway_api {
            return;
        }
        let mut made = BTreeSet::new();
        for gateway in gateway_api::managed(&Arc::clone(&self.world.gateway_api)) {
            let meta = &gateway.service.metadata;
            let id = (meta.namespace.clone(), meta.name.clone());
            let there = self.world.namespace(&id.0).is_some_and(|ns| ns.services.contains_key(id.1.as_str()));
            if there && !self.world.translated.services.contains(&id) {
                continue;
            }
            self.put_service(&gateway.service);
            made.insert(id);
        }
        let gone: Vec<(String, String)> = self.world.translated.services.difference(&made).cloned().collect();
        for (namespace, name) in gone {
            self.remove_service(&namespace, &name);
            self.forget_if_empty(&namespace);
        }
        Arc::make_mut(&mut self.world.translated).services = made;
    }

    /// Translates anew, if anything that decides about it has changed. What comes out as before stays as it was.
    pub(super) fn refresh_gateway_api(&mut self) {
        if !self.is_translation_stale() {
            return;
        }
        let Translation { gateways, virtual_services, destination_rules, statuses, fronts } = gateway_api::translate(&self.world);
        let mut made = BTreeSet::new();
        for resource in gateways {
            made.insert(self.put_derived(resource, (ResourceKind::Gateway, Kind::Gateway), |ns| &mut ns.gateways));
        }
        for resource in virtual_services {
            let kinds = (ResourceKind::VirtualService, Kind::VirtualService);
            made.insert(self.put_derived(resource, kinds, |ns| &mut ns.virtual_services));
        }
        for resource in destination_rules {
            let kinds = (ResourceKind::DestinationRule, Kind::DestinationRule);
            made.insert(self.put_derived(resource, kinds, |ns| &mut ns.destination_rules));
        }
        let gone: Vec<ResourceKey> = self.world.translated.made.difference(&made).cloned().collect();
        for key in gone {
            match key.kind {
                ResourceKind::Gateway => self.remove_listed(&key, Kind::Gateway, |ns| &mut ns.gateways),
                ResourceKind::VirtualService => self.remove_listed(&key, Kind::VirtualService, |ns| &mut ns.virtual_services),
                _ => self.remove_listed(&key, Kind::DestinationRule, |ns| &mut ns.destination_rules),
            }
            self.forget_if_empty(&key.namespace);
        }
        let translated = Arc::make_mut(&mut self.world.translated);
        translated.made = made;
        translated.fronts = fronts;
        if *translated.statuses != statuses {
            translated.statuses = Arc::new(statuses);
        }
    }

    fn is_translation_stale(&self) -> bool {
        if self.stale_gateway_api {
            return true;
        }
        if !self.world.gateway_api.is_active() {
            return false;
        }
        let fronts = &self.world.translated.fronts;
        self.changes.touches(Kind::Service)
            || self.changes.touches(Kind::Secret)
            || self.changes.of(Kind::Endpoints).any(|k| fronts.contains(&(k.namespace.to_string(), k.name.to_string())))
    }

    fn put_derived<S: PartialEq>(
        &mut self,
        resource: Object<S>,
        (written, kind): (ResourceKind, Kind),
        list: fn(&mut NamespaceWorld) -> &mut Arc<List<Object<S>>>,
    ) -> ResourceKey
    where
        Object<S>: Listed,
    {
        let (namespace, name) = (resource.metadata.namespace.clone(), resource.metadata.name.clone());
        let resource = Arc::new(resource);
        let made = entry(&resource, "", Rev::default());
        // Hosts of the Gateway API are complete as they stand.
        let hosts = resource.hosts().iter().map(|h| Name::from(h.to_ascii_lowercase())).collect();
        let fresh = Entry { hosts, semantics: Semantics::GatewayApi, ..made };
        let current = Arc::clone(list(self.namespace(&namespace)));
        let same = current.get(&name).is_some_and(|old| old.order == fresh.order && old.resource.spec == fresh.resource.spec);
        if !same {
            let rev = self.next_rev();
            Arc::make_mut(list(self.namespace(&namespace))).put(Entry { rev, ..fresh });
            self.changed(kind, &namespace, &name);
        }
        ResourceKey { kind: written, namespace, name }
    }
}

/// Kinds that decide about the translation and are kept for it.
fn is_source(kind: ResourceKind) -> bool {
    kind.is_gateway_api() || matches!(kind, ResourceKind::ConfigMap | ResourceKind::Namespace)
}
