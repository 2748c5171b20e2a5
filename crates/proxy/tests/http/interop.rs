//! Our codecs against other implementations, through a proxy made of them, for every pair of versions.

use crate::support::{Outcome, config, forward, run};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use lateen_proxy::http::Head;
use lateen_proxy::{http1, http2};
use std::convert::Infallible;
use tokio::io::{DuplexStream, duplex};
use tokio::task::spawn_local;

type AnyBody = BoxBody<Bytes, Infallible>;

/// Answers by path: the body of the request, a body of so many bytes in so many pieces, or none.
async fn application(request: Request<Incoming>) -> Result<Response<AnyBody>, hyper::Error> {
    let seen = format!("{:?} {} {} {:?}", request.version(), request.method(), request.uri(), request.headers().get("x-user"));
    let path = request.uri().path().to_owned();
    let (kind, size) =
        path[1..].split_once('/').map_or((path[1..].to_owned(), 0), |(k, n)| (k.to_owned(), n.parse().unwrap_or(0)));
    let is_head = request.method() == Method::HEAD;
    let mut response = match kind.as_str() {
        // Over HTTP/2 hyper would send the body of a response to HEAD.
        "sized" if is_head => {
            let mut response = Response::new(Full::new(Bytes::new()).boxed());
            response.headers_mut().insert("content-length", HeaderValue::from(size));
            response
        }
        "echo" => {
            let whole = request.into_body().collect().await?;
            let trailers = whole.trailers().cloned();
            let data = whole.to_bytes();
            let mut frames = vec![Ok(Frame::data(data))];
            frames.extend(trailers.map(|t| Ok(Frame::trailers(t))));
            Response::new(BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames))))
        }
        "sized" => Response::new(Full::new(Bytes::from(vec![b's'; size])).boxed()),
        "stream" => {
            let frames = (0..size).map(|i| Ok(Frame::data(Bytes::from(vec![b'a' + u8::try_from(i % 26).unwrap_or(0); i * 37]))));
            let frames = frames.chain([Ok(Frame::trailers(HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                HeaderValue::from_static("0"),
            )])))]);
            Response::new(BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames.collect::<Vec<_>>()))))
        }
        _ => {
            let mut response = Response::new(Full::new(Bytes::new()).boxed());
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        }
    };
    response.headers_mut().insert("x-seen", HeaderValue::from_str(&seen).unwrap());
    Ok(response)
}

/// An upstream that hyper serves.
fn serve_application(version: Version) -> DuplexStream {
    let (near, far) = duplex(64 * 1024);
    let io = TokioIo::new(far);
    spawn_local(async move {
        if version == Version::HTTP_2 {
            let _ = hyper::server::conn::http2::Builder::new(LocalExecutor).serve_connection(io, service_fn(application)).await;
        } else {
            let _ =
                hyper::server::conn::http1::Builder::new().half_close(true).serve_connection(io, service_fn(application)).await;
        }
    });
    near
}

#[derive(Clone)]
struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

/// A proxy with one connection on each side.
async fn proxy(downstream: Version, upstream: Version) -> DuplexStream {
    let (near, far) = duplex(64 * 1024);
    let app = serve_application(upstream);
    let mut one = None;
    let mut many = None;
    if upstream == Version::HTTP_2 {
        let (connection, driver) = http2::ClientConnection::handshake(app, http2::ClientConfig::default()).await.unwrap();
        spawn_local(driver);
        many = Some(connection);
    } else {
        one = Some(http1::ClientConnection::new(app, http1::Limits::default()));
    }
    let mut send = async move |head: &Head, end: bool| match (&mut one, &mut many) {
        (Some(connection), _) => {
            assert!(connection.is_reusable(), "every exchange leaves the connection usable");
            connection.send_request(head, end)
        }
        (_, Some(connection)) => {
            connection.ready().await?;
            connection.send_request(head, end)
        }
        _ => unreachable!("there is one upstream"),
    };
    spawn_local(async move {
        if downstream == Version::HTTP_2 {
            let mut server = http2::ServerConnection::handshake(far, http2::ServerConfig::default()).await.unwrap();
            let (requests, mut queue) =
                tokio::sync::mpsc::unbounded_channel::<lateen_proxy::http::ServerExchange<DuplexStream>>();
            spawn_local(async move {
                while let Some(exchange) = queue.recv().await {
                    let what = format!("{:?}", exchange.head);
                    assert_eq!(forward(exchange, &mut send).await, Outcome::Done, "{what}");
                }
            });
            while let Ok(Some(exchange)) = server.next_request().await {
                requests.send(exchange).unwrap();
            }
        } else {
            let mut server = http1::ServerConnection::new(far, config());
            while let Some(exchange) = server.next_request().await.unwrap() {
                let what = format!("{:?}", exchange.head);
                assert_eq!(forward(exchange, &mut send).await, Outcome::Done, "{what}");
            }
        }
    });
    near
}

enum Client {
    One(hyper::client::conn::http1::SendRequest<AnyBody>),
    Two(hyper::client::conn::http2::SendRequest<AnyBody>),
}

