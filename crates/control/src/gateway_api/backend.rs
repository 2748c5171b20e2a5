//! What routes lead to.

use super::status::Problem;
use crate::world::World;
use lateen_model::resource::gateway_api::{BackendRef, CORE_GROUP, GATEWAY_GROUP};
use lateen_model::resource::{Destination, PortSelector};

/// Something that a route leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Backend {
    /// Its host.
    pub(super) host: String,
    /// Its port.
    pub(super) port: u16,
}

impl Backend {
    /// As routes name it.
    pub(super) fn destination(&self) -> Destination {
        let port = Some(PortSelector { number: self.port.into() });
        Destination { host: self.host.clone(), subset: String::new(), port }
    }
}

/// What stands for a backend that there is not: it keeps its share, and its requests are answered with 500.
pub(super) fn missing(port: Option<i64>) -> Destination {
    let number = port.and_then(|p| u16::try_from(p).ok()).unwrap_or(80);
    Backend { host: super::MISSING_BACKEND.to_owned(), port: number }.destination()
}

/// What a reference of a route of `namespace` and of this kind leads to.
pub(super) fn resolve(world: &World, (kind, namespace): (&str, &str), reference: &BackendRef) -> Result<Backend, Problem> {
    let name = &reference.name;
    match (reference.group(), reference.kind()) {
        (CORE_GROUP, "Service") => {
            let theirs = reference.namespace.as_deref().unwrap_or(namespace);
            let grants = world.gateway_api().grants((GATEWAY_GROUP, kind, namespace), (CORE_GROUP, "Service", theirs, name));
            if !grants {
                let text = format!("no ReferenceGrant of {theirs} lets a {kind} of {namespace} refer to the Service {name}");
                return Err(Problem::new("RefNotPermitted", text));
            }
            service(world, theirs, reference)
        }
        ("networking.istio.io", "Hostname") => {
            if reference.namespace.is_some() {
                return Err(Problem::new("InvalidKind", "a Hostname has no namespace"));
            }
            let found = world.service_seen_from(namespace, name);
            let port = reference.port.and_then(|p| u16::try_from(p).ok());
            match (found, port) {
                (None, _) => Err(Problem::new("BackendNotFound", format!("there is no service with the host {name}"))),
                (Some(_), None) => Err(Problem::new("UnsupportedValue", format!("the port of the Hostname {name} is missing"))),
                (Some(_), Some(port)) => Ok(Backend { host: name.clone(), port }),
            }
        }
        (group, kind) => {
            let text =
                format!("backends of the kind {kind:?} of the group {group:?} are not supported: a Service of the group \"\" is");
            Err(Problem::new("InvalidKind", text))
        }
    }
}

fn service(world: &World, namespace: &str, reference: &BackendRef) -> Result<Backend, Problem> {
    let name = reference.name.as_str();
    let found = world.namespace(namespace).and_then(|ns| ns.services.get(name)).filter(|s| s.entry.is_none());
    let Some(service) = found else {
        return Err(Problem::new("BackendNotFound", format!("there is no Service {namespace}/{name}")));
    };
    let Some(port) = reference.port.and_then(|p| u16::try_from(p).ok()) else {
        return Err(Problem::new("UnsupportedValue", format!("the port of the Service {name} is missing")));
    };
    if service.alias.is_none() && !service.ports.iter().any(|p| p.number == port) {
        return Err(Problem::new("BackendNotFound", format!("the Service {namespace}/{name} has no port {port}")));
    }
    Ok(Backend { host: service.host.to_string(), port })
}
