//! Pieces that several resources use.

use ipnet::IpNet;
use lateen_model::dataplane::{
    AccessLog, AccessLogFormat, AccessLogTarget, DownstreamTls, HeaderMatch, HeaderPredicate, SafeRegex, Secret, SecretKind,
    SecretRef, SecretSource, StringMatch, StringPredicate, TlsParams, TlsVersion, UpstreamTls,
};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::{BoxedStrategy, Just, Strategy, any, prop_oneof};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub(super) fn name() -> impl Strategy<Value = String> {
    "[a-z0-9|._-]{1,24}"
}

/// Text of any kind, not empty, ASCII and not.
pub(super) fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[ -~]{1,16}", "\\PC{1,6}"]
}

pub(super) fn header_name() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9-]{0,12}"
}

/// From a nanosecond to a year.
pub(super) fn duration() -> impl Strategy<Value = Duration> {
    (0_u64..31_536_000, 1_u32..1_000_000_000).prop_map(|(seconds, nanos)| Duration::new(seconds, nanos))
}

pub(super) fn duration_or_zero() -> impl Strategy<Value = Duration> {
    prop_oneof![Just(Duration::ZERO), duration()]
}

pub(super) fn ip() -> impl Strategy<Value = IpAddr> {
    any::<IpAddr>()
}

pub(super) fn address() -> impl Strategy<Value = SocketAddr> {
    (ip(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

pub(super) fn net() -> impl Strategy<Value = IpNet> {
    (ip(), 0_u8..=128).prop_filter_map("the prefix is longer than the address", |(ip, length)| {
        IpNet::new(ip, if ip.is_ipv4() { length / 4 } else { length }).ok()
    })
}

pub(super) fn regex() -> impl Strategy<Value = SafeRegex> {
    prop_oneof!["[a-z0-9/]{1,8}", Just(".*".to_owned()), Just("^/v[0-9]+/(a|b)$".to_owned()), Just("\\d{3}".to_owned())]
        .prop_filter_map("not a regular expression", |pattern| SafeRegex::try_new(&pattern).ok())
}

pub(super) fn string_match() -> impl Strategy<Value = StringMatch> {
    let predicate = prop_oneof![
        prop_oneof![Just(String::new()), text()].prop_map(StringPredicate::Exact),
        text().prop_map(StringPredicate::Prefix),
        text().prop_map(StringPredicate::Suffix),
        text().prop_map(StringPredicate::Contains),
        regex().prop_map(StringPredicate::Regex),
    ];
    (predicate, any::<bool>()).prop_map(|(predicate, ignore_case)| StringMatch { predicate, ignore_case })
}

pub(super) fn header_match() -> impl Strategy<Value = HeaderMatch> {
    let predicate =
        prop_oneof![any::<bool>().prop_map(HeaderPredicate::Present), string_match().prop_map(HeaderPredicate::Value)];
    let name = prop_oneof![header_name(), Just(":method".to_owned()), Just(":authority".to_owned())];
    (name, predicate, any::<bool>(), any::<bool>()).prop_map(|(name, predicate, invert, missing_is_empty)| HeaderMatch {
        name,
        predicate,
        invert,
        missing_is_empty,
    })
}

fn secret_ref() -> impl Strategy<Value = SecretRef> {
    let source = prop_oneof![Just(SecretSource::Workload), Just(SecretSource::Ads)];
    (name(), source).prop_map(|(name, source)| SecretRef { name, source })
}

fn params() -> impl Strategy<Value = TlsParams> {
    let versions = prop_oneof![
        Just((TlsVersion::V1_2, TlsVersion::V1_2)),
        Just((TlsVersion::V1_2, TlsVersion::V1_3)),
        Just((TlsVersion::V1_3, TlsVersion::V1_3)),
    ];
    (versions, vec("ECDHE-[A-Z0-9-]{1,12}", 0..3)).prop_map(|((min, max), cipher_suites)| TlsParams { min, max, cipher_suites })
}

/// Without a repetition, which would say the same once more.
fn sans() -> impl Strategy<Value = Vec<StringMatch>> {
    vec(prop_oneof![string_match(), "spiffe://[a-z]{1,8}/ns/a/sa/b".prop_map(StringMatch::exact)], 0..3).prop_map(|sans| {
        let mut unique: Vec<StringMatch> = Vec::new();
        sans.into_iter().for_each(|san| {
            if !unique.contains(&san) {
                unique.push(san);
            }
        });
        unique
    })
}

pub(super) fn downstream_tls() -> impl Strategy<Value = DownstreamTls> {
    (params(), vec(name(), 0..3), secret_ref(), of((secret_ref(), sans(), any::<bool>(), of("/[a-z/]{1,8}")))).prop_map(
        |(params, alpn, certificate, client)| {
            let (client_roots, client_sans, require_client_certificate, crl_file) = match client {
                Some((roots, sans, require, crl)) => (Some(roots), sans, require, crl),
                None => (None, Vec::new(), false, None),
            };
            DownstreamTls { params, alpn, certificate, client_roots, client_sans, require_client_certificate, crl_file }
        },
    )
}

pub(super) fn upstream_tls() -> impl Strategy<Value = UpstreamTls> {
    (params(), vec(name(), 0..3), "[a-z._]{0,12}", of(secret_ref()), of((secret_ref(), sans(), of("/[a-z/]{1,8}")))).prop_map(
        |(params, alpn, sni, certificate, roots)| {
            let (roots, sans, crl_file) = roots.map_or((None, Vec::new(), None), |(roots, sans, crl)| (Some(roots), sans, crl));
            UpstreamTls { params, alpn, sni, certificate, roots, sans, crl_file }
        },
    )
}

pub(super) fn access_log() -> impl Strategy<Value = AccessLog> {
    let operators = prop_oneof![
        text(),
        Just("%START_TIME% %REQ(:METHOD)%\n".to_owned()),
        Just("%REQ_WITHOUT_QUERY(:PATH)% %METADATA(ROUTE:a:b)%".to_owned()),
    ];
    let json = proptest::collection::btree_map(name(), operators.clone(), 0..4)
        .prop_map(|fields| fields.into_iter().collect::<Vec<_>>())
        .prop_shuffle();
    let format = prop_oneof![operators.prop_map(AccessLogFormat::Text), json.prop_map(AccessLogFormat::Json)];
    let path = prop_oneof![Just("/dev/stdout".to_owned()), "/[a-z/]{1,12}"];
    (path, format, of(prop_oneof![Just("NR".to_owned()), Just("UH".to_owned())]))
        .prop_map(|(path, format, only_flag)| AccessLog { target: AccessLogTarget::File(path), format, only_flag })
}

pub(super) fn boxed<S: Strategy + 'static>(strategy: S) -> BoxedStrategy<S::Value> {
    strategy.boxed()
}

/// Any secret; the bytes are not PEM.
pub fn secret() -> impl Strategy<Value = Secret> {
    let bytes = || vec(any::<u8>(), 0..32);
    let kind = prop_oneof![
        (bytes(), bytes()).prop_map(|(chain_pem, private_key_pem)| SecretKind::Certificate { chain_pem, private_key_pem }),
        (bytes(), bytes()).prop_map(|(trusted_ca_pem, crl_pem)| SecretKind::Roots { trusted_ca_pem, crl_pem }),
    ];
    (name(), kind).prop_map(|(name, kind)| Secret { name, kind })
}
