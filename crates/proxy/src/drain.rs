//! Leaving in order: first no new work is asked for, then what is in flight ends, then the process.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use tokio::sync::Notify;

/// Whether the proxy drains, and what it waits for. Shared by all threads.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    draining: AtomicBool,
    active_requests: AtomicU32,
    started: Notify,
    quit: Notify,
}

impl Drain {
    /// From now on answers ask clients to close (`connection: close`, GOAWAY).
    pub(crate) fn start(&self) {
        if !self.draining.swap(true, Ordering::Relaxed) {
            self.started.notify_waiters();
            tracing::info!("draining: answers ask clients to use other connections");
        }
    }

    /// Whether [`Self::start`] was called.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Waits for [`Self::start`].
    pub(crate) async fn started(&self) {
        let started = self.started.notified();
        tokio::pin!(started);
        // Registered before looking, so that a start in between is not missed.
        started.as_mut().enable();
        if !self.is_draining() {
            started.await;
        }
    }

    /// Counts a request (or TCP connection) that draining waits for, until the guard is dropped.
    pub(crate) fn in_flight(self: &std::sync::Arc<Self>) -> InFlight {
        self.active_requests.fetch_add(1, Ordering::Relaxed);
        InFlight(self.clone())
    }

    /// Requests and TCP connections in flight.
    pub(crate) fn active(&self) -> u32 {
        self.active_requests.load(Ordering::Relaxed)
    }

    /// Asks the process to end, as SIGTERM does.
    pub(crate) fn request_quit(&self) {
        self.quit.notify_one();
    }

    /// Waits for [`Self::request_quit`].
    pub(crate) async fn quit_requested(&self) {
        self.quit.notified().await;
    }
}

/// One unit of work in flight.
#[derive(Debug)]
pub(crate) struct InFlight(std::sync::Arc<Drain>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.active_requests.fetch_sub(1, Ordering::Relaxed);
    }
}
