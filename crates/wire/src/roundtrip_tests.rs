//! What is encoded is decoded to the same, and no bytes make the decoder panic.

use crate::{EncodeOptions, ProxyFlavor, decode, encode, json, testing};
use lateen_model::dataplane::{Listener, NetworkFilter};
use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};
use proptest::sample::Index;
use proptest::test_runner::Config;

const ISTIO: EncodeOptions = EncodeOptions { flavor: ProxyFlavor::Istio };
const STOCK: EncodeOptions = EncodeOptions { flavor: ProxyFlavor::StockEnvoy };

/// One change of a message's bytes.
#[derive(Clone, Debug)]
enum Damage {
    Flip(Index, u8),
    Cut(Index),
    Insert(Index, u8),
    Repeat(Index, Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    proptest::prop_oneof![
        (any::<Index>(), 1_u8..).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        any::<Index>().prop_map(Damage::Cut),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Damage::Repeat(from, to)),
    ]
}

fn damaged(bytes: &[u8], damages: &[Damage]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for damage in damages {
        if bytes.is_empty() {
            bytes.push(0);
        }
        match damage {
            Damage::Flip(at, bits) => {
                let at = at.index(bytes.len());
                bytes[at] ^= bits;
            }
            Damage::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Damage::Insert(at, byte) => bytes.insert(at.index(bytes.len()), *byte),
            Damage::Repeat(from, to) => {
                let (a, b) = (from.index(bytes.len()), to.index(bytes.len()));
                let slice = bytes[a.min(b)..a.max(b)].to_vec();
                bytes.extend(slice);
            }
        }
    }
    bytes
}

fn decode_all(bytes: &[u8]) {
    // Whatever the answer is, it is an answer, and an error can be shown.
    let _ = decode::listener(bytes).map_err(|e| e.to_string());
    let _ = decode::route_configuration(bytes).map_err(|e| e.to_string());
    let _ = decode::cluster(bytes).map_err(|e| e.to_string());
    let _ = decode::cluster_load_assignment(bytes).map_err(|e| e.to_string());
    let _ = decode::secret(bytes).map_err(|e| e.to_string());
}

/// What a stock Envoy is not sent.
fn without_istio_network_filters(mut listener: Listener) -> Listener {
    for chain in listener.filter_chains.iter_mut().chain(&mut listener.default_filter_chain) {
        chain.network_filters.retain(|filter| matches!(filter, NetworkFilter::Rbac(_)));
    }
    listener
}

proptest! {
    #![proptest_config(Config { cases: 96, max_shrink_iters: 2_000, ..Config::default() })]

    #[test]
    fn listeners(listener in testing::listener()) {
        let bytes = encode::listener(&listener, ISTIO);
        prop_assert_eq!(&bytes, &encode::listener(&listener, ISTIO));
        let decoded = decode::listener(&bytes).unwrap();
        prop_assert_eq!(&decoded.value, &listener);
        prop_assert!(decoded.ignored.is_empty(), "{:?}", decoded.ignored);
        let stock = decode::listener(&encode::listener(&listener, STOCK)).unwrap().value;
        prop_assert_eq!(stock, without_istio_network_filters(listener.clone()));
        prop_assert_eq!(&json::listener(&listener)["name"], &listener.name);
    }

    #[test]
    fn route_configurations(routes in testing::route_configuration()) {
        let bytes = encode::route_configuration(&routes);
        prop_assert_eq!(&bytes, &encode::route_configuration(&routes));
        let decoded = decode::route_configuration(&bytes).unwrap();
        prop_assert_eq!(&decoded.value, &routes);
        prop_assert!(decoded.ignored.is_empty(), "{:?}", decoded.ignored);
        prop_assert_eq!(&json::route_configuration(&routes)["name"], &routes.name);
    }

    #[test]
    fn clusters(cluster in testing::cluster()) {
        let bytes = encode::cluster(&cluster, ISTIO);
        prop_assert_eq!(&bytes, &encode::cluster(&cluster, ISTIO));
        let decoded = decode::cluster(&bytes).unwrap();
        prop_assert_eq!(&decoded.value, &cluster);
        prop_assert!(decoded.ignored.is_empty(), "{:?}", decoded.ignored);
        let stock = decode::cluster(&encode::cluster(&cluster, STOCK)).unwrap().value;
        prop_assert_eq!(stock, lateen_model::dataplane::Cluster { tcp_metadata_exchange: false, ..cluster });
    }

    #[test]
    fn endpoints(endpoints in testing::cluster_load_assignment()) {
        let bytes = encode::cluster_load_assignment(&endpoints);
        let decoded = decode::cluster_load_assignment(&bytes).unwrap();
        prop_assert_eq!(&decoded.value, &endpoints);
        prop_assert!(decoded.ignored.is_empty(), "{:?}", decoded.ignored);
        prop_assert_eq!(&json::cluster_load_assignment(&endpoints)["name"], &endpoints.cluster_name);
    }

    #[test]
    fn secrets(secret in testing::secret()) {
        let bytes = encode::secret(&secret);
        prop_assert_eq!(decode::secret(&bytes).unwrap().value, secret);
    }

    #[test]
    fn damaged_listeners(listener in testing::listener(), damages in proptest::collection::vec(damage(), 1..6)) {
        decode_all(&damaged(&encode::listener(&listener, ISTIO), &damages));
    }

    #[test]
    fn damaged_routes(routes in testing::route_configuration(), damages in proptest::collection::vec(damage(), 1..6)) {
        decode_all(&damaged(&encode::route_configuration(&routes), &damages));
    }

    #[test]
    fn damaged_clusters(cluster in testing::cluster(), damages in proptest::collection::vec(damage(), 1..6)) {
        decode_all(&damaged(&encode::cluster(&cluster, ISTIO), &damages));
    }

    #[test]
    fn noise(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        decode_all(&bytes);
    }
}

#[test]
fn a_stock_envoy_does_not_agree_on_metadata_exchange() {
    use lateen_model::dataplane::{SecretRef, TransportSocket, UpstreamTls};
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut cluster = testing::cluster().new_tree(&mut runner).unwrap().current();
    cluster.transport = TransportSocket::Tls(Box::new(UpstreamTls {
        params: lateen_model::dataplane::TlsParams::default(),
        alpn: vec!["istio-peer-exchange".to_owned(), "istio".to_owned(), "h2".to_owned()],
        sni: String::new(),
        certificate: Some(SecretRef::workload_certificate()),
        roots: None,
        sans: Vec::new(),
        crl_file: None,
    }));
    let alpn = |options| match decode::cluster(&encode::cluster(&cluster, options)).unwrap().value.transport {
        TransportSocket::Tls(tls) => tls.alpn,
        other => panic!("{other:?}"),
    };
    assert_eq!(alpn(ISTIO), ["istio-peer-exchange", "istio", "h2"]);
    assert_eq!(alpn(STOCK), ["istio", "h2"]);
}
