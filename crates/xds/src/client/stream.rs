//! A gRPC call whose answers are read one at a time, each into a buffer of its own.
//!
//! tonic's own stream keeps its buffer, which has grown to the longest answer, for as long as it lasts. An update of a whole
//! mesh is megabytes long and comes once; a stream lasts for as long as the process.

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codec::{Codec, EncodeBody};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tower_service::Service;

/// Before each message: whether it is compressed, and its length (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX: usize = 5;

/// The answers of a call.
pub(super) struct Answers {
    body: Body,
    buffer: BytesMut,
    /// The longest message, in bytes.
    max: usize,
}

/// Calls a method with messages of type `Q`. Comes back with the head of the answer.
pub(super) async fn call<Q, A>(
    mut channel: Channel,
    path: &'static str,
    authorization: Option<MetadataValue<Ascii>>,
    outbound: mpsc::Receiver<Q>,
    max: usize,
) -> Result<Answers, Status>
where
    Q: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    let encoder = tonic_prost::ProstCodec::<Q, A>::default().encoder();
    let body = EncodeBody::new_client(encoder, ReceiverStream::new(outbound).map(Ok), None, None);
    let mut request = http::Request::post(path).version(http::Version::HTTP_2).header(http::header::TE, "trailers");
    request = request.header(http::header::CONTENT_TYPE, "application/grpc");
    if let Some(value) = authorization.and_then(|value| http::HeaderValue::from_bytes(value.as_bytes()).ok()) {
        request = request.header(http::header::AUTHORIZATION, sensitive(value));
    }
    let request = request.body(Body::new(body)).map_err(|error| Status::internal(error.to_string()))?;
    let response = channel.call(request).await.map_err(|error| Status::from_error(Box::new(error)))?;
    if response.status() != http::StatusCode::OK {
        return Err(Status::unavailable(format!("answered with HTTP status {}", response.status())));
    }
    if let Some(status) = Status::from_header_map(response.headers()).filter(|status| status.code() != Code::Ok) {
        return Err(status);
    }
    Ok(Answers { body: response.into_body(), buffer: BytesMut::new(), max })
}

/// Kept out of logs and of header tables that attackers can probe.
fn sensitive(mut value: http::HeaderValue) -> http::HeaderValue {
    value.set_sensitive(true);
    value
}

impl Answers {
    /// The next message; `None` is the good end of the call. May be dropped and called again without losing one.
    pub(super) async fn message<A: prost::Message + Default>(&mut self) -> Result<Option<A>, Status> {
        loop {
            if let Some(message) = self.take()? {
                return A::decode(message)
                    .map(Some)
                    .map_err(|error| Status::internal(format!("an answer is malformed: {error}")));
            }
            let Some(frame) = self.body.frame().await else {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(Status::internal("the stream ended within a message")),
                };
            };
            let frame = frame.map_err(|error| Status::from_error(error.into()))?;
            match frame.into_data() {
                Ok(data) => self.buffer.extend_from_slice(&data),
                Err(frame) => {
                    let status = frame.trailers_ref().and_then(Status::from_header_map);
                    if let Some(status) = status.filter(|status| status.code() != Code::Ok) {
                        return Err(status);
                    }
                }
            }
        }
    }

    /// A message that has come whole.
    fn take(&mut self) -> Result<Option<Bytes>, Status> {
        let Some((prefix, _)) = self.buffer.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let [compressed, length @ ..] = *prefix;
        if compressed != 0 {
            return Err(Status::unimplemented("an answer is compressed, which was not asked for"));
        }
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > self.max {
            return Err(Status::resource_exhausted(format!("an answer has {length} bytes; {} are allowed", self.max)));
        }
        if self.buffer.len() - PREFIX < length {
            self.buffer.reserve(length + PREFIX - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        let message = self.buffer.split_to(length).freeze();
        // What follows is the beginning of the next one: it shall not hold on to the memory of this.
        self.buffer = BytesMut::from(&self.buffer[..]);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::DeltaDiscoveryResponse;
    use http_body_util::StreamBody;
    use http_body_util::combinators::BoxBody;
    use hyper::body::Frame;
    use proptest::prelude::*;
    use prost::Message;

    fn response(nonce: &str) -> DeltaDiscoveryResponse {
        DeltaDiscoveryResponse { nonce: nonce.to_owned(), ..DeltaDiscoveryResponse::default() }
    }

    fn encoded(nonces: &[String]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for nonce in nonces {
            let message = response(nonce).encode_to_vec();
            bytes.push(0);
            bytes.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
            bytes.extend(message);
        }
        bytes
    }

    fn answers(bytes: &[u8], pieces: usize, end: &'static str, max: usize) -> Answers {
        let mut frames: Vec<Result<Frame<Bytes>, Status>> =
            bytes.chunks(pieces).map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece)))).collect();
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static(end));
        frames.push(Ok(Frame::trailers(trailers)));
        let body = BoxBody::new(StreamBody::new(tokio_stream::iter(frames)));
        Answers { body: Body::new(body), buffer: BytesMut::new(), max }
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    fn all(mut answers: Answers) -> (Vec<String>, Option<Code>) {
        run(async {
            let mut nonces = Vec::new();
            loop {
                match answers.message::<DeltaDiscoveryResponse>().await {
                    Ok(Some(message)) => nonces.push(message.nonce),
                    Ok(None) => return (nonces, None),
                    Err(status) => return (nonces, Some(status.code())),
                }
            }
        })
    }

    proptest! {
        #[test]
        fn messages_come_whole_however_they_are_cut(
            nonces in proptest::collection::vec("[a-z]{0,40}", 0..5),
            pieces in 1..50_usize,
        ) {
            prop_assert_eq!(all(answers(&encoded(&nonces), pieces, "0", 1 << 20)), (nonces, None));
        }

        #[test]
        fn no_bytes_stop_the_client(bytes in proptest::collection::vec(any::<u8>(), 0..80), pieces in 1..80_usize) {
            all(answers(&bytes, pieces, "0", 1 << 10));
        }
    }

    #[test]
    fn the_end_tells_what_went_wrong() {
        let one = encoded(&["a".to_owned()]);
        assert_eq!(all(answers(&one, 9, "14", 100)), (vec!["a".to_owned()], Some(Code::Unavailable)));
        assert_eq!(all(answers(&one[..one.len() - 1], 9, "0", 100)), (Vec::new(), Some(Code::Internal)));
        assert_eq!(all(answers(&one, 9, "0", 1)), (Vec::new(), Some(Code::ResourceExhausted)), "too long");
        assert_eq!(all(answers(&[1, 0, 0, 0, 0], 9, "0", 100)), (Vec::new(), Some(Code::Unimplemented)), "compressed");
        assert_eq!(all(answers(&[0, 0, 0, 0, 1, 255], 9, "0", 100)), (Vec::new(), Some(Code::Internal)), "malformed");
    }

    #[test]
    fn a_long_message_leaves_no_memory_behind() {
        let mut answers = answers(&encoded(&["x".repeat(1 << 20), "y".to_owned()]), 16 << 10, "0", 2 << 20);
        run(async {
            answers.message::<DeltaDiscoveryResponse>().await.unwrap().unwrap();
            assert!(answers.buffer.capacity() < 64 << 10, "{}", answers.buffer.capacity());
        });
    }
}
