//! The Kubernetes Gateway API (`gateway.networking.k8s.io`): its kinds as people write them.
//!
//! Names that Istio's kinds have too begin with `Kube` here: [`KubeGateway`] is the Gateway API's `Gateway`.

mod backend_tls_policy;
mod deployment;
mod filters;
mod frontend_tls;
mod gateway;
mod gateway_class;
mod grpc_route;
mod http_route;
mod l4_route;
mod reference;
mod reference_grant;
mod rule_check;

pub use backend_tls_policy::{
    BackendTlsPolicy, BackendTlsPolicySpec, BackendTlsValidation, PolicyTarget, SubjectAltName, SubjectAltNameType,
    WellKnownCaCertificates,
};
pub use deployment::{GATEWAY_NAME_LABEL, ManagedGateway};
pub use filters::{
    BackendFilter, CorsFilter, Fraction, GrpcRouteFilter, GrpcRouteFilterType, HeaderFilter, HeaderValue, HttpRouteFilter,
    HttpRouteFilterType, MirrorFilter, PathModifier, PathModifierType, RedirectFilter, UrlRewriteFilter,
};
pub use frontend_tls::{FrontendSettings, FrontendTls, FrontendValidation, FrontendValidationMode, GatewayTls, PortFrontendTls};
pub use gateway::{
    AddressType, AllowedRoutes, FromNamespaces, GatewayAddress, GatewayInfrastructure, KubeGateway, KubeGatewaySpec, Listener,
    ListenerProtocol, ListenerTls, ListenerTlsMode, RouteGroupKind, RouteNamespaces,
};
pub use gateway_class::{
    BUILT_IN_CLASSES, BuiltInClass, GATEWAY_CONTROLLER, GatewayClass, GatewayClassSpec, REMOTE_CLASS, UNMANAGED_CONTROLLER,
};
pub use grpc_route::{GrpcMethodMatch, GrpcMethodMatchType, GrpcRouteMatch, GrpcRouteRule, KubeGrpcRoute, KubeGrpcRouteSpec};
pub use http_route::HttpPathMatch;
pub use http_route::{
    HttpRetryPolicy, HttpTimeouts, HttpValueMatch, KubeHttpRoute, KubeHttpRouteMatch, KubeHttpRouteRule, KubeHttpRouteSpec,
    PathMatchType, ValueMatchType,
};
pub use l4_route::{KubeTcpRoute, KubeTcpRouteSpec, KubeTlsRoute, KubeTlsRouteSpec, L4RouteRule};
pub use reference::{
    BackendRef, CORE_GROUP, FilteredBackendRef, GATEWAY_GROUP, LocalObjectReference, ObjectReference, ParentReference,
};
pub use reference_grant::{GrantFrom, GrantTo, ReferenceGrant, ReferenceGrantSpec};
