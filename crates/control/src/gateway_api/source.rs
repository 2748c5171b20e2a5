//! The objects of the Gateway API, and what decides about them, as the world keeps them.

use lateen_model::resource::gateway_api::{
    BackendTlsPolicy, GatewayClass, KubeGateway, KubeGrpcRoute, KubeHttpRoute, KubeTcpRoute, KubeTlsRoute, ReferenceGrant,
};
use lateen_model::resource::{ConfigMap, Kind, Resource, ResourceKey, StringMap};
use std::collections::BTreeMap;
use std::sync::Arc;

/// By namespace and name.
pub(super) type Objects<T> = BTreeMap<(String, String), Arc<T>>;

/// The objects of the Gateway API, and what decides about them. Everything is shared by reference.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// By name.
    pub classes: BTreeMap<String, Arc<GatewayClass>>,
    /// All Gateways.
    pub gateways: Objects<KubeGateway>,
    /// All HTTPRoutes.
    pub http_routes: Objects<KubeHttpRoute>,
    /// All GRPCRoutes.
    pub grpc_routes: Objects<KubeGrpcRoute>,
    /// All TCPRoutes.
    pub tcp_routes: Objects<KubeTcpRoute>,
    /// All TLSRoutes.
    pub tls_routes: Objects<KubeTlsRoute>,
    /// All ReferenceGrants.
    pub grants: Objects<ReferenceGrant>,
    /// All BackendTLSPolicies.
    pub tls_policies: Objects<BackendTlsPolicy>,
    /// ConfigMaps, which may hold roots of trust.
    pub config_maps: Objects<ConfigMap>,
    /// Labels of namespaces, by which listeners may choose routes.
    pub namespaces: BTreeMap<String, StringMap>,
}

impl Sources {
    /// Whether there is anything to translate.
    pub fn is_active(&self) -> bool {
        !(self.classes.is_empty()
            && self.gateways.is_empty()
            && self.http_routes.is_empty()
            && self.grpc_routes.is_empty()
            && self.tcp_routes.is_empty()
            && self.tls_routes.is_empty()
            && self.grants.is_empty()
            && self.tls_policies.is_empty())
    }

    /// Takes an object in. Whether it is of a kind that is kept here.
    pub fn put(&mut self, resource: &Resource) -> bool {
        let meta = resource.metadata();
        let key = (meta.namespace.clone(), meta.name.clone());
        match resource {
            Resource::GatewayClass(r) => drop(self.classes.insert(meta.name.clone(), Arc::clone(r))),
            Resource::KubeGateway(r) => drop(self.gateways.insert(key, Arc::clone(r))),
            Resource::KubeHttpRoute(r) => drop(self.http_routes.insert(key, Arc::clone(r))),
            Resource::KubeGrpcRoute(r) => drop(self.grpc_routes.insert(key, Arc::clone(r))),
            Resource::KubeTcpRoute(r) => drop(self.tcp_routes.insert(key, Arc::clone(r))),
            Resource::KubeTlsRoute(r) => drop(self.tls_routes.insert(key, Arc::clone(r))),
            Resource::ReferenceGrant(r) => drop(self.grants.insert(key, Arc::clone(r))),
            Resource::BackendTlsPolicy(r) => drop(self.tls_policies.insert(key, Arc::clone(r))),
            Resource::ConfigMap(r) => drop(self.config_maps.insert(key, Arc::clone(r))),
            Resource::Namespace(r) => drop(self.namespaces.insert(meta.name.clone(), r.metadata.labels.clone())),
            _ => return false,
        }
        true
    }

    /// Forgets an object. Whether it is of a kind that is kept here.
    pub fn remove(&mut self, key: &ResourceKey) -> bool {
        let id = (key.namespace.clone(), key.name.clone());
        match key.kind {
            Kind::GatewayClass => drop(self.classes.remove(&key.name)),
            Kind::KubeGateway => drop(self.gateways.remove(&id)),
            Kind::KubeHttpRoute => drop(self.http_routes.remove(&id)),
            Kind::KubeGrpcRoute => drop(self.grpc_routes.remove(&id)),
            Kind::KubeTcpRoute => drop(self.tcp_routes.remove(&id)),
            Kind::KubeTlsRoute => drop(self.tls_routes.remove(&id)),
            Kind::ReferenceGrant => drop(self.grants.remove(&id)),
            Kind::BackendTlsPolicy => drop(self.tls_policies.remove(&id)),
            Kind::ConfigMap => drop(self.config_maps.remove(&id)),
            Kind::Namespace => drop(self.namespaces.remove(&key.name)),
            _ => return false,
        }
        true
    }

    /// Whether proxies may have asked for roots in ConfigMaps of a namespace.
    pub fn serves_roots(&self, namespace: &str) -> bool {
        self.tls_policies.keys().any(|(ns, _)| ns == namespace) || self.gateways.values().any(|g| g.spec.tls.is_some())
    }

    /// The labels of a namespace. Every namespace has one with its own name.
    pub fn namespace_labels(&self, name: &str) -> StringMap {
        let mut labels = self.namespaces.get(name).cloned().unwrap_or_default();
        labels.insert("kubernetes.io/metadata.name".to_owned(), name.to_owned());
        labels
    }

    /// Whether an object of `from` (group, kind, namespace) may refer to one of another namespace (group, kind, namespace, name).
    pub fn grants(&self, from: (&str, &str, &str), to: (&str, &str, &str, &str)) -> bool {
        let (group, kind, namespace, name) = to;
        if from.2 == namespace {
            return true;
        }
        let of_namespace = self.grants.iter().filter(|((ns, _), _)| ns == namespace).map(|(_, grant)| &grant.spec);
        of_namespace.into_iter().any(|spec| {
            spec.from.iter().any(|f| (f.group.as_str(), f.kind.as_str(), f.namespace.as_str()) == from)
                && spec.to.iter().any(|t| t.group == group && t.kind == kind && t.name.as_deref().is_none_or(|n| n == name))
        })
    }
}
