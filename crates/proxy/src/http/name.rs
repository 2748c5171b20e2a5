//! Header names and values: the names a mesh looks at have a number, and both are checked where they are made.

use std::fmt;

macro_rules! known_headers {
    ($($variant:ident = $text:literal,)*) => {
        /// A header name that some part of the proxy looks for, so that looking is a comparison of one byte.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum KnownHeader {
            $(#[doc = concat!("The header ", stringify!($text), ".")] $variant,)*
            /// Any other name; only the bytes tell which.
            Other,
        }

        impl KnownHeader {
            /// Every known name.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in lower case; empty for `Other`.
            #[must_use]
            pub const fn as_bytes(self) -> &'static [u8] {
                match self {
                    $(Self::$variant => $text,)*
                    Self::Other => b"",
                }
            }
        }
    };
}

known_headers! {
    Accept = b"accept",
    AcceptEncoding = b"accept-encoding",
    Authorization = b"authorization",
    B3 = b"b3",
    Baggage = b"baggage",
    CacheControl = b"cache-control",
    Connection = b"connection",
    ContentEncoding = b"content-encoding",
    ContentLength = b"content-length",
    ContentRange = b"content-range",
    ContentType = b"content-type",
    Cookie = b"cookie",
    Date = b"date",
    Expect = b"expect",
    GrpcEncoding = b"grpc-encoding",
    GrpcMessage = b"grpc-message",
    GrpcStatus = b"grpc-status",
    GrpcTimeout = b"grpc-timeout",
    Host = b"host",
    Http2Settings = b"http2-settings",
    KeepAlive = b"keep-alive",
    Location = b"location",
    Origin = b"origin",
    ProxyConnection = b"proxy-connection",
    RetryAfter = b"retry-after",
    SecWebsocketAccept = b"sec-websocket-accept",
    SecWebsocketKey = b"sec-websocket-key",
    Server = b"server",
    SetCookie = b"set-cookie",
    Te = b"te",
    Traceparent = b"traceparent",
    Tracestate = b"tracestate",
    Trailer = b"trailer",
    TransferEncoding = b"transfer-encoding",
    Upgrade = b"upgrade",
    UserAgent = b"user-agent",
    Via = b"via",
    XB3Flags = b"x-b3-flags",
    XB3ParentSpanId = b"x-b3-parentspanid",
    XB3Sampled = b"x-b3-sampled",
    XB3SpanId = b"x-b3-spanid",
    XB3TraceId = b"x-b3-traceid",
    XClientTraceId = b"x-client-trace-id",
    XEnvoyAttemptCount = b"x-envoy-attempt-count",
    XEnvoyDecoratorOperation = b"x-envoy-decorator-operation",
    XEnvoyDegraded = b"x-envoy-degraded",
    XEnvoyExpectedRqTimeoutMs = b"x-envoy-expected-rq-timeout-ms",
    XEnvoyExternalAddress = b"x-envoy-external-address",
    XEnvoyForceTrace = b"x-envoy-force-trace",
    XEnvoyHedgeOnPerTryTimeout = b"x-envoy-hedge-on-per-try-timeout",
    XEnvoyImmediateHealthCheckFail = b"x-envoy-immediate-health-check-fail",
    XEnvoyInternal = b"x-envoy-internal",
    XEnvoyIpTags = b"x-envoy-ip-tags",
    XEnvoyIsTimeoutRetry = b"x-envoy-is-timeout-retry",
    XEnvoyLocalOverloaded = b"x-envoy-local-overloaded",
    XEnvoyMaxRetries = b"x-envoy-max-retries",
    XEnvoyOriginalDstHost = b"x-envoy-original-dst-host",
    XEnvoyOriginalHost = b"x-envoy-original-host",
    XEnvoyOriginalMethod = b"x-envoy-original-method",
    XEnvoyOriginalPath = b"x-envoy-original-path",
    XEnvoyOriginalUrl = b"x-envoy-original-url",
    XEnvoyOverloaded = b"x-envoy-overloaded",
    XEnvoyPeerMetadata = b"x-envoy-peer-metadata",
    XEnvoyPeerMetadataId = b"x-envoy-peer-metadata-id",
    XEnvoyRateLimited = b"x-envoy-ratelimited",
    XEnvoyRetriableHeaderNames = b"x-envoy-retriable-header-names",
    XEnvoyRetriableStatusCodes = b"x-envoy-retriable-status-codes",
    XEnvoyRetryGrpcOn = b"x-envoy-retry-grpc-on",
    XEnvoyRetryOn = b"x-envoy-retry-on",
    XEnvoyUpstreamAltStatName = b"x-envoy-upstream-alt-stat-name",
    XEnvoyUpstreamCanary = b"x-envoy-upstream-canary",
    XEnvoyUpstreamHealthCheckedCluster = b"x-envoy-upstream-healthchecked-cluster",
    XEnvoyUpstreamRqPerTryTimeoutMs = b"x-envoy-upstream-rq-per-try-timeout-ms",
    XEnvoyUpstreamRqTimeoutAltResponse = b"x-envoy-upstream-rq-timeout-alt-response",
    XEnvoyUpstreamRqTimeoutMs = b"x-envoy-upstream-rq-timeout-ms",
    XEnvoyUpstreamServiceTime = b"x-envoy-upstream-service-time",
    XEnvoyUpstreamStreamDurationMs = b"x-envoy-upstream-stream-duration-ms",
    XForwardedClientCert = b"x-forwarded-client-cert",
    XForwardedFor = b"x-forwarded-for",
    XForwardedHost = b"x-forwarded-host",
    XForwardedPort = b"x-forwarded-port",
    XForwardedProto = b"x-forwarded-proto",
    XIstioAttributes = b"x-istio-attributes",
    XOtSpanContext = b"x-ot-span-context",
    XRequestId = b"x-request-id",
}

