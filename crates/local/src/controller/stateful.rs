//! StatefulSets: which pods to make and to stop next, a pure function of what is there and what is wanted; and doing it.

use std::sync::Arc;
use std::time::Duration;

use lateen_model::resource::{IntOrString, PodManagementPolicy, PodTemplateSpec, StatefulSet, WorkloadRef};

use super::{Controller, Wanted, is_of, view};
use crate::names::template_hash;
use crate::pod::Pod;
use crate::resources::Resources;

/// The label that says which pod of a set it is.
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
/// Its number.
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";
/// Of which template it was made.
const REVISION: &str = "controller-revision-hash";

/// A pod of the set, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Member {
    ordinal: u32,
    /// The hash of the template that it was made of.
    template: String,
    /// Ready, and for as long as `minReadySeconds` asks.
    available: bool,
    /// Being stopped.
    terminating: bool,
}

/// What the set asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    template: String,
    replicas: u32,
    /// The first number.
    start: u32,
    /// One pod after the other.
    ordered: bool,
    /// How many of the first pods keep the template that they have.
    partition: u32,
    max_unavailable: usize,
}

/// What to do now. More follows when this has had its effect.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Step {
    create: Vec<u32>,
    stop: Vec<u32>,
}

impl Target {
    fn of(set: &StatefulSet, template: String) -> Self {
        let replicas = u32::try_from(set.spec.replicas.unwrap_or(1)).unwrap_or_default();
        let rolling = set.spec.update_strategy.rolling_update.clone().unwrap_or_default();
        let all = usize::try_from(replicas).unwrap_or(usize::MAX);
        let max_unavailable = match &rolling.max_unavailable {
            None => 1,
            Some(IntOrString::Int(n)) => usize::try_from(*n).unwrap_or(1),
            Some(IntOrString::String(text)) => {
                let percent = text.strip_suffix('%').and_then(|p| p.parse::<usize>().ok()).unwrap_or(0);
                all.saturating_mul(percent).div_ceil(100)
            }
        };
        Self {
            template,
            replicas,
            start: set.spec.first_ordinal(),
            ordered: set.spec.pod_management_policy == PodManagementPolicy::OrderedReady,
            partition: rolling.partition.and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
            max_unavailable: max_unavailable.max(1),
        }
    }

    fn wants(&self, ordinal: u32) -> bool {
        ordinal.checked_sub(self.start).is_some_and(|index| index < self.replicas)
    }

    /// Whether the pod of this number follows the template.
    fn updates(&self, ordinal: u32) -> bool {
        ordinal.checked_sub(self.start).is_some_and(|index| index >= self.partition)
    }
}

/// The next step. A name is free only when nothing of the pod that had it is left.
///
/// Where Kubernetes waits for ever for a pod that never becomes ready, although its template has been corrected meanwhile, the pod is
/// replaced: nobody deletes single pods here.
fn step(members: &[Member], target: &Target) -> Step {
    let mut out = Step::default();
    let of = |ordinal: u32| members.iter().find(|m| m.ordinal == ordinal);
    let outdated = |m: &Member| m.template != target.template && target.updates(m.ordinal);
    for ordinal in (target.start..).take(usize::try_from(target.replicas).unwrap_or(usize::MAX)) {
        let settled = match of(ordinal) {
            None => {
                out.create.push(ordinal);
                false
            }
            Some(m) => {
                if !m.available && !m.terminating && outdated(m) {
                    out.stop.push(ordinal);
                }
                m.available && !m.terminating
            }
        };
        if target.ordered && !settled {
            return out;
        }
    }
    // What is too much goes from the highest number down.
    let mut surplus: Vec<&Member> = members.iter().filter(|m| !target.wants(m.ordinal)).collect();
    surplus.sort_by_key(|m| std::cmp::Reverse(m.ordinal));
    if target.ordered {
        if let Some(highest) = surplus.first() {
            if !highest.terminating {
                out.stop.push(highest.ordinal);
            }
            return out;
        }
    } else {
        out.stop.extend(surplus.iter().filter(|m| !m.terminating).map(|m| m.ordinal));
    }
    let ours: Vec<&Member> = members.iter().filter(|m| target.wants(m.ordinal)).collect();
    let away = ours.iter().filter(|m| !m.available || m.terminating).count() + out.create.len();
    let mut room = target.max_unavailable.saturating_sub(away);
    let mut old: Vec<&&Member> = ours.iter().filter(|m| m.available && !m.terminating && outdated(m)).collect();
    old.sort_by_key(|m| std::cmp::Reverse(m.ordinal));
    for member in old {
        if room == 0 {
            break;
        }
        room -= 1;
        out.stop.push(member.ordinal);
    }
    out
}

