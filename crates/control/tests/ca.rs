//! Certificates: who gets one, and for whom.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use lateen_control::debounce::DebounceConfig;
use lateen_control::server::{CertificateRequest, CertificateResponse, Metadata, MetadataValue};
use lateen_model::identity::SpiffeId;
use lateen_tls::{
    Certificate, ClientParams, ClientTls, ConnectOptions, Credential, ServerName, ServiceAccount, TokenIssuer, TokenRequest,
    TrustBundle, TrustHandle, WorkloadKey, chain_from_pem,
};
use prost::Message;
use std::time::{Duration, SystemTime};
use support::Mesh;

fn token(issuer: &TokenIssuer, audience: &str, lifetime: Duration) -> String {
    let service_account = ServiceAccount { namespace: "production".into(), name: "frontend-sa".into() };
    let request = TokenRequest { service_account, pod: None, audiences: vec![audience.into()], lifetime };
    issuer.issue(&request, SystemTime::now()).unwrap()
}

fn identity(account: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://cluster.local/ns/production/sa/{account}")).unwrap()
}

struct Caller<'a> {
    mesh: &'a Mesh,
    token: Option<String>,
    certificate: Option<Credential>,
}

impl Caller<'_> {
    /// The gRPC status, and the answer if there is one.
    async fn call(self, request: &CertificateRequest) -> (i32, Option<CertificateResponse>) {
        let roots = std::fs::read(self.mesh.dir.path().join("ca/ca-cert.pem")).unwrap();
        let trust = TrustHandle::new(TrustBundle::from_pem(&roots).unwrap());
        let mut params = ClientParams::server(trust, ServerName::try_from("localhost").unwrap());
        params.alpn = vec!["h2".into()];
        params.credential = self.certificate.map(lateen_tls::CredentialHandle::new);
        let socket = tokio::net::TcpStream::connect(self.mesh.running().secure_grpc).await.unwrap();
        let (stream, peer) =
            lateen_tls::connect(socket, &ClientTls::new(params).unwrap(), ConnectOptions::default()).await.unwrap();
        assert_eq!(peer.alpn.as_deref(), Some("h2"));
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut body = BytesMut::new();
        body.put_u8(0);
        body.put_u32(u32::try_from(request.encoded_len()).unwrap());
        request.encode(&mut body).unwrap();
        let mut call = http::Request::post("https://localhost/istio.v1.auth.IstioCertificateService/CreateCertificate")
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(token) = self.token {
            call = call.header("authorization", format!("Bearer {token}"));
        }
        let answer = sender.send_request(call.body(Full::new(body.freeze())).unwrap()).await.unwrap();
        let status = |headers: &http::HeaderMap| headers.get("grpc-status").map(|s| s.to_str().unwrap().parse().unwrap());
        let early = status(answer.headers());
        let collected = answer.into_body().collect().await.unwrap();
        let status = early.or_else(|| collected.trailers().and_then(status)).expect("a status");
        let bytes: Bytes = collected.to_bytes();
        (status, bytes.get(5..).map(|message| CertificateResponse::decode(message).unwrap()))
    }
}

fn request(csr: String) -> CertificateRequest {
    CertificateRequest { csr, validity_duration: 60, metadata: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_gets_its_own_certificate_and_no_other() {
    let mesh = Mesh::start(DebounceConfig::default()).await;
    let hour = Duration::from_secs(3600);
    let good = || Caller { mesh: &mesh, token: Some(token(&mesh.issuer, "istio-ca", hour)), certificate: None };
    let key = WorkloadKey::generate().unwrap();
    let csr = key.signing_request(&identity("frontend-sa")).unwrap();

    let (status, answer) = good().call(&request(csr.clone())).await;
    assert_eq!(status, 0);
    let chain = answer.unwrap().cert_chain;
    assert!(chain.len() >= 2, "leaf and roots");
    let leaf = Certificate::parse(&chain_from_pem(chain[0].as_bytes()).unwrap()[0]).unwrap();
    assert_eq!(leaf.identity(), Some(&identity("frontend-sa")));
    let lifetime = leaf.not_after().duration_since(SystemTime::now()).unwrap();
    assert!(lifetime <= Duration::from_secs(60), "{lifetime:?}");

    // With the certificate alone, as at its renewal.
    let (credential, _) = Credential::from_ca_response(&chain, &key).unwrap();
    let by_certificate = Caller { mesh: &mesh, token: None, certificate: Some(credential) };
    assert_eq!(by_certificate.call(&request(csr.clone())).await.0, 0);

    let other = key.signing_request(&identity("payment-service-sa")).unwrap();
    assert_eq!(good().call(&request(other)).await.0, 7, "permission denied: another identity");
    let value = MetadataValue { string_value: identity("payment-service-sa").as_uri().to_owned() };
    let impersonating = Metadata { fields: [("ImpersonatedIdentity".to_owned(), value)].into() };
    let mut asked = request(csr.clone());
    asked.metadata = Some(impersonating);
    assert_eq!(good().call(&asked).await.0, 7, "permission denied: impersonation");
    assert_eq!(good().call(&request("nonsense".into())).await.0, 3, "invalid argument");
    let mut long = request(csr.clone());
    long.validity_duration = 10 * 365 * 86_400;
    assert_eq!(good().call(&long).await.0, 3, "invalid argument: longer than allowed");
    long.validity_duration = -1;
    assert_eq!(good().call(&long).await.0, 3, "invalid argument: negative");

    let stranger = TokenIssuer::generate("test").unwrap();
    for (what, token) in [
        ("no token", None),
        ("garbage", Some("x.y.z".to_owned())),
        ("another issuer's key", Some(token(&stranger, "istio-ca", hour))),
        ("another audience", Some(token(&mesh.issuer, "somebody", hour))),
    ] {
        let caller = Caller { mesh: &mesh, token, certificate: None };
        assert_eq!(caller.call(&request(csr.clone())).await.0, 16, "unauthenticated: {what}");
    }
    let (_, metrics) = mesh.page("/metrics").await;
    for line in [
        "citadel_server_success_cert_issuance_count 2",
        "citadel_server_authentication_failure_count 4",
        "citadel_server_id_extraction_err_count 2",
    ] {
        assert!(metrics.contains(line), "{line}");
    }
}
