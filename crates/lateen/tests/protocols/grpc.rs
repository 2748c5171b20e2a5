//! gRPC through a pair of sidecars, by a gRPC library.

use std::collections::BTreeMap;
use std::future::{Ready, ready};
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};
use tonic_prost::ProstCodec;
use tower_service::Service;

use super::lab::{Lab, lab};
use super::stream::{LIMIT, Stream};
use super::support::eventually;

/// `lateen.echo.v1.EchoRequest` of `crates/echo/proto/echo.proto`.
#[derive(Clone, PartialEq, Message)]
struct EchoRequest {
    #[prost(string, tag = "1")]
    message: String,
    #[prost(uint32, tag = "2")]
    count: u32,
    #[prost(uint32, tag = "4")]
    status: u32,
}

/// `lateen.echo.v1.EchoReply`, what is looked at of it.
#[derive(Clone, PartialEq, Message)]
struct EchoReply {
    #[prost(string, tag = "1")]
    message: String,
    #[prost(string, tag = "2")]
    pod: String,
    #[prost(map = "string, string", tag = "6")]
    headers: std::collections::HashMap<String, String>,
    #[prost(uint32, tag = "8")]
    index: u32,
}

/// Connects from within a pod.
struct Dial {
    lab: Arc<Lab>,
    pod: &'static str,
}

impl Service<Uri> for Dial {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Ready<io::Result<TokioIo<Stream>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        ready(Ok(TokioIo::new(self.lab.stream(self.pod, uri.authority().unwrap().as_str()))))
    }
}

struct Client(Grpc<Channel>);

impl Client {
    async fn connect(lab: &Arc<Lab>, pod: &'static str, address: &str) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap().timeout(LIMIT);
        let channel = endpoint.connect_with_connector(Dial { lab: lab.clone(), pod }).await.unwrap();
        Self(Grpc::new(channel))
    }

    async fn ready(&mut self) -> &mut Grpc<Channel> {
        timeout(LIMIT, self.0.ready()).await.unwrap().unwrap();
        &mut self.0
    }

    async fn unary(&mut self, request: EchoRequest) -> Result<EchoReply, tonic::Status> {
        let path = PathAndQuery::from_static("/lateen.echo.v1.Echo/Unary");
        let reply = self.ready().await.unary(Request::new(request), path, ProstCodec::default()).await;
        reply.map(tonic::Response::into_inner)
    }
}

fn message(text: &str) -> EchoRequest {
    EchoRequest { message: text.into(), ..EchoRequest::default() }
}

#[tokio::test]
async fn calls_of_every_kind_and_statuses_in_trailers() {
    let lab = lab();
    // Declared grpc, declared http2, declared nothing; with a sidecar and without.
    for (pod, address) in [("client", "server:90"), ("client", "server:81"), ("client", "server:82"), ("plain", "server:90")] {
        let mut client = Client::connect(&lab, pod, address).await;
        let reply = client.unary(message("hi")).await.unwrap();
        assert_eq!((reply.message.as_str(), reply.pod.as_str()), ("hi", "server"), "{pod} {address}");
        assert_eq!(reply.headers.get("te").map(String::as_str), Some("trailers"), "{pod} {address}: {reply:?}");
        let status = client.unary(EchoRequest { status: 7, ..message("no") }).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::PermissionDenied, "as the request asked"), "{pod} {address}");

        let path = PathAndQuery::from_static("/lateen.echo.v1.Echo/ServerStream");
        let asked = Request::new(EchoRequest { count: 500, status: 8, ..message("many") });
        let replies = client.ready().await.server_streaming(asked, path, ProstCodec::default()).await.unwrap();
        let replies: Vec<Result<EchoReply, _>> = timeout(LIMIT, replies.into_inner().collect()).await.unwrap();
        let indexes: Vec<u32> = replies.iter().filter_map(|r| Some(r.as_ref().ok()?.index)).collect();
        assert_eq!(indexes, (0..500).collect::<Vec<_>>(), "{pod} {address}");
        // The status follows the replies: it can only have come in trailers.
        assert_eq!(replies[500].as_ref().unwrap_err().code(), Code::ResourceExhausted, "{pod} {address}");

        let path = PathAndQuery::from_static("/lateen.echo.v1.Echo/ClientStream");
        let sent = Request::new(tokio_stream::iter((0..500).map(|i| message(&i.to_string()))));
        let reply = client.ready().await.client_streaming(sent, path, ProstCodec::<_, EchoReply>::default()).await;
        let reply = reply.unwrap().into_inner();
        assert_eq!((reply.message.as_str(), reply.index), ("499", 500), "{pod} {address}");
        conversation(&mut client).await;
    }
}

