//! A server on loopback and a client for it.

#![allow(dead_code, reason = "each test binary uses a part")]

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use lateen_echo::{Addresses, Config, PodIdentity, Server};
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Bounds every wait; what takes so long has failed.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct Running {
    pub(crate) at: Addresses,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

pub(crate) fn config() -> Config {
    Config {
        host: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        port: 0,
        tls: None,
        tcp: None,
        tcp_banner: None,
        tunnel: None,
        proxy_protocol: false,
        grpc: None,
        otlp: None,
        kept_spans: 100,
        drain: LIMIT,
    }
}

pub(crate) fn identity() -> PodIdentity {
    PodIdentity {
        pod: "web-0".into(),
        namespace: "shop".into(),
        service_account: "web-sa".into(),
        labels: [("version".to_owned(), "v2".to_owned())].into(),
    }
}

pub(crate) async fn start(config: Config) -> Running {
    let server = Server::bind(config, identity()).await.expect("binds");
    let (stop, stopped) = oneshot::channel();
    let at = server.addresses();
    let task = tokio::spawn(server.serve(async {
        let _ = stopped.await;
    }));
    Running { at, stop, task }
}

impl Running {
    pub(crate) async fn connect(&self) -> SendRequest<Full<Bytes>> {
        let stream = TcpStream::connect(self.at.http).await.expect("connects");
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a handshake");
        tokio::spawn(connection.with_upgrades());
        sender
    }

    /// One request on a connection of its own.
    pub(crate) async fn ask(&self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        let mut sender = self.connect().await;
        tokio::time::timeout(LIMIT, sender.send_request(request)).await.expect("an answer in time")
    }

    pub(crate) async fn json(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let response = self.ask(request(method, path, body)).await.expect("an answer");
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&whole(response).await).expect("JSON"))
    }

    pub(crate) async fn status(&self, path: &str) -> u16 {
        self.ask(request("GET", path, "")).await.expect("an answer").status().as_u16()
    }

    pub(crate) async fn order(&self, order: &str) {
        let (status, answer) = self.json("POST", "/control", order).await;
        assert_eq!(status, 200, "{answer}");
    }

    pub(crate) fn begin_stop(self) -> JoinHandle<()> {
        self.stop.send(()).expect("still running");
        self.task
    }

    pub(crate) async fn stop(self) {
        tokio::time::timeout(LIMIT, self.begin_stop()).await.expect("stops in time").expect("no panic");
    }
}

pub(crate) fn request(method: &str, path: &str, body: &str) -> Request<Full<Bytes>> {
    let body = Full::new(Bytes::copy_from_slice(body.as_bytes()));
    Request::builder().method(method).uri(path).header("host", "echo.test").body(body).expect("a request")
}

pub(crate) async fn whole(response: Response<Incoming>) -> Bytes {
    tokio::time::timeout(LIMIT, response.into_body().collect()).await.expect("a body in time").expect("a whole body").to_bytes()
}
