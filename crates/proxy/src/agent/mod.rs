//! The agent: runs a real Envoy as the proxy of a workload, in place of the own engine. It writes Envoy's bootstrap, serves it its
//! secrets from memory, relays its discovery stream with the workload's token, answers for its readiness and ends it in order.
//!
//! It is what the own engine is compared with, and a way to move from one to the other workload by workload.

mod bootstrap;
mod relay;
mod secrets;
mod socket;

use crate::admin::server::{self, Answer, Ask};
use crate::bootstrap::Settings;
use crate::control_plane::channel::ControlPlane;
use crate::control_plane::identity::{self, RenewalStats};
use crate::name_server::{self, Names, Table};
use crate::process::{self, RunError};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use lateen_tls::WorkloadIdentity;
use lateen_xds::{ResourceType, client};
use socket::Private;
use std::cell::Cell;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitStatus;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

/// Envoy's admin interface, inside the pod.
const ADMIN: u16 = 15000;

/// Where readiness is asked for.
const READINESS: u16 = 15021;

/// How long Envoy has for one admin request.
const ADMIN_PATIENCE: Duration = Duration::from_secs(2);

/// How long Envoy has to end once it was told to, before it is killed.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// How often it is looked whether Envoy is ready.
const READINESS_INTERVAL: Duration = Duration::from_millis(50);

/// Ready, or why not.
type Readiness = Result<(), &'static str>;

/// Runs Envoy until this process is asked to end, or Envoy ends by itself, which is an error.
pub(crate) fn run(settings: &Settings, envoy: &Path) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(tokio::task::LocalSet::new().block_on(&runtime, supervise(settings, envoy))?)
}

async fn supervise(settings: &Settings, envoy: &Path) -> io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let control_plane = ControlPlane::new(settings);
    let identity = WorkloadIdentity::new();
    // Where only this process's Envoy may connect.
    let directory = Private::directory()?;
    let (discovery, secrets) = (directory.listen("discovery")?, directory.listen("secrets")?);
    let bootstrap = bootstrap::bootstrap(settings, discovery.path(), secrets.path());
    let mut child = start(settings, envoy, &bootstrap)?;
    let pid = child.id().ok_or_else(|| io::Error::other("Envoy ended as it started"))?;
    tracing::info!(node = settings.node_id, envoy = %envoy.display(), pid, "Envoy started");

    let keys = secrets::Keys::default();
    if settings.dns_capture {
        serve_names(settings, control_plane.clone());
    }
    tokio::task::spawn_local(relay::serve(discovery, pid, control_plane.clone()));
    tokio::task::spawn_local(secrets::serve(secrets, pid, identity.clone(), keys.clone()));
    tokio::task::spawn_local(renew(settings.clone(), control_plane, identity.clone(), keys));
    let readiness = Rc::new(Cell::new(Err("Envoy has not started")));
    tokio::task::spawn_local(follow_readiness(identity, readiness.clone()));
    server::serve(SocketAddr::from((Ipv4Addr::UNSPECIFIED, READINESS)), move |ask| answer(&ask, readiness.get())).await?;

    let status = tokio::select! {
        status = child.wait() => return Err(ended(status?)),
        _ = terminate.recv() => drain(settings, &mut child).await?,
        _ = interrupt.recv() => drain(settings, &mut child).await?,
    };
    tracing::info!(%status, "Envoy ended");
    Ok(())
}

/// Answers the application's DNS questions, and Envoy's own, whose sockets carry no mark. The table of names has a stream of its own,
/// as Envoy does not ask for it.
fn serve_names(settings: &Settings, control_plane: ControlPlane) {
    let names = Arc::new(Names::default());
    name_server::serve(&names, settings.sockets.mark);
    name_server::serve_forwarder(settings.sockets.mark);
    let (handle, mut updates, client) = client::run(&process::node(settings), control_plane, client::Options::default());
    handle.subscribe_all(ResourceType::Nds);
    tokio::task::spawn_local(client);
    let namespace = settings.namespace.clone();
    tokio::task::spawn_local(async move {
        while let Some(update) = updates.recv().await {
            let tables: Result<Vec<Table>, _> = update.added.iter().map(|a| Table::decode(&a.body, &namespace)).collect();
            match tables {
                Ok(tables) => {
                    tables.into_iter().for_each(|table| names.table.store(Arc::new(table)));
                    handle.ack(update.id);
                }
                Err(error) => handle.nack(update.id, error.to_string()),
            }
        }
    });
}

