//! WebSocket (RFC 6455) through a pair of sidecars.

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::lab::{LAB, lab};
use super::stream::LIMIT;

#[tokio::test]
async fn messages_go_both_ways_and_the_closing_handshake_is_whole() {
    let lab = lab();
    for (pod, address) in [("client", "server:80"), ("client", "server:82"), ("plain", "server:80"), ("plain", "server:82")] {
        let stream = lab.stream(pod, address);
        let handshake = tokio_tungstenite::client_async(format!("ws://{address}/ws"), stream);
        let (mut socket, response) = timeout(LIMIT, handshake).await.unwrap().unwrap();
        assert_eq!(response.status(), 101, "{pod} {address}");
        socket.send(Message::text("hello")).await.unwrap();
        let back = timeout(LIMIT, socket.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(back, Message::text("hello"), "{pod} {address}");
        socket.send(Message::Ping("are you there".into())).await.unwrap();
        let back = timeout(LIMIT, socket.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(back, Message::Pong("are you there".into()), "{pod} {address}");

        // Sent without a look at what comes back: more than all buffers on the way hold.
        let (mut sink, mut source) = socket.split();
        let large: Vec<u8> = (0..1_000_000_u32).map(|i| u8::try_from(i % 253).unwrap()).collect();
        let sending = async {
            for _ in 0..8 {
                sink.send(Message::binary(large.clone())).await.unwrap();
            }
        };
        let receiving = async {
            for _ in 0..8 {
                let back = source.next().await.unwrap().unwrap();
                assert!(back == Message::binary(large.clone()), "{pod} {address}: {} bytes", back.len());
            }
        };
        timeout(LIMIT, async { tokio::join!(sending, receiving) }).await.expect("both ways at once");
        let mut socket = sink.reunite(source).unwrap();
        let bye = CloseFrame { code: CloseCode::Normal, reason: "done".into() };
        socket.close(Some(bye.clone())).await.unwrap();
        let back = timeout(LIMIT, socket.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(back, Message::Close(Some(bye)), "{pod} {address}");
        let end = timeout(LIMIT, socket.next()).await.expect("the server closes");
        assert!(matches!(end, None | Some(Err(Error::ConnectionClosed))), "{pod} {address}: {end:?}");
    }
}

#[test]
fn the_client_of_the_test_application_gets_its_echoes() {
    let lab = lab();
    let out = lab.up.exec(LAB, "client", &["lateen", "echo", "ws", "ws://server/ws", "one", "two"]).unwrap();
    assert_eq!((String::from_utf8_lossy(&out.stdout).trim(), out.status.code()), ("one\ntwo", Some(0)), "{out:?}");
}

#[tokio::test]
async fn a_refused_handshake_is_an_ordinary_answer_and_the_connection_goes_on() {
    let lab = lab();
    let mut client = lab.http1("client", "server:80");
    let refused = "GET /ws HTTP/1.1\r\nHost: server\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 12\r\n\
                   Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\n\r\n";
    let response = client.exchange(refused).await.unwrap();
    assert_eq!((response.status, response.header("sec-websocket-version")), (426, Some("13")), "{response:?}");
    let answer = lab.curl("client", &["http://server/after"]);
    assert_eq!(answer["path"], json!("/after"));
}
