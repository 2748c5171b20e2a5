//! Bodies of answers.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Body = UnsyncBoxBody<Bytes, BoxError>;

/// The block that `/bytes/N` repeats.
static BLOCK: [u8; 65_536] = [b'x'; 65_536];

pub(crate) fn full(content: impl Into<Bytes>) -> Body {
    Full::new(content.into()).map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn text(status: StatusCode, content: impl Into<Bytes>) -> Response<Body> {
    typed(status, "text/plain; charset=utf-8", full(content))
}

pub(crate) fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_vec_pretty(value) {
        Ok(mut content) => {
            content.push(b'\n');
            typed(status, "application/json", full(content))
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// An answer that says what is wrong with the request.
pub(crate) fn refusal(status: StatusCode, reason: impl AsRef<str>) -> Response<Body> {
    json(status, &serde_json::json!({ "error": reason.as_ref() }))
}

pub(crate) fn typed(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

/// `length` bytes with a `content-length`, made while they are sent.
pub(crate) fn sized(length: u64) -> Body {
    Sized { left: length }.boxed_unsync()
}

struct Sized {
    left: u64,
}

impl HttpBody for Sized {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(BLOCK.len());
        self.left -= length as u64;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&BLOCK[..length])))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// `count` lines `chunk I`, `interval` apart, without a `content-length`.
pub(crate) fn spaced(count: u64, interval: Duration) -> Body {
    let chunks = stream::iter(0..count).then(move |index| async move {
        if index > 0 {
            tokio::time::sleep(interval).await;
        }
        Ok(Frame::data(Bytes::from(format!("chunk {index}\n"))))
    });
    StreamBody::new(chunks).boxed_unsync()
}

/// A body that breaks off after `sent`; hyper then ends the connection (HTTP/1.1) or resets the stream (HTTP/2).
pub(crate) fn broken(sent: &'static [u8]) -> Body {
    let first = stream::once(async move { Ok(Frame::data(Bytes::from_static(sent))) });
    let end = stream::once(async {
        // Lets what was sent leave first: hyper drops unflushed bytes of a broken connection.
        tokio::time::sleep(Duration::from_millis(20)).await;
        Err(BoxError::from("broken off as ordered by /control"))
    });
    StreamBody::new(first.chain(end)).boxed_unsync()
}
