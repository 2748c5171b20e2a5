//! What all threads of the process share: immutable, or made of atomics.

use crate::bootstrap::{Environment, Settings};
use crate::config::Snapshot;
use crate::control_plane::identity::RenewalStats;
use crate::drain::Drain;
use crate::name_server::Names;
use crate::on_demand::OnDemand;
use crate::telemetry::Telemetry;
use crate::worker::WorkerHandle;
use arc_swap::{ArcSwap, ArcSwapOption};
use lateen_policy::balance::zone::Origin;
use lateen_tls::WorkloadIdentity;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// The process.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    /// What is in force; replaced whole.
    pub(crate) snapshot: ArcSwap<Snapshot>,
    pub(crate) identity: WorkloadIdentity,
    pub(crate) drain: Arc<Drain>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) renewals: RenewalStats,
    /// Whether the first listeners and clusters have come and are in force.
    pub(crate) configured: AtomicBool,
    /// Where the proxies of its workload are, if it wants to know.
    pub(crate) origin: Arc<ArcSwapOption<Origin>>,
    /// What the application's DNS questions are answered from.
    pub(crate) names: Arc<Names>,
    /// What it does not hold and can learn.
    pub(crate) on_demand: Arc<OnDemand>,
    pub(crate) started: Instant,
    workers: Vec<WorkerHandle>,
    hostname: String,
    environment: Environment,
}

impl Shared {
    /// For a process with these workers.
    pub(crate) fn new(
        settings: Settings,
        environment: Environment,
        telemetry: Arc<Telemetry>,
        workers: Vec<WorkerHandle>,
    ) -> Self {
        let on_demand = Arc::new(OnDemand::new(&settings.automatic_scope, &settings.namespace));
        Self {
            settings,
            snapshot: ArcSwap::default(),
            identity: WorkloadIdentity::new(),
            drain: Arc::new(Drain::default()),
            telemetry,
            renewals: RenewalStats::default(),
            configured: AtomicBool::new(false),
            names: Arc::new(Names { on_demand: on_demand.clone(), ..Names::default() }),
            on_demand,
            origin: Arc::default(),
            started: Instant::now(),
            workers,
            hostname: environment.get("HOSTNAME").cloned().unwrap_or_default(),
            environment,
        }
    }

    /// `%HOSTNAME%`.
    pub(crate) fn hostname(&self) -> &str {
        &self.hostname
    }

    /// `%ENVIRONMENT(X)%`.
    pub(crate) fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The workers, by index.
    pub(crate) fn workers(&self) -> &[WorkerHandle] {
        &self.workers
    }
}
