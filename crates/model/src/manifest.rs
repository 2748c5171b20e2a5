//! Reads manifests: YAML texts of several documents, each a resource.
//!
//! Documents are independent: one that is wrong is refused alone, with its place, the field and what is allowed. The steps are
//! [`split`] into documents → [`tree`] with positions → [`de`] into the typed resource → validation → check for what this version
//! does not implement. Nothing here reads files: the caller gives the text and the name to use in messages.

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::resource::gateway_api::{
    BackendTlsPolicy, GatewayClass, KubeGateway, KubeGrpcRoute, KubeHttpRoute, KubeTcpRoute, KubeTlsRoute, ReferenceGrant,
};
use crate::resource::{
    AuthorizationPolicy, ConfigMap, Deployment, DestinationRule, EndpointSlice, Endpoints, FieldIssue, FieldPath, Gateway,
    Issues, Kind, LocalRateLimit, Namespace, Origin, PeerAuthentication, Pod, Resource, ResourceKey, Scope, Secret, Segment,
    Service, ServiceAccount, ServiceEntry, Sidecar, StatefulSet, VirtualService, Warning, WorkloadEntry, WorkloadGroup,
    WorkloadProxyConfig,
};

mod de;
mod envoy_filter;
mod known;
mod mesh;
mod plain;
mod split;
mod suggest;
mod tree;

pub use suggest::nearest;

use known::Identified;
pub(crate) use mesh::read_mesh_config;
use tree::{Node, Position, Value};

/// The largest document that is read, in bytes; Kubernetes' own limit for a request body.
pub const MAX_DOCUMENT_BYTES: usize = 3 * 1024 * 1024;

/// The most problems of one document that are listed.
const MAX_PROBLEMS: usize = 50;

/// The most warnings about one document.
const MAX_WARNINGS: usize = 20;

/// A resource that is valid and implemented, and what is strange about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The resource. Its provenance says where it was read; its sequence is the store's to set.
    pub resource: Resource,
    /// Accepted, and probably not meant.
    pub warnings: Vec<Finding>,
}

/// Why a document was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Where the document begins.
    pub origin: Origin,
    /// Which object it is a version of, as far as that can be told: the last good version of it stays in force. When it cannot be
    /// told, every object that its file held before and holds no longer must stay.
    pub key: Option<ResourceKey>,
    /// What is wrong; never empty.
    pub problems: Vec<Finding>,
}

/// Something found at a field of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where it is written: the field or, if it is absent, its nearest parent.
    pub origin: Origin,
    /// The field; the root for what concerns the document as a whole.
    pub path: FieldPath,
    /// What was found and what would be right.
    pub text: String,
}

impl fmt::Display for Finding {
    /// `file:line:column: field: text`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if !self.path.is_root() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.text)
    }
}

impl fmt::Display for Rejection {
    /// One line for each problem; the object's name, if known, goes after the place.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}: ", problem.origin)?;
            if let Some(key) = &self.key {
                write!(f, "{key}: ")?;
            }
            if !problem.path.is_root() {
                write!(f, "{}: ", problem.path)?;
            }
            f.write_str(&problem.text)?;
        }
        Ok(())
    }
}

impl std::error::Error for Rejection {}

/// Reads every document of `text`, in order. `file` is used in messages only.
pub fn read(text: &str, file: &str) -> Vec<Result<Document, Rejection>> {
    let file: Arc<str> = file.into();
    let chunks = split::split(text);
    chunks.into_iter().flat_map(|chunk| read_chunk(chunk, &file)).collect()
}