impl Client {
    async fn connect(version: Version, io: DuplexStream) -> Self {
        if version == Version::HTTP_2 {
            let (send, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
            spawn_local(connection);
            Self::Two(send)
        } else {
            let (send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.unwrap();
            spawn_local(connection);
            Self::One(send)
        }
    }

    async fn send(&mut self, method: Method, path: &str, body: AnyBody) -> (Response<()>, Bytes, Option<HeaderMap>) {
        let mut request = Request::builder().method(method).header("x-user", "me");
        if let Self::One(_) = self {
            request = request.uri(path).header("host", "app.example");
        } else {
            request = request.uri(format!("http://app.example{path}"));
        }
        let request = request.body(body).unwrap();
        let response = match self {
            Self::One(send) => {
                send.ready().await.unwrap();
                send.send_request(request).await.unwrap()
            }
            Self::Two(send) => send.send_request(request).await.unwrap(),
        };
        let (parts, body) = response.into_parts();
        let whole = body.collect().await.unwrap();
        let trailers = whole.trailers().cloned();
        (Response::from_parts(parts, ()), whole.to_bytes(), trailers)
    }
}

const VERSIONS: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

fn full(data: Vec<u8>) -> AnyBody {
    Full::new(Bytes::from(data)).boxed()
}

fn streamed(pieces: Vec<Vec<u8>>) -> AnyBody {
    let frames = pieces.into_iter().map(|p| Ok(Frame::data(Bytes::from(p)))).collect::<Vec<_>>();
    let body = StreamBody::new(futures_util::stream::iter(frames));
    assert_eq!(body.size_hint().exact(), None);
    BodyExt::boxed(body)
}

#[test]
fn every_pair_of_versions_carries_every_kind_of_body() {
    for downstream in VERSIONS {
        for upstream in VERSIONS {
            run(async move {
                let mut client = Client::connect(downstream, proxy(downstream, upstream).await).await;
                let (response, body, _) = client.send(Method::GET, "/none?q=1", full(vec![])).await;
                assert_eq!((response.status(), body.len()), (StatusCode::NO_CONTENT, 0));
                let seen = response.headers()["x-seen"].to_str().unwrap().to_owned();
                assert!(seen.starts_with(&format!("{upstream:?} GET ")) && seen.contains("/none?q=1 Some(\"me\")"), "{seen}");

                for size in [0, 1, 100, 5000, 70_000, 1_000_000] {
                    let (response, body, _) = client.send(Method::GET, &format!("/sized/{size}"), full(vec![])).await;
                    assert_eq!((response.status(), body.len()), (StatusCode::OK, size), "{downstream:?} {upstream:?}");
                    // HTTP/2 says by the end of the stream that a body is empty.
                    let length = response.headers().get("content-length").map_or("0", |v| v.to_str().unwrap());
                    assert_eq!(length, size.to_string());
                    let (_, body, _) = client.send(Method::POST, "/echo", full(vec![b'e'; size])).await;
                    assert_eq!(body.len(), size);
                }
                let pieces: Vec<Vec<u8>> = (1..200).map(|i| vec![b'p'; i * 11]).collect();
                let (_, body, _) = client.send(Method::PUT, "/echo", streamed(pieces.clone())).await;
                assert_eq!(body, pieces.concat());
                let (response, body, _) = client.send(Method::HEAD, "/sized/500", full(vec![])).await;
                assert_eq!(
                    (body.len(), response.headers().get("content-length")),
                    (0, Some(&HeaderValue::from_static("500"))),
                    "{downstream:?} {upstream:?}"
                );

                let (_, body, trailers) = client.send(Method::GET, "/stream/100", full(vec![])).await;
                assert_eq!(body.len(), (0..100).map(|i| i * 37).sum::<usize>());
                if downstream == Version::HTTP_2 && upstream == Version::HTTP_2 {
                    assert_eq!(trailers.unwrap()["grpc-status"], "0");
                }
            });
        }
    }
}

#[test]
fn streams_of_one_connection_do_not_wait_for_each_other() {
    run(async {
        let (near, far) = duplex(64 * 1024);
        let app = serve_application(Version::HTTP_2);
        let (connection, driver) = http2::ClientConnection::handshake(app, http2::ClientConfig::default()).await.unwrap();
        spawn_local(driver);
        spawn_local(async move {
            let mut server = http2::ServerConnection::handshake(far, http2::ServerConfig::default()).await.unwrap();
            while let Ok(Some(exchange)) = server.next_request().await {
                let mut connection = connection.clone();
                spawn_local(forward(exchange, async move |head: &Head, end: bool| {
                    connection.ready().await?;
                    connection.send_request(head, end)
                }));
            }
        });
        let (send, connection) =
            hyper::client::conn::http2::handshake::<_, _, AnyBody>(TokioExecutor::new(), TokioIo::new(near)).await.unwrap();
        spawn_local(connection);
        let answers = (0..100_usize).map(|i| {
            let mut send = send.clone();
            async move {
                let request = Request::post("http://app.example/echo").body(full(vec![b'x'; i * 1000])).unwrap();
                let response = send.send_request(request).await.unwrap();
                response.into_body().collect().await.unwrap().to_bytes().len()
            }
        });
        let lengths = futures_util::future::join_all(answers).await;
        assert_eq!(lengths, (0..100).map(|i| i * 1000).collect::<Vec<_>>());
    });
}
