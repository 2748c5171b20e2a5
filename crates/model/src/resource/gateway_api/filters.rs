//! What rules do to requests and responses besides sending them on.

use serde::{Deserialize, Serialize};

use super::reference::{BackendRef, LocalObjectReference};
use crate::resource::ProtoDuration;

/// One filter of a rule of an `HTTPRoute`: the field that belongs to its type is set, the others are not.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRouteFilter {
    /// Which.
    #[serde(rename = "type")]
    pub type_: HttpRouteFilterType,
    /// For `RequestHeaderModifier`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_header_modifier: Option<HeaderFilter>,
    /// For `ResponseHeaderModifier`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_header_modifier: Option<HeaderFilter>,
    /// For `RequestMirror`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_mirror: Option<MirrorFilter>,
    /// For `RequestRedirect`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_redirect: Option<RedirectFilter>,
    /// For `URLRewrite`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url_rewrite: Option<UrlRewriteFilter>,
    /// For `CORS`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cors: Option<CorsFilter>,
    /// For `ExtensionRef`: of another project, which the route's status then says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extension_ref: Option<LocalObjectReference>,
}

/// The types of [`HttpRouteFilter`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HttpRouteFilterType {
    /// Changes headers of requests.
    #[default]
    RequestHeaderModifier,
    /// Changes headers of responses.
    ResponseHeaderModifier,
    /// Copies requests to another backend.
    RequestMirror,
    /// Answers with a redirect.
    RequestRedirect,
    /// Changes host and path before forwarding.
    #[serde(rename = "URLRewrite")]
    UrlRewrite,
    /// Cross-origin rules.
    #[serde(rename = "CORS")]
    Cors,
    /// Something that this API does not define.
    ExtensionRef,
}

impl HttpRouteFilterType {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RequestHeaderModifier => "RequestHeaderModifier",
            Self::ResponseHeaderModifier => "ResponseHeaderModifier",
            Self::RequestMirror => "RequestMirror",
            Self::RequestRedirect => "RequestRedirect",
            Self::UrlRewrite => "URLRewrite",
            Self::Cors => "CORS",
            Self::ExtensionRef => "ExtensionRef",
        }
    }
}

/// One filter of a rule of a `GRPCRoute`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcRouteFilter {
    /// Which.
    #[serde(rename = "type")]
    pub type_: GrpcRouteFilterType,
    /// For `RequestHeaderModifier`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_header_modifier: Option<HeaderFilter>,
    /// For `ResponseHeaderModifier`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_header_modifier: Option<HeaderFilter>,
    /// For `RequestMirror`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_mirror: Option<MirrorFilter>,
    /// For `ExtensionRef`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extension_ref: Option<LocalObjectReference>,
}

/// The types of [`GrpcRouteFilter`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum GrpcRouteFilterType {
    /// Changes headers of requests.
    #[default]
    RequestHeaderModifier,
    /// Changes headers of responses.
    ResponseHeaderModifier,
    /// Copies requests to another backend.
    RequestMirror,
    /// Something that this API does not define.
    ExtensionRef,
}

impl From<&GrpcRouteFilter> for HttpRouteFilter {
    /// The same filter in the wider type.
    fn from(filter: &GrpcRouteFilter) -> Self {
        Self {
            type_: match filter.type_ {
                GrpcRouteFilterType::RequestHeaderModifier => HttpRouteFilterType::RequestHeaderModifier,
                GrpcRouteFilterType::ResponseHeaderModifier => HttpRouteFilterType::ResponseHeaderModifier,
                GrpcRouteFilterType::RequestMirror => HttpRouteFilterType::RequestMirror,
                GrpcRouteFilterType::ExtensionRef => HttpRouteFilterType::ExtensionRef,
            },
            request_header_modifier: filter.request_header_modifier.clone(),
            response_header_modifier: filter.response_header_modifier.clone(),
            request_mirror: filter.request_mirror.clone(),
            extension_ref: filter.extension_ref.clone(),
            ..Self::default()
        }
    }
}

/// A filter as the rules of both kinds of route have it.
pub trait BackendFilter {
    /// The same filter in the wider type.
    fn to_http(&self) -> HttpRouteFilter;
}

impl BackendFilter for HttpRouteFilter {
    fn to_http(&self) -> HttpRouteFilter {
        self.clone()
    }
}

impl BackendFilter for GrpcRouteFilter {
    fn to_http(&self) -> HttpRouteFilter {
        self.into()
    }
}

/// Changes of headers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderFilter {
    /// Overwrite or add.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<HeaderValue>,
    /// Append.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<HeaderValue>,
    /// Take away.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
}

/// A header.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderValue {
    /// Its name, in any case.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Copies requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct MirrorFilter {
    /// Where the copies go.
    pub backend_ref: BackendRef,
    /// Which share, in per cent; excludes `fraction`. All of them if both are absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<i32>,
    /// Which share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fraction: Option<Fraction>,
}

/// A share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Fraction {
    /// How many.
    pub numerator: i32,
    /// Of how many; 100 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub denominator: Option<i32>,
}

/// An answer that sends the client elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct RedirectFilter {
    /// `http` or `https`; kept if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// The new host; kept if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The new path; kept if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
    /// The new port; if absent, that of the scheme where one is written, else the listener's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<i64>,
    /// 302 if absent; 301, 303, 307 and 308 are the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u32>,
}

/// Changes of host and path before forwarding.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct UrlRewriteFilter {
    /// The new host; kept if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The new path; kept if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
}

/// A change of the path: the field that belongs to its type is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct PathModifier {
    /// Which.
    #[serde(rename = "type")]
    pub type_: PathModifierType,
    /// The whole new path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replace_full_path: Option<String>,
    /// What takes the place of the matched prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replace_prefix_match: Option<String>,
}

/// The types of [`PathModifier`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathModifierType {
    /// The whole path.
    #[default]
    ReplaceFullPath,
    /// The prefix that the rule's match has.
    ReplacePrefixMatch,
}

/// Cross-origin rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct CorsFilter {
    /// Origins, `SCHEME://HOST[:PORT]`, where the host may begin with `*.`; `*` is any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_origins: Vec<String>,
    /// For `access-control-allow-credentials`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_credentials: Option<bool>,
    /// For `access-control-allow-methods`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_methods: Vec<String>,
    /// For `access-control-allow-headers`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_headers: Vec<String>,
    /// For `access-control-expose-headers`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub expose_headers: Vec<String>,
    /// For `access-control-max-age`, in seconds; 5 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<i64>,
}

/// A duration of the Gateway API (GEP-2257), of which Go's syntax is the wider form.
pub(super) fn is_duration(duration: ProtoDuration) -> bool {
    duration.get().subsec_nanos().is_multiple_of(1_000_000)
}
