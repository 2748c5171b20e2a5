//! Trace contexts: W3C Trace Context and B3, read, continued and written.

use crate::HeaderLookup;
use crate::request_id::HEX;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use std::fmt;

/// The longest `tracestate` that is passed on (W3C Trace Context, section 3.3.1.5: at least 512 characters).
const MAX_TRACESTATE: usize = 512;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// The bytes, as OTLP wants them.
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }

            /// Checks that the id is not zero, which both formats call invalid.
            pub fn try_new(bytes: [u8; $bytes]) -> Option<Self> {
                (bytes != [0; $bytes]).then_some(Self(bytes))
            }

            /// Lower-case hexadecimal digits.
            pub fn to_hex(self) -> [u8; 2 * $bytes] {
                let mut text = [0; 2 * $bytes];
                for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
                    pair.copy_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0xf)]]);
                }
                text
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

id! {
    /// Names a trace. Not zero.
    TraceId, 16
}
id! {
    /// Names a span within its trace. Not zero.
    SpanId, 8
}

/// In which headers a context came, and so also goes on. W3C's is always written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carrier {
    /// `b3`.
    pub b3_single: bool,
    /// `x-b3-*`.
    pub b3_multi: bool,
    /// B3 with trace ids of 64 bits.
    pub b3_short: bool,
}

/// What a request says of its trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace_id: TraceId,
    /// The span that caused this request; none when only a B3 decision came.
    pub span_id: SpanId,
    /// The caller's decision, if it made one.
    pub sampled: Option<bool>,
    /// B3's debug flag, which goes on with a decision to sample.
    pub debug: bool,
    /// W3C's `tracestate`, as it came.
    pub state: Option<Box<str>>,
    /// Where it came from.
    pub carrier: Carrier,
}

impl TraceContext {
    /// Reads a context: `traceparent` first, then `b3`, then `x-b3-*`. What is malformed counts as absent.
    pub fn extract(headers: &(impl HeaderLookup + ?Sized)) -> Option<Self> {
        let b3 = b3_single(headers);
        let multi = b3_multi(headers);
        let carrier = Carrier {
            b3_single: b3.is_some(),
            b3_multi: multi.is_some(),
            b3_short: b3.as_ref().or(multi.as_ref()).is_some_and(|context| context.carrier.b3_short),
        };
        let mut context = w3c(headers).or(b3).or(multi)?;
        context.carrier = carrier;
        Some(context)
    }

    /// The decision of a caller that sends no ids: `b3: 0`, or `x-b3-sampled` alone.
    pub fn extract_decision(headers: &(impl HeaderLookup + ?Sized)) -> Option<bool> {
        match headers.first_text("b3") {
            Some("0") => return Some(false),
            Some("1" | "d") => return Some(true),
            _ => {}
        }
        b3_decision(headers).0
    }

    /// The context to send on from a span of one's own: `(header, value)` for each of the headers of the carrier, and the
    /// parent's id in `x-b3-parentspanid`.
    pub fn inject(&self, parent: Option<SpanId>, mut header: impl FnMut(&'static str, &[u8])) {
        let (trace, span) = (self.trace_id.to_hex(), self.span_id.to_hex());
        let sampled = self.sampled.unwrap_or(false);
        let mut value = Vec::with_capacity(80);
        value.extend_from_slice(b"00-");
        value.extend_from_slice(&trace);
        value.push(b'-');
        value.extend_from_slice(&span);
        value.extend_from_slice(if sampled { b"-01" } else { b"-00" });
        header("traceparent", &value);
        if let Some(state) = &self.state {
            header("tracestate", state.as_bytes());
        }
        let trace = if self.carrier.b3_short { &trace[16..] } else { &trace[..] };
        let decision: &[u8] = if self.debug {
            b"d"
        } else if sampled {
            b"1"
        } else {
            b"0"
        };
        let parent = parent.map(SpanId::to_hex);
        if self.carrier.b3_single {
            value.clear();
            value.extend_from_slice(trace);
            for part in [Some(&span[..]), Some(decision), parent.as_ref().map(|parent| &parent[..])].into_iter().flatten() {
                value.push(b'-');
                value.extend_from_slice(part);
            }
            header("b3", &value);
        }
        if self.carrier.b3_multi {
            header("x-b3-traceid", trace);
            header("x-b3-spanid", &span);
            if let Some(parent) = &parent {
                header("x-b3-parentspanid", parent);
            }
            if self.debug {
                header("x-b3-flags", b"1");
            } else {
                header("x-b3-sampled", decision);
            }
        }
    }
}

fn nibble(digit: u8, upper: bool) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' if upper => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Exactly `2 * N` digits; W3C wants them in lower case.
fn hex<const N: usize>(text: &[u8], upper: bool) -> Option<[u8; N]> {
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = nibble(pair[0], upper)? << 4 | nibble(pair[1], upper)?;
    }
    Some(bytes)
}

