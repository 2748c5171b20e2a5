//! A transport of its own for processes that have no upstream clusters to send spans through.

use super::export::ExportError;
use crate::otlp::TRACE_EXPORT_PATH;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Uri, header};
use http_body_util::{BodyExt, Full};
use std::time::Duration;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::transport::Endpoint;

/// How long a collector may take for a batch.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A transport for [`SpanExporter::run`](super::SpanExporter::run) that calls `http://HOST:PORT` over cleartext HTTP/2,
/// connecting when it is first needed and again when the connection is lost. Needs a tokio runtime.
pub fn grpc_transport(
    collector: Uri,
) -> Result<impl FnMut(Bytes) -> futures_util::future::BoxFuture<'static, Result<(), ExportError>>, tonic::transport::Error> {
    let channel = Endpoint::new(collector.clone())?.timeout(TIMEOUT).connect_timeout(TIMEOUT).connect_lazy();
    Ok(move |body: Bytes| {
        let (mut channel, collector) = (channel.clone(), collector.clone());
        let request = async move {
            std::future::poll_fn(|context| channel.poll_ready(context)).await.map_err(|error| unavailable(&error))?;
            let response = channel.call(request(&collector, body)?).await.map_err(|error| unavailable(&error))?;
            let (head, body) = response.into_parts();
            if !head.status.is_success() {
                return Err(ExportError::Unavailable(format!("HTTP status {}", head.status)));
            }
            let collected = body.collect().await.map_err(|error| unavailable(&error))?;
            outcome(collected.trailers().unwrap_or(&head.headers))
        };
        let future: futures_util::future::BoxFuture<'static, _> = Box::pin(request);
        future
    })
}

fn request(collector: &Uri, body: Bytes) -> Result<Request<Body>, ExportError> {
    let mut target = collector.clone().into_parts();
    target.path_and_query = Some(http::uri::PathAndQuery::from_static(TRACE_EXPORT_PATH));
    let uri = Uri::from_parts(target).map_err(|error| ExportError::Refused(error.to_string()))?;
    Request::builder()
        .method(Method::POST)
        .uri(uri)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(Body::new(Full::new(body)))
        .map_err(|error| ExportError::Refused(error.to_string()))
}

fn unavailable(error: &dyn std::error::Error) -> ExportError {
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    ExportError::Unavailable(format!("{error}{cause}"))
}

/// What the gRPC status says: OTLP names the codes after which a client may try again.
fn outcome(trailers: &HeaderMap) -> Result<(), ExportError> {
    let status = tonic::Status::from_header_map(trailers);
    match status.as_ref().map(tonic::Status::code) {
        Some(tonic::Code::Ok) => Ok(()),
        None => Err(ExportError::Unavailable("no gRPC status".into())),
        Some(
            tonic::Code::Cancelled
            | tonic::Code::DeadlineExceeded
            | tonic::Code::Aborted
            | tonic::Code::OutOfRange
            | tonic::Code::Unavailable
            | tonic::Code::DataLoss,
        ) => Err(ExportError::Unavailable(format!("{status:?}"))),
        Some(_) => Err(ExportError::Refused(format!("{status:?}"))),
    }
}