/// Slots of the hash table of names: enough for short probes.
const SLOTS: usize = 256;

/// Where the search for a name starts. Length, ends and a byte before the end tell most of the names apart.
const fn slot_of(name: &[u8]) -> usize {
    let n = name.len();
    if n < 2 {
        return 0;
    }
    (n.wrapping_mul(7))
        .wrapping_add((name[0] as usize).wrapping_mul(3))
        .wrapping_add((name[n - 1] as usize).wrapping_mul(37))
        .wrapping_add((name[n - 2] as usize).wrapping_mul(11))
        % SLOTS
}

/// The names by [`slot_of`], each in the first free slot from there; `Other` and no name where there is none.
static TABLE: [(KnownHeader, &[u8]); SLOTS] = {
    let mut table: [(KnownHeader, &[u8]); SLOTS] = [(KnownHeader::Other, b""); SLOTS];
    let mut i = 0;
    while i < KnownHeader::ALL.len() {
        let known = KnownHeader::ALL[i];
        let mut slot = slot_of(known.as_bytes());
        while !matches!(table[slot].0, KnownHeader::Other) {
            slot = (slot + 1) % SLOTS;
        }
        table[slot] = (known, known.as_bytes());
        i += 1;
    }
    table
};

impl KnownHeader {
    /// The number of a lower-case name, or `Other`.
    #[must_use]
    pub fn of(name: &[u8]) -> Self {
        let mut slot = slot_of(name);
        loop {
            let (known, bytes) = TABLE[slot];
            if known == Self::Other || bytes == name {
                return known;
            }
            slot = (slot + 1) % SLOTS;
        }
    }

    /// The name in lower case; empty for `Other`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match std::str::from_utf8(self.as_bytes()) {
            Ok(s) => s,
            Err(_) => "",
        }
    }

    /// Whether a trailer section must not carry it: framing, routing, request control, authentication and content format
    /// (RFC 9110 §6.5.1).
    #[must_use]
    pub const fn is_forbidden_in_trailers(self) -> bool {
        matches!(
            self,
            Self::Authorization
                | Self::CacheControl
                | Self::Connection
                | Self::ContentEncoding
                | Self::ContentLength
                | Self::ContentRange
                | Self::ContentType
                | Self::Cookie
                | Self::Expect
                | Self::Host
                | Self::Http2Settings
                | Self::KeepAlive
                | Self::ProxyConnection
                | Self::SetCookie
                | Self::Te
                | Self::Trailer
                | Self::TransferEncoding
                | Self::Upgrade
                | Self::Via
                | Self::XForwardedClientCert
                | Self::XForwardedFor
                | Self::XForwardedHost
                | Self::XForwardedProto
        )
    }
}

/// A set of known names, and of [`KnownHeader::Other`] as one more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names(u128);

