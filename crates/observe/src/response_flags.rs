//! Envoy's response flags: why a proxy, not the application, made or cut an answer.

use std::fmt;

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $short:literal,)*) => {
        /// One response flag, in Envoy's order.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum ResponseFlag {
            $($(#[$doc])* $name,)*
        }

        impl ResponseFlag {
            /// Every flag, in Envoy's order, which is the order of printing.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Envoy's short name, as in access logs and metrics.
            pub const fn short_name(self) -> &'static str {
                match self {
                    $(Self::$name => $short,)*
                }
            }
        }
    };
}

flags! {
    /// Local service failed its health check.
    FailedLocalHealthCheck = "LH",
    /// No healthy upstream host.
    NoHealthyUpstream = "UH",
    /// The upstream did not answer in time.
    UpstreamRequestTimeout = "UT",
    /// The connection was reset locally.
    LocalReset = "LR",
    /// The upstream reset the stream.
    UpstreamRemoteReset = "UR",
    /// The upstream could not be connected to.
    UpstreamConnectionFailure = "UF",
    /// The upstream ended the connection.
    UpstreamConnectionTermination = "UC",
    /// A circuit breaker was open.
    UpstreamOverflow = "UO",
    /// No route matched, or no filter chain.
    NoRouteFound = "NR",
    /// A delay was injected.
    DelayInjected = "DI",
    /// A fault was injected.
    FaultInjected = "FI",
    /// A local or global rate limit was hit.
    RateLimited = "RL",
    /// The external authorization service refused.
    UnauthorizedExternalService = "UAEX",
    /// The rate limit service failed.
    RateLimitServiceError = "RLSE",
    /// The client ended the connection.
    DownstreamConnectionTermination = "DC",
    /// Retries or TCP connection attempts were used up.
    UpstreamRetryLimitExceeded = "URX",
    /// The stream was idle for too long.
    StreamIdleTimeout = "SI",
    /// An `x-envoy-*` request header was not valid.
    InvalidEnvoyRequestHeaders = "IH",
    /// The client broke the HTTP protocol.
    DownstreamProtocolError = "DPE",
    /// The upstream stream lasted too long.
    UpstreamMaxStreamDurationReached = "UMSDR",
    /// A cache answered.
    ResponseFromCacheFilter = "RFCF",
    /// A filter's configuration had not arrived.
    NoFilterConfigFound = "NFCF",
    /// The request or connection lasted too long.
    DurationTimeout = "DT",
    /// The upstream broke the HTTP protocol.
    UpstreamProtocolError = "UPE",
    /// The route's cluster does not exist.
    NoClusterFound = "NC",
    /// The overload manager ended it.
    OverloadManagerTerminated = "OM",
    /// A name could not be resolved.
    DnsResolutionFailed = "DF",
    /// Dropped by the endpoints' drop policy.
    DropOverload = "DO",
    /// The client reset the stream.
    DownstreamRemoteReset = "DR",
}

/// A set of [`ResponseFlag`]s; prints as `-` when empty, else as short names joined by commas, in the order in which they were added,
/// as Envoy's.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ResponseFlags {
    set: u32,
    /// The first [`Self::ORDERED`] flags, each as its number and one, from the lowest bits.
    order: u64,
}

impl ResponseFlags {
    /// Bits of a flag's place, and how many flags have one: more than any request comes by.
    const WIDTH: u32 = 6;
    const ORDERED: u32 = u64::BITS / Self::WIDTH;

    /// No flags.
    pub const NONE: Self = Self { set: 0, order: 0 };

    /// The set with this flag added.
    #[must_use]
    pub const fn with(self, flag: ResponseFlag) -> Self {
        let count = self.set.count_ones();
        if self.contains(flag) {
            return self;
        }
        let place = if count < Self::ORDERED { (flag as u64 + 1) << (count * Self::WIDTH) } else { 0 };
        Self { set: self.set | 1 << flag as u32, order: self.order | place }
    }

    /// Adds a flag.
    pub const fn insert(&mut self, flag: ResponseFlag) {
        *self = self.with(flag);
    }

    /// Whether the set holds the flag.
    pub const fn contains(self, flag: ResponseFlag) -> bool {
        self.set & (1 << flag as u32) != 0
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.set == 0
    }

    /// The set and its order as numbers, for keys of caches.
    pub const fn key(self) -> (u32, u64) {
        (self.set, self.order)
    }

    /// The flags in the set, in the order in which they were added. Those that are more than anything ever has follow in the
    /// order of [`ResponseFlag::ALL`].
    pub fn iter(self) -> impl Iterator<Item = ResponseFlag> {
        let at = move |place: u32| usize::try_from(self.order >> (place * Self::WIDTH) & ((1 << Self::WIDTH) - 1)).unwrap_or(0);
        let ordered = (0..Self::ORDERED).map(at).filter_map(|number| ResponseFlag::ALL.get(number.wrapping_sub(1)).copied());
        let others = ResponseFlag::ALL.iter().copied().filter(move |flag| self.contains(*flag));
        let first = ordered.clone();
        ordered.chain(others.filter(move |flag| !first.clone().any(|f| f == *flag)))
    }

    /// Appends the printed form without allocating anything of its own.
    pub fn write_to(self, out: &mut Vec<u8>) {
        if self.is_empty() {
            out.push(b'-');
            return;
        }
        for (index, flag) in self.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(flag.short_name().as_bytes());
        }
    }
}

impl From<ResponseFlag> for ResponseFlags {
    fn from(flag: ResponseFlag) -> Self {
        Self::NONE.with(flag)
    }
}

impl FromIterator<ResponseFlag> for ResponseFlags {
    fn from_iter<I: IntoIterator<Item = ResponseFlag>>(flags: I) -> Self {
        flags.into_iter().fold(Self::NONE, Self::with)
    }
}

impl fmt::Display for ResponseFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        for (index, flag) in self.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            f.write_str(flag.short_name())?;
        }
        Ok(())
    }
}

impl fmt::Debug for ResponseFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::{ResponseFlag, ResponseFlags};
    use std::collections::HashSet;

    #[test]
    fn prints_in_the_order_of_adding() {
        let flags: ResponseFlags =
            [ResponseFlag::UpstreamRetryLimitExceeded, ResponseFlag::UpstreamConnectionFailure].into_iter().collect();
        assert_eq!(flags.to_string(), "URX,UF");
        assert_eq!(flags.with(ResponseFlag::UpstreamRetryLimitExceeded), flags, "a flag is there once");
        let other: ResponseFlags =
            [ResponseFlag::UpstreamConnectionFailure, ResponseFlag::UpstreamRetryLimitExceeded].into_iter().collect();
        assert_eq!(other.to_string(), "UF,URX");
        assert_ne!(other.key(), flags.key(), "as labels of metrics they are two");
        let mut out = b"x ".to_vec();
        flags.write_to(&mut out);
        assert_eq!(out, b"x URX,UF");
        assert_eq!(ResponseFlags::NONE.to_string(), "-");
    }

    #[test]
    fn every_flag_has_its_own_bit_and_name() {
        let names: HashSet<_> = ResponseFlag::ALL.iter().map(|flag| flag.short_name()).collect();
        assert_eq!((ResponseFlag::ALL.len(), names.len()), (29, 29));
        let all: ResponseFlags = ResponseFlag::ALL.iter().copied().collect();
        assert_eq!(all.key().0.count_ones(), 29);
        assert!(all.iter().eq(ResponseFlag::ALL.iter().copied()));
        assert!(ResponseFlag::ALL.iter().all(|flag| ResponseFlags::from(*flag).iter().eq([*flag])));
    }
}
