//! `lateen echo get`: one request, or many at a time or at a constant rate, and a summary of who answered.

mod alarm;
mod report;

use crate::EchoError;
use crate::client::{Client, Outgoing};
use alarm::Alarm;
use report::Tally;
pub(crate) use report::{Report, Sample};
use std::cell::{Cell, RefCell};
use std::time::Duration;
use tokio::sync::Mutex;
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
///
/// # Errors
/// If the system has no timer for the plan's rate.
pub(crate) async fn run(plan: &Plan, stop: impl Future<Output = ()>) -> Result<Report, EchoError> {
    let client = if plan.new_connections { Client::with_idle_connections(0) } else { Client::new() };
    let single = plan.count == Some(1);
    let tally = RefCell::new(Tally::new(&plan.pointers, single));
    let schedule = Schedule::new(plan)?;
    let workers = (0..plan.concurrency).map(|_| async {
        while let Some(turn) = schedule.next().await? {
            let exchange = client.send(&plan.outgoing).await;
            tally.borrow_mut().add(Sample { exchange, latency: turn.due.elapsed(), late: turn.late });
        }
        Ok::<(), EchoError>(())
    });
    {
        let mut work = std::pin::pin!(futures_util::future::try_join_all(workers));
        tokio::select! {
            done = &mut work => drop(done?),
            () = stop => {
                schedule.stopped.set(true);
                work.await?;
            }
        }
    }
    Ok(tally.into_inner().finish(schedule.start.elapsed()))
}

/// When the next request may be sent.
struct Schedule<'a> {
    plan: &'a Plan,
    start: Instant,
    sent: Cell<u64>,
    stopped: Cell<bool>,
    /// Whoever holds it waits for the next request to be due; the others are busy or behind it.
    alarm: Mutex<Alarm>,
}

/// Leave to send one request.
struct Turn {
    /// From when its latency counts.
    due: Instant,
    /// How long ago that was, for a plan with a rate: workers were busy, or this process was not awake.
    late: Option<Duration>,
}

impl<'a> Schedule<'a> {
    fn new(plan: &'a Plan) -> Result<Self, EchoError> {
        let (start, alarm) = (Instant::now(), Mutex::new(Alarm::new()?));
        Ok(Self { plan, start, sent: Cell::new(0), stopped: Cell::new(false), alarm })
    }

    /// Waits until the next request is due; none when the plan is over. With a rate a request counts from when it was due,
    /// whether it was sent then or not, so that a server that stalls cannot hide the requests that it holds up.
    async fn next(&self) -> Result<Option<Turn>, EchoError> {
        let alarm = self.alarm.lock().await;
        let due = match self.plan.rate {
            #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 requests")]
            Some(rate) => self.start + Duration::from_secs_f64(self.sent.get() as f64 / rate),
            None => Instant::now(),
        };
        let begins = due.max(Instant::now());
        if self.plan.duration.is_some_and(|duration| begins >= self.start + duration) || self.is_over() {
            return Ok(None);
        }
        alarm.until(due).await?;
        if self.is_over() {
            return Ok(None);
        }
        self.sent.set(self.sent.get() + 1);
        Ok(Some(Turn { due, late: self.plan.rate.map(|_| due.elapsed()) }))
    }

    fn is_over(&self) -> bool {
        self.stopped.get() || self.plan.count.is_some_and(|count| self.sent.get() >= count)
    }
}

