//! What is strange between resources that are each in order: two that claim one host, references that lead nowhere, routes that
//! a service's owner has not agreed to. Nothing here is refused; what has no effect is said.

mod aliases;
mod gateways;
mod references;
mod virtual_hosts;

use crate::manifest::Finding;
use crate::resource::{CreationOrder, FieldPath, Resource, Segment, Service, ServiceEntry, VirtualService, host};

/// What holds for the mesh as a whole.
#[derive(Clone, Debug)]
pub struct Context {
    /// The domain of services.
    pub domain: String,
    /// Whose resources hold in all namespaces (`MeshConfig.rootNamespace`).
    pub root_namespace: String,
    /// Whether VirtualServices need no consent of services in other namespaces.
    pub foreign_routes: bool,
}

impl Default for Context {
    fn default() -> Self {
        Self { domain: "cluster.local".to_owned(), root_namespace: "istio-system".to_owned(), foreign_routes: false }
    }
}

/// Finds what is strange, by place.
pub fn analyze<'a>(resources: impl Iterator<Item = &'a Resource> + Clone, context: &Context) -> Vec<Finding> {
    let mut found = virtual_hosts::findings(resources.clone(), context);
    found.extend(references::findings(resources.clone(), context));
    found.extend(aliases::findings(resources.clone(), context));
    found.extend(gateways::findings(resources));
    found.sort_by(|a, b| (&a.origin, &a.path).cmp(&(&b.origin, &b.path)));
    found
}

/// A step of a path.
enum Step {
    Key(&'static str),
    Index(usize),
}

fn finding(resource: &crate::resource::ObjectMeta, path: &[Step], text: String) -> Finding {
    let segment = |step: &Step| match step {
        Step::Key(key) => Segment::Key((*key).to_owned()),
        Step::Index(index) => Segment::Index(*index),
    };
    let path: FieldPath = path.iter().map(segment).collect();
    Finding { origin: resource.provenance.origin.clone(), path, text }
}

/// The VirtualServices, oldest first: of several the oldest wins.
fn virtual_services<'a>(resources: impl Iterator<Item = &'a Resource>) -> Vec<&'a VirtualService> {
    let mut all: Vec<&VirtualService> = resources
        .filter_map(|r| match r {
            Resource::VirtualService(v) => Some(&**v),
            _ => None,
        })
        .collect();
    all.sort_by_cached_key(|v| CreationOrder::of(&v.metadata));
    all
}

fn services<'a>(resources: impl Iterator<Item = &'a Resource>) -> impl Iterator<Item = &'a Service> {
    resources.filter_map(|r| match r {
        Resource::Service(s) => Some(&**s),
        _ => None,
    })
}

fn service_entries<'a>(resources: impl Iterator<Item = &'a Resource>) -> impl Iterator<Item = &'a ServiceEntry> {
    resources.filter_map(|r| match r {
        Resource::ServiceEntry(s) => Some(&**s),
        _ => None,
    })
}

fn host_of(service: &Service, context: &Context) -> String {
    host::resolve(&service.metadata.name, &service.metadata.namespace, &context.domain)
}

#[cfg(test)]
mod tests;