fn read_chunk(chunk: split::Chunk<'_>, file: &Arc<str>) -> Vec<Result<Document, Rejection>> {
    let source = Source { file, text: chunk.text, lines_before: chunk.lines_before };
    let start = Position { line: 1, column: 1 };
    if chunk.text.len() > MAX_DOCUMENT_BYTES {
        let text = format!("the document has {} bytes; {MAX_DOCUMENT_BYTES} are allowed", chunk.text.len());
        return vec![Err(source.reject(start, None, vec![(start, FieldIssue { path: FieldPath::root(), text })]))];
    }
    match tree::parse(chunk.text) {
        Ok(root) => read_object(&source, &root, &FieldPath::root()),
        Err((error, partial)) => {
            let key = partial.as_ref().and_then(|root| known::key_of(root, true));
            let start = partial.map_or(error.at, |root| root.at);
            let issue = FieldIssue { path: FieldPath::root(), text: error.text };
            vec![Err(source.reject(start, key, vec![(error.at, issue)]))]
        }
    }
}

/// Reads the object at `node`, or the objects of a `List`.
fn read_object(source: &Source<'_>, node: &Node, base: &FieldPath) -> Vec<Result<Document, Rejection>> {
    match known::identify(node) {
        Ok(Identified::Kind(kind)) => vec![read_kind(source, kind, node, base)],
        Ok(Identified::List) => {
            let Some(Value::Sequence(items)) = node.get("items").map(|items| &items.value) else {
                let issue = FieldIssue { path: base.key("items"), text: "must be a list of objects".to_owned() };
                return vec![Err(source.reject(node.at, None, vec![(node.locate(&issue.path), issue)]))];
            };
            let objects = items.iter().enumerate().flat_map(|(index, item)| {
                let mut path = base.key("items");
                path.push(Segment::Index(index));
                match known::identify(item) {
                    // One level only: lists inside lists could nest without end.
                    Ok(Identified::List) => {
                        let issue = FieldIssue { path, text: "a List must not hold a List".to_owned() };
                        vec![Err(source.reject(item.at, None, vec![(item.at, issue)]))]
                    }
                    _ => read_object(source, item, &path),
                }
            });
            objects.collect()
        }
        Err(_) if envoy_filter::is_one(node) => vec![Err(source.reject_under(base, node, None, envoy_filter::problems(node)))],
        Err(mut issue) => {
            let at = node.locate(&issue.path);
            issue.path = base.segments().iter().chain(issue.path.segments()).cloned().collect();
            vec![Err(source.reject(node.at, None, vec![(at, issue)]))]
        }
    }
}

fn read_kind(source: &Source<'_>, kind: Kind, node: &Node, base: &FieldPath) -> Result<Document, Rejection> {
    let read = match kind {
        Kind::Namespace => typed::<Namespace>(node),
        Kind::ServiceAccount => typed::<ServiceAccount>(node),
        Kind::ConfigMap => typed::<ConfigMap>(node),
        Kind::Secret => typed::<Secret>(node),
        Kind::Service => typed::<Service>(node),
        Kind::Pod => typed::<Pod>(node),
        Kind::Deployment => typed::<Deployment>(node),
        Kind::StatefulSet => typed::<StatefulSet>(node),
        Kind::Endpoints => typed::<Endpoints>(node),
        Kind::EndpointSlice => typed::<EndpointSlice>(node),
        Kind::VirtualService => typed::<VirtualService>(node),
        Kind::DestinationRule => typed::<DestinationRule>(node),
        Kind::Gateway => typed::<Gateway>(node),
        Kind::Sidecar => typed::<Sidecar>(node),
        Kind::ServiceEntry => typed::<ServiceEntry>(node),
        Kind::WorkloadEntry => typed::<WorkloadEntry>(node),
        Kind::WorkloadGroup => typed::<WorkloadGroup>(node),
        Kind::PeerAuthentication => typed::<PeerAuthentication>(node),
        Kind::AuthorizationPolicy => typed::<AuthorizationPolicy>(node),
        Kind::WorkloadProxyConfig => typed::<WorkloadProxyConfig>(node),
        Kind::LocalRateLimit => typed::<LocalRateLimit>(node),
        Kind::GatewayClass => typed::<GatewayClass>(node),
        Kind::KubeGateway => typed::<KubeGateway>(node),
        Kind::KubeHttpRoute => typed::<KubeHttpRoute>(node),
        Kind::KubeGrpcRoute => typed::<KubeGrpcRoute>(node),
        Kind::KubeTcpRoute => typed::<KubeTcpRoute>(node),
        Kind::KubeTlsRoute => typed::<KubeTlsRoute>(node),
        Kind::ReferenceGrant => typed::<ReferenceGrant>(node),
        Kind::BackendTlsPolicy => typed::<BackendTlsPolicy>(node),
    };
    let reject = |problems| source.reject_under(base, node, known::key_of(node, false), problems);
    let (mut resource, mut warnings) = read.map_err(reject)?;
    if kind.scope() == Scope::Namespaced && resource.metadata().namespace.is_empty() {
        // What kubectl does.
        resource.metadata_mut().namespace = "default".to_owned();
    }
    let mut issues = Issues::default();
    resource.validate(&mut issues);
    let (mut errors, more_warnings) = issues.finish();
    errors.extend(resource.unsupported());
    warnings.extend(more_warnings);
    let mut problems: Vec<de::Located> = errors.into_iter().map(|issue| (node.locate(&issue.path), issue)).collect();
    if let Resource::ConfigMap(config_map) = &resource {
        problems.extend(mesh::check_embedded(source.text, node, config_map));
    }
    if !problems.is_empty() {
        return Err(reject(problems));
    }
    resource.metadata_mut().provenance.origin = source.origin(node.at);
    Ok(Document { warnings: source.warnings(node, base, warnings), resource })
}

