//! What a resource names: it can be in force only with these.

use lateen_model::dataplane::{
    self, ClusterSpecifier, DownstreamTls, RouteAction, RouteConfiguration, RouteSource, SecretRef, SecretSource, TcpDestination,
    Terminal, TransportSocket, UpstreamTls,
};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Names of other resources.
#[derive(Debug, Default)]
pub(crate) struct References {
    /// Clusters, in routes and TCP proxies.
    pub(crate) clusters: BTreeSet<Arc<str>>,
    /// Route configurations that RDS serves.
    pub(crate) routes: BTreeSet<Arc<str>>,
    /// Secrets that SDS of the control plane serves. Those of the workload are not configuration.
    pub(crate) secrets: BTreeSet<SecretName>,
}

/// A secret, by what it is used as: a certificate does not stand in for roots.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SecretName {
    Certificate(String),
    Roots(String),
}

impl SecretName {
    /// The name of the resource.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Certificate(name) | Self::Roots(name) => name,
        }
    }
}

impl References {
    /// Of a route configuration.
    pub(crate) fn of_routes(model: &RouteConfiguration) -> Self {
        let mut references = Self::default();
        references.add_routes(model);
        references
    }

    /// Of a listener.
    pub(crate) fn of_listener(model: &dataplane::Listener) -> Self {
        let mut references = Self::default();
        for chain in model.filter_chains.iter().chain(&model.default_filter_chain) {
            if let Some(tls) = &chain.tls {
                references.add_downstream_tls(tls);
            }
            match &chain.terminal {
                Terminal::Http(hcm) => match &hcm.routes {
                    RouteSource::Rds(name) => {
                        references.routes.insert(name.as_str().into());
                    }
                    RouteSource::Inline(routes) => references.add_routes(routes),
                },
                Terminal::Tcp(tcp) => match &tcp.destination {
                    TcpDestination::Cluster(name) => references.add_cluster(name),
                    TcpDestination::Weighted(clusters) => clusters.iter().for_each(|(name, _)| references.add_cluster(name)),
                },
            }
        }
        references
    }

    /// Of a cluster.
    pub(crate) fn of_cluster(model: &dataplane::Cluster) -> Self {
        let mut references = Self::default();
        match &model.transport {
            TransportSocket::Plaintext => {}
            TransportSocket::Tls(tls) => references.add_upstream_tls(tls),
            TransportSocket::ByEndpoint(ways) => {
                ways.iter().filter_map(|way| way.tls.as_deref()).for_each(|tls| references.add_upstream_tls(tls));
            }
        }
        references
    }

    fn add_routes(&mut self, model: &RouteConfiguration) {
        for route in model.virtual_hosts.iter().flat_map(|host| &host.routes) {
            let RouteAction::Forward(forward) = &route.action else { continue };
            match &forward.cluster {
                ClusterSpecifier::Single(name) => self.add_cluster(name),
                ClusterSpecifier::Weighted(clusters) => clusters.iter().for_each(|cluster| self.add_cluster(&cluster.name)),
            }
            forward.mirrors.iter().for_each(|mirror| self.add_cluster(&mirror.cluster));
        }
    }

    fn add_cluster(&mut self, name: &str) {
        if !self.clusters.contains(name) {
            self.clusters.insert(name.into());
        }
    }

    fn add_downstream_tls(&mut self, tls: &DownstreamTls) {
        self.add_secret(&tls.certificate, SecretName::Certificate);
        if let Some(roots) = &tls.client_roots {
            self.add_secret(roots, SecretName::Roots);
        }
    }

    fn add_upstream_tls(&mut self, tls: &UpstreamTls) {
        if let Some(certificate) = &tls.certificate {
            self.add_secret(certificate, SecretName::Certificate);
        }
        if let Some(roots) = &tls.roots {
            self.add_secret(roots, SecretName::Roots);
        }
    }

    fn add_secret(&mut self, secret: &SecretRef, kind: impl Fn(String) -> SecretName) {
        if secret.source == SecretSource::Ads {
            self.secrets.insert(kind(secret.name.clone()));
        }
    }
}
