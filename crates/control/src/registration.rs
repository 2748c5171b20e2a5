//! Workloads that register themselves: a proxy that names a WorkloadGroup (`ISTIO_META_AUTO_REGISTER_GROUP`) has a WorkloadEntry made
//! from the group's template for as long as it is connected, and a little longer, in which it may come back.

use crate::world::World;
use lateen_model::resource::{Object, ObjectMeta, WorkloadEntry, WorkloadEntrySpec, WorkloadGroup};
use lateen_xds::server::{ClientInfo, ConnectionId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long an entry stays after its proxy has gone (Istio's `PILOT_WORKLOAD_ENTRY_GRACE_PERIOD`).
pub const GRACE: Duration = Duration::from_secs(10);

/// The annotation of an entry that names its group (Istio).
const GROUP_ANNOTATION: &str = "istio.io/autoRegistrationGroup";

/// A workload that has registered itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Of the group, and of the workload.
    pub namespace: String,
    /// The group.
    pub group: String,
    /// Where the workload is.
    pub address: IpAddr,
}

impl Member {
    /// Who a client wants to be registered as; `None` if it does not ask for it.
    ///
    /// # Errors
    /// If it may not: only who proves the identity that the group's template has may become one of the group.
    pub fn of(client: &ClientInfo, world: &World) -> Result<Option<Self>, String> {
        let Some(group) = client.node.metadata_str("AUTO_REGISTER_GROUP").filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        let namespace = &client.node.namespace;
        let known = world.namespace(namespace).and_then(|ns| ns.workload_groups.get(group));
        let known = known.ok_or_else(|| format!("there is no WorkloadGroup {namespace}/{group} to register in"))?;
        let account = account(known);
        let proven = client.identity.as_ref().is_some_and(|id| id.namespace() == *namespace && id.service_account() == account);
        if !proven {
            return Err(format!(
                "only the service account {account} of the namespace {namespace} may register in the WorkloadGroup {namespace}/{group}"
            ));
        }
        let address = client.node.ip_addresses().first().copied().ok_or("the proxy has no address to register")?;
        Ok(Some(Self { namespace: namespace.clone(), group: group.to_owned(), address }))
    }

    /// The entry that stands for it.
    pub fn entry(&self, group: &WorkloadGroup) -> WorkloadEntry {
        let template = group.spec.template.clone().unwrap_or_default();
        let written = group.spec.metadata.clone().unwrap_or_default();
        let network = if template.network.is_empty() { String::new() } else { format!("-{}", template.network) };
        let mut annotations = written.annotations;
        annotations.insert(GROUP_ANNOTATION.to_owned(), self.group.clone());
        let metadata = ObjectMeta {
            name: format!("{}-{}{network}", self.group, self.address).replace(':', "-"),
            namespace: self.namespace.clone(),
            labels: written.labels,
            annotations,
            ..ObjectMeta::default()
        };
        let spec = WorkloadEntrySpec { address: self.address.to_string(), ..template };
        Object {
            api_version: "networking.istio.io/v1".to_owned(),
            kind: "WorkloadEntry".to_owned(),
            metadata,
            spec,
            ..WorkloadEntry::default()
        }
    }
}

fn account(group: &WorkloadGroup) -> &str {
    let written = group.spec.template.as_ref().map(|t| t.service_account.as_str()).unwrap_or_default();
    if written.is_empty() { "default" } else { written }
}

/// Who is registered now.
#[derive(Debug, Default)]
pub struct Registry {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    live: HashMap<ConnectionId, Member>,
    /// Without a connection, and until when they stay.
    leaving: BTreeMap<Member, Instant>,
}

impl Registry {
    /// A member has connected.
    pub fn join(&self, connection: ConnectionId, member: Member) {
        let mut state = self.lock();
        state.leaving.remove(&member);
        state.live.insert(connection, member);
        self.changed.notify_one();
    }

    /// A connection is gone; of no matter if it was no member's.
    pub fn leave(&self, connection: ConnectionId, now: Instant) {
        let mut state = self.lock();
        let Some(member) = state.live.remove(&connection) else { return };
        if !state.live.values().any(|m| *m == member) {
            state.leaving.insert(member, now + GRACE);
            self.changed.notify_one();
        }
    }

    /// The members at this moment, and when the next of them goes.
    pub fn members(&self, now: Instant) -> (BTreeSet<Member>, Option<Instant>) {
        let mut state = self.lock();
        state.leaving.retain(|_, until| *until > now);
        let members = state.live.values().chain(state.leaving.keys()).cloned().collect();
        (members, state.leaving.values().min().copied())
    }

    /// Waits until somebody comes or goes.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Nothing panics while it is locked.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entries of all members of groups that there are, by namespace and name.
pub fn entries(members: &BTreeSet<Member>, world: &World) -> BTreeMap<(String, String), WorkloadEntry> {
    let one = |member: &Member| {
        let group = world.namespace(&member.namespace)?.workload_groups.get(member.group.as_str())?;
        let entry = member.entry(group);
        Some(((entry.metadata.namespace.clone(), entry.metadata.name.clone()), entry))
    };
    members.iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::fixture;

    const GROUP: &str = "apiVersion: networking.istio.io/v1\nkind: WorkloadGroup\nmetadata: {name: vms, namespace: a}\nspec:\n  metadata: {labels: {tier: gold}, annotations: {note: x}}\n  template: {labels: {app: vm, tier: lead}, ports: {http: 8080}, serviceAccount: vm, network: far, locality: eu/a, weight: 3}\n";

    fn member(last: u8) -> Member {
        Member { namespace: "a".to_owned(), group: "vms".to_owned(), address: [10, 0, 0, last].into() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_stays_a_little_longer_than_its_last_connection() {
        let registry = Registry::default();
        let now = Instant::now();
        let (one, two) = (ConnectionId(1), ConnectionId(2));
        registry.join(one, member(1));
        registry.join(two, member(1));
        registry.changed().await;
        registry.leave(one, now);
        assert_eq!(registry.members(now), (BTreeSet::from([member(1)]), None), "the other connection is its own");
        registry.leave(two, now);
        registry.leave(two, now);
        registry.changed().await;
        let almost = now + GRACE - Duration::from_millis(1);
        assert_eq!(registry.members(almost), (BTreeSet::from([member(1)]), Some(now + GRACE)));
        registry.join(ConnectionId(3), member(1));
        assert_eq!(registry.members(now + GRACE), (BTreeSet::from([member(1)]), None), "it has come back");
        registry.leave(ConnectionId(3), now);
        assert_eq!(registry.members(now + GRACE), (BTreeSet::new(), None));
    }

    #[test]
    fn an_entry_is_made_from_the_template() {
        let world = fixture::world(GROUP, &[]);
        let made = entries(&BTreeSet::from([member(1), member(2)]), &world);
        let names: Vec<&str> = made.keys().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, ["vms-10.0.0.1-far", "vms-10.0.0.2-far"]);
        let entry = &made[&("a".to_owned(), "vms-10.0.0.1-far".to_owned())];
        assert_eq!(entry.spec.address, "10.0.0.1");
        assert_eq!((entry.spec.weight, entry.spec.locality.as_str()), (3, "eu/a"));
        let labels = entry.effective_labels();
        assert_eq!((labels["app"].as_str(), labels["tier"].as_str()), ("vm", "gold"));
        assert_eq!(entry.metadata.annotations[GROUP_ANNOTATION], "vms");
        let other = Member { group: "none".to_owned(), ..member(1) };
        assert!(entries(&BTreeSet::from([other]), &world).is_empty(), "a group that is not there has no members");
        let v6 = Member { address: "fd00::1".parse().unwrap(), ..member(1) };
        let name = entries(&BTreeSet::from([v6]), &world).into_keys().next().unwrap().1;
        assert_eq!(name, "vms-fd00--1-far");
    }
}
