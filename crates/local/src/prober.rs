//! The probes of one running container, and what they cause.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lateen_model::resource::{Container, Probe};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::container::exec;
use crate::mesh::Mesh;
use crate::pod::Pod;
use crate::probe::{Change, Check, Timing, Verdict};
use crate::spawn::Process;

/// A container that has to be started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sick {
    /// What it gets to end, if not the pod's `terminationGracePeriodSeconds`.
    pub(crate) grace: Option<Duration>,
}

/// A running container to look after.
#[derive(Clone)]
pub(crate) struct Prober {
    pub(crate) mesh: Arc<Mesh>,
    pub(crate) pod: Arc<Pod>,
    pub(crate) index: usize,
    pub(crate) process: Process,
    pub(crate) tell: mpsc::Sender<Sick>,
}

/// The three kinds of probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Startup,
    Readiness,
    Liveness,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Readiness => "readiness",
            Self::Liveness => "liveness",
        }
    }
}

impl Prober {
    /// Runs a container's probes: the startup probe alone until it succeeds, then the others. Ends with the container.
    pub(crate) async fn run(self) {
        if let Some(probe) = self.container().startup_probe.clone() {
            if !self.until_started(&probe).await {
                return self.is_sick(&probe).await;
            }
            if self.container().readiness_probe.is_none() {
                self.pod.change(&self.mesh, |s| s.containers[self.index].ready = true);
            }
        }
        let mut both = JoinSet::new();
        if self.container().readiness_probe.is_some() {
            both.spawn(self.clone().readiness());
        }
        if self.container().liveness_probe.is_some() {
            both.spawn(self.clone().liveness());
        }
        both.join_all().await;
    }

    fn container(&self) -> &Container {
        &self.pod.identity.spec.containers[self.index]
    }

    async fn is_sick(&self, probe: &Probe) {
        let seconds = probe.termination_grace_period_seconds.and_then(|s| u64::try_from(s).ok());
        let _ = self.tell.send(Sick { grace: seconds.map(Duration::from_secs) }).await;
    }

    /// Whether the startup probe succeeded before it gave up.
    async fn until_started(&self, probe: &Probe) -> bool {
        let (started, mut change) = watch::channel(Change::None);
        tokio::select! {
            () = self.repeat(Kind::Startup, probe, started) => false,
            outcome = change.wait_for(|c| *c != Change::None) => matches!(outcome.as_deref(), Ok(Change::Good)),
        }
    }

    async fn readiness(self) {
        let Some(probe) = &self.container().readiness_probe else { return };
        let (ready, mut change) = watch::channel(Change::None);
        let follow = async {
            while change.changed().await.is_ok() {
                let good = *change.borrow_and_update() == Change::Good;
                self.pod.change(&self.mesh, |s| s.containers[self.index].ready = good);
            }
        };
        tokio::join!(follow, self.repeat(Kind::Readiness, probe, ready));
    }

    async fn liveness(self) {
        let Some(probe) = &self.container().liveness_probe else { return };
        let (alive, mut change) = watch::channel(Change::None);
        let died = tokio::select! {
            () = self.repeat(Kind::Liveness, probe, alive) => false,
            outcome = change.wait_for(|c| *c == Change::Bad) => outcome.is_ok(),
        };
        if died {
            self.is_sick(probe).await;
        }
    }

    /// Checks for ever, and tells changes. Returns only when it cannot check at all.
    async fn repeat(&self, kind: Kind, probe: &Probe, tell: watch::Sender<Change>) {
        let timing = Timing::of(probe);
        let check = match Check::of(probe, self.container(), self.pod.ip()) {
            Ok(check) => check,
            Err(e) => return self.note(&format!("{} probe: {e}", kind.name())),
        };
        tokio::time::sleep(timing.delay).await;
        let start = Instant::now();
        let mut verdict = Verdict::starting(kind == Kind::Liveness);
        loop {
            let result = tokio::time::timeout(timing.timeout, self.once(&check)).await;
            let result = result.unwrap_or_else(|_| Err(format!("no answer within {} s", timing.timeout.as_secs())));
            if result.is_ok() || timing.counts(&verdict, start.elapsed()) {
                let change = verdict.take(result.is_ok(), &timing);
                if let (Change::Bad, Err(why)) = (change, &result) {
                    self.say(kind, why);
                }
                if change != Change::None {
                    tell.send_replace(change);
                }
            }
            tokio::time::sleep(timing.wait(&verdict, start.elapsed())).await;
        }
    }

    /// What a probe that has failed means.
    fn say(&self, kind: Kind, why: &str) {
        // One that is being stopped is expected to fail.
        if !self.pod.is_stopping() {
            let consequence = if kind == Kind::Readiness { "it gets no traffic" } else { "restarting it" };
            self.note(&format!("the {} probe failed ({why}): {consequence}", kind.name()));
        }
    }

    fn note(&self, text: &str) {
        self.pod.note(&self.mesh, &format!("container {}: {text}", self.container().name));
    }

    async fn once(&self, check: &Check) -> Result<(), String> {
        match check {
            Check::Exec(command) => exec(&self.mesh, &self.pod, self.index, &self.process, command).await,
            other => other.run(&self.pod.network().ok_or("the pod has no network")?).await,
        }
    }
}
