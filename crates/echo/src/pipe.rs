//! The clients for protocols that are not request and answer: raw TCP and WebSocket.

use crate::EchoError;
use crate::error::chain;
use futures_util::{SinkExt, StreamExt};
use http::Uri;
use std::fmt;
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

/// When a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// When the peer has ended its direction: there is nobody left to send to, even if the input still goes on.
    PeerEnds,
    /// When both directions have ended, each by itself.
    BothEnd,
}

/// What happens on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A connection can come, to this address.
    Listening(SocketAddr),
    /// The peer has ended its direction, after so many bytes, all of which have been written out.
    PeerEnded(u64),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listening(address) => write!(f, "listening {address}"),
            Self::PeerEnded(bytes) => write!(f, "ended {bytes}"),
        }
    }
}

/// Connects to the address and copies both ways.
pub(crate) async fn connect(
    address: &str,
    input: impl AsyncRead + Unpin,
    output: impl AsyncWrite + Unpin,
    until: Until,
    tell: impl FnMut(Event),
) -> Result<(), EchoError> {
    let exchange = |error: std::io::Error| EchoError::Exchange { target: address.to_owned(), reason: error.to_string() };
    let stream = TcpStream::connect(address).await.map_err(exchange)?;
    copy(stream, input, output, until, tell).await.map_err(exchange)
}

/// Takes the first connection to the address, and no other, and copies both ways.
pub(crate) async fn listen(
    address: &str,
    input: impl AsyncRead + Unpin,
    output: impl AsyncWrite + Unpin,
    until: Until,
    mut tell: impl FnMut(Event),
) -> Result<(), EchoError> {
    let exchange = |error: std::io::Error| EchoError::Exchange { target: address.to_owned(), reason: error.to_string() };
    let listener = TcpListener::bind(address).await.map_err(exchange)?;
    tell(Event::Listening(listener.local_addr()?));
    let (stream, _) = listener.accept().await.map_err(exchange)?;
    drop(listener);
    copy(stream, input, output, until, tell).await.map_err(exchange)
}

/// Copies `input` to the peer and what comes from it to `output`; the end of the input closes only that half.
async fn copy(
    stream: TcpStream,
    mut input: impl AsyncRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
    until: Until,
    mut tell: impl FnMut(Event),
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut from_peer, mut to_peer) = stream.into_split();
    let sending = async {
        tokio::io::copy(&mut input, &mut to_peer).await?;
        to_peer.shutdown().await
    };
    let receiving = async {
        let mut buffer = vec![0; 64 * 1024];
        let mut received = 0;
        loop {
            let read = from_peer.read(&mut buffer).await?;
            if read == 0 {
                output.shutdown().await?;
                tell(Event::PeerEnded(received));
                return Ok(());
            }
            received += read as u64;
            output.write_all(&buffer[..read]).await?;
            // A person types a line and waits for its echo.
            output.flush().await?;
        }
    };
    tokio::pin!(sending, receiving);
    tokio::select! {
        sent = &mut sending => {
            sent?;
            receiving.await
        }
        received = &mut receiving => {
            received?;
            if until == Until::BothEnd { sending.await } else { Ok(()) }
        }
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
    use super::{Event, Until, connect, listen, websocket};
    use crate::{Config, PodIdentity, Server};
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn server() -> crate::Addresses {
        let config = Config {
            host: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            port: 0,
            tls: None,
            tcp: Some(0),
            tcp_banner: Some("hello".into()),
            tunnel: None,
            proxy_protocol: false,
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
        connect(&address, &b"one\ntwo"[..], &mut output, Until::PeerEnds, |_| ()).await.expect("works");
        assert_eq!(output, b"hello\none\ntwo");
        let failed = connect("127.0.0.1:1", &b""[..], &mut output, Until::PeerEnds, |_| ()).await;
        let error = failed.expect_err("nothing listens").to_string();
        assert!(error.starts_with("127.0.0.1:1: ") && error.contains("refused"), "{error}");
    }

    #[tokio::test]
    async fn halves_end_apart() {
        let (told, at) = tokio::sync::oneshot::channel();
        let (mut told, mut events) = (Some(told), Vec::new());
        let (mut late, input) = tokio::io::duplex(64);
        let mut heard = Vec::new();
        let listening = listen("127.0.0.1:0", input, &mut heard, Until::BothEnd, |event| match event {
            Event::Listening(address) => told.take().expect("once").send(address).expect("awaited"),
            ended @ Event::PeerEnded(_) => events.push(ended),
        });
        let client = async {
            let (mut output, mut seen) = (Vec::new(), tokio::io::duplex(64));
            let address = at.await.expect("listens").to_string();
            let connected = connect(&address, &b"first"[..], &mut seen.0, Until::BothEnd, |_| ());
            let rest = async {
                // What the listener says after the client has ended.
                late.write_all(b"last").await.expect("open");
                late.shutdown().await.expect("open");
                seen.1.read_to_end(&mut output).await.expect("ends");
                output
            };
            let (connected, output) = tokio::join!(connected, rest);
            connected.expect("works");
            output
        };
        let (listened, output) = tokio::join!(listening, client);
        listened.expect("works");
        assert_eq!((&heard[..], &output[..]), (&b"first"[..], &b"last"[..]));
        assert_eq!(events, [Event::PeerEnded(5)]);
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
