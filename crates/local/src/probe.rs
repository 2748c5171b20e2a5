//! Probes: when a result changes the state (pure), and how the check is made.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use lateen_capture::netns::NetNs;
use lateen_model::resource::{Container, HttpGetAction, HttpScheme, IntOrString, Probe};
use tokio::net::TcpStream;

/// Before its first success a probe runs this often, so that a mesh starts fast; afterwards as often as it says.
pub(crate) const EAGER_PERIOD: Duration = Duration::from_millis(100);

/// What a probe has said so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Whether the last change was to success; before any result: the probe's starting value.
    pub(crate) good: bool,
    /// Whether it has ever succeeded.
    pub(crate) ever: bool,
    run: u32,
    successes: u32,
    failures: u32,
}

/// How often, how long, and how many in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timing {
    pub(crate) delay: Duration,
    pub(crate) period: Duration,
    pub(crate) timeout: Duration,
    successes: u32,
    failures: u32,
}

impl Timing {
    pub(crate) fn of(probe: &Probe) -> Self {
        let positive = |v: Option<i32>, default: u32| v.and_then(|v| u32::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default);
        let seconds = |v: u32| Duration::from_secs(u64::from(v));
        Self {
            delay: seconds(probe.initial_delay_seconds.and_then(|v| u32::try_from(v).ok()).unwrap_or(0)),
            period: seconds(positive(probe.period_seconds, 10)),
            timeout: seconds(positive(probe.timeout_seconds, 1)),
            successes: positive(probe.success_threshold, 1),
            failures: positive(probe.failure_threshold, 3),
        }
    }

    /// How long to wait after a result. The eager checks end with the first success, or when the probe would have failed
    /// for good at its own pace: `failureThreshold` periods after the start.
    pub(crate) fn wait(&self, verdict: &Verdict, since_start: Duration) -> Duration {
        let patience = self.period.saturating_mul(self.failures);
        if !verdict.ever && since_start < patience { EAGER_PERIOD.min(self.period) } else { self.period }
    }

    /// Whether a failure counts towards the threshold yet: eager checks come faster than the threshold was meant for.
    pub(crate) fn counts(&self, verdict: &Verdict, since_start: Duration) -> bool {
        verdict.ever || since_start >= self.period.saturating_mul(self.failures.saturating_sub(1))
    }
}

impl Verdict {
    /// A readiness or startup probe starts as a failure, a liveness probe as a success.
    pub(crate) fn starting(good: bool) -> Self {
        Self { good, ever: false, run: 0, successes: 0, failures: 0 }
    }

    /// Takes a result; returns whether `good` changed, or whether the failures have now reached the threshold.
    pub(crate) fn take(&mut self, success: bool, timing: &Timing) -> Change {
        self.run = self.run.saturating_add(1);
        if success {
            self.ever = true;
            self.failures = 0;
            self.successes = self.successes.saturating_add(1);
            if !self.good && self.successes >= timing.successes {
                self.good = true;
                return Change::Good;
            }
        } else {
            self.successes = 0;
            self.failures = self.failures.saturating_add(1);
            if self.failures >= timing.failures {
                self.failures = 0;
                self.good = false;
                return Change::Bad;
            }
        }
        Change::None
    }
}

/// What a result did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    Good,
    /// The failure threshold was reached (again).
    Bad,
}

/// What is checked; an `exec` is made by the container itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Check {
    Http { address: SocketAddr, action: HttpGetAction },
    Tcp(SocketAddr),
    Grpc { address: SocketAddr, service: String },
    Exec(Vec<String>),
}

impl Check {
    /// Resolves named ports and the default host.
    pub(crate) fn of(probe: &Probe, container: &Container, pod: IpAddr) -> Result<Self, String> {
        let address = |host: Option<&String>, port: Option<&IntOrString>| address(host, port, container, pod);
        if let Some(action) = &probe.http_get {
            if action.scheme == Some(HttpScheme::Https) {
                return Err("httpGet with scheme HTTPS is not supported".to_owned());
            }
            return Ok(Self::Http { address: address(action.host.as_ref(), action.port.as_ref())?, action: action.clone() });
        }
        if let Some(action) = &probe.tcp_socket {
            return Ok(Self::Tcp(address(action.host.as_ref(), action.port.as_ref())?));
        }
        if let Some(action) = &probe.grpc {
            let port = u16::try_from(action.port).map_err(|_| format!("grpc port {} is not a port", action.port))?;
            return Ok(Self::Grpc { address: SocketAddr::new(pod, port), service: action.service.clone() });
        }
        probe.exec.as_ref().map(|e| Self::Exec(e.command.clone())).ok_or_else(|| "it has no action".to_owned())
    }

    /// Makes a network check from inside the pod, straight to the application. `Err` says why it failed.
    pub(crate) async fn run(&self, network: &Arc<NetNs>) -> Result<(), String> {
        match self {
            Self::Http { address, action } => http_get(*address, action, network).await,
            Self::Tcp(address) => connect(*address, network).await.map(drop),
            Self::Grpc { address, service } => grpc_health(*address, service, network).await,
            Self::Exec(_) => Err("exec is not a network check".to_owned()),
        }
    }
}

