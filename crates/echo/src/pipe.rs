//! The clients for protocols that are not request and answer: raw TCP and WebSocket.

use crate::EchoError;
use crate::error::chain;
use futures_util::{SinkExt, StreamExt};
use http::Uri;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

/// Copies `input` to the address and what comes back to `output`; the end of the input closes only that half.
pub(crate) async fn tcp(
    address: &str,
    mut input: impl AsyncRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
) -> Result<(), EchoError> {
    let exchange = |error: std::io::Error| EchoError::Exchange { target: address.to_owned(), reason: error.to_string() };
    let stream = TcpStream::connect(address).await.map_err(exchange)?;
    let (mut from_peer, mut to_peer) = stream.into_split();
    let sending = async {
        tokio::io::copy(&mut input, &mut to_peer).await?;
        to_peer.shutdown().await
    };
    let receiving = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = from_peer.read(&mut buffer).await?;
            if read == 0 {
                return output.flush().await;
            }
            output.write_all(&buffer[..read]).await?;
            // A person types a line and waits for its echo.
            output.flush().await?;
        }
    };
    tokio::pin!(sending, receiving);
    // When the peer has ended there is nobody left to send to, even if the input still goes on.
    tokio::select! {
        sent = &mut sending => {
            sent.map_err(exchange)?;
            receiving.await.map_err(exchange)
        }
        received = &mut receiving => received.map_err(exchange),
    }
}

/// Opens a WebSocket, sends each message, and gives what came back for each.
pub(crate) async fn websocket(url: &str, messages: &[String], headers: &http::HeaderMap) -> Result<Vec<String>, EchoError> {
    let fail = |reason: String| EchoError::Exchange { target: url.to_owned(), reason };
    let uri: Uri = url.parse().map_err(|error| EchoError::Usage(format!("{url}: {error}")))?;
    let (Some("ws"), Some(host)) = (uri.scheme_str(), uri.host()) else {
        return Err(EchoError::Usage(format!("{url} is not of the form ws://HOST[:PORT]/PATH")));
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(80))).await.map_err(|error| fail(chain(&error)))?;
    let mut request = url.into_client_request().map_err(|error| fail(chain(&error)))?;
    request.headers_mut().extend(headers.clone());
    let connected = tokio_tungstenite::client_async(request, stream).await;
    let (mut socket, _) = connected.map_err(|error| fail(chain(&error)))?;
    let mut answers = Vec::new();
    for message in messages {
        socket.send(Message::text(message.clone())).await.map_err(|error| fail(chain(&error)))?;
        match socket.next().await {
            Some(Ok(Message::Text(text))) => answers.push(text.to_string()),
            Some(Ok(Message::Binary(bytes))) => answers.push(String::from_utf8_lossy(&bytes).into_owned()),
            Some(Ok(other)) => return Err(fail(format!("wanted an echo and got {other:?}"))),
            Some(Err(error)) => return Err(fail(chain(&error))),
            None => return Err(fail("closed before the echo came".into())),
        }
    }
    socket.close(None).await.map_err(|error| fail(chain(&error)))?;
    while let Some(Ok(_)) = socket.next().await {}
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::{tcp, websocket};
    use crate::{Config, PodIdentity, Server};
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    async fn server() -> crate::Addresses {
        let config = Config {
            host: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            port: 0,
            tcp: Some(0),
            tcp_banner: Some("hello".into()),
            grpc: None,
            otlp: None,
            kept_spans: 0,
            drain: Duration::ZERO,
        };
        let server = Server::bind(config, PodIdentity::default()).await.expect("binds");
        let addresses = server.addresses();
        tokio::spawn(server.serve(std::future::pending()));
        addresses
    }

    #[tokio::test]
    async fn tcp_copies_both_ways_to_the_end() {
        let address = server().await.tcp.expect("a port").to_string();
        let mut output = Vec::new();
        tcp(&address, &b"one\ntwo"[..], &mut output).await.expect("works");
        assert_eq!(output, b"hello\none\ntwo");
        let error = tcp("127.0.0.1:1", &b""[..], &mut output).await.expect_err("nothing listens").to_string();
        assert!(error.starts_with("127.0.0.1:1: ") && error.contains("refused"), "{error}");
    }

    #[tokio::test]
    async fn websocket_gives_each_echo() {
        let address = server().await.http;
        let messages = ["a".to_owned(), "b".to_owned()];
        let none = http::HeaderMap::new();
        assert_eq!(websocket(&format!("ws://{address}/ws"), &messages, &none).await.expect("works"), messages);
        assert!(websocket(&format!("ws://{address}/healthz"), &messages, &none).await.is_err());
        assert!(websocket(&format!("http://{address}/ws"), &messages, &none).await.is_err());
    }
}
