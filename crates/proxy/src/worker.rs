//! Workers: threads that each own their connections, pools and statistics, and share only immutable configuration.

use crate::listener::{self, Accepted};
use crate::shared::Shared;
use crate::telemetry::trace::run_exporter;
use crate::upstream::Pools;
use lateen_model::dataplane::TracingProvider;
use lateen_observe::trace::SpanExporter;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::runtime::LocalOptions;
use tokio::sync::mpsc;

/// What other threads ask of a worker.
pub(crate) enum Job {
    /// Serves a connection that another worker accepted.
    Serve(Accepted),
    /// Accepts on a socket, until told to stop.
    Listen(listener::Socket),
    /// Stops accepting on this address.
    Unlisten(SocketAddr),
    /// Closes pooled connections that no request uses.
    CloseIdle,
    /// Sends spans to a receiver from now on.
    Export(Box<TracingProvider>, Box<SpanExporter>),
    /// Ends the worker's loop; its connections are dropped.
    Stop,
}

/// How other threads reach a worker.
pub(crate) struct WorkerHandle {
    inbox: mpsc::UnboundedSender<Job>,
    connections: Arc<AtomicUsize>,
}

impl WorkerHandle {
    /// Sends a job; a worker that has ended ignores it.
    pub(crate) fn send(&self, job: Job) {
        let _ = self.inbox.send(job);
    }

    /// Downstream connections that it serves now.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Counts a connection as this worker's until the guard is dropped.
    pub(crate) fn connection_guard(&self) -> ConnectionGuard {
        self.connections.fetch_add(1, Ordering::Relaxed);
        ConnectionGuard(self.connections.clone())
    }
}

/// The receiving end of a worker that has not started.
pub(crate) struct WorkerSeat {
    index: usize,
    jobs: mpsc::UnboundedReceiver<Job>,
}

/// Makes the handle and the seat of worker `index`.
pub(crate) fn seat(index: usize) -> (WorkerHandle, WorkerSeat) {
    let (inbox, jobs) = mpsc::unbounded_channel();
    let connections = Arc::new(AtomicUsize::new(0));
    (WorkerHandle { inbox, connections }, WorkerSeat { index, jobs })
}

/// The state of one worker. Lives on one thread; nothing in it is locked.
pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) pools: Pools,
    pub(crate) telemetry: crate::telemetry::WorkerTelemetry,
    pub(crate) servers_first: crate::detect::ServersFirst,
    rng: RefCell<SmallRng>,
}

impl Worker {
    /// A worker that serves nothing yet.
    pub(crate) fn new(index: usize, shared: Arc<Shared>) -> Self {
        Self {
            index,
            telemetry: shared.telemetry.worker(),
            shared,
            pools: Pools::default(),
            servers_first: crate::detect::ServersFirst::default(),
            rng: RefCell::new(SmallRng::from_os_rng()),
        }
    }

    /// A random number for balancing, sampling and jitter; not for secrets.
    pub(crate) fn random(&self) -> u64 {
        rand::Rng::random(&mut *self.rng.borrow_mut())
    }

    /// The generator itself, for decisions that draw several numbers.
    pub(crate) fn with_rng<T>(&self, draw: impl FnOnce(&mut SmallRng) -> T) -> T {
        draw(&mut self.rng.borrow_mut())
    }
}

/// Counts one connection.
pub(crate) struct ConnectionGuard(Arc<AtomicUsize>);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Starts a worker's thread.
pub(crate) fn start(seat: WorkerSeat, shared: Arc<Shared>) -> io::Result<std::thread::JoinHandle<()>> {
    let (report, built) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name(format!("worker-{}", seat.index)).spawn(move || {
        // It cannot leave the thread on which it is made.
        match tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
            Ok(runtime) => {
                let _ = report.send(Ok(()));
                runtime.block_on(run(seat, shared));
            }
            Err(error) => {
                let _ = report.send(Err(error));
            }
        }
    })?;
    built.recv().map_err(io::Error::other)??;
    Ok(thread)
}

async fn run(mut seat: WorkerSeat, shared: Arc<Shared>) {
    let worker = Rc::new(Worker::new(seat.index, shared));
    tokio::task::spawn_local(crate::upstream::reap_idle(worker.clone()));
    tokio::task::spawn_local(crate::telemetry::sweep_periodically(worker.clone()));
    let mut accepting: HashMap<SocketAddr, tokio::task::JoinHandle<()>> = HashMap::new();
    while let Some(job) = seat.jobs.recv().await {
        match job {
            Job::Serve(accepted) => listener::spawn_connection(&worker, accepted),
            Job::Listen(socket) => {
                let address = socket.address;
                let task = tokio::task::spawn_local(listener::accept(worker.clone(), socket));
                if let Some(previous) = accepting.insert(address, task) {
                    previous.abort();
                }
            }
            Job::Unlisten(address) => {
                if let Some(task) = accepting.remove(&address) {
                    task.abort();
                }
            }
            Job::CloseIdle => worker.pools.close_idle(),
            Job::Export(provider, exporter) => {
                tokio::task::spawn_local(run_exporter(worker.clone(), *provider, *exporter));
            }
            Job::Stop => break,
        }
    }
}
