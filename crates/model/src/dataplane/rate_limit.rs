//! Limits on requests that each proxy keeps by itself (`envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit`).

use super::matcher::HeaderMatch;
use serde::Serialize;
use std::time::Duration;

/// The limits of one [`LocalRateLimit`](crate::resource::LocalRateLimit).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RateLimits {
    /// Whose they are, e.g. `shop/web`: limits of one name are kept in one place, however many listeners have them.
    pub name: String,
    /// A request needs a token of each that it matches.
    pub rules: Vec<RateLimitRule>,
    /// Whether refusals have a `retry-after`.
    pub retry_after: bool,
    /// How many clients each rule tells apart.
    pub max_clients: u32,
}

/// One limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RateLimitRule {
    /// Unique among the rules.
    pub name: String,
    /// Requests that it is for: all of these hold.
    pub headers: Vec<HeaderMatch>,
    /// What tells clients apart that have buckets of their own.
    pub client: Option<RateLimitClient>,
    /// The bucket.
    pub bucket: TokenBucket,
}

/// What tells clients apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RateLimitClient {
    /// The URI of the certificate that was verified.
    Identity,
    /// The client's address.
    Address,
    /// The value of this header, of lower-case name; without it the rule does not match.
    Header(String),
}

/// A token bucket (`envoy.type.v3.TokenBucket`), which fills evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct TokenBucket {
    /// Tokens of a full one; at least 1.
    pub max_tokens: u32,
    /// Tokens that come in each interval; at least 1.
    pub tokens_per_fill: u32,
    /// At least 50 ms.
    #[serde(serialize_with = "super::json::duration")]
    pub fill_interval: Duration,
}
