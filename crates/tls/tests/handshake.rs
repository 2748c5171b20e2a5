//! Handshakes in memory: who gets in, who does not and why, what is resumed, and what happens when keys and roots change.
#![allow(clippy::unwrap_used, reason = "a helper that fails, fails the test")]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lateen_model::dataplane::{StringMatch, TlsParams, TlsVersion};
use lateen_model::identity::TrustDomain;
use lateen_testkit::certificates::{Leaf, TestCa, spiffe};
use lateen_tls::{
    ClientAuth, ClientParams, ClientStream, ClientTls, ConnectOptions, CredentialHandle, HandshakeError, PeerExpectation,
    PeerInfo, PeerPolicy, PeerRole, ServerName, ServerParams, ServerStream, ServerTls, TlsConfigError, TrustBundle, TrustHandle,
    VerifyError, WorkloadIdentity, WorkloadKey, accept, connect,
};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

const SERVER: &str = "spiffe://cluster.local/ns/production/sa/order-service-sa";
const CLIENT: &str = "spiffe://cluster.local/ns/production/sa/frontend";
const SNI: &str = "outbound_.8080_.v1_.order-service.production.svc.cluster.local";

fn any_of(ids: &[&str]) -> PeerExpectation {
    PeerExpectation::AnyOf(ids.iter().map(|id| spiffe(id)).collect())
}

fn mesh_server(identity: &WorkloadIdentity) -> ServerTls {
    ServerTls::new(ServerParams::mesh(identity, &[TrustDomain::default()])).unwrap()
}

fn mesh_client(identity: &WorkloadIdentity) -> ClientTls {
    let mut params = ClientParams::mesh(identity, any_of(&[SERVER]));
    params.server_name = Some(SNI.try_into().unwrap());
    ClientTls::new(params).unwrap()
}

struct Connection {
    client: (ClientStream<DuplexStream>, PeerInfo),
    server: (ServerStream<DuplexStream>, PeerInfo),
}

impl Connection {
    /// Sends a byte each way, so that the client has also read what the server sends after the handshake (tickets).
    async fn ping(&mut self) {
        self.client.0.write_all(b"?").await.unwrap();
        self.client.0.flush().await.unwrap();
        assert_eq!(self.server.0.read_u8().await.unwrap(), b'?');
        self.server.0.write_all(b"!").await.unwrap();
        self.server.0.flush().await.unwrap();
        assert_eq!(self.client.0.read_u8().await.unwrap(), b'!');
    }
}

type Outcome<S> = Result<(S, PeerInfo), HandshakeError>;

/// Both sides at once. A side that fails drops its end, which ends the other side too.
async fn handshake(
    client: &ClientTls,
    server: &ServerTls,
) -> (Outcome<ClientStream<DuplexStream>>, Outcome<ServerStream<DuplexStream>>) {
    let (near, far) = duplex(64 * 1024);
    let (client, server) = (client.clone(), server.clone());
    let serving = tokio::spawn(async move { accept(far, &server).await });
    let connected = connect(near, &client, ConnectOptions::default()).await;
    let connected = match connected {
        // In TLS 1.3 the server's verdict on the client comes after the client is done.
        Ok((mut stream, info)) => {
            let accepted = serving.await.unwrap();
            if accepted.is_err() {
                let verdict = stream.read_u8().await.unwrap_err();
                return (Err(verdict.into()), accepted);
            }
            return (Ok((stream, info)), accepted);
        }
        failed => failed,
    };
    (connected, serving.await.unwrap())
}

async fn established(client: &ClientTls, server: &ServerTls) -> Connection {
    let (client, server) = handshake(client, server).await;
    let mut connection = Connection { client: client.unwrap(), server: server.unwrap() };
    connection.ping().await;
    connection
}