/// The number in a pod's name.
fn ordinal(set: &str, pod: &str) -> Option<u32> {
    pod.strip_prefix(set)?.strip_prefix('-')?.parse().ok()
}

impl Controller {
    pub(super) fn reconcile_stateful_set(
        &mut self,
        resources: &Resources,
        set: &StatefulSet,
        workload: &WorkloadRef,
        pods: &[Arc<Pod>],
    ) {
        let (namespace, name) = (&set.metadata.namespace, &set.metadata.name);
        let json = serde_json::to_string(&set.spec.template).unwrap_or_default();
        let target = Target::of(set, template_hash(&json));
        let key = (namespace.clone(), name.clone());
        if target.partition == 0 || !self.templates.contains_key(&key) {
            self.templates.insert(key.clone(), set.spec.template.clone());
        }
        let patience = Duration::from_secs(u64::try_from(set.spec.min_ready_seconds.unwrap_or(0)).unwrap_or_default());
        let ours: Vec<&Arc<Pod>> = pods.iter().filter(|p| is_of(p, workload, namespace)).collect();
        let member = |pod: &&Arc<Pod>| {
            let seen = view(pod, patience);
            Some(Member {
                ordinal: ordinal(name, &seen.name)?,
                template: seen.template,
                available: seen.available,
                terminating: seen.terminating,
            })
        };
        let next = step(&ours.iter().filter_map(member).collect::<Vec<_>>(), &target);
        for pod in ours.iter().filter(|p| ordinal(name, &p.identity.fields.name).is_some_and(|n| next.stop.contains(&n))) {
            pod.stop();
        }
        for number in next.create {
            // Below the partition a pod that has to be made anew is made as it was.
            let template = match target.updates(number) {
                true => set.spec.template.clone(),
                false => self.templates.get(&key).unwrap_or(&set.spec.template).clone(),
            };
            self.start_member(resources, set, workload, (number, template));
        }
    }

