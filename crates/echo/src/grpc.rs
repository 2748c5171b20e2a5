//! The gRPC services: `lateen.echo.v1.Echo` (see `proto/echo.proto`), `grpc.health.v1.Health` and the OTLP collector.

use crate::http::body::{Body, BoxError};
use crate::server::{Connection, Surface};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt, stream};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use lateen_observe::otlp::{ExportTraceServiceRequest, ExportTraceServiceResponse, TRACE_EXPORT_PATH};
use prost::Message;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tonic::server::{ClientStreamingService, Grpc, ServerStreamingService, StreamingService, UnaryService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

pub(crate) const UNARY: &str = "/lateen.echo.v1.Echo/Unary";
const SERVER_STREAM: &str = "/lateen.echo.v1.Echo/ServerStream";
const CLIENT_STREAM: &str = "/lateen.echo.v1.Echo/ClientStream";
const BIDI_STREAM: &str = "/lateen.echo.v1.Echo/BidiStream";
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";
const HEALTH_WATCH: &str = "/grpc.health.v1.Health/Watch";

const MAX_REPLIES: u32 = 100_000;
const MAX_DELAY_MS: u32 = 600_000;

/// `lateen.echo.v1.EchoRequest`; the fields are explained in `proto/echo.proto`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct EchoRequest {
    #[prost(string, tag = "1")]
    pub(crate) message: String,
    #[prost(uint32, tag = "2")]
    pub(crate) count: u32,
    #[prost(uint32, tag = "3")]
    pub(crate) interval_ms: u32,
    #[prost(uint32, tag = "4")]
    pub(crate) status: u32,
    #[prost(uint32, tag = "5")]
    pub(crate) delay_ms: u32,
}

/// `lateen.echo.v1.EchoReply`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct EchoReply {
    #[prost(string, tag = "1")]
    pub(crate) message: String,
    #[prost(string, tag = "2")]
    pub(crate) pod: String,
    #[prost(string, tag = "3")]
    pub(crate) namespace: String,
    #[prost(string, tag = "4")]
    pub(crate) version: String,
    #[prost(string, tag = "5")]
    pub(crate) service_account: String,
    #[prost(map = "string, string", tag = "6")]
    pub(crate) headers: HashMap<String, String>,
    #[prost(string, tag = "7")]
    pub(crate) peer: String,
    #[prost(uint32, tag = "8")]
    pub(crate) index: u32,
}