#[tokio::test]
async fn both_sides_know_each_other() {
    let ca = TestCa::new();
    let (server, client) = (ca.identity(&spiffe(SERVER)), ca.identity(&spiffe(CLIENT)));
    let mut params = ServerParams::mesh(&server, &[TrustDomain::default()]);
    params.alpn = vec!["istio-peer-exchange".into(), "h2".into(), "http/1.1".into()];
    let server_tls = ServerTls::new(params).unwrap();
    let mut params = ClientParams::mesh(&client, any_of(&[SERVER]));
    params.server_name = Some(SNI.try_into().unwrap());
    params.alpn = vec!["istio-http/1.1".into(), "istio".into(), "http/1.1".into()];
    let connection = established(&ClientTls::new(params).unwrap(), &server_tls).await;

    let (at_client, at_server) = (&connection.client.1, &connection.server.1);
    assert_eq!(at_client.spiffe(), Some(&spiffe(SERVER)));
    assert_eq!(at_server.spiffe(), Some(&spiffe(CLIENT)));
    let own = client.credential().load().unwrap();
    assert_eq!(at_server.certificate.as_ref().unwrap().fingerprint(), own.leaf().fingerprint());
    for info in [at_client, at_server] {
        assert_eq!((info.version, info.alpn.as_deref(), info.resumed), (TlsVersion::V1_3, Some("http/1.1"), false));
        assert_eq!((info.sni.as_deref(), info.cipher_suite), (Some(SNI), "TLS13_AES_128_GCM_SHA256"));
    }
}

/// The server's view of clients that it must refuse.
#[tokio::test]
async fn clients_that_are_refused() {
    let (ca, stranger) = (TestCa::new(), TestCa::new());
    let foreign_root = stranger.workload(&spiffe(CLIENT));
    let leaf = || ca.leaf().uri(CLIENT);
    let cases: Vec<(&str, Leaf, &str)> = vec![
        ("wrong trust domain", ca.workload(&spiffe("spiffe://other.domain/ns/a/sa/b")), "unexpected_trust_domain"),
        ("longer trust domain", ca.workload(&spiffe("spiffe://cluster.local.evil/ns/a/sa/b")), "unexpected_trust_domain"),
        ("expired", leaf().expired().issue(), "expired"),
        ("not yet valid", leaf().not_yet_valid().issue(), "not_yet_valid"),
        ("unknown root of the same name", foreign_root, "unknown_issuer"),
        ("for servers only", leaf().server_only().issue(), "wrong_usage"),
        ("a CA certificate", leaf().as_ca().issue(), "wrong_usage"),
        ("no identity", ca.leaf().dns("frontend.example").issue(), "no_identity"),
    ];
    let server = mesh_server(&ca.identity(&spiffe(SERVER)));
    for (what, leaf, reason) in cases {
        let (client, server) = handshake(&mesh_client(&leaf.identity(&ca)), &server).await;
        let error = server.err().unwrap_or_else(|| panic!("{what}: let in"));
        assert_eq!(error.reason(), reason, "{what}: {error}");
        assert!(VerifyError::REASONS.contains(&error.reason()));
        assert_eq!(client.expect_err(what).reason(), "refused_by_peer", "{what}");
    }
}

/// Names so bad that our own side refuses to load them: presented by plain rustls.
#[tokio::test]
async fn clients_with_ambiguous_names_are_refused() {
    let ca = TestCa::new();
    let server = mesh_server(&ca.identity(&spiffe(SERVER)));
    for (what, leaf) in [
        ("two identities", ca.leaf().uri(CLIENT).uri("spiffe://cluster.local/ns/a/sa/admin").issue()),
        ("identity after another URI", ca.leaf().uri("https://x/").uri(CLIENT).issue()),
        ("NUL in the URI", ca.leaf().uri("spiffe://cluster.local/ns/a/sa/b\0.evil").issue()),
        ("NUL in a DNS name", ca.leaf().uri(CLIENT).dns("a\0b").issue()),
        ("too many path parts", ca.leaf().uri("spiffe://cluster.local/ns/a/sa/b/c").issue()),
    ] {
        let (near, far) = duplex(64 * 1024);
        let tls = server.clone();
        let serving = tokio::spawn(async move { accept(far, &tls).await });
        let connector = tokio_rustls::TlsConnector::from(plain_rustls_client(&leaf));
        let _client = connector.connect(SNI.try_into().unwrap(), near).await;
        let error = serving.await.unwrap().expect_err(what);
        assert_eq!(error.reason(), "bad_names", "{what}: {error}");
    }
}

