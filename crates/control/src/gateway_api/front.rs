//! The Service in front of a Gateway's proxies.

use super::class;
use super::status::Problem;
use crate::world::World;
use lateen_model::resource::gateway_api::{AddressType, GATEWAY_NAME_LABEL, KubeGateway, ManagedGateway};
use lateen_model::resource::{StringMap, host};
use std::collections::BTreeSet;

/// The Service in front of a Gateway's proxies.
pub(super) struct Front {
    /// Its name; it is in the Gateway's namespace.
    pub(super) service: String,
    /// The labels of the proxies.
    pub(super) selector: StringMap,
}

impl Front {
    /// That of a Gateway: its own, or the one that it names.
    pub(super) fn of(world: &World, gateway: &KubeGateway) -> Result<Self, Problem> {
        if let Some(problem) = class::parameters_problem(world.gateway_api(), gateway) {
            return Err(problem);
        }
        let unsupported = |text: String| Err(Problem::new("UnsupportedAddress", text));
        let own = || Self {
            service: ManagedGateway::name(gateway),
            selector: StringMap::from([(GATEWAY_NAME_LABEL.to_owned(), gateway.metadata.name.clone())]),
        };
        match gateway.spec.addresses.as_slice() {
            [] => Ok(own()),
            [one] => match (&one.type_, one.value.as_deref().unwrap_or_default()) {
                (AddressType::IpAddress, _) => Ok(own()),
                (AddressType::Hostname, name) => Self::named(world, gateway, name),
                (AddressType::Other(other), _) => {
                    unsupported(format!("addresses of the type {other:?} are not supported: IPAddress and Hostname are"))
                }
            },
            _ => unsupported("only one address is supported".to_owned()),
        }
    }

    /// A Service that exists already (manual deployment).
    fn named(world: &World, gateway: &KubeGateway, written: &str) -> Result<Self, Problem> {
        let namespace = gateway.metadata.namespace.as_str();
        let host = match written.split('.').count() {
            1 => host::resolve(written, namespace, world.domain()),
            2 => format!("{written}.svc.{}", world.domain()),
            _ => written.to_owned(),
        };
        let problem = |text: String| Problem::new("UnsupportedAddress", text);
        let service = world.service(&host).filter(|s| s.entry.is_none());
        let service = service.ok_or_else(|| problem(format!("there is no Service with the hostname {host}")))?;
        if *service.namespace != *namespace {
            let text = format!("the Service {host} is in another namespace, which this version of Lateen does not support");
            return Err(problem(text));
        }
        if service.selector.is_empty() {
            return Err(problem(format!("the Service {host} selects no pods")));
        }
        Ok(Self { service: service.name.to_string(), selector: service.selector.clone() })
    }

    /// Whether proxies are there for each of the ports: the sentence of the status, or what is missing.
    pub(super) fn programmed(&self, world: &World, namespace: &str, ports: &BTreeSet<i64>) -> Result<String, Problem> {
        let name = &self.service;
        let Some(service) = world.namespace(namespace).and_then(|ns| ns.services.get(name.as_str())) else {
            return Err(Problem::new("AddressNotAssigned", format!("the Service {namespace}/{name} is not there yet")));
        };
        let endpoints = world.endpoints_of(service);
        if endpoints.is_none_or(|e| e.ready.is_empty()) {
            let text = format!("no proxy is ready behind {} yet", service.host);
            return Err(Problem::new("Pending", text));
        }
        let (found, missing): (Vec<i64>, Vec<i64>) =
            ports.iter().partition(|port| service.ports.iter().any(|p| i64::from(p.number) == **port));
        if let Some(port) = missing.first() {
            let text = format!("the Service {namespace}/{name} has no port {port}");
            return Err(Problem::new("AddressNotUsable", text));
        }
        let places: Vec<String> = found.iter().map(|port| format!("{}:{port}", service.host)).collect();
        let all = match places.split_last() {
            None => String::new(),
            Some((last, [])) => last.clone(),
            Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        };
        Ok(format!("Resource programmed, assigned to service(s) {all}"))
    }

    /// Where it is to be had: the address that is asked for and given, else the name of its Service.
    pub(super) fn addresses(&self, world: &World, gateway: &KubeGateway) -> Vec<(&'static str, String)> {
        let Some(service) = world.namespace(&gateway.metadata.namespace).and_then(|ns| ns.services.get(self.service.as_str()))
        else {
            return Vec::new();
        };
        match gateway.spec.addresses.first() {
            Some(asked) if asked.type_ == AddressType::IpAddress => {
                service.vips.iter().map(|ip| ("IPAddress", ip.to_string())).collect()
            }
            _ => vec![("Hostname", service.host.to_string())],
        }
    }
}