#[cfg(test)]
mod tests {
    use super::{Plan, run};
    use crate::client::Outgoing;
    use crate::{Config, PodIdentity, Server};
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};
    use std::time::Duration;

    /// Starts a server that lasts as long as the test's runtime.
    async fn server() -> SocketAddr {
        let config = Config {
            host: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            port: 0,
            tls: None,
            tcp: None,
            tcp_banner: None,
            tunnel: None,
            proxy_protocol: false,
            grpc: Some(0),
            otlp: None,
            kept_spans: 0,
            drain: Duration::ZERO,
        };
        let identity = PodIdentity { pod: "web-0".into(), ..PodIdentity::default() };
        let server = Server::bind(config, identity).await.expect("binds");
        let address = server.addresses().http;
        tokio::spawn(server.serve(std::future::pending()));
        address
    }

    fn plan(url: &str) -> Plan {
        Plan {
            outgoing: Outgoing::get(url.parse().expect("a URL")),
            count: Some(1),
            duration: None,
            concurrency: 1,
            rate: None,
            pointers: Vec::new(),
            new_connections: false,
        }
    }

    #[tokio::test]
    async fn counts_requests_of_several_workers() {
        let url = format!("http://{}/", server().await);
        let plan = Plan { count: Some(101), concurrency: 7, pointers: vec!["/path".into()], ..plan(&url) };
        let report = run(&plan, std::future::pending()).await.expect("runs");
        let json = report.to_json();
        assert!(report.all_succeeded(), "{json}");
        assert_eq!(
            (&json["statuses"]["200"], &json["pods"]["web-0"], &json["tallies"]["/path"]["/"]),
            (&101.into(), &101.into(), &101.into())
        );
    }

    #[tokio::test]
    async fn a_rate_is_kept() {
        let url = format!("http://{}/", server().await);
        let plan = Plan { count: Some(50), concurrency: 4, rate: Some(500.0), ..plan(&url) };
        let json = run(&plan, std::future::pending()).await.expect("runs").to_json();
        assert_eq!(json["requests"], 50);
        // The last one is due after 98 ms; how much later it ends is the machine's affair.
        assert!(json["seconds"].as_f64().is_some_and(|seconds| seconds >= 0.098), "{json}");
    }

    #[tokio::test]
    async fn latency_counts_from_when_a_request_was_due() {
        let url = format!("http://{}/delay/50ms", server().await);
        let plan = Plan { count: Some(4), rate: Some(1000.0), ..plan(&url) };
        let json = run(&plan, std::future::pending()).await.expect("runs").to_json();
        // One worker: the fourth was due after 3 ms and begins after 150 ms.
        assert!(json["latency_ms"]["max"].as_f64().is_some_and(|max| max >= 195.0), "{json}");
        // What it waited for a free worker is told too: 147 ms.
        assert!(json["late_ms"]["max"].as_f64().is_some_and(|max| max >= 145.0), "{json}");
    }

    #[tokio::test]
    async fn ends_by_duration_and_when_stopped() {
        let url = format!("http://{}/", server().await);
        let limited = Plan { count: None, duration: Some(Duration::from_millis(50)), ..plan(&url) };
        assert!(run(&limited, std::future::pending()).await.expect("runs").all_succeeded());
        let endless = Plan { count: None, ..plan(&url) };
        assert!(run(&endless, tokio::time::sleep(Duration::from_millis(50))).await.expect("runs").all_succeeded());
    }

    #[tokio::test]
    async fn grpc_and_http2() {
        let address = server().await;
        let mut plan = plan(&format!("grpc://{address}"));
        plan.outgoing.body = "hi".into();
        let report = run(&plan, std::future::pending()).await.expect("runs");
        let json = report.to_json();
        assert!(report.all_succeeded(), "{json}");
        assert_eq!((&json["grpc_statuses"]["0"], &json["response"]["body"]["message"]), (&1.into(), &"hi".into()));
        let mut plan = super::tests::plan(&format!("http://{address}/x"));
        plan.outgoing.http2 = true;
        let report = run(&plan, std::future::pending()).await.expect("runs");
        assert_eq!(report.to_json()["response"]["body"]["protocol"], "HTTP/2");
        assert!(report.to_text().starts_with("HTTP/2.0 200 OK\n"), "{}", report.to_text());
    }

    #[tokio::test]
    async fn errors_are_counted_with_their_cause() {
        let plan = plan("http://127.0.0.1:1/");
        let report = run(&plan, std::future::pending()).await.expect("runs");
        let json = report.to_json();
        assert!(!report.all_succeeded());
        assert!(json["errors"].to_string().contains("refused"), "{json}");
    }
}
