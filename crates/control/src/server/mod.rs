//! The running control plane: listeners, certificates, and the tasks behind them.

mod auth;
mod ca;
pub(crate) mod debug;
mod grpc;
mod http;

pub use ca::{CertificateRequest, CertificateResponse, Metadata, MetadataValue};

use self::auth::{AdsAuthenticator, Authenticator};
use self::ca::CaService;
use self::grpc::Services;
use self::http::Pages;
use crate::analysis::{self, Findings};
use crate::core::{Core, Expected};
use crate::debounce::DebounceConfig;
use crate::metrics::Metrics;
use crate::push::{Hub, HubControlPlane};
use crate::source::Input;
use crate::source::files::FilesSource;
use crate::world::{Settings, World};
use lateen_model::dataplane::TlsParams;
use lateen_tls::{
    CertificateAuthority, ClientAuth, CredentialHandle, PeerExpectation, RotationPolicy, ServerParams, ServerTls, TokenVerifier,
    TrustHandle,
};
use lateen_xds::server::{AdsService, Connections, ServerOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Inputs that may wait for the core.
const INPUTS: usize = 64;

/// How a control plane runs.
pub struct Config {
    /// Domain of services, name of the cluster.
    pub settings: Settings,
    /// Manifests: files and directories; none means that no files are read.
    pub manifests: Vec<PathBuf>,
    /// Where the platform tells of its pods; its pages are offered there too.
    pub state_socket: Option<PathBuf>,
    /// TLS: ADS and the CA.
    pub secure_grpc: SocketAddr,
    /// Plaintext ADS, without secrets; `None`: none.
    pub plain_grpc: Option<SocketAddr>,
    /// Probes, metrics and debug pages.
    pub http: Vec<SocketAddr>,
    /// Signs certificates.
    pub authority: CertificateAuthority,
    /// Verifies tokens of service accounts.
    pub tokens: Option<TokenVerifier>,
    /// DNS names and addresses in the server's certificate.
    pub server_names: Vec<String>,
    /// When changes are pushed.
    pub debounce: DebounceConfig,
    /// Streams accepted per second; `None` goes by the number of processors.
    pub streams_per_second: Option<u32>,
}

/// Why a control plane cannot run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// Which.
        address: String,
        /// Why.
        error: std::io::Error,
    },
    /// No certificate for the server.
    #[error("cannot make the server's certificate: {0}")]
    Certificate(#[from] lateen_tls::CaError),
    /// TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] lateen_tls::TlsConfigError),
}