fn ended(status: ExitStatus) -> io::Error {
    io::Error::other(format!("Envoy ended by itself: {status}; its log is above"))
}

fn start(settings: &Settings, envoy: &Path, bootstrap: &serde_json::Value) -> io::Result<Child> {
    let mut command = Command::new(envoy);
    command
        .args(["--config-yaml", &bootstrap.to_string()])
        .args(["--concurrency", &settings.concurrency.to_string()])
        // Two Envoys of one machine shall not find each other.
        .arg("--disable-hot-restart")
        .args(["--drain-strategy", "immediate", "--drain-time-s", &settings.termination_drain.as_secs().to_string()])
        .args(["--log-level", "warning", "--component-log-level", "misc:error"])
        // What a request left in the access log is there when somebody looks; Envoy itself would take ten seconds.
        .args(["--file-flush-interval-msec", "500"])
        .kill_on_drop(true);
    command.spawn().map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", envoy.display())))
}

async fn renew(settings: Settings, control_plane: ControlPlane, identity: WorkloadIdentity, keys: secrets::Keys) {
    let stats = RenewalStats::default();
    identity::renew(&control_plane, &identity::Renewal::of(&settings), &stats, |issued| {
        // The key first: the identity's change is what makes it known.
        keys.replace(&issued.key);
        identity.install_trust(issued.roots);
        identity.install(issued.credential);
    })
    .await;
}

/// Looks again and again, for as long as the process lives.
async fn follow_readiness(identity: WorkloadIdentity, readiness: Rc<Cell<Readiness>>) {
    loop {
        readiness.set(is_ready(&identity).await);
        tokio::time::sleep(READINESS_INTERVAL).await;
    }
}

fn answer(ask: &Ask, readiness: Readiness) -> Answer {
    match (ask.path.as_str(), readiness) {
        ("/healthz/ready", Ok(())) => Answer::text(StatusCode::OK, "ready\n"),
        ("/healthz/ready", Err(reason)) => Answer::text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
        _ => Answer::text(StatusCode::NOT_FOUND, "readiness is at /healthz/ready\n"),
    }
}

/// Ready when there is a certificate, and Envoy has had its first configuration.
async fn is_ready(identity: &WorkloadIdentity) -> Readiness {
    if !identity.is_ready() {
        return Err("waiting for a certificate");
    }
    match admin(Method::GET, "/ready").await {
        Ok((StatusCode::OK, _)) => Ok(()),
        Ok(_) => Err("Envoy waits for listeners, routes, clusters and endpoints"),
        Err(_) => Err("Envoy does not answer"),
    }
}

/// As Istio's agent: listeners stop taking work, what is in flight may end for a while, then Envoy ends.
async fn drain(settings: &Settings, child: &mut Child) -> io::Result<ExitStatus> {
    let deadline = Instant::now() + settings.termination_drain;
    if let Err(error) = admin(Method::POST, "/drain_listeners?graceful&skip_exit").await {
        tracing::warn!(%error, "Envoy cannot be asked to drain");
    }
    while Instant::now() < deadline && active_requests().await.is_some_and(|n| n > 0) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let _ = admin(Method::POST, "/quitquitquit").await;
    match tokio::time::timeout(END_PATIENCE, child.wait()).await {
        Ok(status) => status,
        Err(_) => {
            child.kill().await?;
            child.wait().await
        }
    }
}

/// Requests in flight on Istio's listeners.
async fn active_requests() -> Option<u64> {
    let path = "/stats?format=json&filter=%5Ehttp%5C.(in%7Cout)bound.*%5C.downstream_rq_active%24";
    let (_, body) = admin(Method::GET, path).await.ok()?;
    let stats: serde_json::Value = serde_json::from_slice(&body).ok()?;
    let values = stats.get("stats")?.as_array()?.iter().filter_map(|s| s.get("value")?.as_u64());
    Some(values.sum())
}

/// One request to Envoy's admin interface.
async fn admin(method: Method, path: &str) -> io::Result<(StatusCode, Vec<u8>)> {
    let ask = async {
        let stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, ADMIN)).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let driver = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .body(Empty::<bytes::Bytes>::new())
            .map_err(io::Error::other)?;
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(io::Error::other)?.to_bytes().to_vec();
        driver.abort();
        Ok((status, body))
    };
    tokio::time::timeout(ADMIN_PATIENCE, ask).await.map_err(|_| io::ErrorKind::TimedOut)?
}