/// Host and port of an action.
pub(crate) fn address(
    host: Option<&String>,
    port: Option<&IntOrString>,
    container: &Container,
    pod: IpAddr,
) -> Result<SocketAddr, String> {
    let ip = match host {
        None => pod,
        Some(host) if host.is_empty() => pod,
        Some(host) if host == "localhost" => IpAddr::from([127, 0, 0, 1]),
        Some(host) => host.parse().map_err(|_| format!("host `{host}` is not an address"))?,
    };
    let port = match port {
        Some(IntOrString::Int(n)) => u16::try_from(*n).ok(),
        Some(IntOrString::String(name)) => {
            let named = container.ports.iter().find(|p| p.name == *name).map(|p| p.container_port);
            named.and_then(|n| u16::try_from(n).ok()).or_else(|| name.parse().ok())
        }
        None => None,
    };
    Ok(SocketAddr::new(ip, port.ok_or("the port is neither a number nor the name of one of the container's ports")?))
}

/// Connects from inside a network namespace.
pub(crate) async fn connect(address: SocketAddr, network: &Arc<NetNs>) -> Result<TcpStream, String> {
    let socket = network
        .run(|| if address.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() })
        .and_then(|s| s)
        .map_err(|e| format!("no socket in the pod: {e}"))?;
    socket.connect(address).await.map_err(|e| format!("{address}: {e}"))
}

async fn http_get(address: SocketAddr, action: &HttpGetAction, network: &Arc<NetNs>) -> Result<(), String> {
    let path = if action.path.is_empty() { "/" } else { &action.path };
    let mut request = Request::builder().method(Method::GET).uri(path).header(header::CONNECTION, "close");
    let named = |name: &str| action.http_headers.iter().any(|h| h.name.eq_ignore_ascii_case(name));
    if !named("host") {
        request = request.header(header::HOST, address.to_string());
    }
    if !named("user-agent") {
        request = request.header(header::USER_AGENT, "kube-probe/lateen");
    }
    for h in &action.http_headers {
        request = request.header(&h.name, &h.value);
    }
    let request = request.body(Full::<Bytes>::default()).map_err(|e| e.to_string())?;
    let stream = connect(address, network).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| format!("{address}: {e}"))?;
    let driver = tokio::spawn(connection);
    let answer = sender.send_request(request).await;
    driver.abort();
    match answer.map_err(|e| format!("{address}: {e}"))?.status().as_u16() {
        200..400 => Ok(()),
        status => Err(format!("http://{address}{path} answered {status}")),
    }
}

async fn grpc_health(address: SocketAddr, service: &str, network: &Arc<NetNs>) -> Result<(), String> {
    // grpc.health.v1.HealthCheckRequest { service = 1 }, in a gRPC frame: not compressed, length, message.
    let name = service.as_bytes();
    let len = u8::try_from(name.len()).map_err(|_| "the service's name is too long")?;
    let mut frame = BytesMut::new();
    if len == 0 {
        frame.put_slice(&[0, 0, 0, 0, 0]);
    } else if len < 128 {
        frame.put_slice(&[0, 0, 0, 0, len + 2, 0x0a, len]);
        frame.put_slice(name);
    } else {
        return Err("the service's name is too long".to_owned());
    }
    let stream = connect(address, network).await?;
    let failed = |e: hyper::Error| format!("{address}: {e}");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(failed)?;
    let driver = tokio::spawn(connection);
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(Full::new(frame.freeze()))
        .map_err(|e| e.to_string())?;
    let answer = async { sender.send_request(request).await?.collect().await }.await;
    driver.abort();
    let body = answer.map_err(failed)?.to_bytes();
    // HealthCheckResponse { status = 1: SERVING = 1 }
    if body.get(5..7) == Some(&[0x08, 1]) { Ok(()) } else { Err(format!("{address} does not say SERVING")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing(successes: i32, failures: i32) -> Timing {
        Timing::of(&Probe { success_threshold: Some(successes), failure_threshold: Some(failures), ..Probe::default() })
    }

    #[test]
    fn thresholds_count_results_in_a_row() {
        let t = timing(2, 3);
        let mut v = Verdict::starting(false);
        let results = [true, false, true, true, false, false, true, false, false, false, false, false, false, true, true];
        let changes: Vec<Change> = results.iter().map(|r| v.take(*r, &t)).collect();
        use Change::{Bad, Good, None as No};
        assert_eq!(changes, [No, No, No, Good, No, No, No, No, No, Bad, No, No, Bad, No, Good]);
    }

    #[test]
    fn checks_are_eager_until_the_first_success_and_no_longer_than_the_probe_is_patient() {
        let t = Timing::of(&Probe::default());
        assert_eq!((t.period, t.timeout, t.delay), (Duration::from_secs(10), Duration::from_secs(1), Duration::ZERO));
        let mut v = Verdict::starting(false);
        assert_eq!(t.wait(&v, Duration::ZERO), EAGER_PERIOD);
        assert!(!t.counts(&v, Duration::from_secs(19)) && t.counts(&v, Duration::from_secs(20)));
        assert_eq!(t.wait(&v, Duration::from_secs(30)), t.period);
        v.take(true, &t);
        assert_eq!(t.wait(&v, Duration::ZERO), t.period);
        assert!(t.counts(&v, Duration::ZERO));
    }

    #[test]
    fn ports_are_found_by_number_or_name() {
        let container = Container {
            ports: vec![lateen_model::resource::ContainerPort {
                name: "web".to_owned(),
                container_port: 8080,
                ..Default::default()
            }],
            ..Container::default()
        };
        let pod: IpAddr = "10.244.0.9".parse().unwrap();
        let find = |port| address(None, Some(&port), &container, pod);
        assert_eq!(find(IntOrString::Int(81)).unwrap().port(), 81);
        assert_eq!(find(IntOrString::String("web".to_owned())).unwrap().to_string(), "10.244.0.9:8080");
        assert!(find(IntOrString::String("other".to_owned())).is_err());
        assert!(find(IntOrString::Int(70_000)).is_err());
    }
}
