//! What the tests share: an in-memory proxy of the shape the real one has, and peers fed by hand.

use bytes::Bytes;
use lateen_proxy::http::{
    BodyReader, BodyWriter, ClientExchange, Frame, Head, Pump, PumpError, ResetReason, ServerExchange, StreamError,
};
use lateen_proxy::http1::{ServerConfig, ServerConnection};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};

/// Runs a test's future as a worker would.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test)
}

pub(crate) fn config() -> ServerConfig {
    ServerConfig { accept_http10: true, ..ServerConfig::default() }
}

/// A stream that hands out prepared reads one by one, and swallows what is written.
pub(crate) struct Prepared(std::collections::VecDeque<Vec<u8>>);

impl AsyncRead for Prepared {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(mut piece) = self.0.pop_front() {
            let n = piece.len().min(buf.remaining());
            buf.put_slice(&piece[..n]);
            if n < piece.len() {
                self.0.push_front(piece.split_off(n));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prepared {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A connection on which these bytes arrive in pieces of these sizes, the rest in one.
pub(crate) fn serve_bytes(raw: &[u8], splits: &[usize]) -> ServerConnection<Prepared> {
    let mut pieces = std::collections::VecDeque::new();
    let mut rest = raw;
    for &n in splits {
        let (piece, after) = rest.split_at(n.min(rest.len()));
        if !piece.is_empty() {
            pieces.push_back(piece.to_vec());
        }
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push_back(rest.to_vec());
    }
    ServerConnection::new(Prepared(pieces), config())
}

/// Reads the one request of a connection: its body, whether there were trailers, and what was left.
pub(crate) fn read_all(mut connection: ServerConnection<Prepared>, unopened: bool) -> (Vec<u8>, bool, Vec<u8>) {
    run(async move {
        let mut exchange = connection.next_request().await.unwrap().unwrap();
        exchange.body.set_raw(unopened);
        let (mut body, mut trailers) = (Vec::new(), false);
        while let Some(frame) = exchange.body.next().await.unwrap() {
            match frame {
                Frame::Data(data) => {
                    assert!(!unopened && !data.is_empty());
                    body.extend_from_slice(&data);
                }
                Frame::Raw(data) => {
                    assert!(unopened && !data.is_empty());
                    body.extend_from_slice(&data);
                }
                Frame::Trailers(_) => trailers = true,
            }
        }
        assert!(exchange.body.is_end());
        drop(exchange);
        let (mut stream, buffer) = connection.into_parts().unwrap();
        let mut rest = buffer.to_vec();
        rest.extend(stream.0.drain(..).flatten());
        (body, trailers, rest)
    })
}

/// How the test proxy's exchange ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    ClientGone,
    Failed(StreamError),
}

/// One request through the proxy, as the real one does it: both directions at a time, the client watched meanwhile.
pub(crate) async fn forward(
    exchange: ServerExchange<DuplexStream>,
    send: impl AsyncFnOnce(&Head, bool) -> Result<ClientExchange<DuplexStream>, StreamError>,
) -> Outcome {
    let ServerExchange { head, body, mut responder } = exchange;
    let ClientExchange { writer, mut response } = match send(&head, body.is_end()).await {
        Ok(exchange) => exchange,
        Err(e) => return answer(responder.send_response(&Head::response(503).unwrap(), true), e).await,
    };
    let mut upload = Some(Pump::new(body, writer));
    let head = loop {
        let uploaded = async {
            match &mut upload {
                Some(pump) => pump.run().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            result = response.head() => match result {
                Ok(head) if head.is_interim() => responder.send_interim(&head).await.unwrap(),
                Ok(head) => break head,
                Err(e) => return answer(responder.send_response(&Head::response(502).unwrap(), true), e).await,
            },
            result = uploaded => match result {
                Ok(()) | Err(PumpError::Write(_)) => upload = None,
                Err(PumpError::Read(e)) => {
                    responder.reset(ResetReason::Cancel);
                    return Outcome::Failed(e);
                }
            },
            _ = responder.peer_gone() => return Outcome::ClientGone,
        }
    };
    let body = response.into_body().unwrap();
    let writer = match responder.send_response(&head, body.is_end()) {
        Ok(writer) => writer,
        Err(e) => return Outcome::Failed(e),
    };
    let mut download = Pump::new(body, writer);
    poll_fn(|cx| {
        if let Some(pump) = &mut upload
            && pump.poll(cx).is_ready()
        {
            upload = None;
        }
        match download.poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(Outcome::Done),
            Poll::Ready(Err(PumpError::Read(e) | PumpError::Write(e))) => Poll::Ready(Outcome::Failed(e)),
            Poll::Pending if download.writer().poll_peer_gone(cx).is_ready() => Poll::Ready(Outcome::ClientGone),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

async fn answer(writer: Result<BodyWriter<DuplexStream>, StreamError>, error: StreamError) -> Outcome {
    if let Ok(mut writer) = writer {
        let _ = writer.finish().await;
    }
    Outcome::Failed(error)
}

/// The whole body of a message, with its trailers.
pub(crate) async fn collect(body: &mut BodyReader<DuplexStream>) -> Result<(Vec<u8>, Option<Box<Head>>), StreamError> {
    let (mut data, mut trailers) = (Vec::new(), None);
    while let Some(frame) = body.next().await? {
        match frame {
            Frame::Data(piece) | Frame::Raw(piece) => data.extend_from_slice(&piece),
            Frame::Trailers(head) => trailers = Some(head),
        }
    }
    Ok((data, trailers))
}

/// Sends a final response with this body.
pub(crate) async fn respond(exchange: ServerExchange<DuplexStream>, status: u16, body: &[u8]) {
    let mut head = Head::response(status).unwrap();
    head.append_number(lateen_proxy::http::KnownHeader::ContentLength, body.len() as u64);
    let mut writer = exchange.responder.send_response(&head, body.is_empty()).unwrap();
    if !body.is_empty() {
        writer.write(Frame::Data(Bytes::copy_from_slice(body))).await.unwrap();
    }
    writer.finish().await.unwrap();
}

/// Writes, and lets everything else run as far as it can.
pub(crate) async fn feed(stream: &mut DuplexStream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    settle().await;
}

/// Lets all other tasks run until they wait.
pub(crate) async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}
