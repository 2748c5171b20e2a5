//! `lateen control`.

use crate::debounce::DebounceConfig;
use crate::server::{Config, StartError, start};
use crate::world::Settings;
use lateen_model::identity::TrustDomain;
use lateen_model::resource::ProtoDuration;
use lateen_tls::{CaFilesError, CertificateAuthority, IssuancePolicy, RootOptions, TokenError, TokenVerifier};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Lifetime of a root that is made here: Istio's 10 years (`CITADEL_SELF_SIGNED_CA_CERT_TTL`).
const ROOT_LIFETIME: Duration = Duration::from_secs(87_600 * 3600);

/// Arguments of `lateen control`.
#[derive(Clone, Debug, clap::Args)]
pub struct ControlArgs {
    /// Manifests: files, and directories with *.yaml, *.yml and *.json; an edit is in force at once
    #[arg(value_name = "PATH")]
    pub manifests: Vec<PathBuf>,
    /// Unix socket on which the platform tells of its pods (PUT /v1/cluster), and where the debug pages are too
    #[arg(long, value_name = "PATH")]
    pub state_socket: Option<PathBuf>,
    /// Directory of the certificate authority: its own, made at the first start, or Istio's plugged-in files
    #[arg(long, value_name = "DIR")]
    pub ca_dir: PathBuf,
    /// Where the roots are written for clients
    #[arg(long, value_name = "FILE")]
    pub root_cert_file: Option<PathBuf>,
    /// Public key(s) that tokens of service accounts are verified with, PEM
    #[arg(long, value_name = "FILE")]
    pub token_key: Option<PathBuf>,
    /// Who issues the tokens
    #[arg(long, value_name = "NAME", default_value = "lateen")]
    pub token_issuer: String,
    /// Whom the tokens are for
    #[arg(long, env = "TOKEN_AUDIENCES", value_name = "NAME", value_delimiter = ',', default_value = "istio-ca")]
    pub token_audience: Vec<String>,
    /// Address of ADS and of the certificate service, with TLS
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:15012")]
    pub secure_grpc_addr: SocketAddr,
    /// Address of ADS in plain text; "none" turns it off. Nobody is authenticated there, so it must be loopback
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15010", value_parser = optional_address)]
    pub grpc_addr: OptionalAddress,
    /// Lets --grpc-addr be another address than loopback
    #[arg(long)]
    pub insecure_grpc: bool,
    /// Address of probes and debug pages; "none" turns it off
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:8080", value_parser = optional_address)]
    pub http_addr: OptionalAddress,
    /// Address of metrics and debug pages; "none" turns it off
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:15014", value_parser = optional_address)]
    pub monitoring_addr: OptionalAddress,
    /// Further DNS names or IP addresses for the server's certificate
    #[arg(long, value_name = "NAME")]
    pub server_name: Vec<String>,
    /// Domain of services
    #[arg(long, default_value = "cluster.local")]
    pub domain: String,
    /// Trust domain in the name of a root that is made here; identities have that of MeshConfig
    #[arg(long, default_value = "cluster.local")]
    pub trust_domain: String,
    /// Name of the cluster
    #[arg(long, env = "CLUSTER_ID", default_value = "Kubernetes")]
    pub cluster_id: String,
    /// Lets a Gateway select pods of its own namespace only
    #[arg(long, env = "PILOT_SCOPE_GATEWAY_TO_NAMESPACE", default_value_t = false)]
    pub scope_gateway_to_namespace: bool,
    /// Lets a VirtualService of any namespace route to any service, as Istio does. Without it that takes the service's consent:
    /// the annotation networking.lateen.dev/routes-from with the namespaces, or "*"
    #[arg(long, env = "LATEEN_FOREIGN_ROUTES", default_value_t = false)]
    pub foreign_routes: bool,
    /// Lets every proxy serve HTTP/1.0; a proxy's own metadata HTTP10 does it for one
    #[arg(long, env = "PILOT_HTTP10", default_value_t = false)]
    pub http10: bool,
    /// Lifetime of workloads' certificates if they do not ask for another
    #[arg(long, env = "DEFAULT_WORKLOAD_CERT_TTL", value_name = "DURATION", default_value = "24h", value_parser = duration)]
    pub workload_cert_ttl: Duration,
    /// Longest lifetime that a workload may ask for
    #[arg(long, env = "MAX_WORKLOAD_CERT_TTL", value_name = "DURATION", default_value = "2160h", value_parser = duration)]
    pub max_workload_cert_ttl: Duration,
    /// Quiet time that ends the gathering of changes
    #[arg(long, env = "PILOT_DEBOUNCE_AFTER", value_name = "DURATION", default_value = "100ms", value_parser = duration)]
    pub debounce_after: Duration,
    /// The longest that a change is held back
    #[arg(long, env = "PILOT_DEBOUNCE_MAX", value_name = "DURATION", default_value = "500ms", value_parser = duration)]
    pub debounce_max: Duration,
    /// Streams accepted per second, others wait their turn; 0 is 500 for each processor
    #[arg(long, env = "PILOT_MAX_REQUESTS_PER_SECOND", value_name = "N", default_value_t = 0)]
    pub max_requests_per_second: u32,
}

