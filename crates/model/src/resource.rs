//! The resources as people write them: Kubernetes' and Istio's, typed, with the rules that make them valid.
//!
//! Every kind is read strictly: a field that the kind does not have is an error, as in a cluster with strict validation.
//! [`crate::manifest`] turns text into these types; `validate` finds what Istio's or Kubernetes' own validation would refuse,
//! and `unsupported` what is valid there and not implemented here yet.

pub mod address_allocation;
mod authorization_policy;
pub(crate) mod check;
mod config_map;
mod deployment;
mod destination_rule;
mod endpoint_slice;
mod export_to;
mod field;
mod gateway;
pub mod gateway_api;
pub mod host;
mod kind;
mod local_rate_limit;
mod meta;
mod namespace;
mod order;
mod peer_authentication;
mod pod;
mod pod_record;
mod scalar;
mod secret;
mod selector;
mod service;
mod service_account;
mod service_entry;
mod sidecar;
mod stateful_set;
mod virtual_service;
mod workload_entry;
mod workload_group;
mod workload_proxy_config;

pub use authorization_policy::{
    Action, AuthorizationPolicy, AuthorizationPolicySpec, Condition, ExtensionProviderRef, Operation, PolicyTargetReference,
    Rule, RuleFrom, RuleTo, Source,
};
pub use config_map::ConfigMap;
pub use deployment::{Deployment, DeploymentSpec, DeploymentStrategy, DeploymentStrategyType, PodTemplateSpec, RollingUpdate};
pub use destination_rule::{
    ClientTlsMode, ClientTlsSettings, ConnectionPoolSettings, ConsistentHash, DestinationRule, DestinationRuleSpec,
    H2UpgradePolicy, Http2KeepAlive, HttpCookie, HttpCookieAttribute, HttpPoolSettings, LoadBalancerSettings, LocalityDistribute,
    LocalityFailover, LocalityLbSetting, Maglev, OutlierDetection, PortTrafficPolicy, ProxyProtocol, ProxyProtocolVersion,
    RetryBudget, RingHash, SimpleLb, Subset, TcpKeepalive, TcpPoolSettings, TrafficPolicy, TunnelSettings, Warmup,
    ZoneAwareLbSetting,
};
pub(crate) use destination_rule::{check_keepalive, check_locality, check_zone_aware};
pub use endpoint_slice::{
    AddressType, EndpointConditions, EndpointPort, EndpointSlice, EndpointSubset, Endpoints, GivenEndpoint, GivenEndpoints,
    GivenPort, SERVICE_NAME_LABEL, SliceEndpoint, SubsetAddress, TargetReference,
};
pub use export_to::ExportTo;
pub(crate) use field::shorten;
pub use field::{FieldIssue, FieldPath, Issues, Segment, Warning};
pub use gateway::{
    CIPHER_SUITES, Gateway, GatewayHost, GatewayHostNamespace, GatewayPort, GatewaySpec, Server, ServerCertificateFiles,
    ServerProtocol, ServerTlsMode, ServerTlsSettings, TlsProtocolVersion, is_cipher_suite,
};
pub use host::{Host, HostError, HostMap};
pub use kind::{Kind, Resource, ResourceKey, Scope};
pub use local_rate_limit::{
    DEFAULT_CLIENTS, LocalRateLimit, LocalRateLimitSpec, MAX_CLIENTS, RateLimit, RateLimitClient, RateLimitMatch, RateLimitRule,
};
pub use meta::{Dropped, Object, ObjectMeta, Origin, Provenance, ROUTES_FROM, StringMap};
pub use namespace::{Namespace, NamespaceSpec};
pub use order::{CreationOrder, Timestamp};
pub use peer_authentication::{MutualTls, MutualTlsMode, PeerAuthentication, PeerAuthenticationSpec};
pub use pod::{
    ConfigMapKeySelector, ConfigMapVolume, Container, ContainerPort, ContainerRestartPolicy, DnsPolicy, DownwardApiFile,
    DownwardApiVolume, EmptyDirVolume, EnvFromSource, EnvSource, EnvVar, EnvVarSource, ExecAction, FieldSelector, GrpcAction,
    HostAlias, HttpGetAction, HttpHeader, HttpScheme, KeyToPath, Lifecycle, LifecycleHandler, Pod, PodSpec, Probe,
    ProjectedVolume, ProjectionSource, RestartPolicy, SecretProjection, SecretVolume, ServiceAccountTokenProjection, SleepAction,
    TcpSocketAction, Volume, VolumeMount,
};
pub use pod_record::{ClusterChange, ClusterState, PodPort, PodRecord, WorkloadRef};
pub use scalar::{Base64Bytes, DurationError, IntOrString, Passthrough, ProtoDuration};
pub use secret::{Secret, SecretText};
pub use selector::{LabelSelector, LabelSelectorRequirement, SelectorOperator, SidecarSelector, WorkloadSelector, is_subset};
pub use service::{
    EXPORT_TO_ANNOTATION, IpFamily, IpFamilyPolicy, NodeTrafficPolicy, Service, ServicePort, ServiceSpec, ServiceType,
    SessionAffinity, TrafficDistribution, TransportProtocol,
};
pub use service_account::ServiceAccount;
pub use service_entry::{
    NO_ADDRESSES_LABEL, ServiceEntry, ServiceEntryLocation, ServiceEntryPort, ServiceEntryResolution, ServiceEntrySpec,
};
pub use sidecar::{
    CaptureMode, EgressHost, EgressNamespace, IstioEgressListener, IstioIngressListener, OutboundTrafficMode,
    OutboundTrafficPolicy, Sidecar, SidecarPort, SidecarSpec,
};
pub use stateful_set::{
    PodManagementPolicy, RollingUpdateStatefulSet, StatefulSet, StatefulSetOrdinals, StatefulSetSpec, StatefulSetUpdateStrategy,
    StatefulSetUpdateType,
};
pub(crate) use virtual_service::retry_on;
pub use virtual_service::{
    CorsPolicy, Delegate, Destination, FaultAbort, FaultDelay, FaultInjection, HeaderOperations, Headers, HttpBody,
    HttpDirectResponse, HttpMatchRequest, HttpMirrorPolicy, HttpRedirect, HttpRetry, HttpRewrite, HttpRoute,
    HttpRouteDestination, L4MatchAttributes, MESH_GATEWAY, Percent, PortSelector, RedirectPortSelection, RegexRewrite,
    RouteDestination, StringMatch, TcpRoute, TlsMatchAttributes, TlsRoute, UnmatchedPreflights, VirtualService,
    VirtualServiceSpec,
};
pub use workload_entry::{WorkloadAddress, WorkloadEntry, WorkloadEntrySpec};
pub use workload_group::{HealthHttpGet, HealthTcpSocket, ReadinessProbe, WorkloadGroup, WorkloadGroupMeta, WorkloadGroupSpec};
pub use workload_proxy_config::{ProxyImage, WorkloadProxyConfig, WorkloadProxyConfigSpec};
