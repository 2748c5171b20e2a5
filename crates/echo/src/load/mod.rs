//! `lateen echo get`: one request, or many at a time or at a constant rate, and a summary of who answered.

mod report;

use crate::client::{Client, Outgoing};
use report::Tally;
pub(crate) use report::{Report, Sample};
use std::cell::{Cell, RefCell};
use std::time::Duration;
use tokio::time::Instant;

/// What to send, how often and how fast.
pub(crate) struct Plan {
    pub(crate) outgoing: Outgoing,
    /// How many requests; without end if a duration is given instead.
    pub(crate) count: Option<u64>,
    /// No request starts after this time.
    pub(crate) duration: Option<Duration>,
    /// How many requests may be under way at once.
    pub(crate) concurrency: usize,
    /// Requests a second that are due whether or not earlier ones have been answered (an open loop); none sends the next
    /// as soon as one is answered.
    pub(crate) rate: Option<f64>,
    /// JSON pointers into the bodies whose values are counted.
    pub(crate) pointers: Vec<String>,
    /// Connect anew for each request.
    pub(crate) new_connections: bool,
}

/// Carries a plan out on the current thread; `stop` ends it early, requests under way are waited for.
pub(crate) async fn run(plan: &Plan, stop: impl Future<Output = ()>) -> Report {
    let client = if plan.new_connections { Client::with_idle_connections(0) } else { Client::new() };
    let single = plan.count == Some(1);
    let tally = RefCell::new(Tally::new(&plan.pointers, single));
    let (tickets, stopped) = (Cell::new(0_u64), Cell::new(false));
    let start = Instant::now();
    let workers = (0..plan.concurrency).map(|_| async {
        while let Some(due) = next_due(plan, start, &tickets, &stopped) {
            let begun = begin(due, start).await;
            if stopped.get() {
                break;
            }
            let exchange = client.send(&plan.outgoing).await;
            tally.borrow_mut().add(Sample { exchange, latency: begun.elapsed() });
        }
    });
    {
        let mut work = std::pin::pin!(futures_util::future::join_all(workers));
        tokio::select! {
            _ = &mut work => {}
            () = stop => {
                stopped.set(true);
                work.await;
            }
        }
    }
    tally.into_inner().finish(start.elapsed())
}

/// Takes the next request's ticket and says when it is due, as time since the start; none when the plan is over.
fn next_due(plan: &Plan, start: Instant, tickets: &Cell<u64>, stopped: &Cell<bool>) -> Option<Option<Duration>> {
    let ticket = tickets.get();
    if stopped.get() || plan.count.is_some_and(|count| ticket >= count) {
        return None;
    }
    tickets.set(ticket + 1);
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 requests")]
    let due = plan.rate.map(|rate| Duration::from_secs_f64(ticket as f64 / rate));
    let begins = due.unwrap_or_default().max(start.elapsed());
    plan.duration.is_none_or(|duration| begins < duration).then_some(due)
}

/// Waits until a request is due. A request that is late because all workers were busy counts from when it was due, so that
/// a server that stalls cannot hide it; one that was waited for counts from now, so that the timer's grain is not the server's.
async fn begin(due: Option<Duration>, start: Instant) -> Instant {
    match due.map(|due| start + due) {
        Some(due) if due > Instant::now() => {
            tokio::time::sleep_until(due).await;
            Instant::now()
        }
        Some(late) => late,
        None => Instant::now(),
    }
}