    fn start_member(
        &mut self,
        resources: &Resources,
        set: &StatefulSet,
        workload: &WorkloadRef,
        (number, mut template): (u32, PodTemplateSpec),
    ) {
        let hash = template_hash(&serde_json::to_string(&template).unwrap_or_default());
        let name = format!("{}-{number}", set.metadata.name);
        for (label, value) in
            [(POD_NAME, name.clone()), (POD_INDEX, number.to_string()), (REVISION, format!("{}-{hash}", set.metadata.name))]
        {
            template.metadata.labels.insert(label.to_owned(), value);
        }
        template.spec.hostname = Some(name.clone());
        if !set.spec.service_name.is_empty() {
            template.spec.subdomain = Some(set.spec.service_name.clone());
        }
        let wanted = Wanted {
            name,
            metadata: &template.metadata,
            namespace: &set.metadata.namespace,
            spec: &template.spec,
            workload: workload.clone(),
            template: hash,
        };
        self.start(resources, wanted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn member(ordinal: u32, template: &str, available: bool) -> Member {
        Member { ordinal, template: template.to_owned(), available, terminating: false }
    }

    fn target(replicas: u32, ordered: bool) -> Target {
        Target { template: "new".to_owned(), replicas, start: 0, ordered, partition: 0, max_unavailable: 1 }
    }

    fn does(members: &[Member], target: &Target, create: &[u32], stop: &[u32]) {
        assert_eq!(step(members, target), Step { create: create.to_vec(), stop: stop.to_vec() }, "{members:?} {target:?}");
    }

    #[test]
    fn one_after_the_other_or_all_at_once() {
        does(&[], &target(3, true), &[0], &[]);
        does(&[member(0, "new", false)], &target(3, true), &[], &[]);
        does(&[member(0, "new", true)], &target(3, true), &[1], &[]);
        does(&[], &target(3, false), &[0, 1, 2], &[]);
        // A hole is filled before anything else happens.
        does(&[member(0, "new", true), member(2, "old", true)], &target(3, true), &[1], &[]);
        does(&[], &Target { start: 5, ..target(2, false) }, &[5, 6], &[]);
    }

    #[test]
    fn fewer_pods_from_the_highest_number_down() {
        let four: Vec<Member> = (0..4).map(|n| member(n, "new", true)).collect();
        does(&four, &target(2, true), &[], &[3]);
        let mut ending = four.clone();
        ending[3].terminating = true;
        does(&ending, &target(2, true), &[], &[]);
        does(&four, &target(2, false), &[], &[3, 2]);
        does(&four, &Target { start: 2, ..target(2, false) }, &[], &[1, 0]);
    }

    #[test]
    fn a_new_template_goes_from_the_highest_number_down() {
        let old: Vec<Member> = (0..3).map(|n| member(n, "old", true)).collect();
        for ordered in [true, false] {
            does(&old, &target(3, ordered), &[], &[2]);
            does(&old, &Target { partition: 2, ..target(3, ordered) }, &[], &[2]);
            does(&old, &Target { partition: 3, ..target(3, ordered) }, &[], &[]);
            does(&old, &Target { max_unavailable: 2, ..target(3, ordered) }, &[], &[2, 1]);
            let mut one_done = old.clone();
            one_done[2] = member(2, "new", true);
            does(&one_done, &target(3, ordered), &[], &[1]);
            one_done[2].available = false;
            does(&one_done, &target(3, ordered), &[], &[]);
        }
        // A pod that was broken by a template is replaced by the corrected one.
        does(&[member(0, "old", true), member(1, "old", false)], &target(2, true), &[], &[1]);
        does(&[member(0, "old", true), member(1, "old", false)], &Target { partition: 2, ..target(2, true) }, &[], &[]);
    }

    /// A rollout by steps: never more than one pod away, no two of one name, and it comes to its end.
    #[test]
    fn a_rollout_ends_with_at_most_one_pod_away() {
        for ordered in [true, false] {
            let goal = target(4, ordered);
            let mut pods: BTreeMap<u32, Member> = (0..4).map(|n| (n, member(n, "old", true))).collect();
            for _ in 0..40 {
                let next = step(&pods.values().cloned().collect::<Vec<_>>(), &goal);
                // Whoever was stopping is gone, whoever was made is ready.
                pods.retain(|_, m| !m.terminating);
                pods.values_mut().for_each(|m| m.available = true);
                for number in next.create {
                    assert!(pods.insert(number, member(number, "new", false)).is_none(), "{number} twice");
                }
                for number in next.stop {
                    if let Some(m) = pods.get_mut(&number) {
                        m.terminating = true;
                    }
                }
                let away = (0..4).filter(|n| !pods.get(n).is_some_and(|m| m.available && !m.terminating)).count();
                assert!(away <= 1, "{pods:?}");
            }
            assert!(pods.len() == 4 && pods.values().all(|m| m.template == "new"), "{pods:?}");
        }
    }

    #[test]
    fn numbers_of_names() {
        assert_eq!(ordinal("web", "web-10"), Some(10));
        for other in ["web", "web-", "web-x", "web-a-1", "webb-1"] {
            assert_eq!(ordinal("web", other), None, "{other}");
        }
    }

    #[test]
    fn what_a_set_asks_for() {
        let mut set = StatefulSet::default();
        set.spec.replicas = Some(5);
        assert_eq!(Target::of(&set, String::new()).max_unavailable, 1);
        let text =
            r#"{"updateStrategy":{"rollingUpdate":{"maxUnavailable":"50%","partition":2}},"ordinals":{"start":3},"replicas":5}"#;
        set.spec = serde_json::from_str(text).expect("a spec");
        let target = Target::of(&set, String::new());
        assert_eq!((target.max_unavailable, target.partition, target.start), (3, 2, 3));
        assert!(target.wants(3) && target.wants(7) && !target.wants(8) && !target.wants(2));
        assert!(!target.updates(4) && target.updates(5));
    }
}
