//! The command line of the proxy roles.

use crate::agent;
use crate::bootstrap::{BootstrapError, Environment, Role, Settings};
use crate::process::{self, RunError};
use std::path::PathBuf;

/// Arguments of `lateen proxy`.
#[derive(Clone, Debug, clap::Args)]
pub struct ProxyArgs {
    #[command(subcommand)]
    role: RoleArgs,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum RoleArgs {
    /// Runs beside one application and carries all of its traffic
    ///
    /// The sidecar is configured by xDS alone. Who it is and where its control plane is comes from the environment that Istio's
    /// injector writes: POD_NAME, POD_NAMESPACE, INSTANCE_IP (required), SERVICE_ACCOUNT, TRUST_DOMAIN, PROXY_CONFIG, CA_ADDR,
    /// ISTIO_META_*, SECRET_TTL, SECRET_GRACE_PERIOD_RATIO. `lateen up` sets all of them.
    ///
    /// Ports: 15001 outbound, 15006 inbound, 15000 admin (loopback), 15021 readiness, 15090 Prometheus.
    Sidecar(WorkloadArgs),
    /// Stands at the mesh's edge: opens the ports of the Gateways that select its pod
    ///
    /// Who it is and where its control plane is comes from the same environment as a sidecar's. Certificates come from Secrets
    /// of its namespace, through the control plane; they are held in memory only.
    ///
    /// Ports: those of its Gateways, 15000 admin (loopback), 15021 readiness, 15090 Prometheus.
    Gateway(WorkloadArgs),
}

#[derive(Clone, Debug, clap::Args)]
struct WorkloadArgs {
    /// The pod's labels, as the Kubernetes downward API writes them
    #[arg(long, value_name = "FILE", default_value = "/etc/istio/pod/labels")]
    labels_file: PathBuf,

    /// Runs this Envoy in place of the own engine
    ///
    /// This process becomes its agent: it writes the bootstrap, serves the secrets from memory over a Unix socket, relays the
    /// discovery stream and answers for readiness. Istio's own filters (metrics, metadata exchange, ALPN) are left out of its
    /// configuration, because only Istio's build of Envoy has them.
    #[arg(long, value_name = "PATH")]
    envoy: Option<PathBuf>,
}

/// Why `lateen proxy` failed.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The environment is not right.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// It could not run.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// Runs a proxy until it is told to end.
///
/// # Errors
/// If the environment is incomplete or the process cannot get what it needs. Configuration that is wrong is no error: it is
/// refused, and the last good one stays in force.
pub fn run(args: &ProxyArgs) -> Result<(), ProxyError> {
    let (role, workload) = match &args.role {
        RoleArgs::Sidecar(workload) => (Role::Sidecar, workload),
        RoleArgs::Gateway(workload) => (Role::Gateway, workload),
    };
    let environment: Environment = std::env::vars().collect();
    let settings = Settings::from_environment(role, &environment, &workload.labels_file)?;
    match &workload.envoy {
        None => Ok(process::run(settings, environment)?),
        Some(envoy) => Ok(agent::run(&settings, envoy)?),
    }
}
