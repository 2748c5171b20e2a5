//! The kinds that are read, and the enumeration of their objects.

use std::fmt;
use std::sync::Arc;

use super::gateway_api::{
    BackendTlsPolicy, GatewayClass, KubeGateway, KubeGrpcRoute, KubeHttpRoute, KubeTcpRoute, KubeTlsRoute, ReferenceGrant,
};
use super::meta::validate_metadata;
use super::{
    AuthorizationPolicy, ConfigMap, Deployment, DestinationRule, EndpointSlice, Endpoints, FieldIssue, Gateway, Issues,
    LocalRateLimit, Namespace, ObjectMeta, Origin, PeerAuthentication, Pod, Secret, Service, ServiceAccount, ServiceEntry,
    Sidecar, StatefulSet, VirtualService, WorkloadEntry, WorkloadGroup, WorkloadProxyConfig,
};

/// Makes [`Kind`] and [`Resource`] from one table, so that no kind is forgotten anywhere.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident as $name:literal, $scope:ident, [$($api_version:literal),+];)+) => {
        /// A kind of resource that is read.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $($(#[$doc])* $kind,)+
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$kind),+];

            /// The name in a manifest's `kind`. Kinds of different groups may share one.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)+
                }
            }

            /// The values of `apiVersion` that are read, the preferred one first.
            pub const fn api_versions(self) -> &'static [&'static str] {
                match self {
                    $(Self::$kind => &[$($api_version),+],)+
                }
            }

            /// Whether its objects live in a namespace.
            pub const fn scope(self) -> Scope {
                match self {
                    $(Self::$kind => Scope::$scope,)+
                }
            }
        }

        /// An object of any kind. Cheap to clone.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Resource {
            $($(#[$doc])* $kind(Arc<$kind>),)+
        }

        impl Resource {
            /// Its kind.
            pub fn kind(&self) -> Kind {
                match self {
                    $(Self::$kind(_) => Kind::$kind,)+
                }
            }

            /// Its metadata.
            pub fn metadata(&self) -> &ObjectMeta {
                match self {
                    $(Self::$kind(object) => &object.metadata,)+
                }
            }

            /// Finds what Istio's or Kubernetes' own validation would refuse or warn about.
            pub fn validate(&self, issues: &mut Issues) {
                validate_metadata(self.kind(), self.metadata(), issues);
                match self {
                    $(Self::$kind(object) => object.validate(issues),)+
                }
            }

            /// Lists fields that are valid in Istio or Kubernetes and that this version does not implement. They would change
            /// what the mesh does, so the object is refused instead of being followed in part.
            pub fn unsupported(&self) -> Vec<FieldIssue> {
                match self {
                    $(Self::$kind(object) => object.unsupported(),)+
                }
            }

            /// As JSON. Fields that were left out are there too, empty.
            ///
            /// # Errors
            /// Never, for the kinds that there are.
            pub fn to_json(&self) -> serde_json::Result<serde_json::Value> {
                match self {
                    $(Self::$kind(object) => serde_json::to_value(&**object),)+
                }
            }

            /// Its metadata, to be changed; copies the object if it is shared.
            pub fn metadata_mut(&mut self) -> &mut ObjectMeta {
                match self {
                    $(Self::$kind(object) => &mut Arc::make_mut(object).metadata,)+
                }
            }
        }

        $(impl From<$kind> for Resource {
            fn from(object: $kind) -> Self {
                Self::$kind(Arc::new(object))
            }
        })+
    };
}

kinds! {
    /// `v1 Namespace`.
    Namespace as "Namespace", Cluster, ["v1"];
    /// `v1 ServiceAccount`.
    ServiceAccount as "ServiceAccount", Namespaced, ["v1"];
    /// `v1 ConfigMap`.
    ConfigMap as "ConfigMap", Namespaced, ["v1"];
    /// `v1 Secret`.
    Secret as "Secret", Namespaced, ["v1"];
    /// `v1 Service`.
    Service as "Service", Namespaced, ["v1"];
    /// `v1 Pod`.
    Pod as "Pod", Namespaced, ["v1"];
    /// `apps/v1 Deployment`.
    Deployment as "Deployment", Namespaced, ["apps/v1"];
    /// `apps/v1 StatefulSet`.
    StatefulSet as "StatefulSet", Namespaced, ["apps/v1"];
    /// `v1 Endpoints`.
    Endpoints as "Endpoints", Namespaced, ["v1"];
    /// `discovery.k8s.io/v1 EndpointSlice`.
    EndpointSlice as "EndpointSlice", Namespaced, ["discovery.k8s.io/v1"];
    /// Istio's `VirtualService`.
    VirtualService as "VirtualService", Namespaced, ["networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3"];
    /// Istio's `DestinationRule`.
    DestinationRule as "DestinationRule", Namespaced, ["networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3"];
    /// Istio's `Gateway`.
    Gateway as "Gateway", Namespaced, ["networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3"];
    /// Istio's `Sidecar`.
    Sidecar as "Sidecar", Namespaced, ["networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3"];
    /// Istio's `ServiceEntry`.
    ServiceEntry as "ServiceEntry", Namespaced, ["networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3"];
    /// Istio's `WorkloadEntry`.
    WorkloadEntry as "WorkloadEntry", Namespaced, ["networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3"];
    /// Istio's `WorkloadGroup`.
    WorkloadGroup as "WorkloadGroup", Namespaced, ["networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3"];
    /// Istio's `PeerAuthentication`.
    PeerAuthentication as "PeerAuthentication", Namespaced, ["security.istio.io/v1", "security.istio.io/v1beta1"];
    /// Istio's `AuthorizationPolicy`.
    AuthorizationPolicy as "AuthorizationPolicy", Namespaced, ["security.istio.io/v1", "security.istio.io/v1beta1"];
    /// Istio's `ProxyConfig`.
    WorkloadProxyConfig as "ProxyConfig", Namespaced, ["networking.istio.io/v1beta1"];
    /// The project's own limits on requests.
    LocalRateLimit as "LocalRateLimit", Namespaced, ["policy.lateen.dev/v1alpha1"];
    /// The Gateway API's `GatewayClass`.
    GatewayClass as "GatewayClass", Cluster, ["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"];
    /// The Gateway API's `Gateway`.
    KubeGateway as "Gateway", Namespaced, ["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"];
    /// The Gateway API's `HTTPRoute`.
    KubeHttpRoute as "HTTPRoute", Namespaced, ["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"];
    /// The Gateway API's `GRPCRoute`.
    KubeGrpcRoute as "GRPCRoute", Namespaced, ["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1alpha2"];
    /// The Gateway API's `TCPRoute`.
    KubeTcpRoute as "TCPRoute", Namespaced, ["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1alpha2"];
    /// The Gateway API's `TLSRoute`.
    KubeTlsRoute as "TLSRoute", Namespaced,
        ["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1alpha3", "gateway.networking.k8s.io/v1alpha2"];
    /// The Gateway API's `ReferenceGrant`.
    ReferenceGrant as "ReferenceGrant", Namespaced, ["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"];
    /// The Gateway API's `BackendTLSPolicy`.
    BackendTlsPolicy as "BackendTLSPolicy", Namespaced, ["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1alpha3"];
}