/// W3C Trace Context, section 3.2.
fn w3c(headers: &(impl HeaderLookup + ?Sized)) -> Option<TraceContext> {
    // Two of them leave open which one holds.
    if headers.nth("traceparent", 1).is_some() {
        return None;
    }
    let value = headers.first("traceparent")?;
    let [version] = hex::<1>(value.get(..2)?, false)?;
    // A later version may add fields; it must still begin as version 00 does.
    let length_holds = if version == 0 { value.len() == 55 } else { value.len() == 55 || value.get(55) == Some(&b'-') };
    if version == 0xff || !length_holds || [2, 35, 52].iter().any(|at| value[*at] != b'-') {
        return None;
    }
    let trace_id = TraceId::try_new(hex(&value[3..35], false)?)?;
    let span_id = SpanId::try_new(hex(&value[36..52], false)?)?;
    let [flags] = hex::<1>(&value[53..55], false)?;
    Some(TraceContext {
        trace_id,
        span_id,
        sampled: Some(flags & 1 == 1),
        debug: false,
        state: tracestate(headers),
        carrier: Carrier::default(),
    })
}

fn tracestate(headers: &(impl HeaderLookup + ?Sized)) -> Option<Box<str>> {
    let mut state = String::new();
    for index in 0.. {
        let Some(value) = headers.nth("tracestate", index) else { break };
        let value = std::str::from_utf8(value).ok()?.trim();
        if !value.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~')) {
            return None;
        }
        if !state.is_empty() && !value.is_empty() {
            state.push(',');
        }
        state.push_str(value);
        if state.len() > MAX_TRACESTATE {
            return None;
        }
    }
    (!state.is_empty()).then(|| state.into())
}

/// `{trace}-{span}[-{decision}[-{parent}]]`.
fn b3_single(headers: &(impl HeaderLookup + ?Sized)) -> Option<TraceContext> {
    let mut parts = headers.first("b3")?.split(|byte| *byte == b'-');
    let (trace_id, b3_short) = b3_trace_id(parts.next()?)?;
    let span_id = SpanId::try_new(hex(parts.next()?, true)?)?;
    let (sampled, debug) = match parts.next() {
        None => (None, false),
        Some(b"0") => (Some(false), false),
        Some(b"1") => (Some(true), false),
        Some(b"d") => (Some(true), true),
        Some(_) => return None,
    };
    if let Some(parent) = parts.next() {
        hex::<8>(parent, true)?;
    }
    if parts.next().is_some() {
        return None;
    }
    let carrier = Carrier { b3_single: true, b3_multi: false, b3_short };
    Some(TraceContext { trace_id, span_id, sampled, debug, state: None, carrier })
}

fn b3_multi(headers: &(impl HeaderLookup + ?Sized)) -> Option<TraceContext> {
    let (trace_id, b3_short) = b3_trace_id(headers.first("x-b3-traceid")?)?;
    let span_id = SpanId::try_new(hex(headers.first("x-b3-spanid")?, true)?)?;
    let (sampled, debug) = b3_decision(headers);
    let carrier = Carrier { b3_single: false, b3_multi: true, b3_short };
    Some(TraceContext { trace_id, span_id, sampled, debug, state: None, carrier })
}

fn b3_decision(headers: &(impl HeaderLookup + ?Sized)) -> (Option<bool>, bool) {
    if headers.first("x-b3-flags") == Some(b"1") {
        return (Some(true), true);
    }
    let sampled = match headers.first("x-b3-sampled") {
        Some(b"1" | b"true") => Some(true),
        Some(b"0" | b"false") => Some(false),
        _ => None,
    };
    (sampled, false)
}

/// 128 bits, or 64 bits that are the lower half.
fn b3_trace_id(text: &[u8]) -> Option<(TraceId, bool)> {
    if text.len() == 32 {
        return Some((TraceId::try_new(hex(text, true)?)?, false));
    }
    let low: [u8; 8] = hex(text, true)?;
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&low);
    Some((TraceId::try_new(bytes)?, true))
}

/// A worker's source of ids.
#[derive(Debug)]
pub struct TraceIds {
    random: SmallRng,
}

impl Default for TraceIds {
    fn default() -> Self {
        Self::new()
    }
}

impl TraceIds {
    /// Seeded by the system.
    pub fn new() -> Self {
        Self { random: SmallRng::from_os_rng() }
    }

