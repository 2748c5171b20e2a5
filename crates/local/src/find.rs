//! The pod that people mean.

use std::collections::BTreeSet;
use std::sync::Arc;

use lateen_model::manifest::nearest;

use crate::mesh::Mesh;
use crate::pod::Pod;

/// A pod as far as finding goes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate<'a> {
    namespace: &'a str,
    name: &'a str,
    /// The deployment that made it.
    deployment: Option<&'a str>,
    ready: bool,
    serial: u64,
}

/// The pod of a name, of an unambiguous beginning of a name, or of a deployment (`NAME`, `deploy/NAME`,
/// `deployment/NAME`). Of a deployment, pods that take traffic come first.
pub(crate) fn find_pod(mesh: &Mesh, namespace: &str, wanted: &str) -> Result<Arc<Pod>, String> {
    let mut pods = mesh.pods();
    pods.retain(|p| !p.state().terminating);
    let candidates: Vec<Candidate<'_>> = pods
        .iter()
        .map(|p| {
            let id = &p.identity;
            Candidate {
                namespace: &id.fields.namespace,
                name: &id.fields.name,
                deployment: (id.workload.kind != "Pod").then_some(&id.workload.name),
                ready: p.ready(),
                serial: id.serial,
            }
        })
        .collect();
    choose(&candidates, namespace, wanted).map(|index| pods[index].clone())
}

/// The index of the pod that is meant, or what there is instead.
fn choose(pods: &[Candidate<'_>], namespace: &str, wanted: &str) -> Result<usize, String> {
    let here: Vec<(usize, &Candidate<'_>)> = pods.iter().enumerate().filter(|(_, p)| p.namespace == namespace).collect();
    let prefixes = ["deploy/", "deployment/", "sts/", "statefulset/"];
    let deployment = prefixes.iter().find_map(|prefix| wanted.strip_prefix(prefix));
    let of_deployment = |name: &str| {
        let ours = here.iter().filter(|(_, p)| p.deployment == Some(name));
        ours.min_by_key(|(_, p)| (!p.ready, p.serial)).map(|(index, _)| *index)
    };
    if let Some(name) = deployment {
        let known: BTreeSet<&str> = here.iter().filter_map(|(_, p)| p.deployment).collect();
        return of_deployment(name).ok_or_else(|| {
            let text = format!("no pod of a workload `{name}` in namespace `{namespace}`");
            text + &instead(name, &known) + &elsewhere(pods, namespace, name)
        });
    }
    let wanted = wanted.strip_prefix("pod/").unwrap_or(wanted);
    let exact = here.iter().find(|(_, p)| p.name == wanted).map(|(index, _)| *index);
    if let Some(index) = exact.or_else(|| of_deployment(wanted)) {
        return Ok(index);
    }
    let starting: Vec<&(usize, &Candidate<'_>)> = here.iter().filter(|(_, p)| p.name.starts_with(wanted)).collect();
    match starting.as_slice() {
        [(index, _)] => Ok(*index),
        [] => {
            let known = here.iter().flat_map(|(_, p)| p.deployment.into_iter().chain([p.name])).collect();
            let text = format!("no pod `{wanted}` in namespace `{namespace}`");
            Err(text + &instead(wanted, &known) + &elsewhere(pods, namespace, wanted))
        }
        several => {
            let names: Vec<&str> = several.iter().map(|(_, p)| p.name).collect();
            Err(format!("`{wanted}` is not unambiguous in namespace `{namespace}`: {}", names.join(", ")))
        }
    }
}

/// What there is in the namespace, the nearest name first.
fn instead(wanted: &str, known: &BTreeSet<&str>) -> String {
    match (nearest(wanted, known.iter().copied()), known.is_empty()) {
        (_, true) => String::new(),
        (Some(name), false) => format!("; did you mean `{name}`?"),
        (None, false) => format!("; there are {}", known.iter().copied().collect::<Vec<_>>().join(", ")),
    }
}

/// Where else there is such a pod, or if the namespace is empty, where there are any.
fn elsewhere(pods: &[Candidate<'_>], namespace: &str, wanted: &str) -> String {
    let namespaces = |keep: &dyn Fn(&Candidate<'_>) -> bool| -> Vec<&str> {
        let found: BTreeSet<&str> = pods.iter().filter(|p| keep(p)).map(|p| p.namespace).collect();
        found.into_iter().collect()
    };
    let same = namespaces(&|p| p.name == wanted || p.deployment == Some(wanted));
    let all = namespaces(&|_| true);
    match (same.as_slice(), all.contains(&namespace)) {
        ([], true) => String::new(),
        ([], false) if all.is_empty() => "; there are no pods at all".to_owned(),
        ([], false) => format!("; there are pods in {}: choose with -n", all.join(", ")),
        (several, _) => format!("; there is one in {}: choose with -n", several.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod<'a>(namespace: &'a str, name: &'a str, deployment: Option<&'a str>, ready: bool, serial: u64) -> Candidate<'a> {
        Candidate { namespace, name, deployment, ready, serial }
    }

    fn pods() -> Vec<Candidate<'static>> {
        vec![
            pod("shop", "client", None, true, 1),
            pod("shop", "web-abc-1", Some("web"), false, 2),
            pod("shop", "web-abc-2", Some("web"), true, 3),
            pod("shop", "web-abc-3", Some("web"), true, 4),
            pod("bank", "vault-1", Some("vault"), true, 5),
        ]
    }

    #[test]
    fn a_pod_is_found_by_name_beginning_or_deployment() {
        let pods = pods();
        for (wanted, index) in
            [("client", 0), ("cli", 0), ("pod/client", 0), ("web", 2), ("deploy/web", 2), ("deployment/web", 2), ("web-abc-1", 1)]
        {
            assert_eq!(choose(&pods, "shop", wanted), Ok(index), "{wanted}");
        }
    }

    #[test]
    fn who_is_not_found_is_told_who_is_there() {
        let pods = pods();
        for (namespace, wanted, expected) in [
            ("shop", "clinet", "no pod `clinet` in namespace `shop`; did you mean `client`?"),
            ("shop", "wbe", "no pod `wbe` in namespace `shop`; did you mean `web`?"),
            ("shop", "mail", "no pod `mail` in namespace `shop`; there are client, web, web-abc-1, web-abc-2, web-abc-3"),
            ("shop", "web-", "`web-` is not unambiguous in namespace `shop`: web-abc-1, web-abc-2, web-abc-3"),
            ("default", "client", "no pod `client` in namespace `default`; there is one in shop: choose with -n"),
            ("default", "mail", "no pod `mail` in namespace `default`; there are pods in bank, shop: choose with -n"),
            ("bank", "web", "no pod `web` in namespace `bank`; there are vault, vault-1; there is one in shop: choose with -n"),
            ("bank", "deploy/vaultt", "no pod of a workload `vaultt` in namespace `bank`; did you mean `vault`?"),
        ] {
            assert_eq!(choose(&pods, namespace, wanted).unwrap_err(), expected);
        }
        assert!(choose(&[], "default", "x").unwrap_err().ends_with("there are no pods at all"));
    }
}