/// An address, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionalAddress(pub Option<SocketAddr>);

fn optional_address(text: &str) -> Result<OptionalAddress, String> {
    if text == "none" {
        return Ok(OptionalAddress(None));
    }
    let address = text.parse().map_err(|e| format!("{e}: write IP:PORT, or \"none\""))?;
    Ok(OptionalAddress(Some(address)))
}

fn duration(text: &str) -> Result<Duration, String> {
    ProtoDuration::parse(text).map(Duration::from).map_err(|e| e.to_string())
}

/// Why `lateen control` failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The authority is unusable.
    #[error("--ca-dir {path}: {error}")]
    Authority {
        /// Where.
        path: String,
        /// Why.
        error: CaFilesError,
    },
    /// The tokens' key is unusable.
    #[error("--token-key {path}: {error}")]
    TokenKey {
        /// Where.
        path: String,
        /// Why.
        error: TokenError,
    },
    /// A file cannot be read or written.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// Arguments that contradict each other or have no meaning.
    #[error("{0}")]
    Argument(String),
    /// It could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The system gives no threads or signals.
    #[error("cannot run: {0}")]
    System(std::io::Error),
}

/// Runs a control plane until it is told to end (SIGTERM, SIGINT).
///
/// # Errors
/// If it cannot start. What manifests say is never an error here: a wrong document is refused, and logged.
#[expect(clippy::needless_pass_by_value, reason = "the arguments of a process end with it")]
pub fn run(args: ControlArgs) -> Result<(), ControlError> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("control").build().map_err(ControlError::System)?;
    runtime.block_on(serve(&args))
}

async fn serve(args: &ControlArgs) -> Result<(), ControlError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ControlError::System)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ControlError::System)?;
    let config = config(args)?;
    let running = start(config).await?;
    tracing::info!("gRPC with TLS on {}, pages on {:?}", running.secure_grpc, running.http);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("ending");
    Ok(())
}

fn config(args: &ControlArgs) -> Result<Config, ControlError> {
    if let Some(address) = args.grpc_addr.0
        && !address.ip().is_loopback()
        && !args.insecure_grpc
    {
        let text =
            format!("--grpc-addr {address} is plain text without authentication: use a loopback address, or add --insecure-grpc");
        return Err(ControlError::Argument(text));
    }
    if args.workload_cert_ttl.is_zero() || args.workload_cert_ttl > args.max_workload_cert_ttl {
        let text = "--workload-cert-ttl must be more than zero and at most --max-workload-cert-ttl";
        return Err(ControlError::Argument(text.to_owned()));
    }
    let authority = authority(args)?;
    if let Some(path) = &args.root_cert_file {
        write_whole(path, authority.roots_pem())
            .map_err(|error| ControlError::File { path: path.display().to_string(), error })?;
    }
    Ok(Config {
        settings: Settings {
            domain: args.domain.as_str().into(),
            cluster_id: args.cluster_id.as_str().into(),
            scope_gateway_to_namespace: args.scope_gateway_to_namespace,
            foreign_routes: args.foreign_routes,
            http10: args.http10,
        },
        manifests: args.manifests.clone(),
        state_socket: args.state_socket.clone(),
        secure_grpc: args.secure_grpc_addr,
        plain_grpc: args.grpc_addr.0,
        http: [args.http_addr.0, args.monitoring_addr.0].into_iter().flatten().collect(),
        authority,
        tokens: tokens(args)?,
        server_names: server_names(args),
        debounce: DebounceConfig { after: args.debounce_after, max: args.debounce_max },
        streams_per_second: Some(args.max_requests_per_second).filter(|n| *n > 0),
    })
}