impl Kind {
    /// Whether Istio defines it.
    pub fn is_istio(self) -> bool {
        self.api_versions().iter().any(|version| version.contains(".istio.io/"))
    }

    /// Whether the Kubernetes Gateway API defines it.
    pub fn is_gateway_api(self) -> bool {
        self.group() == super::gateway_api::GATEWAY_GROUP
    }

    /// The kinds that a word means, as people write it on a command line: a kind in any case, in the singular or the plural, one of
    /// the usual short forms, each with or without `.GROUP` behind it. Several, where groups share a name; none, if there is none.
    pub fn from_word(word: &str) -> Vec<Self> {
        let word = word.to_ascii_lowercase();
        let (name, group) = match word.split_once('.') {
            Some((name, group)) => (name, Some(group)),
            None => (word.as_str(), None),
        };
        let name = SHORT_NAMES.iter().find(|(short, _)| *short == name).map_or(name, |(_, long)| long);
        let is_named = |kind: &Self| {
            let own = kind.name().to_ascii_lowercase();
            let plural = match own.strip_suffix('y') {
                Some(stem) if !own.ends_with("ay") => format!("{stem}ies"),
                _ if own.ends_with('s') => format!("{own}es"),
                _ => format!("{own}s"),
            };
            name == own || name == plural
        };
        Self::ALL.iter().copied().filter(is_named).filter(|kind| group.is_none_or(|group| kind.group() == group)).collect()
    }

    /// Its API group; empty for Kubernetes' core.
    pub fn group(self) -> &'static str {
        self.api_versions()[0].split_once('/').map_or("", |(group, _)| group)
    }
}

/// Short forms that `kubectl` knows, and what they stand for.
const SHORT_NAMES: &[(&str, &str)] = &[
    ("ns", "namespace"),
    ("sa", "serviceaccount"),
    ("cm", "configmap"),
    ("svc", "service"),
    ("po", "pod"),
    ("deploy", "deployment"),
    ("sts", "statefulset"),
    ("ep", "endpoints"),
    ("vs", "virtualservice"),
    ("dr", "destinationrule"),
    ("gw", "gateway"),
    ("gtw", "gateway"),
    ("se", "serviceentry"),
    ("we", "workloadentry"),
    ("wg", "workloadgroup"),
    ("pa", "peerauthentication"),
    ("ap", "authorizationpolicy"),
    ("lrl", "localratelimit"),
    ("gc", "gatewayclass"),
    ("refgrant", "referencegrant"),
    ("btlspolicy", "backendtlspolicy"),
];

/// Where the objects of a kind live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In the cluster as a whole.
    Cluster,
    /// In a namespace.
    Namespaced,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What identifies an object: two documents with one key are two versions of one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceKey {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty for cluster-scoped kinds.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for ResourceKey {
    /// `Kind namespace/name`, without the namespace if there is none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "{} {}", self.kind, self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind, self.name),
        }
    }
}

impl Resource {
    /// What identifies it.
    pub fn key(&self) -> ResourceKey {
        let metadata = self.metadata();
        ResourceKey { kind: self.kind(), namespace: metadata.namespace.clone(), name: metadata.name.clone() }
    }

    /// Where it was read.
    pub fn origin(&self) -> &Origin {
        &self.metadata().provenance.origin
    }

    /// Whether both want the same, whatever their metadata say.
    pub fn same_spec(&self, other: &Self) -> bool {
        let bare = |resource: &Self| {
            let mut copy = resource.clone();
            *copy.metadata_mut() = ObjectMeta::default();
            copy
        };
        bare(self) == bare(other)
    }

    /// Whether both say the same: where they were read and what an API server adds is left out of the comparison.
    pub fn same_content(&self, other: &Self) -> bool {
        let bare = |resource: &Self| {
            let mut copy = resource.clone();
            copy.metadata_mut().clear_server_fields();
            copy
        };
        bare(self) == bare(other)
    }
}