const _: () = assert!(KnownHeader::ALL.len() < 128, "a header has a bit of its own");

impl Names {
    pub(crate) const NONE: Self = Self(0);
    /// What would steer how a proxy serves a request (tries, timeouts, traces), or claims what only a proxy may claim. Envoy takes
    /// these off every request that is not internal, and none is: an address proves nothing.
    pub(crate) const STEERING: Self = Self::of(&[
        KnownHeader::XEnvoyDecoratorOperation,
        KnownHeader::XEnvoyExpectedRqTimeoutMs,
        KnownHeader::XEnvoyForceTrace,
        KnownHeader::XEnvoyHedgeOnPerTryTimeout,
        KnownHeader::XEnvoyInternal,
        KnownHeader::XEnvoyIpTags,
        KnownHeader::XEnvoyMaxRetries,
        KnownHeader::XEnvoyOriginalUrl,
        KnownHeader::XEnvoyRetriableHeaderNames,
        KnownHeader::XEnvoyRetriableStatusCodes,
        KnownHeader::XEnvoyRetryGrpcOn,
        KnownHeader::XEnvoyRetryOn,
        KnownHeader::XEnvoyUpstreamAltStatName,
        KnownHeader::XEnvoyUpstreamRqPerTryTimeoutMs,
        KnownHeader::XEnvoyUpstreamRqTimeoutAltResponse,
        KnownHeader::XEnvoyUpstreamRqTimeoutMs,
    ]);

    /// These names.
    pub(crate) const fn of(names: &[KnownHeader]) -> Self {
        let mut bits = 0;
        let mut i = 0;
        while i < names.len() {
            bits |= 1 << names[i] as u8;
            i += 1;
        }
        Self(bits)
    }

    pub(crate) const fn add(&mut self, name: KnownHeader) {
        self.0 |= 1 << name as u8;
    }

    pub(crate) const fn has(self, name: KnownHeader) -> bool {
        self.0 & (1 << name as u8) != 0
    }

    pub(crate) const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// A header name that is not a token of RFC 9110 §5.6.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a header name must be one or more letters, digits or any of !#$%&'*+-.^_`|~")]
pub struct InvalidName;

/// A header value with a control character.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a header value must not have a control character other than a tab")]
pub struct InvalidValue;

/// A checked header name: a lower-case token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name<'a> {
    known: KnownHeader,
    bytes: &'a [u8],
}

impl<'a> Name<'a> {
    /// # Errors
    /// If `bytes` is not a token in lower case.
    pub fn new(bytes: &'a [u8]) -> Result<Self, InvalidName> {
        if bytes.is_empty() || !bytes.iter().all(|&b| is_token(b) && !b.is_ascii_uppercase()) {
            return Err(InvalidName);
        }
        Ok(Self { known: KnownHeader::of(bytes), bytes })
    }

    /// A name the caller has checked already.
    pub(crate) const fn from_parts(known: KnownHeader, bytes: &'a [u8]) -> Self {
        Self { known, bytes }
    }

    /// Which known name it is.
    #[must_use]
    pub const fn known(self) -> KnownHeader {
        self.known
    }

    /// The name in lower case.
    #[must_use]
    pub const fn as_bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// The name in lower case.
    #[must_use]
    pub fn as_str(self) -> &'a str {
        std::str::from_utf8(self.bytes).unwrap_or_default()
    }
}

impl fmt::Debug for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl From<KnownHeader> for Name<'_> {
    fn from(known: KnownHeader) -> Self {
        debug_assert!(known != KnownHeader::Other, "`Other` stands for many names");
        Self { known, bytes: known.as_bytes() }
    }
}

impl<'a> From<&'a OwnedName> for Name<'a> {
    fn from(name: &'a OwnedName) -> Self {
        Self { known: name.known, bytes: &name.bytes }
    }
}

impl<'a> From<&'a ::http::HeaderName> for Name<'a> {
    fn from(name: &'a ::http::HeaderName) -> Self {
        let bytes = name.as_str().as_bytes();
        Self { known: KnownHeader::of(bytes), bytes }
    }
}

/// A checked header name that configuration keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedName {
    known: KnownHeader,
    bytes: Box<[u8]>,
}