    /// A new span's id.
    pub fn span_id(&mut self) -> SpanId {
        loop {
            if let Some(id) = SpanId::try_new(self.random.next_u64().to_be_bytes()) {
                return id;
            }
        }
    }

    /// A new trace's id.
    pub fn trace_id(&mut self) -> TraceId {
        loop {
            let mut bytes = [0; 16];
            self.random.fill_bytes(&mut bytes);
            if let Some(id) = TraceId::try_new(bytes) {
                return id;
            }
        }
    }

    /// The context of this proxy's own span: a child of what came, or the root of a new trace. The caller's decision holds;
    /// where there is none the sampler decides, by the request's id if one is given.
    pub fn continue_or_start(
        &mut self,
        incoming: Option<&TraceContext>,
        decided: Option<bool>,
        sampler: Sampler,
        request_id: Option<&[u8]>,
    ) -> TraceContext {
        let decision = incoming.and_then(|context| context.sampled).or(decided);
        let sampled = decision.unwrap_or_else(|| sampler.decide(request_id, &mut self.random));
        match incoming {
            Some(parent) => TraceContext { span_id: self.span_id(), sampled: Some(sampled), ..parent.clone() },
            None => TraceContext {
                trace_id: self.trace_id(),
                span_id: self.span_id(),
                sampled: Some(sampled),
                debug: false,
                state: None,
                carrier: Carrier::default(),
            },
        }
    }
}

/// Which share of the traces that begin here is sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampler {
    /// Of 10,000.
    share: u32,
}

impl Sampler {
    /// Istio's default, 1 % (`PILOT_TRACE_SAMPLING`).
    pub const DEFAULT: Self = Self { share: 100 };

    /// A percentage from 0 to 100, of which two decimals count.
    pub fn try_new(percent: f64) -> Option<Self> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 10,000, checked")]
        (0.0..=100.0).contains(&percent).then(|| Self { share: (percent * 100.0).round() as u32 })
    }

    /// A request id that begins with 8 hexadecimal digits decides the same way at every proxy.
    fn decide(self, request_id: Option<&[u8]>, random: &mut SmallRng) -> bool {
        let stable = request_id.and_then(|id| hex::<4>(id.get(..8)?, true)).map(u32::from_be_bytes);
        stable.unwrap_or_else(|| random.random()) % 10_000 < self.share
    }
}

#[cfg(test)]
mod tests {
    use super::{Sampler, TraceContext, TraceIds};
    use crate::request_id::RequestIds;
    use proptest::prelude::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    fn extract(headers: &[(&str, &str)]) -> Option<TraceContext> {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        TraceContext::extract(&headers[..])
    }

    fn inject(context: &TraceContext) -> Vec<(String, String)> {
        let mut headers = Vec::new();
        context.inject(None, |name, value| {
            headers.push((name.to_owned(), String::from_utf8(value.to_vec()).expect("ASCII")));
        });
        headers
    }

    #[test]
    fn w3c_goes_on_as_it_came() {
        let parent = format!("00-{TRACE}-{SPAN}-01");
        let context = extract(&[("traceparent", &parent), ("tracestate", "a=1"), ("tracestate", "b=2")]).expect("valid");
        assert_eq!((context.sampled, context.state.as_deref()), (Some(true), Some("a=1,b=2")));
        assert_eq!(inject(&context), [("traceparent".into(), parent), ("tracestate".into(), "a=1,b=2".into())]);
    }

    #[test]
    fn traceparents() {
        for (value, valid) in [
            (format!("00-{TRACE}-{SPAN}-00"), true),
            (format!("00-{TRACE}-{SPAN}-ff"), true),
            (format!("01-{TRACE}-{SPAN}-01-more"), true),
            (format!("01-{TRACE}-{SPAN}-01more"), false),
            (format!("00-{TRACE}-{SPAN}-01-more"), false),
            (format!("ff-{TRACE}-{SPAN}-01"), false),
            (format!("00-{}-{SPAN}-01", "0".repeat(32)), false),
            (format!("00-{TRACE}-{}-01", "0".repeat(16)), false),
            (format!("00-{}-{SPAN}-01", TRACE.to_uppercase()), false),
            (format!("00-{TRACE}_{SPAN}-01"), false),
            (format!("00-{TRACE}-{SPAN}-0"), false),
            (String::new(), false),
        ] {
            assert_eq!(extract(&[("traceparent", &value)]).is_some(), valid, "{value}");
        }
        let one = format!("00-{TRACE}-{SPAN}-00");
        assert_eq!(extract(&[("traceparent", &one), ("traceparent", &one)]), None);
    }

