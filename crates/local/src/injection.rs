//! Whether a pod gets a sidecar, and what the sidecar's presence adds to it: the rules of Istio's injection webhook.

use lateen_model::resource::{Container, PodSpec, StringMap};

/// Namespaces that never get sidecars.
const IGNORED_NAMESPACES: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", "local-path-storage"];
/// The revision that this control plane is.
const REVISION: &str = "default";
const INJECT: &str = "sidecar.istio.io/inject";
const REV: &str = "istio.io/rev";

/// The label by which a pod says that its proxy takes the mesh's mutual TLS.
pub(crate) const TLS_MODE: &str = "security.istio.io/tlsMode";
/// Which templates are injected.
const TEMPLATES: &str = "inject.istio.io/templates";
/// The name of the proxy's container.
pub(crate) const PROXY: &str = "istio-proxy";

/// Whether the proxy is a gateway and no sidecar.
pub(crate) fn is_gateway(annotations: &StringMap) -> bool {
    annotations.get(TEMPLATES).is_some_and(|list| list.split(',').any(|t| t.trim() == "gateway"))
}

/// The pod without the container that stands for its proxy, and that container.
pub(crate) fn split_proxy(spec: &PodSpec) -> (PodSpec, Option<Container>) {
    let mut spec = spec.clone();
    let at = spec.containers.iter().position(|c| c.name == PROXY && c.image.as_deref() == Some("auto"));
    let proxy = at.map(|at| spec.containers.remove(at));
    (spec, proxy)
}

/// What the decision is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) namespace_labels: &'a StringMap,
    pub(crate) pod_labels: &'a StringMap,
    pub(crate) pod_annotations: &'a StringMap,
    pub(crate) host_network: bool,
}

/// Whether the pod gets a sidecar.
pub(crate) fn is_injected(q: Question<'_>) -> bool {
    selected(q) && !q.host_network && !IGNORED_NAMESPACES.contains(&q.namespace) && asked(q)
}

/// Whether one of the webhook's selectors sends the pod to it.
fn selected(q: Question<'_>) -> bool {
    if q.pod_labels.get(INJECT).map(String::as_str) == Some("false") {
        return false;
    }
    match (q.namespace_labels.get("istio-injection").map(String::as_str), q.namespace_labels.get(REV)) {
        (Some(value), _) => value == "enabled",
        (None, Some(revision)) => is_ours(revision),
        (None, None) => match q.pod_labels.get(REV) {
            Some(revision) => is_ours(revision),
            None => q.pod_labels.get(INJECT).map(String::as_str) == Some("true"),
        },
    }
}

fn is_ours(revision: &str) -> bool {
    revision.is_empty() || revision == REVISION
}

/// The pod's own word: the label, else the annotation; anything but `false` leaves it to the webhook's policy, which is
/// enabled.
fn asked(q: Question<'_>) -> bool {
    let word = q.pod_labels.get(INJECT).or_else(|| q.pod_annotations.get(INJECT));
    word.map(String::as_str) != Some("false")
}

/// Adds the labels and annotations that injection adds. Labels that people wrote stay.
pub(crate) fn decorate(labels: &mut StringMap, annotations: &mut StringMap, workload: &str) {
    let first = |labels: &StringMap, keys: &[&str]| keys.iter().find_map(|k| labels.get(*k)).cloned();
    let cut = |s: String| s.chars().take(63).collect::<String>().trim_end_matches(['-', '_', '.']).to_owned();
    let name = first(labels, &["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
    let revision = first(labels, &["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
    let mut add = |key: &str, value: String| {
        labels.entry(key.to_owned()).or_insert(value);
    };
    add(TLS_MODE, "istio".to_owned());
    add("service.istio.io/canonical-name", cut(name.unwrap_or_else(|| workload.to_owned())));
    add("service.istio.io/canonical-revision", cut(revision.unwrap_or_else(|| "latest".to_owned())));
    annotations.insert(REV.to_owned(), REVISION.to_owned());
    let status = serde_json::json!({
        "initContainers": [], "containers": ["istio-proxy"], "volumes": [], "imagePullSecrets": null, "revision": REVISION,
    });
    annotations.insert("sidecar.istio.io/status".to_owned(), status.to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> StringMap {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn the_decision_is_istios() {
        type Pairs<'a> = &'a [(&'a str, &'a str)];
        const ON: (&str, &str) = ("istio-injection", "enabled");
        const YES: (&str, &str) = (INJECT, "true");
        const NO: (&str, &str) = (INJECT, "false");
        let cases: &[(&str, Pairs<'_>, Pairs<'_>, Pairs<'_>, bool)] = &[
            ("no labels at all", &[], &[], &[], false),
            ("namespace enabled", &[ON], &[], &[], true),
            ("namespace disabled", &[("istio-injection", "disabled")], &[YES], &[], false),
            ("namespace revision", &[(REV, "default")], &[], &[], true),
            ("another revision", &[(REV, "canary")], &[], &[], false),
            ("injection label wins over revision", &[ON, (REV, "canary")], &[], &[], true),
            ("pod opts out by label", &[ON], &[NO], &[], false),
            ("pod opts out by annotation", &[ON], &[], &[NO], false),
            ("the label wins over the annotation", &[ON], &[YES], &[NO], true),
            ("pod opts in", &[], &[YES], &[], true),
            ("an annotation alone does not opt in", &[], &[], &[YES], false),
            ("pod revision", &[], &[(REV, "default")], &[], true),
            ("another pod revision", &[], &[(REV, "canary"), YES], &[], false),
            ("other words are no words", &[ON], &[(INJECT, "yes")], &[], true),
        ];
        for (what, namespace, labels, annotations, expected) in cases {
            let (n, l, a) = (map(namespace), map(labels), map(annotations));
            let q = Question { namespace: "n", namespace_labels: &n, pod_labels: &l, pod_annotations: &a, host_network: false };
            assert_eq!(is_injected(q), *expected, "{what}");
            assert!(!is_injected(Question { host_network: true, ..q }), "{what}, host network");
            assert!(!is_injected(Question { namespace: "kube-system", ..q }), "{what}, kube-system");
        }
    }

    #[test]
    fn canonical_labels_come_from_the_usual_places() {
        let canonical = |labels: &[(&str, &str)]| {
            let (mut l, mut a) = (map(labels), StringMap::new());
            decorate(&mut l, &mut a, "shop-backend");
            assert_eq!(l["security.istio.io/tlsMode"], "istio");
            assert_eq!(a["istio.io/rev"], "default");
            (l["service.istio.io/canonical-name"].clone(), l["service.istio.io/canonical-revision"].clone())
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(canonical(&[]), pair("shop-backend", "latest"));
        assert_eq!(canonical(&[("app", "shop"), ("version", "v2")]), pair("shop", "v2"));
        assert_eq!(canonical(&[("app", "shop"), ("app.kubernetes.io/name", "store")]), pair("store", "latest"));
        assert_eq!(canonical(&[("service.istio.io/canonical-name", "own")]), pair("own", "latest"));
    }
}