/// Each message is answered before the next one is sent.
async fn conversation(client: &mut Client) {
    let path = PathAndQuery::from_static("/lateen.echo.v1.Echo/BidiStream");
    let (sender, receiver) = mpsc::channel(1);
    sender.send(message("0")).await.unwrap();
    let sent = Request::new(ReceiverStream::new(receiver));
    let replies = client.ready().await.streaming(sent, path, ProstCodec::<_, EchoReply>::default()).await;
    let mut replies = replies.unwrap().into_inner();
    for index in 0..50_u32 {
        let reply = timeout(LIMIT, replies.message()).await.expect("the conversation goes on").unwrap().unwrap();
        assert_eq!((reply.message, reply.index), (index.to_string(), index));
        sender.send(message(&(index + 1).to_string())).await.unwrap();
    }
    drop(sender);
    assert_eq!(timeout(LIMIT, replies.message()).await.unwrap().unwrap().unwrap().message, "50");
    assert!(timeout(LIMIT, replies.message()).await.expect("the end comes").unwrap().is_none());
}

/// The labels of the laboratory's client, or of the pod whose traffic is counted.
fn workload(side: &str, name: &str, version: &str, account: &str) -> Vec<(String, String)> {
    [
        ("workload", name),
        ("workload_namespace", "lab"),
        ("principal", &format!("spiffe://cluster.local/ns/lab/sa/{account}")),
        ("app", name),
        ("version", version),
        ("cluster", "Kubernetes"),
        ("canonical_service", name),
        ("canonical_revision", version),
    ]
    .iter()
    .map(|(key, value)| (format!("{side}_{key}"), (*value).to_owned()))
    .collect()
}

/// All labels of traffic from `client` to `counted` as a reporter has them.
pub(crate) fn labels(reporter: &str, more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let security = if reporter == "destination" { "mutual_tls" } else { "unknown" };
    let own = [
        ("reporter", reporter),
        ("destination_service", "counted.lab.svc.cluster.local"),
        ("destination_service_name", "counted"),
        ("destination_service_namespace", "lab"),
        ("connection_security_policy", security),
        ("response_flags", "-"),
    ];
    let own = own.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    own.chain(workload("source", "client", "v7", "default")).chain(workload("destination", "counted", "v3", "counted")).collect()
}

#[tokio::test]
async fn both_sidecars_count_requests_and_messages_by_grpc_status() {
    let lab = lab();
    let mut client = Client::connect(&lab, "client", "counted:90").await;
    for _ in 0..5 {
        client.unary(message("hi")).await.unwrap();
    }
    for _ in 0..3 {
        client.unary(EchoRequest { status: 7, ..message("no") }).await.unwrap_err();
    }
    let path = PathAndQuery::from_static("/lateen.echo.v1.Echo/ServerStream");
    let asked = Request::new(EchoRequest { count: 40, status: 5, ..message("many") });
    let replies = client.ready().await.server_streaming(asked, path, ProstCodec::default()).await.unwrap();
    let replies: Vec<Result<EchoReply, _>> = timeout(LIMIT, replies.into_inner().collect()).await.unwrap();
    assert_eq!(replies.len(), 41);

    for (pod, reporter) in [("client", "source"), ("counted", "destination")] {
        let wanted = [("reporter", reporter), ("destination_service_name", "counted")];
        let expected: Vec<_> = [("0", 5.0), ("5", 1.0), ("7", 3.0)]
            .into_iter()
            .map(|(status, count)| {
                let more = [("request_protocol", "grpc"), ("response_code", "200"), ("grpc_response_status", status)];
                (labels(reporter, &more), count)
            })
            .collect();
        let mut counted = Vec::new();
        eventually(&format!("nine calls at the {reporter}"), || {
            counted = lab.metric(pod, "istio_requests_total", &wanted);
            counted.sort_by(|a, b| a.0["grpc_response_status"].cmp(&b.0["grpc_response_status"]));
            (counted.iter().map(|(_, n)| n).sum::<f64>() > 8.5).then_some(())
        });
        assert_eq!(counted, expected, "{reporter}");
        let sum = |name: &str| lab.metric(pod, name, &wanted).iter().map(|(_, n)| n).sum::<f64>();
        // One message a call; replies of the five good ones and of the stream.
        assert_eq!((sum("istio_request_messages_total"), sum("istio_response_messages_total")), (9.0, 45.0), "{reporter}");
    }
}