fn typed<T: DeserializeOwned + Into<Resource>>(node: &Node) -> Result<(Resource, Vec<Warning>), Vec<de::Located>> {
    de::from_node::<T>(node).map(|(object, warnings)| (object.into(), warnings))
}

fn join(base: &FieldPath, path: &FieldPath) -> FieldPath {
    base.segments().iter().chain(path.segments()).cloned().collect()
}

/// The file, and where in it the document begins.
struct Source<'a> {
    file: &'a Arc<str>,
    text: &'a str,
    lines_before: u32,
}

impl Source<'_> {
    fn origin(&self, at: Position) -> Origin {
        Origin { file: self.file.clone(), line: self.lines_before.saturating_add(at.line), column: Some(at.column) }
    }

    fn warnings(&self, node: &Node, base: &FieldPath, warnings: Vec<Warning>) -> Vec<Finding> {
        let place = |Warning { path, text }| Finding { origin: self.origin(node.locate(&path)), path: join(base, &path), text };
        let more = warnings.len().saturating_sub(MAX_WARNINGS);
        let mut found: Vec<Finding> = warnings.into_iter().take(MAX_WARNINGS).map(place).collect();
        if more > 0 {
            let text = format!("and {more} more warnings");
            found.push(Finding { origin: self.origin(node.at), path: FieldPath::root(), text });
        }
        found
    }

    fn reject(&self, start: Position, key: Option<ResourceKey>, mut problems: Vec<de::Located>) -> Rejection {
        if let Some(more) = problems.len().checked_sub(MAX_PROBLEMS).filter(|more| *more > 0) {
            let at = problems[MAX_PROBLEMS].0;
            problems.truncate(MAX_PROBLEMS);
            problems.push((at, FieldIssue { path: FieldPath::root(), text: format!("and {more} more problems from here on") }));
        }
        let problems =
            problems.into_iter().map(|(at, issue)| Finding { origin: self.origin(at), path: issue.path, text: issue.text });
        Rejection { origin: self.origin(start), key, problems: problems.collect() }
    }

    fn reject_under(&self, base: &FieldPath, node: &Node, key: Option<ResourceKey>, mut problems: Vec<de::Located>) -> Rejection {
        for (_, issue) in &mut problems {
            issue.path = join(base, &issue.path);
        }
        problems.sort_by_key(|(at, _)| *at);
        self.reject(node.at, key, problems)
    }
}
