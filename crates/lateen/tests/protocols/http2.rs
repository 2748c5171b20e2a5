//! HTTP/2 from clients that know it beforehand, and to servers that are declared to speak it.

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request};
use serde_json::Value;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::lab::{Lab, lab};
use super::stream::LIMIT;

/// A connection of a real HTTP/2 library, and the task that keeps it going.
async fn connect(lab: &Lab, pod: &str, address: &str) -> (SendRequest<Bytes>, JoinHandle<()>) {
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(1 << 16).initial_connection_window_size(1 << 24);
    let (send, connection) = timeout(LIMIT, builder.handshake(lab.stream(pod, address))).await.unwrap().unwrap();
    let driver = tokio::spawn(async move {
        // How it ends is seen by the streams.
        let _ = connection.await;
    });
    (send, driver)
}

fn request(method: &str, path: &str) -> Request<()> {
    Request::builder().method(method).uri(format!("http://server{path}")).body(()).unwrap()
}

/// A whole body, its windows given back as it is read, and its trailers.
async fn whole(mut body: RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        bytes.extend_from_slice(&data);
    }
    Ok((bytes, body.trailers().await?))
}

/// A request with a body in pieces and trailers, to `/mirror`; what came back.
async fn mirrored(mut send: SendRequest<Bytes>, body: Bytes, sum: &'static str) -> (Vec<u8>, Option<HeaderMap>) {
    std::future::poll_fn(|cx| send.poll_ready(cx)).await.unwrap();
    let (response, mut upload) = send.send_request(request("POST", "/mirror"), false).unwrap();
    let sending = async move {
        for piece in body.chunks(10_000) {
            let mut piece = Bytes::copy_from_slice(piece);
            while !piece.is_empty() {
                upload.reserve_capacity(piece.len());
                let room = std::future::poll_fn(|cx| upload.poll_capacity(cx)).await.unwrap().unwrap();
                upload.send_data(piece.split_to(room.min(piece.len())), false).unwrap();
            }
        }
        upload.send_trailers([("x-sum".parse().unwrap(), sum.parse().unwrap())].into_iter().collect()).unwrap();
    };
    let receiving = async {
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        whole(response.into_body()).await.unwrap()
    };
    timeout(LIMIT, async { tokio::join!(sending, receiving) }).await.expect("a stream stands still").1
}

#[tokio::test]
async fn every_port_takes_http2_and_the_server_gets_what_its_port_is_declared_to_speak() {
    let lab = lab();
    for (pod, port, version) in [
        // Declared http: the servers' sidecars speak HTTP/1.1 to it.
        ("client", 80, "HTTP/1.1"),
        ("plain", 80, "HTTP/1.1"),
        ("client", 81, "HTTP/2"),
        ("plain", 81, "HTTP/2"),
        // Declared nothing: what the client speaks.
        ("client", 82, "HTTP/2"),
        ("plain", 82, "HTTP/2"),
    ] {
        let answer = lab.curl(pod, &["--http2-prior-knowledge", &format!("http://server:{port}/x")]);
        assert_eq!((&answer["protocol"], &answer["path"]), (&version.into(), &"/x".into()), "{pod} {port}: {answer}");
    }
    for (pod, port, version) in [
        ("client", 80, "HTTP/1.1"),
        ("client", 81, "HTTP/2"),
        ("plain", 81, "HTTP/2"),
        ("client", 82, "HTTP/1.1"),
        ("plain", 82, "HTTP/1.1"),
    ] {
        let answer = lab.curl(pod, &["--http1.1", "-d", "body", &format!("http://server:{port}/x")]);
        assert_eq!((&answer["protocol"], &answer["body"]), (&version.into(), &"body".into()), "{pod} {port}: {answer}");
    }
}

/// Streams that are not read, while others go on, and the size of each.
const STALLED: usize = 8;
const LARGE: usize = 10_000_000;

#[tokio::test]
async fn two_hundred_streams_share_a_connection_and_those_that_are_not_read_stop_none() {
    let lab = lab();
    for address in ["server:81", "server:82", "server:80"] {
        let (mut send, driver) = connect(&lab, "client", address).await;
        let mut stalled = Vec::new();
        for _ in 0..STALLED {
            std::future::poll_fn(|cx| send.poll_ready(cx)).await.unwrap();
            let (response, _) = send.send_request(request("GET", &format!("/bytes/{LARGE}")), true).unwrap();
            let response = timeout(LIMIT, response).await.unwrap().unwrap();
            assert_eq!(response.status(), 200);
            stalled.push(response.into_body());
        }
        let mut streams = JoinSet::new();
        for index in 0..200_usize {
            let body: Bytes = (0..20_000 + index * 100).map(|i| u8::try_from((i * 7 + index) % 251).unwrap()).collect();
            let send = send.clone();
            streams.spawn(async move {
                let (back, trailers) = mirrored(send, body.clone(), "ok").await;
                assert!(back == body, "stream {index}: {} bytes of {}", back.len(), body.len());
                trailers.is_some_and(|t| t["x-sum"] == "ok")
            });
        }
        let mut with_trailers = 0;
        while let Some(done) = streams.join_next().await {
            with_trailers += usize::from(done.unwrap());
        }
        // Trailers of an HTTP/1.1 server come only when they were announced; these were not.
        assert_eq!(with_trailers, if address == "server:80" { 0 } else { 200 }, "{address}");
        // Those that nobody has read are whole, too.
        for body in stalled {
            let (bytes, _) = timeout(LIMIT, whole(body)).await.expect("goes on").unwrap();
            assert_eq!(bytes.len(), LARGE, "{address}");
        }
        driver.abort();
    }
}

#[tokio::test]
async fn a_stream_that_its_client_resets_is_reset_at_the_server_and_the_connection_goes_on() {
    let lab = lab();
    let (mut send, driver) = connect(&lab, "client", "lone:80").await;
    let active = || lab.sh("lone", "curl -s -m 20 http://127.0.0.1:15000/stats | grep -F server.requests_active:");
    let mut bodies = Vec::new();
    for _ in 0..20 {
        std::future::poll_fn(|cx| send.poll_ready(cx)).await.unwrap();
        let (response, mut stream) = send.send_request(request("GET", "/stream/1000000?interval=10ms"), true).unwrap();
        let response = timeout(LIMIT, response).await.unwrap().unwrap();
        stream.send_reset(Reason::CANCEL);
        bodies.push(response.into_body());
    }
    drop(bodies);
    // Only the sidecar of the server knows: its requests end long before their answers would.
    let end = std::time::Instant::now() + LIMIT;
    while active().trim() != "server.requests_active: 0" {
        assert!(std::time::Instant::now() < end, "requests go on that nobody wants: {}", active());
        tokio::task::yield_now().await;
    }
    let (response, _) = send.send_request(request("GET", "/after"), true).unwrap();
    let (body, _) = whole(timeout(LIMIT, response).await.unwrap().unwrap().into_body()).await.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["path"], "/after");
    driver.abort();
}
