//! Parts of an HTTP route for tests and browsers: faults, mirroring, cross-origin rules.

use serde::{Deserialize, Serialize};

use super::{Destination, StringMatch};
use crate::resource::ProtoDuration;

/// A share of requests, 0 to 100.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Percent {
    /// In per cent; the smallest share above zero is 0.0001.
    pub value: f64,
}

/// Delays and errors made on purpose.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultInjection {
    /// Hold requests up.
    pub delay: Option<FaultDelay>,
    /// Fail requests.
    pub abort: Option<FaultAbort>,
}

/// Holds requests up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultDelay {
    /// Deprecated by `percentage`.
    pub percent: Option<i32>,
    /// For how long; excludes `exponentialDelay`.
    pub fixed_delay: Option<ProtoDuration>,
    /// Defined, and without an effect in Istio too.
    pub exponential_delay: Option<ProtoDuration>,
    /// Which share.
    pub percentage: Option<Percent>,
}

/// Fails requests; at most one of the three kinds of error.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultAbort {
    /// 200 to 600.
    pub http_status: Option<i32>,
    /// A name such as `UNAVAILABLE`, or a number.
    pub grpc_status: Option<String>,
    /// Defined, and without an effect in Istio too.
    pub http2_error: Option<String>,
    /// Which share; none if absent.
    pub percentage: Option<Percent>,
}

/// Copies requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpMirrorPolicy {
    /// Where the copies go.
    pub destination: Option<Destination>,
    /// Which share; 100% if absent.
    pub percentage: Option<Percent>,
}

/// Cross-origin resource sharing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct CorsPolicy {
    /// Deprecated by `allowOrigins`.
    pub allow_origin: Vec<String>,
    /// Origins that are allowed.
    pub allow_origins: Vec<StringMatch>,
    /// For `access-control-allow-methods`.
    pub allow_methods: Vec<String>,
    /// For `access-control-allow-headers`.
    pub allow_headers: Vec<String>,
    /// For `access-control-expose-headers`.
    pub expose_headers: Vec<String>,
    /// For `access-control-max-age`, in whole seconds.
    pub max_age: Option<ProtoDuration>,
    /// For `access-control-allow-credentials`.
    pub allow_credentials: Option<bool>,
    /// What becomes of preflights from other origins.
    pub unmatched_preflights: UnmatchedPreflights,
}

/// What becomes of preflights from origins that are not allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum UnmatchedPreflights {
    /// The same as `FORWARD`.
    #[default]
    Unspecified,
    /// The destination answers.
    Forward,
    /// The proxy answers without cross-origin headers.
    Ignore,
}

/// gRPC's statuses, each at the place of its number.
pub(super) const GRPC_STATUSES: &[&str] = &[
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

impl FaultAbort {
    /// The number of `grpcStatus`; `None` if it is absent or no status.
    pub fn grpc_code(&self) -> Option<u32> {
        let name = self.grpc_status.as_deref()?;
        u32::try_from(GRPC_STATUSES.iter().position(|status| *status == name)?).ok()
    }
}
