//! The client of the certificate authority: `istio.v1.auth.IstioCertificateService/CreateCertificate`.

use super::channel::ControlPlane;
use prost::Message;
use std::time::Duration;
use tonic::codegen::http::uri::PathAndQuery;

/// `istio.v1.auth.IstioCertificateRequest`; field numbers are Istio's.
#[derive(Clone, PartialEq, Message)]
struct CertificateRequest {
    /// PEM.
    #[prost(string, tag = "1")]
    csr: String,
    /// Seconds.
    #[prost(int64, tag = "3")]
    validity_duration: i64,
}

/// `istio.v1.auth.IstioCertificateResponse`.
#[derive(Clone, PartialEq, Message)]
struct CertificateResponse {
    /// PEM: the leaf, intermediates, the root last.
    #[prost(string, repeated, tag = "1")]
    cert_chain: Vec<String>,
}

const PATH: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

/// How long one request for a certificate may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// Asks for a certificate. The chain that comes back has the leaf first and the root last.
pub(crate) async fn sign(control_plane: &ControlPlane, csr_pem: String, life: Duration) -> Result<Vec<String>, tonic::Status> {
    let mut grpc = tonic::client::Grpc::new(control_plane.ca_channel());
    let validity_duration = i64::try_from(life.as_secs()).unwrap_or(i64::MAX);
    let mut request = tonic::Request::new(CertificateRequest { csr: csr_pem, validity_duration });
    request.set_timeout(DEADLINE);
    request.metadata_mut().insert("authorization", control_plane.authorization().map_err(tonic::Status::unauthenticated)?);
    grpc.ready().await.map_err(|e| tonic::Status::unavailable(format!("certificate authority: {e}")))?;
    let codec = tonic_prost::ProstCodec::<CertificateRequest, CertificateResponse>::default();
    let answer = tokio::time::timeout(DEADLINE, grpc.unary(request, PathAndQuery::from_static(PATH), codec))
        .await
        .map_err(|_| tonic::Status::deadline_exceeded("certificate authority: no answer in 10 s"))??;
    let chain = answer.into_inner().cert_chain;
    if chain.len() < 2 {
        return Err(tonic::Status::internal(format!(
            "certificate authority: a chain of {} certificates; a leaf and a root are needed",
            chain.len()
        )));
    }
    Ok(chain)
}
