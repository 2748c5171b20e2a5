//! Leaving in order: first no new work is asked for, then what is in flight ends, then the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use tokio::sync::Notify;

/// Whether the proxy drains, and what it waits for. Shared by all threads.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    draining: AtomicBool,
    active_requests: AtomicU32,
    /// Connections that are being opened: nothing of theirs is counted as a request yet.
    opening: AtomicU32,
    /// What has begun since it drains: requests, and connections.
    late: AtomicU32,
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
    pub(crate) fn in_flight(self: &Arc<Self>) -> InFlight {
        self.active_requests.fetch_add(1, Ordering::Relaxed);
        self.note_late();
        InFlight(self.clone())
    }

    /// Counts a connection of which it is not known yet what it will ask, until the guard is dropped: a handshake may last, and
    /// a request be on its way behind it.
    pub(crate) fn opening(self: &Arc<Self>) -> Opening {
        self.opening.fetch_add(1, Ordering::Relaxed);
        self.note_late();
        Opening(self.clone())
    }

    fn note_late(&self) {
        if self.is_draining() {
            self.late.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Requests and TCP connections in flight.
    pub(crate) fn active(&self) -> u32 {
        self.active_requests.load(Ordering::Relaxed)
    }

    /// All that draining waits for.
    pub(crate) fn pending(&self) -> u32 {
        self.active() + self.opening_now()
    }

    /// Connections whose first request has not come.
    pub(crate) fn opening_now(&self) -> u32 {
        self.opening.load(Ordering::Relaxed)
    }

    /// Requests and connections that came since [`Self::start`]: who waits for the end of all sees whether there are still any.
    pub(crate) fn late(&self) -> u32 {
        self.late.load(Ordering::Relaxed)
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
pub(crate) struct InFlight(Arc<Drain>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.active_requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One connection that is being opened.
#[derive(Debug)]
pub(crate) struct Opening(Arc<Drain>);

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.opening.fetch_sub(1, Ordering::Relaxed);
    }
}
