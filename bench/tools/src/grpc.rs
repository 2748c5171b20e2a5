//! gRPC streams: each sends a message, waits for its reply, and sends the next.

use crate::stats::summary;
use crate::{Failure, Load};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

const PATH: &str = "/lateen.echo.v1.Echo/BidiStream";

/// `message` of `lateen.echo.v1.EchoRequest` and of `EchoReply`: both have it in field 1.
#[derive(Clone, PartialEq, prost::Message)]
struct Message {
    #[prost(string, tag = "1")]
    message: String,
}

/// Messages to and fro for a while; all streams on one connection.
pub(crate) async fn stream(load: &Load) -> Result<Value, Failure> {
    let channel = Endpoint::from_shared(format!("http://{}", load.address))?.connect().await?;
    let start = Instant::now();
    let streams = join_all((0..load.concurrency).map(|_| exchange(channel.clone(), start, load.duration()))).await;
    let mut times = streams.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
    Ok(json!({ "messages": times.len(), "seconds": start.elapsed().as_secs_f64(), "latency": summary(&mut times) }))
}

async fn exchange(channel: Channel, start: Instant, duration: Duration) -> Result<Vec<Duration>, tonic::Status> {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
    let (sender, messages) = mpsc::channel(1);
    let numbered = |number: usize| Message { message: number.to_string() };
    // Queued before the stream opens: a proxy may hold back the answer's head until there is a message.
    let _ = sender.send(numbered(0)).await;
    let mut begun = Instant::now();
    let codec = ProstCodec::<Message, Message>::default();
    let path = http::uri::PathAndQuery::from_static(PATH);
    let request = tonic::Request::new(ReceiverStream::new(messages));
    let mut replies = grpc.streaming(request, path, codec).await?.into_inner();
    let mut times = Vec::new();
    loop {
        let expected = numbered(times.len());
        match replies.message().await? {
            Some(reply) if reply == expected => times.push(begun.elapsed()),
            other => return Err(tonic::Status::data_loss(format!("sent {expected:?}, got {other:?}"))),
        }
        if start.elapsed() >= duration {
            break;
        }
        begun = Instant::now();
        sender.send(numbered(times.len())).await.map_err(|_| tonic::Status::unavailable("the stream has ended"))?;
    }
    Ok(times)
}
