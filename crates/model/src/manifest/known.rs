//! Which kind a document is of, judged before it is read as that kind.

use super::suggest::nearest;
use super::tree::{Node, Value};
use crate::resource::{FieldIssue, FieldPath, Kind, ResourceKey, Scope, shorten};

/// What a document is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Identified {
    /// One object.
    Kind(Kind),
    /// `v1 List`: several.
    List,
}

/// Kinds that people have in their manifests and that this version does not read, by API group.
const NOT_YET: &[(&str, &[&str])] = &[
    ("networking.istio.io", &["EnvoyFilter"]),
    ("security.istio.io", &["RequestAuthentication"]),
    ("telemetry.istio.io", &["Telemetry"]),
    ("extensions.istio.io", &["WasmPlugin", "TrafficExtension"]),
    ("gateway.networking.k8s.io", &["UDPRoute", "ListenerSet"]),
    ("gateway.networking.x-k8s.io", &["XBackend", "XBackendTrafficPolicy", "XListenerSet", "XMesh"]),
    ("inference.networking.k8s.io", &["InferencePool"]),
    ("apps", &["DaemonSet", "ReplicaSet", "ControllerRevision"]),
    ("batch", &["Job", "CronJob"]),
    (
        "",
        &[
            "Event",
            "LimitRange",
            "Node",
            "PersistentVolume",
            "PersistentVolumeClaim",
            "PodTemplate",
            "ReplicationController",
            "ResourceQuota",
        ],
    ),
    ("networking.k8s.io", &["Ingress", "IngressClass", "NetworkPolicy"]),
    ("policy", &["PodDisruptionBudget"]),
    ("autoscaling", &["HorizontalPodAutoscaler"]),
    ("rbac.authorization.k8s.io", &["Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"]),
    ("apiextensions.k8s.io", &["CustomResourceDefinition"]),
];

/// The kind of the document at `node`.
pub(super) fn identify(node: &Node) -> Result<Identified, FieldIssue> {
    if !matches!(node.value, Value::Mapping(_)) {
        return issue(FieldPath::root(), "must be a mapping with apiVersion, kind and metadata".to_owned());
    }
    let (api_version, kind) = (text_of(node, "apiVersion")?, text_of(node, "kind")?);
    if (api_version, kind) == ("v1", "List") {
        return Ok(Identified::List);
    }
    let named: Vec<Kind> = Kind::ALL.iter().copied().filter(|known| known.name() == kind).collect();
    if let Some(found) = named.iter().find(|known| known.api_versions().contains(&api_version)) {
        return Ok(Identified::Kind(*found));
    }
    if !named.is_empty() && !is_not_yet(group_of(api_version), kind) {
        let versions: Vec<&str> = named.iter().flat_map(|known| known.api_versions()).copied().collect();
        let text = format!("{:?} does not have the kind {kind}; it is in {}", shorten(api_version), versions.join(", "));
        return issue(FieldPath::root().key("apiVersion"), text);
    }
    issue(FieldPath::root().key("kind"), unknown_kind(api_version, kind))
}

fn issue<T>(path: FieldPath, text: String) -> Result<T, FieldIssue> {
    Err(FieldIssue { path, text })
}

fn text_of<'a>(node: &'a Node, field: &str) -> Result<&'a str, FieldIssue> {
    let path = FieldPath::root().key(field);
    match node.get(field) {
        None => issue(path, "is required".to_owned()),
        Some(value) => value.as_str().map_or_else(|| issue(path, "must be a string".to_owned()), Ok),
    }
}

fn unknown_kind(api_version: &str, kind: &str) -> String {
    if is_not_yet(group_of(api_version), kind) {
        return format!("{} of {} is not supported by this version of Lateen", shorten(kind), shorten(api_version));
    }
    let mut names: Vec<&str> = Kind::ALL.iter().map(|known| known.name()).collect();
    // Two groups have a Gateway.
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(*name));
    let later = NOT_YET.iter().flat_map(|(_, kinds)| kinds.iter().copied());
    let hint = match nearest(kind, names.iter().copied().chain(later)) {
        Some(name) => format!("did you mean {name}?"),
        None => format!("known kinds: {}", names.join(", ")),
    };
    format!("{:?} of {:?} is not a known kind; {hint}", shorten(kind), shorten(api_version))
}

fn is_not_yet(group: &str, kind: &str) -> bool {
    NOT_YET.iter().any(|(known, kinds)| *known == group && kinds.contains(&kind))
}

/// The API group of `GROUP/VERSION`; the core group's versions have none.
fn group_of(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

/// Which object a document is a version of, as far as a tree that may be broken tells.
///
/// After a syntax error (`incomplete`) what was not read yet is unknown: if the error is inside `metadata` and no namespace was
/// read, the object could be in any.
pub(super) fn key_of(node: &Node, incomplete: bool) -> Option<ResourceKey> {
    let Ok(Identified::Kind(kind)) = identify(node) else { return None };
    let metadata = node.get("metadata")?;
    let name = metadata.get("name")?.as_str()?.to_owned();
    let namespace = metadata.get("namespace").and_then(Node::as_str);
    let Value::Mapping(entries) = &node.value else { return None };
    let incomplete = incomplete && entries.last().is_some_and(|entry| entry.key == "metadata");
    let namespace = match (kind.scope(), namespace) {
        (Scope::Cluster, _) => "",
        (Scope::Namespaced, Some(namespace)) if !namespace.is_empty() => namespace,
        (Scope::Namespaced, _) if incomplete => return None,
        (Scope::Namespaced, _) => "default",
    };
    Some(ResourceKey { kind, namespace: namespace.to_owned(), name })
}