fn plain_rustls_client(leaf: &Leaf) -> Arc<rustls::ClientConfig> {
    use rustls_pki_types::pem::PemObject;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = lateen_tls::chain_from_pem(leaf.chain_pem.as_bytes()).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAll));
    Arc::new(builder.with_client_auth_cert(chain, key).unwrap())
}

#[derive(Debug)]
struct AcceptAll;

impl rustls::client::danger::ServerCertVerifier for AcceptAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// The client's view of servers that it must refuse.
#[tokio::test]
async fn servers_that_are_refused() {
    let (ca, stranger) = (TestCa::new(), TestCa::new());
    let leaf = || ca.leaf().uri(SERVER);
    let cases: Vec<(&str, Leaf, &str)> = vec![
        ("another service", ca.workload(&spiffe(CLIENT)), "unexpected_identity"),
        ("another trust domain", ca.workload(&spiffe(&SERVER.replace("cluster.local", "other"))), "unexpected_identity"),
        ("expired", leaf().expired().issue(), "expired"),
        ("not yet valid", leaf().not_yet_valid().issue(), "not_yet_valid"),
        ("unknown root", stranger.workload(&spiffe(SERVER)), "unknown_issuer"),
        ("for clients only", leaf().client_only().issue(), "wrong_usage"),
        ("no identity", ca.leaf().dns(SNI).issue(), "no_identity"),
    ];
    let client = mesh_client(&ca.identity(&spiffe(CLIENT)));
    for (what, leaf, reason) in cases {
        let (client, server) = handshake(&client, &mesh_server(&leaf.identity(&ca))).await;
        let error = client.err().unwrap_or_else(|| panic!("{what}: accepted"));
        assert_eq!(error.reason(), reason, "{what}: {error}");
        assert_eq!(server.expect_err(what).reason(), "refused_by_peer", "{what}");
    }
    let nobody = ClientTls::new(ClientParams::mesh(&ca.identity(&spiffe(CLIENT)), any_of(&[]))).unwrap();
    let (client, _) = handshake(&nobody, &mesh_server(&ca.identity(&spiffe(SERVER)))).await;
    assert_eq!(client.err().unwrap().reason(), "unexpected_identity", "an empty set lets nobody in");
}

#[tokio::test]
async fn chains_over_an_intermediate_are_followed() {
    let root = TestCa::new();
    let intermediate = root.intermediate("Cluster one").intermediate("Namespace authority");
    let server = mesh_server(&intermediate.identity(&spiffe(SERVER)));
    let connection = established(&mesh_client(&root.identity(&spiffe(CLIENT))), &server).await;
    assert_eq!(connection.client.1.spiffe(), Some(&spiffe(SERVER)));
}

#[tokio::test]
async fn a_client_without_a_certificate() {
    let ca = TestCa::new();
    let server = ca.identity(&spiffe(SERVER));
    let mut params = ClientParams::mesh(&ca.identity(&spiffe(CLIENT)), any_of(&[SERVER]));
    params.credential = None;
    let anonymous = ClientTls::new(params).unwrap();
    let (client, refused) = handshake(&anonymous, &mesh_server(&server)).await;
    assert_eq!(refused.err().unwrap().reason(), "no_certificate");
    assert_eq!(client.err().unwrap().reason(), "refused_by_peer");

    let if_given = |expectation| {
        let client_auth = ClientAuth::IfGiven(server.trust().clone(), expectation);
        ServerTls::new(ServerParams { client_auth, ..ServerParams::mesh(&server, &[]) })
    };
    let optional = if_given(PeerExpectation::TrustDomains([TrustDomain::default()].into())).unwrap();
    let connection = established(&anonymous, &optional).await;
    assert!(connection.server.1.certificate.is_none() && connection.server.1.spiffe().is_none());
    let connection = established(&mesh_client(&ca.identity(&spiffe(CLIENT))), &optional).await;
    assert_eq!(connection.server.1.spiffe(), Some(&spiffe(CLIENT)));
    // Given, but bad: refused, not let in unauthenticated.
    let expired = ca.leaf().uri(CLIENT).expired().issue().identity(&ca);
    let (_, refused) = handshake(&mesh_client(&expired), &optional).await;
    assert_eq!(refused.err().unwrap().reason(), "expired");
    assert_eq!(if_given(PeerExpectation::Unverified).unwrap_err(), TlsConfigError::UnverifiedClients);
}

