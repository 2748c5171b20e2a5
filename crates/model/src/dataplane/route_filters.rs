//! What HTTP filters do on one route: faults, cross-origin rules and mirroring.

use super::matcher::StringMatch;
use serde::Serialize;
use std::time::Duration;

/// A share of requests, in millionths (`FractionalPercent` over a million); at most all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Share(u32);

impl Share {
    /// Every request.
    pub const ALL: Self = Self(1_000_000);

    /// `None` above all.
    pub fn of_million(millionths: u32) -> Option<Self> {
        (millionths <= Self::ALL.0).then_some(Self(millionths))
    }

    /// From per cent, as people write it; what lies outside 0 to 100 is cut off.
    pub fn of_percent(percent: f64) -> Self {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 1,000,000")]
        Self((percent.clamp(0.0, 100.0) * 10_000.0).round() as u32)
    }

    /// In millionths.
    pub fn millionths(self) -> u32 {
        self.0
    }

    /// Whether it is nothing at all.
    pub fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Whether a request with this uniformly random number belongs to the share.
    pub fn takes(self, random: u64) -> bool {
        random % u64::from(Self::ALL.0) < u64::from(self.0)
    }
}

/// Faults made on purpose (`envoy.extensions.filters.http.fault.v3.HTTPFault` of a route).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Requests that are held up.
    pub delay: Option<FaultDelay>,
    /// Requests that fail, after their delay.
    pub abort: Option<FaultAbort>,
}

/// Requests that are held up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FaultDelay {
    /// For how long.
    #[serde(serialize_with = "super::json::duration")]
    pub duration: Duration,
    /// Which share.
    pub share: Share,
}

/// Requests that fail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FaultAbort {
    /// With what.
    pub error: FaultError,
    /// Which share.
    pub share: Share,
}

/// The answer of a request that fails on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultError {
    /// An HTTP status, 200 to 599.
    Http(u16),
    /// A gRPC status.
    Grpc(u32),
}

/// Cross-origin rules (`envoy.extensions.filters.http.cors.v3.CorsPolicy` of a route).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cors {
    /// Origins that are allowed: any of them.
    pub origins: Vec<StringMatch>,
    /// `access-control-allow-methods`; empty is not sent, as with the other texts.
    pub allow_methods: String,
    /// `access-control-allow-headers`.
    pub allow_headers: String,
    /// `access-control-expose-headers`.
    pub expose_headers: String,
    /// `access-control-max-age`.
    pub max_age: String,
    /// Whether `access-control-allow-credentials: true` is sent.
    pub allow_credentials: bool,
    /// Whether preflights of other origins go to the upstream; else they are answered without permission.
    pub forward_unmatched_preflights: bool,
}

/// Copies of requests, whose answers nobody sees (`RequestMirrorPolicy`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mirror {
    /// Where they go.
    pub cluster: String,
    /// Which share of the requests.
    pub share: Share,
    /// Whether the host of the copy is the request's own; else `-shadow` is added to it.
    pub keep_host: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        for (percent, millionths) in [(0.0, 0), (0.0001, 1), (0.1, 1000), (33.3, 333_000), (100.0, 1_000_000), (250.0, 1_000_000)]
        {
            assert_eq!(Share::of_percent(percent).millionths(), millionths, "{percent}");
        }
        assert_eq!(Share::of_percent(-1.0), Share::of_percent(0.0));
        assert!(Share::of_million(1_000_001).is_none());
        let quarter = Share::of_percent(25.0);
        let taken = (0..1_000_000_u64).filter(|r| quarter.takes(*r)).count();
        assert_eq!(taken, 250_000);
        assert!(Share::ALL.takes(u64::MAX) && !Share::of_percent(0.0).takes(0));
    }
}