    #[test]
    fn b3_single_goes_on_beside_w3c() {
        let value = format!("{TRACE}-{SPAN}-1");
        let context = extract(&[("b3", &value)]).expect("valid");
        assert_eq!(inject(&context), [("traceparent".into(), format!("00-{TRACE}-{SPAN}-01")), ("b3".into(), value)]);
        let debug = extract(&[("b3", &format!("{TRACE}-{SPAN}-d-05e3ac9a4f6e3b90"))]).expect("valid");
        assert!(debug.debug && debug.sampled == Some(true));
        for value in [format!("{TRACE}-{SPAN}-2"), TRACE.into(), format!("{TRACE}-{SPAN}-1-x"), "-".into(), "0".into()] {
            assert_eq!(extract(&[("b3", &value)]), None, "{value}");
        }
    }

    #[test]
    fn b3_multi_with_64_bits_keeps_them() {
        let headers = [("x-b3-traceid", &TRACE[16..]), ("x-b3-spanid", SPAN), ("x-b3-sampled", "0")];
        let context = extract(&headers).expect("valid");
        assert_eq!(context.trace_id.to_string(), format!("{}{}", "0".repeat(16), &TRACE[16..]));
        let sent = inject(&context);
        assert!(sent.contains(&("x-b3-traceid".into(), TRACE[16..].into())), "{sent:?}");
        assert!(sent.contains(&("x-b3-sampled".into(), "0".into())), "{sent:?}");
    }

    #[test]
    fn decisions_without_ids() {
        let decision = |headers: &[(&str, &[u8])]| TraceContext::extract_decision(headers);
        assert_eq!(decision(&[("b3", b"0")]), Some(false));
        assert_eq!(decision(&[("x-b3-sampled", b"1")]), Some(true));
        assert_eq!(decision(&[("x-b3-flags", b"1")]), Some(true));
        assert_eq!(decision(&[]), None);
    }

    #[test]
    fn the_parents_decision_holds() {
        let mut ids = TraceIds::new();
        let all = Sampler::try_new(100.0).expect("a percentage");
        let parent = extract(&[("traceparent", &format!("00-{TRACE}-{SPAN}-00"))]).expect("valid");
        let own = ids.continue_or_start(Some(&parent), None, all, None);
        assert_eq!((own.trace_id, own.sampled), (parent.trace_id, Some(false)));
        assert_ne!(own.span_id, parent.span_id);
        assert_eq!(ids.continue_or_start(None, Some(false), all, None).sampled, Some(false));
        assert_eq!(ids.continue_or_start(None, None, all, None).sampled, Some(true));
    }

    #[test]
    fn sampling_by_request_id_is_stable_and_near_its_share() {
        let (mut ids, mut requests) = (TraceIds::new(), RequestIds::new());
        let sampler = Sampler::try_new(10.0).expect("a percentage");
        let mut sampled = 0;
        for _ in 0..20_000 {
            let id = requests.next_id();
            let mut decide = || ids.continue_or_start(None, None, sampler, Some(id.as_bytes())).sampled;
            let first = decide();
            assert_eq!(first, decide());
            sampled += u32::from(first == Some(true));
        }
        // 2,000 wanted; six standard deviations (42 each) miss once in a thousand million runs.
        assert!((1_746..=2_254).contains(&sampled), "{sampled}");
        let none = Sampler::try_new(0.0).expect("a percentage");
        assert_eq!(ids.continue_or_start(None, None, none, None).sampled, Some(false));
        assert_eq!([f64::NAN, -0.1, 100.1].map(Sampler::try_new), [None; 3]);
    }

    proptest! {
        #[test]
        fn any_header_is_taken_without_panic(value in proptest::collection::vec(any::<u8>(), 0..80)) {
            for name in ["traceparent", "b3", "x-b3-traceid"] {
                let headers: &[(&str, &[u8])] = &[(name, &value), ("x-b3-spanid", b"b7ad6b7169203331")];
                let _ = TraceContext::extract(headers);
            }
        }

        #[test]
        fn what_is_injected_is_extracted(trace in 1_u128.., span in 1_u64.., sampled: bool, b3_single: bool, b3_multi: bool) {
            let context = TraceContext {
                trace_id: super::TraceId::try_new(trace.to_be_bytes()).expect("not zero"),
                span_id: super::SpanId::try_new(span.to_be_bytes()).expect("not zero"),
                sampled: Some(sampled),
                debug: false,
                state: None,
                carrier: super::Carrier { b3_single, b3_multi, b3_short: false },
            };
            let headers = inject(&context);
            let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            prop_assert_eq!(extract(&headers), Some(context));
            prop_assert_eq!(extract(&headers[1..]).is_some(), b3_single || b3_multi);
        }
    }
}