/// A control plane that runs. It ends when this is dropped.
pub struct Running {
    /// Where TLS gRPC is.
    pub secure_grpc: SocketAddr,
    /// Where plaintext gRPC is.
    pub plain_grpc: Option<SocketAddr>,
    /// Where the pages are.
    pub http: Vec<SocketAddr>,
    /// What proxies get.
    pub hub: Arc<Hub>,
    /// To the core, for sources of one's own.
    pub inputs: mpsc::Sender<Input>,
    socket: Option<PathBuf>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        if let Some(path) = &self.socket {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Running {
    /// Ends it, and waits until its addresses are free.
    pub async fn stop(mut self) {
        for task in std::mem::take(&mut self.tasks) {
            task.abort();
            // It was cancelled, or had ended.
            let _ = task.await;
        }
    }

    /// Waits until proxies are served.
    pub async fn ready(&self) {
        while !self.hub.is_ready() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Starts a control plane on the current runtime.
///
/// # Errors
/// If an address is taken or the server can have no certificate. Manifests never are an error here.
pub async fn start(config: Config) -> Result<Running, StartError> {
    let metrics = Arc::new(Metrics::default());
    metrics.set_root_expiry(config.authority.not_after());
    let hub = Hub::new(World::new(config.settings), Connections::new(), Arc::clone(&metrics));
    let expected = Expected { files: !config.manifests.is_empty(), cluster: config.state_socket.is_some() };
    let core = Core::new(Arc::clone(&hub), Arc::clone(&metrics), config.debounce, expected);
    let (refusals, files_read) = (core.refusals(), core.files_read());
    let findings = Findings::default();
    let (inputs, received) = mpsc::channel(INPUTS);
    let authority = Arc::new(config.authority);
    let authenticator = Arc::new(Authenticator::new(config.tokens, Arc::clone(&hub), Arc::clone(&metrics)));

    let mut tasks = Vec::new();
    let (secure, secure_grpc) = listen(config.secure_grpc).await?;
    let credential = CredentialHandle::empty();
    renew(&authority, &credential, &config.server_names)?;
    let tls = server_tls(&authority, credential.clone())?;
    tasks.push(tokio::spawn(keep_renewing(Arc::clone(&authority), credential, config.server_names)));

    let mut options = ServerOptions::default();
    options.streams_per_second = config.streams_per_second.unwrap_or(options.streams_per_second);
    options.identifier = format!("lateen-{}", env!("CARGO_PKG_VERSION"));
    let ads = AdsService::new(
        Arc::new(AdsAuthenticator(Arc::clone(&authenticator))),
        Arc::new(HubControlPlane(Arc::clone(&hub))),
        Arc::clone(hub.connections()),
        options,
    );
    let ca = CaService::new(authority.clone(), Arc::clone(&authenticator), Arc::clone(&metrics));
    tasks.push(tokio::spawn(grpc::serve(secure, Some(tls), Services { ads: ads.clone(), ca: Some(ca) })));
    let plain_grpc = match config.plain_grpc {
        None => None,
        Some(address) => {
            let (listener, bound) = listen(address).await?;
            tasks.push(tokio::spawn(grpc::serve(listener, None, Services { ads, ca: None })));
            Some(bound)
        }
    };

    let pages = Arc::new(Pages {
        hub: Arc::clone(&hub),
        metrics,
        refusals,
        findings: Arc::clone(&findings),
        files_read,
        authenticator,
        inputs: inputs.clone(),
    });
    let mut http = Vec::new();
    for address in config.http {
        let (listener, bound) = listen(address).await?;
        http.push(bound);
        tasks.push(tokio::spawn(http::serve_tcp(listener, Arc::clone(&pages))));
    }
    if let Some(path) = &config.state_socket {
        tasks.push(tokio::spawn(http::serve_unix(listen_unix(path)?, pages)));
    }

    tasks.push(tokio::spawn(analysis::run(core.subjects(), findings)));
    tasks.push(tokio::spawn(core.run(received)));
    let roots = Input::Roots(authority.roots_pem().as_bytes().into());
    // The core has just been started and the queue is empty.
    let _ = inputs.send(roots).await;
    if !config.manifests.is_empty() {
        tasks.push(tokio::spawn(FilesSource::new(config.manifests).run(inputs.clone())));
    }
    Ok(Running { secure_grpc, plain_grpc, http, hub, inputs, socket: config.state_socket, tasks })
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |error| StartError::Listen { address: address.to_string(), error };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// A socket that only the owner can open. One that a killed process left behind is replaced.
fn listen_unix(path: &Path) -> Result<UnixListener, StartError> {
    use std::os::unix::fs::PermissionsExt;
    let failed = |error| StartError::Listen { address: path.display().to_string(), error };
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => {
            let error = std::io::Error::new(std::io::ErrorKind::AddrInUse, "another control plane serves it");
            return Err(failed(error));
        }
        Err(_) => {
            if let Err(error) = std::fs::remove_file(path)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                return Err(failed(error));
            }
        }
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

fn server_tls(authority: &CertificateAuthority, credential: CredentialHandle) -> Result<ServerTls, StartError> {
    let trust = TrustHandle::new(authority.trust_bundle());
    let client_auth = ClientAuth::IfGiven(trust, PeerExpectation::AnyInTrustBundle);
    Ok(ServerTls::new(ServerParams { credential, client_auth, params: TlsParams::default(), alpn: vec!["h2".to_owned()] })?)
}

/// Issues the server's certificate, with the lifetime that workloads' have.
fn renew(authority: &CertificateAuthority, credential: &CredentialHandle, names: &[String]) -> Result<(), StartError> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    credential.replace(authority.issue_server_credential(&names, Duration::ZERO)?);
    Ok(())
}

async fn keep_renewing(authority: Arc<CertificateAuthority>, credential: CredentialHandle, names: Vec<String>) {
    loop {
        let delay = credential
            .load()
            .map_or(Duration::from_secs(60), |c| RotationPolicy::default().delay_from_now(c.obtained(), c.leaf().not_after()));
        tokio::time::sleep(delay.max(Duration::from_millis(200))).await;
        if let Err(error) = renew(&authority, &credential, &names) {
            tracing::error!("{error}");
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    }
}
