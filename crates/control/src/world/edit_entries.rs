//! Changes of ServiceEntries and WorkloadEntries.

use super::edit::Edit;
use super::entry;
use super::namespace::entry as listed;
use super::{Kind, Name, Rev, Service};
use lateen_model::resource::address_allocation::{AllocatedAddress, allocate, hosts_to_allocate};
use lateen_model::resource::{ServiceEntry, WorkloadEntry};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl Edit {
    pub(super) fn put_service_entry_resource(&mut self, resource: &Arc<ServiceEntry>) {
        let (namespace, name) = (resource.metadata.namespace.as_str(), resource.metadata.name.as_str());
        let mut fresh = listed(resource, "", Rev::default());
        if let Some(old) = self.world.namespace(namespace).and_then(|ns| ns.service_entries.get(name)) {
            let same_meta = old.resource.metadata.labels == resource.metadata.labels && old.order == fresh.order;
            if same_meta && old.resource.spec == resource.spec {
                return;
            }
            let old = Arc::clone(old);
            self.note_hosts(namespace, &old.resource);
        }
        fresh.rev = self.next_rev();
        Arc::make_mut(&mut self.namespace(namespace).service_entries).put(fresh);
        self.note_hosts(namespace, resource);
    }

    pub(super) fn remove_service_entry(&mut self, namespace: &str, name: &str) {
        let Some(old) = self.world.namespace(namespace).and_then(|ns| ns.service_entries.get(name)).cloned() else { return };
        let rev = self.next_rev();
        Arc::make_mut(&mut self.namespace(namespace).service_entries).remove(name, rev);
        self.note_hosts(namespace, &old.resource);
    }

    pub(super) fn put_workload_entry(&mut self, resource: &Arc<WorkloadEntry>) {
        let (namespace, name) = (resource.metadata.namespace.as_str(), resource.metadata.name.as_str());
        let rev = self.next_rev();
        let Some(fresh) = entry::of_workload_entry(resource, rev) else { return self.remove_workload_entry(namespace, name) };
        let old = self.world.namespace(namespace).and_then(|ns| ns.entry_workloads.get(name)).cloned();
        if old.as_ref().is_some_and(|old| old.record == fresh.record && old.entry == fresh.entry) {
            return;
        }
        let fresh = Arc::new(fresh);
        self.namespace(namespace).entry_workloads.insert(name.into(), Arc::clone(&fresh));
        self.changed(Kind::Workload, namespace, name);
        let mut labels = vec![&fresh.record.labels];
        labels.extend(old.as_ref().map(|o| &o.record.labels));
        self.stale_services(namespace, &labels);
    }

    pub(super) fn remove_workload_entry(&mut self, namespace: &str, name: &str) {
        if self.world.namespace(namespace).is_none() {
            return;
        }
        if let Some(old) = self.namespace(namespace).entry_workloads.remove(name) {
            self.changed(Kind::Workload, namespace, name);
            self.stale_services(namespace, &[&old.record.labels]);
        }
    }

    fn note_hosts(&mut self, namespace: &str, resource: &ServiceEntry) {
        self.stale_hosts.extend(entry::hosts(resource).map(|host| (Name::from(namespace), host)));
    }

    /// Makes the services of changed ServiceEntries, and gives addresses.
    pub(super) fn refresh_entries(&mut self) {
        let mut stale = std::mem::take(&mut self.stale_hosts);
        if stale.is_empty() {
            return;
        }
        stale.extend(self.reallocate(&stale));
        for (namespace, host) in stale {
            let allocated = self.world.allocated.get(&(namespace.to_string(), host.to_string())).copied();
            let made = self.world.namespace(&namespace).and_then(|ns| entry::service(ns, &host, allocated));
            match made {
                Some(service) => self.put_entry_service(service),
                None => self.remove_entry_service(&namespace, &host),
            }
        }
    }

    /// Gives the hosts addresses; answers whose address is another one now. Work grows with the number of such hosts, but only
    /// when one comes or goes.
    fn reallocate(&mut self, stale: &BTreeSet<(Name, Name)>) -> BTreeSet<(Name, Name)> {
        let pair = |(ns, host): &(Name, Name)| (ns.to_string(), host.to_string());
        let touched: BTreeSet<(String, String)> = stale.iter().map(pair).collect();
        let namespaces: BTreeSet<&str> = stale.iter().map(|(ns, _)| &**ns).collect();
        let mut wanting: BTreeSet<(String, String)> = BTreeSet::new();
        for name in namespaces {
            let Some(ns) = self.world.namespace(name) else { continue };
            let hosts = ns.service_entries.iter().flat_map(|e| hosts_to_allocate(&e.resource));
            wanting.extend(hosts.map(|host| (name.to_owned(), host)));
        }
        let same = touched.iter().all(|p| wanting.contains(p) == self.world.allocated.contains_key(p));
        if same {
            return BTreeSet::new();
        }
        let mut all: BTreeSet<(String, String)> = BTreeSet::new();
        for (name, ns) in self.world.namespaces() {
            let hosts = ns.service_entries.iter().flat_map(|e| hosts_to_allocate(&e.resource));
            all.extend(hosts.map(|host| (name.to_string(), host)));
        }
        let fresh = allocate(&all);
        let old: Arc<BTreeMap<(String, String), AllocatedAddress>> =
            std::mem::replace(&mut self.world.allocated, Arc::new(fresh.clone()));
        let keys = old.keys().chain(fresh.keys());
        let moved = keys.filter(|k| old.get(*k) != fresh.get(*k));
        moved.map(|(ns, host)| (ns.as_str().into(), host.as_str().into())).collect()
    }

    fn put_entry_service(&mut self, service: Service) {
        let (namespace, host, key) = (Name::clone(&service.namespace), Name::clone(&service.host), service.key());
        let old = self.world.namespace(&namespace).and_then(|ns| ns.services.get(&key)).cloned();
        let same = old.as_ref().filter(|old| old.same_as(&service)).map(|old| old.rev);
        let rev = same.unwrap_or_else(|| self.next_rev());
        self.namespace(&namespace).services.insert(Name::clone(&key), Arc::new(Service { rev, ..service }));
        if same.is_none() {
            self.changed(Kind::Service, &namespace, &key);
        }
        if old.is_none() {
            Arc::make_mut(&mut self.world.entry_hosts).entry(host).or_default().insert(Name::clone(&namespace));
        }
        // Written endpoints may have changed.
        self.stale.insert((namespace, key));
    }

    fn remove_entry_service(&mut self, namespace: &Name, host: &Name) {
        let key = entry::key(host);
        if self.world.namespace(namespace).is_none() {
            return;
        }
        let ns = self.namespace(namespace);
        let Some(gone) = ns.services.remove(&key) else { return };
        ns.endpoints.remove(&key);
        let hosts = Arc::make_mut(&mut self.world.entry_hosts);
        if let Some(namespaces) = hosts.get_mut(&gone.host) {
            namespaces.remove(namespace);
            if namespaces.is_empty() {
                hosts.remove(&gone.host);
            }
        }
        self.changed(Kind::Service, namespace, &key);
        self.changed(Kind::Endpoints, namespace, &key);
        self.forget_if_empty(namespace);
    }
}
