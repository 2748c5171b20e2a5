//! The proxies' own counters: what both engines count, and the scenario decides, is compared at the end of those that ask for
//! it.

use std::collections::BTreeMap;

use lateen_testkit::lab::PodStatus;

use crate::mesh::{Mesh, base_name};
use crate::observe::{Observation, matches};
use crate::script::Script;

/// Of clusters, behind `cluster.NAME.`. What depends on how many connections an engine keeps is left out: the scenarios compare
/// connections where they are the point.
const OF_CLUSTERS: [&str; 13] = [
    "upstream_rq_total",
    "upstream_rq_completed",
    "upstream_rq_retry",
    "upstream_rq_retry_success",
    "upstream_rq_retry_limit_exceeded",
    "upstream_rq_retry_overflow",
    "upstream_rq_timeout",
    "upstream_rq_per_try_timeout",
    "upstream_rq_pending_overflow",
    "upstream_cx_none_healthy",
    "upstream_cx_connect_timeout",
    "outlier_detection.ejections_enforced_total",
    "outlier_detection.ejections_overflow",
];

/// Of authorization and of limits on requests.
const OF_GATES: [&str; 6] = [
    ".rbac.allowed",
    ".rbac.denied",
    ".http_local_rate_limit.enabled",
    ".http_local_rate_limit.ok",
    ".http_local_rate_limit.rate_limited",
    ".http_local_rate_limit.enforced",
];

/// What is asked for: both engines take the same expression.
pub(crate) const FILTER: &str =
    "%5Ecluster%5C.(outbound%7Cinbound%7CPassthrough%7CBlackHole%7CInboundPassthrough)%7C%5C.rbac%5C.%7Chttp_local_rate_limit";

/// The counters of each pod's proxy.
pub(crate) type Counters = BTreeMap<String, BTreeMap<String, u64>>;

/// Of a page with a line for each, what is compared.
pub(crate) fn read(page: &str) -> BTreeMap<String, u64> {
    // Envoy's histograms are lines without a number.
    let number = |line: &str| line.rsplit_once(": ").and_then(|(name, number)| Some((name.to_owned(), number.parse().ok()?)));
    page.lines().filter_map(number).filter(|(name, _)| is_compared(name)).collect()
}

fn is_compared(name: &str) -> bool {
    if OF_GATES.iter().any(|suffix| name.ends_with(suffix)) {
        return true;
    }
    let of_cluster = |suffix: &&str| name.strip_suffix(*suffix).is_some_and(|cluster| cluster.ends_with('.'));
    if !name.starts_with("cluster.") {
        return false;
    }
    (OF_CLUSTERS.iter().any(of_cluster) || is_status(name)) && !is_part(name)
}

/// Of what Envoy counts once more for those that ask from inside, for tries, and for zones.
fn is_part(name: &str) -> bool {
    [".internal.", ".external.", ".retry.", ".canary."].iter().any(|part| name.contains(&format!("{part}upstream_rq_")))
        || name.contains(".zone.")
}

/// `cluster.NAME.upstream_rq_503`.
fn is_status(name: &str) -> bool {
    let status = name.rsplit_once(".upstream_rq_").map_or("", |(_, status)| status);
    status.len() == 3 && status.bytes().all(|b| b.is_ascii_digit())
}

/// What grows while a scenario runs.
pub(crate) struct Watch {
    before: Counters,
    /// By role and name.
    grown: BTreeMap<String, u64>,
}

impl Watch {
    /// From now on.
    pub(crate) fn begin(mesh: &mut Mesh) -> Result<Self, String> {
        Ok(Self { before: mesh.counters()?, grown: BTreeMap::new() })
    }

    /// Adds what has grown since the last time, when nothing grows any more: proxies and pods may be gone after what comes now.
    pub(crate) fn note(&mut self, mesh: &mut Mesh) -> Result<(), String> {
        let now = mesh.steady_counters()?;
        for (pod, counters) in &now {
            let role = role(&mesh.pods, pod);
            for (name, number) in counters {
                let before = self.before.get(pod).and_then(|counters| counters.get(name)).copied().unwrap_or_default();
                // A cluster that came anew begins anew.
                let grown = number.checked_sub(before).unwrap_or(*number);
                if grown > 0 {
                    *self.grown.entry(format!("{role}.{name}")).or_default() += grown;
                }
            }
        }
        self.before = now;
        Ok(())
    }

    /// Goes on from what there is now.
    pub(crate) fn go_on(&mut self, mesh: &mut Mesh) -> Result<(), String> {
        self.before = mesh.counters()?;
        Ok(())
    }

    /// What is compared, but for what chance decides.
    pub(crate) fn end(self, script: &Script) -> Observation {
        if !script.counters {
            return Observation::new();
        }
        let is_chance = |name: &str| script.chance.iter().any(|pattern| matches(pattern, name));
        self.grown.into_iter().filter(|(name, _)| !is_chance(name)).map(|(name, number)| (name, number.into())).collect()
    }
}

/// Which of several servers did what is chance.
fn role(pods: &[PodStatus], name: &str) -> String {
    let pod = pods.iter().find(|pod| pod.name == name);
    match pod {
        Some(pod) if pod.labels.get("app").is_some_and(|app| app == "web") => "servers".to_owned(),
        Some(pod) => base_name(pod),
        None => name.to_owned(),
    }
}