#[tokio::test]
async fn bytes_that_are_no_handshake() {
    let ca = TestCa::new();
    let server = mesh_server(&ca.identity(&spiffe(SERVER)));
    for (bytes, reason) in [
        (&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], "not_tls"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "not_tls"),
        (b"", "closed"),
        (b"\x16\x03\x01", "closed"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", "closed"),
        (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\xff", "not_tls"),
        (b"\x15\x03\x01\x00\x02\x02\xff", "protocol"),
        (&[0xff; 70_000], "not_tls"),
    ] {
        let (mut near, far) = duplex(128 * 1024);
        near.write_all(bytes).await.unwrap();
        near.shutdown().await.unwrap();
        let error = accept(far, &server).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{:?}: {error}", &bytes[..bytes.len().min(20)]);
    }
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_or_stops() {
    let ca = TestCa::new();
    let client = mesh_client(&ca.identity(&spiffe(CLIENT)));
    for (bytes, reason) in
        [(&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "not_tls"), (b"", "closed"), (b"\x16\x03\x03\x00\x7a", "closed")]
    {
        let (near, mut far) = duplex(64 * 1024);
        far.write_all(bytes).await.unwrap();
        far.shutdown().await.unwrap();
        let error = connect(near, &client, ConnectOptions::default()).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{bytes:?}: {error}");
    }
}

/// Both roles of an identity that is not ready: refused at once, without a byte sent.
async fn assert_not_ready(identity: &WorkloadIdentity) {
    assert!(!identity.is_ready());
    let (near, mut far) = duplex(64 * 1024);
    assert_eq!(accept(near, &mesh_server(identity)).await.err().unwrap().reason(), "not_ready");
    assert_eq!(far.read(&mut [0]).await.unwrap(), 0);
    let (near, mut far) = duplex(64 * 1024);
    assert_eq!(connect(near, &mesh_client(identity), ConnectOptions::default()).await.err().unwrap().reason(), "not_ready");
    assert_eq!(far.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn nothing_happens_before_certificate_and_roots_are_there() {
    let ca = TestCa::new();
    let peer = ca.identity(&spiffe(SERVER));
    for roots_first in [true, false] {
        let identity = WorkloadIdentity::new();
        let (server, client) = (mesh_server(&identity), mesh_client(&identity));
        assert_not_ready(&identity).await;
        let waiting = identity.clone();
        let waiter = tokio::spawn(async move { waiting.ready().await });
        if roots_first {
            identity.install_trust(ca.trust());
        } else {
            identity.install(ca.workload(&spiffe(SERVER)).credential());
        }
        assert_not_ready(&identity).await;
        assert!(!waiter.is_finished());
        if roots_first {
            identity.install(ca.workload(&spiffe(SERVER)).credential());
        } else {
            identity.install_trust(ca.trust());
        }
        waiter.await.unwrap();
        // Configurations that were made before serve now.
        established(&mesh_client(&peer), &server).await;
        established(&client, &mesh_server(&peer)).await;
    }
}

#[tokio::test]
async fn a_resumed_session_keeps_the_identities() {
    let ca = TestCa::new();
    let (server, client) = (ca.identity(&spiffe(SERVER)), ca.identity(&spiffe(CLIENT)));
    for max in [TlsVersion::V1_3, TlsVersion::V1_2] {
        let params = TlsParams { max, ..TlsParams::default() };
        let server_tls =
            ServerTls::new(ServerParams { params: params.clone(), ..ServerParams::mesh(&server, &[TrustDomain::default()]) })
                .unwrap();
        let client_tls = ClientTls::new(ClientParams { params, ..ClientParams::mesh(&client, any_of(&[SERVER])) }).unwrap();
        for round in 0..3 {
            let connection = established(&client_tls, &server_tls).await;
            for (info, id) in [(&connection.client.1, SERVER), (&connection.server.1, CLIENT)] {
                assert_eq!((info.version, info.resumed), (max, round > 0), "{max:?} round {round}");
                assert_eq!(info.spiffe(), Some(&spiffe(id)));
            }
        }
    }
}

#[tokio::test]
async fn nothing_is_resumed_across_a_change() {
    let ca = TestCa::new();
    let (server, client) = (ca.identity(&spiffe(SERVER)), ca.identity(&spiffe(CLIENT)));
    let both_roots = || TrustBundle::from_pem(format!("{}{}", ca.root_pem(), TestCa::new().root_pem()).as_bytes()).unwrap();
    let (server_tls, client_tls) = (mesh_server(&server), mesh_client(&client));
    let resumed = async |what: &str, expected: bool| {
        let connection = established(&client_tls, &server_tls).await;
        assert_eq!((connection.client.1.resumed, connection.server.1.resumed), (expected, expected), "{what}");
    };
    resumed("first", false).await;
    resumed("second", true).await;
    server.install_trust(both_roots());
    resumed("the server's roots changed", false).await;
    resumed("again", true).await;
    client.install_trust(both_roots());
    resumed("the client's roots changed", false).await;
    resumed("again", true).await;
    server.install(ca.workload(&spiffe(SERVER)).credential());
    resumed("the server's certificate changed", false).await;
    resumed("again", true).await;
    client.install(ca.workload(&spiffe(CLIENT)).credential());
    resumed("the client's certificate changed", false).await;
    resumed("again", true).await;
    client.install_trust(client.trust().load().map(|b| TrustBundle::from_pem(b.pem().as_bytes()).unwrap()).unwrap());
    resumed("the same roots again", true).await;

    // rustls resumes only between configurations of the same verifier and resolver objects (`ClientConfig::resumption`), and a
    // ticket is made with the key of one listener.
    let other_listener = mesh_server(&server);
    let connection = established(&client_tls, &other_listener).await;
    assert!(!connection.server.1.resumed, "a session of one listener is none of another");
}

/// Roots taken away: the next handshake fails in configurations that exist, resumable session or not.
#[tokio::test]
async fn a_root_that_is_withdrawn_is_not_trusted_any_more() {
    let (old, new) = (TestCa::new(), TestCa::new());
    let (server, client) = (old.identity(&spiffe(SERVER)), old.identity(&spiffe(CLIENT)));
    let (server_tls, client_tls) = (mesh_server(&server), mesh_client(&client));
    let mut open = established(&client_tls, &server_tls).await;
    server.install_trust(new.trust());
    let (_, refused) = handshake(&client_tls, &server_tls).await;
    assert_eq!(refused.err().unwrap().reason(), "unknown_issuer");
    open.ping().await;
    // The client moves to the new root too.
    client.install(new.workload(&spiffe(CLIENT)).credential());
    client.install_trust(TrustBundle::from_pem(format!("{}{}", old.root_pem(), new.root_pem()).as_bytes()).unwrap());
    established(&client_tls, &server_tls).await;
}

/// What `accept` and `connect` do at the end of every handshake, at any time one likes.
#[test]
fn confirmation_asks_again_what_verification_once_answered() {
    let ca = TestCa::new();
    let trust = TrustHandle::new(ca.trust());
    let policy = PeerPolicy::new(trust.clone(), any_of(&[CLIENT]), PeerRole::Client);
    let leaf = ca.leaf().uri(CLIENT).ends_in(Duration::from_secs(60)).issue();
    let chain = [CertificateDer::from(leaf.der)];
    let now = SystemTime::now();
    let first = policy.verify(&chain[0], &[], now, None).unwrap();
    let again = policy.confirm(&chain, now, None).unwrap();
    assert!(Arc::ptr_eq(&first, &again), "parsed and verified once");
    assert_eq!(policy.confirm(&chain, now + Duration::from_secs(61), None), Err(VerifyError::Expired));
    assert_eq!(policy.confirm(&chain, now - Duration::from_secs(48 * 3600), None), Err(VerifyError::NotYetValid));
    assert_eq!(policy.confirm(&[], now, None), Err(VerifyError::NoCertificate));
    let others = PeerPolicy::new(trust.clone(), any_of(&[SERVER]), PeerRole::Client);
    assert!(matches!(others.confirm(&chain, now, None), Err(VerifyError::UnexpectedIdentity(_))));
    trust.replace(TestCa::new().trust());
    assert_eq!(policy.confirm(&chain, now, None), Err(VerifyError::UnknownIssuer));
    let nothing = PeerPolicy::new(TrustHandle::empty(), PeerExpectation::AnyInTrustBundle, PeerRole::Client);
    assert_eq!(nothing.confirm(&chain, now, None), Err(VerifyError::NotReady));
}

/// More peers than are remembered: all are still told apart.
#[test]
fn many_peers_are_confirmed_each_as_itself() {
    let ca = TestCa::new();
    let policy = PeerPolicy::new(TrustHandle::new(ca.trust()), PeerExpectation::AnyInTrustBundle, PeerRole::Client);
    let id = |n: usize| spiffe(&format!("spiffe://cluster.local/ns/a/sa/s{n}"));
    let chains: Vec<_> = (0..150).map(|n| [CertificateDer::from(ca.workload(&id(n)).der)]).collect();
    for _ in 0..2 {
        for (n, chain) in chains.iter().enumerate() {
            assert_eq!(policy.confirm(chain, SystemTime::now(), None).unwrap().identity(), Some(&id(n)));
        }
    }
}

#[tokio::test]
async fn rotation_in_the_middle_of_traffic() {
    let ca = TestCa::new();
    let (server, client) = (ca.identity(&spiffe(SERVER)), ca.identity(&spiffe(CLIENT)));
    let (server_tls, client_tls) = (mesh_server(&server), mesh_client(&client));
    let mut connections = vec![established(&client_tls, &server_tls).await];
    let mut seen = Vec::new();
    for _ in 0..3 {
        server.install(ca.workload(&spiffe(SERVER)).credential());
        connections.push(established(&client_tls, &server_tls).await);
        let current = server.credential().load().unwrap().leaf().fingerprint_hex();
        let presented = connections.last().unwrap().client.1.certificate.as_ref().unwrap().fingerprint_hex();
        assert_eq!(presented, current, "a new connection sees the new certificate");
        assert!(!seen.contains(&current));
        seen.push(current);
        for connection in &mut connections {
            connection.ping().await;
        }
    }
    assert_eq!(*server.changes().borrow(), 5);
}

#[tokio::test]
async fn versions_and_protocols() {
    let ca = TestCa::new();
    let (server, client) = (ca.identity(&spiffe(SERVER)), ca.identity(&spiffe(CLIENT)));
    let versions = |min, max| TlsParams { min, max, cipher_suites: Vec::new() };
    let serve = |params, alpn: &[&str]| {
        let alpn = alpn.iter().map(|p| (*p).to_owned()).collect();
        ServerTls::new(ServerParams { params, alpn, ..ServerParams::mesh(&server, &[TrustDomain::default()]) }).unwrap()
    };
    let dial = |params, alpn: &[&str]| {
        let alpn = alpn.iter().map(|p| (*p).to_owned()).collect();
        ClientTls::new(ClientParams { params, alpn, ..ClientParams::mesh(&client, any_of(&[SERVER])) }).unwrap()
    };
    use TlsVersion::{V1_2, V1_3};
    let connection = established(&dial(versions(V1_2, V1_2), &[]), &serve(versions(V1_2, V1_3), &[])).await;
    assert_eq!((connection.server.1.version, connection.server.1.spiffe()), (V1_2, Some(&spiffe(CLIENT))));
    assert_eq!(connection.server.1.sni, None, "no name, no SNI");
    let (old, refused) = handshake(&dial(versions(V1_2, V1_2), &[]), &serve(versions(V1_3, V1_3), &[])).await;
    assert_eq!((old.err().unwrap().reason(), refused.err().unwrap().reason()), ("refused_by_peer", "protocol"));

    // The server's order decides; nothing in common means no protocol, as with Envoy.
    for (offered, served, agreed) in [
        (&["istio", "h2"][..], &["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1", "h2"], &["h2", "http/1.1"], Some("h2")),
        (&["istio-peer-exchange", "istio"], &["h2", "http/1.1"], None),
        (&["istio"], &[], None),
        (&[], &["h2"], None),
    ] {
        let connection = established(&dial(versions(V1_2, V1_3), offered), &serve(versions(V1_2, V1_3), served)).await;
        assert_eq!((connection.client.1.alpn.as_deref(), connection.server.1.alpn.as_deref()), (agreed, agreed), "{offered:?}");
    }

    let (near, far) = duplex(64 * 1024);
    let tls = serve(versions(V1_2, V1_3), &["h2", "http/1.1"]);
    let serving = tokio::spawn(async move { accept(far, &tls).await.map(|(_, info)| info) });
    let options =
        ConnectOptions { alpn: Some(vec![b"http/1.1".to_vec()]), server_name: Some("Other.Example".try_into().unwrap()) };
    let (_stream, info) = connect(near, &dial(versions(V1_2, V1_3), &["h2"]), options).await.unwrap();
    assert_eq!((info.alpn.as_deref(), info.sni.as_deref()), (Some("http/1.1"), Some("other.example")));
    assert_eq!(serving.await.unwrap().unwrap().sni.as_deref(), Some("other.example"));

    for alpn in [String::new(), "x".repeat(256)] {
        let params = ServerParams { alpn: vec![alpn], ..ServerParams::mesh(&server, &[]) };
        assert!(matches!(ServerTls::new(params), Err(TlsConfigError::Alpn(_))));
    }
}

/// Servers outside of the mesh, and the control plane.
#[tokio::test]
async fn servers_by_name() {
    let ca = TestCa::new();
    let serve = |leaf: &Leaf| {
        let credential = CredentialHandle::new(leaf.credential());
        ServerTls::new(ServerParams { credential, client_auth: ClientAuth::None, params: TlsParams::default(), alpn: vec![] })
            .unwrap()
    };
    let istiod =
        serve(&ca.leaf().dns("istiod.istio-system.svc").dns("*.example.com").ip([127, 0, 0, 1].into()).server_only().issue());
    let dial = |name: &str, expectation: PeerExpectation| {
        let params = ClientParams::server(TrustHandle::new(ca.trust()), name.to_owned().try_into().unwrap());
        ClientTls::new(ClientParams { expectation, ..params }).unwrap()
    };
    for (name, good) in [
        ("istiod.istio-system.svc", true),
        ("ISTIOD.istio-system.svc", true),
        ("a.example.com", true),
        ("127.0.0.1", true),
        ("example.com", false),
        ("a.b.example.com", false),
        ("istio-system.svc", false),
        ("127.0.0.2", false),
    ] {
        let (client, _) = handshake(&dial(name, PeerExpectation::ServerName), &istiod).await;
        match client {
            Ok((_, info)) => assert!(good && info.certificate.is_some(), "{name}"),
            Err(error) => assert!(!good && error.reason() == "unexpected_name", "{name}: {error}"),
        }
    }
    let sans = |names: &[StringMatch]| PeerExpectation::from_san_matches(names);
    for (expectation, good) in [
        (sans(&[StringMatch::exact("b.example.com")]), true),
        (sans(&[StringMatch::suffix(".istio-system.svc")]), true),
        (sans(&[StringMatch::exact("127.0.0.1")]), true),
        (sans(&[StringMatch::exact("other")]), false),
        (sans(&[]), true),
    ] {
        let (client, _) = handshake(&dial("x.invalid", expectation.clone()), &istiod).await;
        assert_eq!(client.is_ok(), good, "{expectation:?}");
    }
    // Unverified: encrypted, but nobody is authenticated, whatever the certificate says.
    let stranger = serve(&TestCa::new().workload(&spiffe(SERVER)));
    let (client, _) = handshake(&dial("x.invalid", PeerExpectation::Unverified), &stranger).await;
    let info = client.unwrap().1;
    assert!(info.certificate.is_none() && info.spiffe().is_none());
}

#[tokio::test]
async fn revoked_certificates_are_refused() {
    let ca = TestCa::new();
    let (good, bad) = (ca.workload(&spiffe(CLIENT)), ca.workload(&spiffe(CLIENT)));
    let serial = lateen_tls::Certificate::parse(&bad.der).unwrap().serial().to_vec();
    let bundle = |crl: &str| TrustBundle::from_pem_with_crls(ca.root_pem().as_bytes(), crl.as_bytes());
    let server = ca.identity(&spiffe(SERVER));
    let server_tls = mesh_server(&server);
    established(&mesh_client(&bad.identity(&ca)), &server_tls).await;
    assert!(server.trust().replace(bundle(&ca.revocation_list(&serial)).unwrap()));
    established(&mesh_client(&good.identity(&ca)), &server_tls).await;
    let (_, refused) = handshake(&mesh_client(&bad.identity(&ca)), &server_tls).await;
    assert_eq!(refused.err().unwrap().reason(), "revoked");
    // A list of another authority covers nobody: fail closed.
    server.trust().replace(bundle(&TestCa::new().intermediate("x").revocation_list(&serial)).unwrap());
    let (_, refused) = handshake(&mesh_client(&good.identity(&ca)), &server_tls).await;
    assert_eq!(refused.err().unwrap().reason(), "revocation_unknown");
    assert!(bundle("-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n").is_err());
}

#[tokio::test]
async fn bulk_over_tls_arrives_whole() {
    let ca = TestCa::new();
    let (server, client) = (mesh_server(&ca.identity(&spiffe(SERVER))), mesh_client(&ca.identity(&spiffe(CLIENT))));
    let (near, far) = duplex(256 * 1024);
    let payload: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[1]).collect();
    let expected = payload.clone();
    let serving = tokio::spawn(async move {
        let (mut stream, _) = accept(far, &server).await.unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.unwrap();
        received
    });
    let (mut stream, _) = connect(near, &client, ConnectOptions::default()).await.unwrap();
    stream.write_all(&payload).await.unwrap();
    stream.shutdown().await.unwrap();
    assert!(serving.await.unwrap() == expected);
}

#[test]
fn handshakes_are_small_futures() {
    let ca = TestCa::new();
    let (server, client) = (mesh_server(&ca.identity(&spiffe(SERVER))), mesh_client(&ca.identity(&spiffe(CLIENT))));
    let (near, far) = duplex(1);
    let sizes = (size_of_val(&accept(far, &server)), size_of_val(&connect(near, &client, ConnectOptions::default())));
    assert!(sizes.0 < 6_000 && sizes.1 < 6_000, "{sizes:?}");
}

#[test]
fn keys_are_never_printed() {
    let ca = TestCa::new();
    let leaf = ca.workload(&spiffe(SERVER));
    let identity = leaf.identity(&ca);
    let (server, client) = (mesh_server(&identity), mesh_client(&identity));
    let key = WorkloadKey::generate().unwrap();
    let texts = [
        format!("{identity:?}"),
        format!("{server:?}"),
        format!("{client:?}"),
        format!("{key:?}"),
        format!("{:?}", ca.authority()),
    ];
    for text in texts {
        assert!(text.len() < 600, "{text}");
        let lower = text.to_ascii_lowercase();
        assert!(!lower.contains("private") && !lower.contains("secret") && !lower.contains("pkcs8"), "{text}");
        assert!(!leaf.key_pem.lines().any(|line| text.contains(line)), "{text}");
    }
}