/// The names that clients know a control plane by, and an address that it has.
fn server_names(args: &ControlArgs) -> Vec<String> {
    let mut names: Vec<String> =
        ["istiod.istio-system.svc", "istiod.istio-system", "istiod", "localhost", "127.0.0.1"].map(str::to_owned).to_vec();
    names.push(format!("istiod.istio-system.svc.{}", args.domain));
    let ip = args.secure_grpc_addr.ip();
    if !ip.is_unspecified() && !ip.is_loopback() {
        names.push(ip.to_string());
    }
    names.extend(args.server_name.iter().cloned());
    names
}

/// An authority that an operator has plugged in, else the one that is kept here.
fn authority(args: &ControlArgs) -> Result<CertificateAuthority, ControlError> {
    let failed = |error| ControlError::Authority { path: args.ca_dir.display().to_string(), error };
    let plugged_in = ["root-cert.pem", "tls.crt"].iter().any(|name| args.ca_dir.join(name).exists());
    let authority = if plugged_in {
        CertificateAuthority::load_plugged_in(&args.ca_dir).map_err(failed)?
    } else {
        let trust_domain =
            TrustDomain::try_new(&args.trust_domain).map_err(|e| ControlError::Argument(format!("--trust-domain: {e}")))?;
        let options = RootOptions { trust_domain, lifetime: ROOT_LIFETIME };
        CertificateAuthority::load_or_create(&args.ca_dir, &options).map_err(failed)?
    };
    Ok(authority.with_policy(IssuancePolicy { default_ttl: args.workload_cert_ttl, max_ttl: args.max_workload_cert_ttl }))
}

fn tokens(args: &ControlArgs) -> Result<Option<TokenVerifier>, ControlError> {
    let Some(path) = &args.token_key else { return Ok(None) };
    let name = path.display().to_string();
    let pem = std::fs::read(path).map_err(|error| ControlError::File { path: name.clone(), error })?;
    let verifier = TokenVerifier::from_public_keys_pem(&pem, args.token_issuer.as_str(), args.token_audience.clone());
    verifier.map(Some).map_err(|error| ControlError::TokenKey { path: name, error })
}

/// Replaces a file in one step: a reader sees the old or the new one.
fn write_whole(path: &Path, text: &str) -> std::io::Result<()> {
    let beside = path.with_extension(format!("new.{}", std::process::id()));
    std::fs::write(&beside, text)?;
    std::fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: ControlArgs,
    }

    fn parse(args: &[&str]) -> ControlArgs {
        use clap::Parser as _;
        Cli::parse_from([&["control", "--ca-dir", "/nonexistent"], args].concat()).args
    }

    #[test]
    fn plain_text_is_for_loopback_alone() {
        let error = config(&parse(&["--grpc-addr", "0.0.0.0:15010"])).err().unwrap().to_string();
        assert!(error.contains("--insecure-grpc"), "{error}");
        assert_eq!(parse(&["--grpc-addr", "none"]).grpc_addr, OptionalAddress(None));
    }

    #[test]
    fn lifetimes_must_make_sense() {
        let error = config(&parse(&["--workload-cert-ttl", "2h", "--max-workload-cert-ttl", "1h"])).err().unwrap().to_string();
        assert!(error.contains("--max-workload-cert-ttl"), "{error}");
        assert_eq!(parse(&["--workload-cert-ttl", "1h30m"]).workload_cert_ttl, Duration::from_secs(5400));
    }
}
