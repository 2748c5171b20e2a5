//! What of a request a consistent choice of endpoints goes by (`envoy.config.route.v3.RouteAction.HashPolicy`).

use serde::Serialize;
use std::time::Duration;

/// One ingredient of a request's hash. Those of a route are combined in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HashPolicy {
    /// What is hashed.
    pub key: HashKey,
    /// Whether later ingredients are left out once there is a hash.
    pub terminal: bool,
}

/// What is hashed. A request that does not have it gets no hash from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HashKey {
    /// A header, by its lower-case name.
    Header(String),
    /// A cookie.
    Cookie(HashCookie),
    /// The client's IP address.
    SourceIp,
    /// A query parameter, by its name.
    QueryParameter(String),
}

/// A cookie that is hashed, and how it is made for clients that have none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HashCookie {
    /// Its name.
    pub name: String,
    /// It is made if this is set; zero: for the browser's session.
    #[serde(serialize_with = "super::json::optional_duration")]
    pub ttl: Option<Duration>,
    /// Its path; empty is none.
    pub path: String,
    /// Further attributes: name and value; an empty value stands for the bare name.
    pub attributes: Vec<(String, String)>,
}

/// The largest ring (Envoy's bound).
const MAX_RING_SIZE: u32 = 8 * 1024 * 1024;

/// How many points a ring has (`RingHashLbConfig`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RingSize {
    minimum: u32,
    maximum: u32,
}

impl RingSize {
    /// At least `minimum` points, at most `maximum`.
    ///
    /// # Errors
    /// If one is 0 or above 8,388,608, or they contradict each other.
    pub fn try_new(minimum: u64, maximum: u64) -> Result<Self, TableSizeError> {
        let size = |n: u64| u32::try_from(n).ok().filter(|n| (1..=MAX_RING_SIZE).contains(n));
        match (size(minimum), size(maximum)) {
            (Some(minimum), Some(maximum)) if minimum <= maximum => Ok(Self { minimum, maximum }),
            _ => Err(TableSizeError::Ring { minimum, maximum }),
        }
    }

    /// At least so many points.
    pub fn minimum(self) -> u32 {
        self.minimum
    }

    /// At most so many points.
    pub fn maximum(self) -> u32 {
        self.maximum
    }
}

impl Default for RingSize {
    /// Envoy's: 1,024 to 8,388,608.
    fn default() -> Self {
        Self { minimum: 1024, maximum: MAX_RING_SIZE }
    }
}

/// How many places a Maglev table has (`MaglevLbConfig`): a prime number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct MaglevTableSize(u32);

impl MaglevTableSize {
    /// The largest prime that Envoy takes.
    pub const MAX: u32 = 5_000_011;

    /// A prime up to [`Self::MAX`].
    ///
    /// # Errors
    /// If it is not one.
    pub fn try_new(size: u64) -> Result<Self, TableSizeError> {
        let prime = |n: u32| n >= 2 && (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d));
        let small = u32::try_from(size).ok().filter(|n| *n <= Self::MAX && prime(*n));
        small.map(Self).ok_or(TableSizeError::Maglev(size))
    }

    /// The number of places.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl Default for MaglevTableSize {
    /// Envoy's.
    fn default() -> Self {
        Self(65_537)
    }
}

/// A table cannot have this size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableSizeError {
    /// Of a ring.
    #[error("a ring of {minimum} to {maximum} points: must be 1 to {MAX_RING_SIZE}, the minimum not above the maximum")]
    Ring {
        /// At least.
        minimum: u64,
        /// At most.
        maximum: u64,
    },
    /// Of a Maglev table.
    #[error("{0} places: must be a prime number up to {max}", max = MaglevTableSize::MAX)]
    Maglev(u64),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert!(RingSize::try_new(1, u64::from(MAX_RING_SIZE)).is_ok());
        for (minimum, maximum) in [(0, 5), (5, 4), (1, u64::from(MAX_RING_SIZE) + 1), (u64::MAX, u64::MAX)] {
            assert!(RingSize::try_new(minimum, maximum).is_err(), "{minimum} {maximum}");
        }
        for good in [2, 3, 65_537, 5_000_011] {
            assert_eq!(MaglevTableSize::try_new(good).map(MaglevTableSize::get).map(u64::from), Ok(good));
        }
        for bad in [0, 1, 4, 65_536, 65_539 * 3, 5_000_012, 5_000_077, u64::MAX] {
            assert_eq!(MaglevTableSize::try_new(bad), Err(TableSizeError::Maglev(bad)));
        }
    }
}