impl EchoReply {
    pub(crate) fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "message": self.message, "pod": self.pod, "namespace": self.namespace, "version": self.version,
            "service_account": self.service_account, "headers": self.headers, "peer": self.peer, "index": self.index,
        })
    }
}

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`; 1 is SERVING, 2 NOT_SERVING.
#[derive(Clone, Copy, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

pub(crate) fn is_health_check(path: &str) -> bool {
    path == HEALTH_CHECK || path == HEALTH_WATCH
}

/// One message in gRPC's framing: not compressed, length, content.
pub(crate) fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(5 + length);
    out.put_u8(0);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    out.put_slice(&message.encode_to_vec());
    out.freeze()
}

/// The first message of a body in gRPC's framing.
pub(crate) fn unframe<T: Message + Default>(body: &[u8]) -> Option<T> {
    let (head, rest) = body.split_at_checked(5)?;
    let length = u32::from_be_bytes(head[1..].try_into().ok()?);
    let content = rest.get(..usize::try_from(length).ok()?)?;
    (head[0] == 0).then(|| T::decode(content).ok()).flatten()
}

/// Answers one gRPC request on the services of the connection's port.
pub(crate) async fn serve(connection: &Arc<Connection>, request: http::Request<Incoming>) -> http::Response<Body> {
    let path = request.uri().path().to_owned();
    let method = Method(Arc::clone(connection));
    let response = match (path.as_str(), connection.surface) {
        (TRACE_EXPORT_PATH, Surface::Otlp) => Grpc::new(ProstCodec::default()).unary(Collect(method.0), request).await,
        (HEALTH_CHECK, _) => Grpc::new(ProstCodec::default()).unary(Health(method.0), request).await,
        (UNARY, Surface::Web | Surface::Grpc) => Grpc::new(ProstCodec::default()).unary(method, request).await,
        (SERVER_STREAM, Surface::Web | Surface::Grpc) => {
            Grpc::new(ProstCodec::default()).server_streaming(ServerStream(method), request).await
        }
        (CLIENT_STREAM, Surface::Web | Surface::Grpc) => {
            Grpc::new(ProstCodec::default()).client_streaming(ClientStream(method), request).await
        }
        (BIDI_STREAM, Surface::Web | Surface::Grpc) => {
            Grpc::new(ProstCodec::default()).streaming(BidiStream(method), request).await
        }
        _ => Status::unimplemented(format!("{path} is not served on this port")).into_http(),
    };
    response.map(|body| body.map_err(BoxError::from).boxed_unsync())
}

/// The `Echo` methods; also serves `Unary`.
#[derive(Clone)]
struct Method(Arc<Connection>);
struct ServerStream(Method);
struct ClientStream(Method);
struct BidiStream(Method);
struct Health(Arc<Connection>);
struct Collect(Arc<Connection>);

type Answer<T> = BoxFuture<'static, Result<Response<T>, Status>>;
type Replies = BoxStream<'static, Result<EchoReply, Status>>;

impl Method {
    fn reply(&self, headers: &HashMap<String, String>, message: String, index: u32) -> EchoReply {
        let me = &self.0.app.identity;
        EchoReply {
            message,
            pod: me.pod.clone(),
            namespace: me.namespace.clone(),
            version: me.version().to_owned(),
            service_account: me.service_account.clone(),
            headers: headers.clone(),
            peer: self.0.peer.to_string(),
            index,
        }
    }
}

fn metadata(request: &tonic::metadata::MetadataMap) -> HashMap<String, String> {
    let map = crate::http::headers_as_json(request.as_ref());
    map.into_iter().map(|(name, value)| (name, value.as_str().unwrap_or_default().to_owned())).collect()
}

/// Waits as the request says and refuses it if it says so.
async fn obey(request: &EchoRequest) -> Result<(), Status> {
    if request.delay_ms > MAX_DELAY_MS || request.count > MAX_REPLIES {
        return Err(Status::invalid_argument(format!("delay_ms is at most {MAX_DELAY_MS}, count at most {MAX_REPLIES}")));
    }
    tokio::time::sleep(Duration::from_millis(request.delay_ms.into())).await;
    match request.status {
        0 => Ok(()),
        code @ 1..=16 => Err(Status::new(tonic::Code::from(i32::try_from(code).unwrap_or_default()), "as the request asked")),
        code => Err(Status::invalid_argument(format!("status: {code} is not a gRPC status"))),
    }
}

impl UnaryService<EchoRequest> for Method {
    type Response = EchoReply;
    type Future = Answer<EchoReply>;

    fn call(&mut self, request: Request<EchoRequest>) -> Self::Future {
        let method = self.clone();
        Box::pin(async move {
            let headers = metadata(request.metadata());
            let request = request.into_inner();
            obey(&request).await?;
            Ok(Response::new(method.reply(&headers, request.message, 0)))
        })
    }
}

impl ServerStreamingService<EchoRequest> for ServerStream {
    type Response = EchoReply;
    type ResponseStream = Replies;
    type Future = Answer<Replies>;

    fn call(&mut self, request: Request<EchoRequest>) -> Self::Future {
        let method = self.0.clone();
        Box::pin(async move {
            let headers = metadata(request.metadata());
            let request = request.into_inner();
            let status = request.status;
            // A status ends the stream, after its replies, so that a client sees messages and then an error.
            obey(&EchoRequest { status: 0, ..request.clone() }).await?;
            let interval = Duration::from_millis(request.interval_ms.into());
            let replies = stream::iter(0..request.count.max(1)).then(move |index| {
                let reply = method.reply(&headers, request.message.clone(), index);
                async move {
                    if index > 0 {
                        tokio::time::sleep(interval).await;
                    }
                    Ok(reply)
                }
            });
            let end = stream::once(async move { obey(&EchoRequest { status, ..Default::default() }).await });
            let end = end.filter_map(async |end| end.err().map(Err));
            Ok(Response::new(replies.chain(end).boxed()))
        })
    }
}

impl ClientStreamingService<EchoRequest> for ClientStream {
    type Response = EchoReply;
    type Future = Answer<EchoReply>;

    fn call(&mut self, request: Request<Streaming<EchoRequest>>) -> Self::Future {
        let method = self.0.clone();
        Box::pin(async move {
            let headers = metadata(request.metadata());
            let mut messages = request.into_inner();
            let (mut last, mut count) = (String::new(), 0);
            while let Some(message) = messages.message().await? {
                obey(&message).await?;
                last = message.message;
                count += 1;
            }
            Ok(Response::new(method.reply(&headers, last, count)))
        })
    }
}

impl StreamingService<EchoRequest> for BidiStream {
    type Response = EchoReply;
    type ResponseStream = Replies;
    type Future = Answer<Replies>;

    fn call(&mut self, request: Request<Streaming<EchoRequest>>) -> Self::Future {
        let method = self.0.clone();
        Box::pin(async move {
            let headers = Arc::new(metadata(request.metadata()));
            let numbered = request.into_inner().enumerate().map(|(index, message)| message.map(|message| (index, message)));
            let replies = numbered.and_then(move |(index, request)| {
                let (method, headers) = (method.clone(), Arc::clone(&headers));
                async move {
                    obey(&request).await?;
                    Ok(method.reply(&headers, request.message, u32::try_from(index).unwrap_or(u32::MAX)))
                }
            });
            Ok(Response::new(replies.boxed()))
        })
    }
}

impl UnaryService<HealthCheckRequest> for Health {
    type Response = HealthCheckResponse;
    type Future = Answer<HealthCheckResponse>;

    fn call(&mut self, request: Request<HealthCheckRequest>) -> Self::Future {
        let status = if self.0.app.control.ready() { 1 } else { 2 };
        Box::pin(async move {
            match request.into_inner().service.as_str() {
                "" | "lateen.echo.v1.Echo" => Ok(Response::new(HealthCheckResponse { status })),
                unknown => Err(Status::not_found(format!("service {unknown:?} is not served here"))),
            }
        })
    }
}

impl UnaryService<ExportTraceServiceRequest> for Collect {
    type Response = ExportTraceServiceResponse;
    type Future = Answer<ExportTraceServiceResponse>;

    fn call(&mut self, request: Request<ExportTraceServiceRequest>) -> Self::Future {
        self.0.app.traces.add(request.into_inner());
        Box::pin(async { Ok(Response::new(ExportTraceServiceResponse::default())) })
    }
}
