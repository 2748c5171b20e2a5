//! Connections to the control plane: TLS verified against the mesh's root, authenticated by the service account token.

use crate::bootstrap::Settings;
use hyper_util::rt::TokioIo;
use lateen_tls::{ClientParams, ClientStream, ClientTls, ConnectOptions, ServerName, TrustBundle, TrustHandle};
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};

/// Where the control plane is, and how to prove who we are.
#[derive(Clone, Debug)]
pub(crate) struct ControlPlane {
    discovery: String,
    ca: String,
    root_cert: PathBuf,
    token: PathBuf,
    mark: Option<u32>,
}

impl ControlPlane {
    /// From the process's settings.
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            discovery: settings.discovery_address.clone(),
            ca: settings.ca_address.clone(),
            root_cert: settings.root_cert.clone(),
            token: settings.token.clone(),
            mark: settings.sockets.mark,
        }
    }

    /// A channel to the ADS server, connected when first used.
    pub(crate) fn discovery_channel(&self) -> Channel {
        self.channel(&self.discovery)
    }

    /// `host:port` of the ADS server.
    pub(crate) fn discovery_address(&self) -> &str {
        &self.discovery
    }

    /// A new connection to the ADS server.
    pub(crate) async fn dial_discovery(&self) -> io::Result<ClientStream<TcpStream>> {
        self.dial(&self.discovery).await
    }

    /// A channel to the certificate authority, connected when first used.
    pub(crate) fn ca_channel(&self) -> Channel {
        self.channel(&self.ca)
    }

    /// The `authorization` of a call. The token's file is read anew, because tokens are replaced while the process lives.
    pub(crate) fn authorization(&self) -> Result<MetadataValue<Ascii>, String> {
        let path = self.token.display();
        let text = std::fs::read_to_string(&self.token).map_err(|e| format!("service account token {path}: {e}"))?;
        format!("Bearer {}", text.trim()).parse().map_err(|_| format!("service account token {path}: not a token"))
    }

    fn channel(&self, address: &str) -> Channel {
        let this = self.clone();
        let target = address.to_owned();
        // The scheme is `http` because TLS is the connector's work; `:authority` is the address in either case.
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .unwrap_or_else(|_| Endpoint::from_static("http://invalid.invalid"))
            .connect_timeout(Duration::from_secs(5))
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true);
        endpoint.connect_with_connector_lazy(tower_connector(move |_: Uri| {
            let (this, target) = (this.clone(), target.clone());
            async move { this.dial(&target).await.map(TokioIo::new) }
        }))
    }

    async fn dial(&self, target: &str) -> io::Result<ClientStream<TcpStream>> {
        let tls = self.tls(target)?;
        let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{target} has no address"));
        for address in tokio::net::lookup_host(target).await? {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            if let Some(mark) = self.mark {
                lateen_capture::socket::set_mark(&socket, mark)?;
            }
            match socket.connect(address).await {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    let handshake = lateen_tls::connect(stream, &tls, ConnectOptions::default());
                    return Ok(handshake.await.map_err(io::Error::other)?.0);
                }
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    /// The server must have a certificate for its host name, from the root that was handed to this workload.
    fn tls(&self, target: &str) -> io::Result<ClientTls> {
        let path = self.root_cert.display();
        let roots =
            std::fs::read(&self.root_cert).map_err(|e| io::Error::new(e.kind(), format!("root certificate {path}: {e}")))?;
        let trust = TrustBundle::from_pem(&roots).map_err(|e| io::Error::other(format!("root certificate {path}: {e}")))?;
        let host = target.rsplit_once(':').map_or(target, |(host, _)| host).trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).map_err(|e| io::Error::other(format!("{host}: {e}")))?;
        let mut params = ClientParams::server(TrustHandle::new(trust), name);
        params.alpn = vec!["h2".to_owned()];
        ClientTls::new(params).map_err(io::Error::other)
    }
}

fn tower_connector<F, Fut, T>(connect: F) -> Connector<F>
where
    F: FnMut(Uri) -> Fut,
    Fut: Future<Output = io::Result<T>>,
{
    Connector(connect)
}

/// A `tower` service from a closure.
#[derive(Clone)]
struct Connector<F>(F);

impl<F, Fut, T> tower_service::Service<Uri> for Connector<F>
where
    F: FnMut(Uri) -> Fut,
    Fut: Future<Output = io::Result<T>>,
{
    type Response = T;
    type Error = io::Error;
    type Future = Fut;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Fut {
        (self.0)(uri)
    }
}
