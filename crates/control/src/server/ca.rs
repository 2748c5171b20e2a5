//! `istio.v1.auth.IstioCertificateService`: certificates for workloads that have proven who they are.

use super::auth::Authenticator;
use super::grpc::ConnectionInfo;
use crate::metrics::Metrics;
use lateen_model::identity::SpiffeId;
use lateen_tls::{CaError, CaErrorClass, CertificateAuthority};
use lateen_xds::server::BoxFuture;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tonic::Status;

/// The largest request that is read, in bytes.
const MAX_REQUEST: usize = 256 * 1024;

/// `istio.v1.auth.IstioCertificateRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CertificateRequest {
    /// PKCS#10, PEM.
    #[prost(string, tag = "1")]
    pub csr: String,
    /// Seconds; zero is the authority's default.
    #[prost(int64, tag = "3")]
    pub validity_duration: i64,
    /// `google.protobuf.Struct`.
    #[prost(message, optional, tag = "4")]
    pub metadata: Option<Metadata>,
}

/// `google.protobuf.Struct`, as far as it is read.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Metadata {
    /// By key.
    #[prost(map = "string, message", tag = "1")]
    pub fields: HashMap<String, MetadataValue>,
}

/// `google.protobuf.Value`, as far as it is read.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MetadataValue {
    /// A text.
    #[prost(string, tag = "3")]
    pub string_value: String,
}

/// `istio.v1.auth.IstioCertificateResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CertificateResponse {
    /// PEM: the leaf, intermediates, and the roots last.
    #[prost(string, repeated, tag = "1")]
    pub cert_chain: Vec<String>,
}

/// The service, for a `tonic` router.
#[derive(Clone)]
pub(super) struct CaService {
    authority: Arc<CertificateAuthority>,
    authenticator: Arc<Authenticator>,
    metrics: Arc<Metrics>,
}

impl CaService {
    /// Signs with `authority` for whom `authenticator` knows.
    pub(super) fn new(authority: Arc<CertificateAuthority>, authenticator: Arc<Authenticator>, metrics: Arc<Metrics>) -> Self {
        Self { authority, authenticator, metrics }
    }

    /// The certificate for a caller. Its identity comes from what it has proven and from nothing that it says.
    fn create(&self, request: &tonic::Request<CertificateRequest>) -> Result<CertificateResponse, Status> {
        self.metrics.csr.increment();
        let connection = request.extensions().get::<ConnectionInfo>().cloned();
        let connection = connection.ok_or_else(|| Status::internal("nothing is known of the connection"))?;
        let identities = self.authenticator.identities(request.metadata(), &connection)?;
        let identity = identities.first().ok_or_else(|| Status::unauthenticated("request authenticate failure"))?;
        let request = request.get_ref();
        self.check_metadata(request, identity)?;
        let seconds = u64::try_from(request.validity_duration)
            .map_err(|_| Status::invalid_argument("validity_duration must not be negative"))?;
        let chain = self.authority.sign(&request.csr, identity, Duration::from_secs(seconds));
        let chain = chain.map_err(|error| self.failed(&error, identity, &connection))?;
        self.metrics.issued.increment();
        tracing::debug!("{}: issued a certificate for {identity}", connection.address);
        Ok(CertificateResponse { cert_chain: chain })
    }

    /// Keys that would change whom or what the certificate is for are refused, not overlooked.
    fn check_metadata(&self, request: &CertificateRequest, identity: &SpiffeId) -> Result<(), Status> {
        let get = |key: &str| request.metadata.as_ref().and_then(|m| m.fields.get(key)).map(|v| v.string_value.as_str());
        if let Some(other) = get("ImpersonatedIdentity").filter(|other| *other != identity.as_uri()) {
            self.metrics.id_extraction_errors.increment();
            tracing::warn!("{identity} asked for a certificate of {other:?}: refused");
            return Err(Status::permission_denied("no caller may ask for another identity's certificate"));
        }
        match get("CertSigner") {
            Some(signer) if !signer.is_empty() => Err(Status::invalid_argument("CertSigner is not supported; leave it out")),
            _ => Ok(()),
        }
    }

    fn failed(&self, error: &CaError, identity: &SpiffeId, connection: &ConnectionInfo) -> Status {
        tracing::warn!("{}: no certificate for {identity}: {error}", connection.address);
        let text = error.to_string();
        match error.class() {
            CaErrorClass::Request => {
                self.metrics.csr_parsing_errors.increment();
                Status::invalid_argument(text)
            }
            CaErrorClass::Identity => {
                self.metrics.id_extraction_errors.increment();
                Status::permission_denied(text)
            }
            CaErrorClass::Unavailable => {
                self.metrics.csr_signing_errors.increment();
                Status::unavailable(text)
            }
            CaErrorClass::Internal => {
                self.metrics.csr_signing_errors.increment();
                Status::internal("signing failed")
            }
        }
    }
}

impl tonic::server::NamedService for CaService {
    const NAME: &'static str = "istio.v1.auth.IstioCertificateService";
}

struct CreateCertificate(CaService);

impl tonic::server::UnaryService<CertificateRequest> for CreateCertificate {
    type Response = CertificateResponse;
    type Future = BoxFuture<'static, Result<tonic::Response<CertificateResponse>, Status>>;

    fn call(&mut self, request: tonic::Request<CertificateRequest>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move { service.create(&request).map(tonic::Response::new) })
    }
}

impl<B> tower_service::Service<http::Request<B>> for CaService
where
    B: tonic::codegen::Body + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            if request.uri().path() != "/istio.v1.auth.IstioCertificateService/CreateCertificate" {
                return Ok(Status::unimplemented("the service has no such method").into_http());
            }
            let codec = tonic_prost::ProstCodec::<CertificateResponse, CertificateRequest>::default();
            let mut grpc = tonic::server::Grpc::new(codec).max_decoding_message_size(MAX_REQUEST);
            Ok(grpc.unary(CreateCertificate(service), request).await)
        })
    }
}
