//! The types of resources, in the order in which they are pushed.

use lateen_wire::type_url;
use std::fmt;

/// A type of resource. The order of the variants is the order of a push: what refers to a resource of another type comes
/// after what makes the reference safe (clusters before endpoints, both before listeners, then routes and secrets).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceType {
    /// What the mesh has, in short; see [`crate::on_demand`].
    Index,
    /// Questions of a proxy that learns services on demand; see [`crate::on_demand`]. Answered after all else that a
    /// question brings.
    Lookup,
    /// Clusters.
    Cds,
    /// Endpoints.
    Eds,
    /// Listeners.
    Lds,
    /// Routes.
    Rds,
    /// Secrets.
    Sds,
    /// Workloads and services (ambient).
    Address,
    /// Workloads (ambient).
    Workload,
    /// Authorization policies (ambient).
    Authorization,
    /// Configuration of extensions.
    Ecds,
    /// Istio's table of names: one resource with an empty name.
    Nds,
    /// Istio's proxy configuration.
    Pcds,
}

impl ResourceType {
    /// How many there are.
    pub const COUNT: usize = 13;

    /// All, in push order.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Index,
        Self::Lookup,
        Self::Cds,
        Self::Eds,
        Self::Lds,
        Self::Rds,
        Self::Sds,
        Self::Address,
        Self::Workload,
        Self::Authorization,
        Self::Ecds,
        Self::Nds,
        Self::Pcds,
    ];

    /// The type URL.
    pub const fn type_url(self) -> &'static str {
        match self {
            Self::Index => "type.googleapis.com/lateen.discovery.v1.IndexShard",
            Self::Lookup => "type.googleapis.com/lateen.discovery.v1.Lookup",
            Self::Cds => type_url::CLUSTER,
            Self::Eds => type_url::CLUSTER_LOAD_ASSIGNMENT,
            Self::Lds => type_url::LISTENER,
            Self::Rds => type_url::ROUTE_CONFIGURATION,
            Self::Sds => type_url::SECRET,
            Self::Address => "type.googleapis.com/istio.workload.Address",
            Self::Workload => "type.googleapis.com/istio.workload.Workload",
            Self::Authorization => "type.googleapis.com/istio.security.Authorization",
            Self::Ecds => "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
            Self::Nds => type_url::NAME_TABLE,
            Self::Pcds => "type.googleapis.com/istio.mesh.v1alpha1.ProxyConfig",
        }
    }

    /// The type of a type URL.
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.type_url() == url)
    }

    /// Istio's short name, e.g. `CDS`.
    pub const fn short_name(self) -> &'static str {
        match self {
            Self::Index => "INDEX",
            Self::Lookup => "LOOKUP",
            Self::Cds => "CDS",
            Self::Eds => "EDS",
            Self::Lds => "LDS",
            Self::Rds => "RDS",
            Self::Sds => "SDS",
            Self::Address => "WDS",
            Self::Workload => "WORKLOAD",
            Self::Authorization => "WADS",
            Self::Ecds => "ECDS",
            Self::Nds => "NDS",
            Self::Pcds => "PCDS",
        }
    }

    /// The type of a short name.
    pub fn from_short_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.short_name() == name)
    }

    /// Whether a subscription without names asks for everything. For the other types it asks for nothing.
    pub const fn is_wildcard(self) -> bool {
        !matches!(self, Self::Lookup | Self::Eds | Self::Rds | Self::Sds | Self::Ecds)
    }

    /// Whether a response in the state-of-the-world protocol must hold every resource, because what is missing is removed
    /// (clusters and listeners). Resources of the other types are removed by what refers to them; questions are answered also when the answer is
    /// that there is nothing.
    pub const fn is_full_state(self) -> bool {
        self.is_wildcard() || matches!(self, Self::Lookup)
    }

    const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short_name())
    }
}

/// A value for each type of resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TypeMap<T>([T; ResourceType::COUNT]);

impl<T> TypeMap<T> {
    /// In push order.
    pub fn iter(&self) -> impl Iterator<Item = (ResourceType, &T)> {
        ResourceType::ALL.into_iter().zip(&self.0)
    }
}

impl<T> std::ops::Index<ResourceType> for TypeMap<T> {
    type Output = T;

    fn index(&self, ty: ResourceType) -> &T {
        &self.0[ty.index()]
    }
}

impl<T> std::ops::IndexMut<ResourceType> for TypeMap<T> {
    fn index_mut(&mut self, ty: ResourceType) -> &mut T {
        &mut self.0[ty.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_order() {
        for (i, ty) in ResourceType::ALL.into_iter().enumerate() {
            assert_eq!(ty.index(), i);
            assert_eq!(ResourceType::from_type_url(ty.type_url()), Some(ty));
            assert_eq!(ResourceType::from_short_name(ty.short_name()), Some(ty));
        }
        assert_eq!(ResourceType::from_type_url("type.googleapis.com/envoy.config.cluster.v3.cluster"), None);
    }

    #[test]
    fn names_without_a_subscription() {
        let wildcard: Vec<_> = ResourceType::ALL.into_iter().filter(|t| t.is_wildcard()).map(ResourceType::short_name).collect();
        assert_eq!(wildcard, ["INDEX", "CDS", "LDS", "WDS", "WORKLOAD", "WADS", "NDS", "PCDS"]);
    }
}