impl OwnedName {
    /// Accepts any case and keeps the lower case.
    ///
    /// # Errors
    /// If `name` is not a token.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        let bytes: Box<[u8]> = name.bytes().map(|b| b.to_ascii_lowercase()).collect();
        let known = Name::new(&bytes)?.known;
        Ok(Self { known, bytes })
    }

    /// The name in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes).unwrap_or_default()
    }
}

/// A checked header value: no control character but the tab, no white space around it (RFC 9110 §5.5). Bytes above 0x7f may
/// occur.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Value<'a>(&'a [u8]);

impl<'a> Value<'a> {
    /// Takes white space off both ends.
    ///
    /// # Errors
    /// If there is a control character, above all CR, LF or NUL, which could end the header.
    pub fn new(bytes: &'a [u8]) -> Result<Self, InvalidValue> {
        // Without a way out within the loop it is done sixteen bytes at a time and more.
        if !bytes.iter().fold(true, |valid, &b| valid & is_value_byte(b)) {
            return Err(InvalidValue);
        }
        Ok(Self(trim(bytes)))
    }

    /// A literal.
    ///
    /// # Panics
    /// If the literal is not a value; use it in constants, where that is a compile error.
    #[must_use]
    pub const fn from_static(text: &'static str) -> Self {
        let bytes = text.as_bytes();
        let mut i = 0;
        while i < bytes.len() {
            assert!(is_value_byte(bytes[i]), "a header value must not have a control character");
            i += 1;
        }
        Self(bytes)
    }

    /// A value that was parsed by rules at least as strict.
    pub(crate) const fn from_checked(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        String::from_utf8_lossy(self.0).fmt(f)
    }
}

impl<'a> From<&'a ::http::HeaderValue> for Value<'a> {
    fn from(value: &'a ::http::HeaderValue) -> Self {
        Self(trim(value.as_bytes()))
    }
}

/// `tchar` of RFC 9110 §5.6.2.
pub(crate) const fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric()
        || matches!(b, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}

pub(crate) const fn is_value_byte(b: u8) -> bool {
    b == b'\t' || (b >= 0x20 && b != 0x7f)
}

/// Takes optional white space (RFC 9110 §5.6.3) off both ends.
pub(crate) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// The elements of a comma-separated list, trimmed; empty ones are skipped (RFC 9110 §5.6.1).
pub(crate) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(trim).filter(|e| !e.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_name_is_found_by_its_bytes_and_is_a_valid_name() {
        for &known in KnownHeader::ALL {
            assert_eq!(KnownHeader::of(known.as_bytes()), known);
            assert_eq!(Name::new(known.as_bytes()).unwrap().known(), known);
        }
        assert_eq!(KnownHeader::of(b"x-other"), KnownHeader::Other);
        assert_eq!(KnownHeader::of(b""), KnownHeader::Other);
    }

    #[test]
    fn a_name_is_found_in_few_steps() {
        let probes = |name: &[u8]| (0..SLOTS).find(|i| TABLE[(slot_of(name) + i) % SLOTS].0 == KnownHeader::of(name)).unwrap();
        let longest = KnownHeader::ALL.iter().map(|k| probes(k.as_bytes())).max();
        assert!(longest <= Some(6), "{longest:?}");
    }

    #[test]
    fn names_must_be_lower_case_tokens() {
        for bad in ["", "Host", "a b", "a:", "a\r", "a\0", "é", "a(b"] {
            assert_eq!(Name::new(bad.as_bytes()), Err(InvalidName), "{bad:?}");
        }
        assert_eq!(OwnedName::new("X-Request-ID").unwrap().as_str(), "x-request-id");
        assert_eq!(OwnedName::new("a b"), Err(InvalidName));
    }

    #[test]
    fn values_cannot_end_their_header() {
        for bad in [&b"a\r\nb: c"[..], b"a\n", b"\0", b"a\x7f", b"\x01"] {
            assert_eq!(Value::new(bad), Err(InvalidValue), "{bad:?}");
        }
        assert_eq!(Value::new(b" \ta b\t ").unwrap().as_bytes(), b"a b");
        assert_eq!(Value::new(b"caf\xc3\xa9").unwrap().as_bytes(), b"caf\xc3\xa9");
        assert_eq!(Value::new(b"  ").unwrap().as_bytes(), b"");
    }

    #[test]
    fn lists_skip_empty_elements() {
        let elements: Vec<_> = list(b" a,, b ,").collect();
        assert_eq!(elements, [b"a", b"b"]);
    }
}
