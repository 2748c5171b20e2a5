//! `lateen exec`: a command inside a container, with the caller's own standard input, output and error.
//!
//! The caller connects to a Unix socket and sends one message: a JSON [`Request`] with its three descriptors attached.
//! From then on each side sends JSON lines: the caller signals, the supervisor how it went.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use lateen_capture::fdpass::{receive_with_fds, send_with_fds};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::container::container_variables;
use crate::init::{Place, Role, Spec};
use crate::mesh::Mesh;
use crate::pod::Pod;
use crate::spawn::{Process, Stdio};
use crate::state_dir::StateDir;

/// The largest request: a command line.
const MAX_REQUEST: usize = 256 * 1024;

/// What to run where.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) namespace: String,
    /// A pod, an unambiguous beginning of its name, or a deployment.
    pub(crate) pod: String,
    pub(crate) container: Option<String>,
    pub(crate) command: Vec<String>,
    /// The caller's terminal type, if it has a terminal.
    pub(crate) term: Option<String>,
}

/// What the caller says later.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Say {
    signal: i32,
}

/// What the supervisor answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Error(String),
    Exit(i32),
}

/// Starts to serve.
pub(crate) fn serve(mesh: Arc<Mesh>) -> io::Result<()> {
    let listener = UnixListener::bind(mesh.dir.exec_socket())?;
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            tokio::spawn(handle(mesh.clone(), stream));
        }
    });
    Ok(())
}

async fn handle(mesh: Arc<Mesh>, mut stream: UnixStream) {
    let outcome = match receive(&stream).await {
        Ok((request, fds)) => match start(&mesh, &request, &fds).await {
            Ok(process) => {
                drop(fds);
                Outcome::Exit(attend(&mut stream, &process).await)
            }
            Err(e) => Outcome::Error(e),
        },
        Err(e) => Outcome::Error(format!("bad request: {e}")),
    };
    let mut line = serde_json::to_vec(&outcome).unwrap_or_default();
    line.push(b'\n');
    let _ = stream.write_all(&line).await;
}

async fn receive(stream: &UnixStream) -> io::Result<(Request, [OwnedFd; 3])> {
    let mut buffer = vec![0; MAX_REQUEST];
    let mut filled = 0;
    let mut all = Vec::new();
    loop {
        let (len, fds) = stream.async_io(Interest::READABLE, || receive_with_fds(stream, &mut buffer[filled..])).await?;
        all.extend(fds);
        filled += len;
        if buffer[..filled].ends_with(b"\n") {
            break;
        }
        if len == 0 || filled == buffer.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let request = serde_json::from_slice(&buffer[..filled])?;
    let fds = all.try_into().map_err(|_| io::Error::other("three descriptors are expected"))?;
    Ok((request, fds))
}

async fn start(mesh: &Arc<Mesh>, request: &Request, fds: &[OwnedFd; 3]) -> Result<Process, String> {
    let pod = find_pod(mesh, &request.namespace, &request.pod)?;
    let containers = &pod.identity.spec.containers;
    let index = match &request.container {
        None => 0,
        Some(name) => containers.iter().position(|c| c.name == *name).ok_or_else(|| {
            let names: Vec<&str> = containers.iter().map(|c| c.name.as_str()).collect();
            format!("pod {} has no container `{name}`; it has {}", pod.key(), names.join(", "))
        })?,
    };
    let container = containers.get(index).ok_or("the pod has no container")?;
    let beside = pod.state().containers.get(index).and_then(|c| c.process.clone());
    let beside = beside.ok_or_else(|| format!("container {} of pod {} does not run", container.name, pod.key()))?;
    let mut vars = container_variables(mesh, &pod, container)?;
    if let Some(term) = &request.term {
        vars.set("TERM", term);
    }
    let spec = Spec {
        place: Place::Beside(beside.pid()),
        network: false,
        role: Role::Application,
        command: request.command.clone(),
        environment: vars.into_pairs(),
        working_dir: container.working_dir.as_ref().map(PathBuf::from),
    };
    let [stdin, stdout, stderr] = fds;
    let stdio = Stdio::Given([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]);
    mesh.spawner.spawn(&spec, None, stdio).await.map_err(|e| e.to_string())
}

/// Passes signals on until the command ends. A caller that goes away takes the command with it.
async fn attend(stream: &mut UnixStream, process: &Process) -> i32 {
    let (reader, _writer) = stream.split();
    let mut lines = BufReader::new(reader).lines();
    loop {
        tokio::select! {
            code = process.ended() => return code.code(),
            line = lines.next_line() => match line {
                Ok(Some(text)) => {
                    let say: Option<Say> = serde_json::from_str(&text).ok();
                    if let Some(signal) = say.and_then(|s| Signal::try_from(s.signal).ok()) {
                        process.signal(signal);
                    }
                }
                _ => {
                    process.signal(Signal::SIGHUP);
                    return process.stop(Signal::SIGTERM, std::time::Duration::from_secs(2)).await.code();
                }
            }
        }
    }
}

/// The pod of a name, of an unambiguous beginning of a name, or of a deployment (`NAME`, `deploy/NAME`,
/// `deployment/NAME`). Pods that take traffic come first.
pub(crate) fn find_pod(mesh: &Mesh, namespace: &str, wanted: &str) -> Result<Arc<Pod>, String> {
    let mut pods = mesh.pods();
    pods.retain(|p| p.identity.fields.namespace == namespace && !p.state().terminating);
    choose(&pods, namespace, wanted)
}

fn choose(pods: &[Arc<Pod>], namespace: &str, wanted: &str) -> Result<Arc<Pod>, String> {
    let deployment = wanted.strip_prefix("deploy/").or_else(|| wanted.strip_prefix("deployment/"));
    let of_deployment = |name: &str| {
        let mut found: Vec<_> =
            pods.iter().filter(|p| p.identity.workload.kind == "Deployment" && p.identity.workload.name == name).collect();
        found.sort_by_key(|p| (!p.ready(), p.identity.serial));
        found.first().map(|p| Arc::clone(p))
    };
    if let Some(name) = deployment {
        return of_deployment(name).ok_or_else(|| format!("no pod of deployment `{name}` in namespace {namespace}"));
    }
    let wanted = wanted.strip_prefix("pod/").unwrap_or(wanted);
    if let Some(exact) = pods.iter().find(|p| p.identity.fields.name == wanted) {
        return Ok(exact.clone());
    }
    if let Some(pod) = of_deployment(wanted) {
        return Ok(pod);
    }
    let starting: Vec<_> = pods.iter().filter(|p| p.identity.fields.name.starts_with(wanted)).collect();
    let names = |list: &[&Arc<Pod>]| list.iter().map(|p| p.identity.fields.name.as_str()).collect::<Vec<_>>().join(", ");
    match starting.as_slice() {
        [one] => Ok(Arc::clone(one)),
        [] if pods.is_empty() => Err(format!("no pod in namespace `{namespace}`")),
        [] => Err(format!("no pod `{wanted}` in namespace {namespace}; there are {}", names(&pods.iter().collect::<Vec<_>>()))),
        several => Err(format!("`{wanted}` is not unambiguous in namespace {namespace}: {}", names(several))),
    }
}

/// The caller's side: returns the command's exit status.
pub(crate) async fn call(dir: &StateDir, request: &Request) -> Result<i32, String> {
    let failed = |e: io::Error| format!("the mesh does not answer: {e}");
    let mut stream = UnixStream::connect(dir.exec_socket()).await.map_err(failed)?;
    let mut text = serde_json::to_vec(request).map_err(|e| e.to_string())?;
    text.push(b'\n');
    if text.len() > MAX_REQUEST {
        return Err(format!("the command is longer than {MAX_REQUEST} bytes"));
    }
    let fds = [io::stdin().as_raw_fd(), io::stdout().as_raw_fd(), io::stderr().as_raw_fd()];
    // The descriptors go with the first byte, the rest follows like any other data.
    stream.async_io(Interest::WRITABLE, || send_with_fds(&stream, &text[..1], &fds)).await.map_err(failed)?;
    stream.write_all(&text[1..]).await.map_err(failed)?;
    let (reader, mut writer) = stream.split();
    let mut lines = BufReader::new(reader).lines();
    let mut signals = forwarded()?;
    loop {
        tokio::select! {
            line = lines.next_line() => {
                let line = line.map_err(failed)?.ok_or("the mesh ended")?;
                return match serde_json::from_str(&line) {
                    Ok(Outcome::Exit(code)) => Ok(code),
                    Ok(Outcome::Error(e)) => Err(e),
                    Err(e) => Err(format!("unexpected answer: {e}")),
                };
            }
            Some(number) = signals.recv() => {
                let mut line = serde_json::to_vec(&Say { signal: number }).map_err(|e| e.to_string())?;
                line.push(b'\n');
                writer.write_all(&line).await.map_err(failed)?;
            }
        }
    }
}

/// The numbers of signals that this process gets from now on.
fn forwarded() -> Result<mpsc::UnboundedReceiver<i32>, String> {
    let (tell, signals) = mpsc::unbounded_channel();
    let kinds = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
        SignalKind::quit(),
        SignalKind::user_defined1(),
        SignalKind::user_defined2(),
        SignalKind::window_change(),
    ];
    for kind in kinds {
        let mut stream = signal(kind).map_err(|e| e.to_string())?;
        let tell = tell.clone();
        tokio::spawn(async move { while stream.recv().await.is_some() && tell.send(kind.as_raw_value()).is_ok() {} });
    }
    Ok(signals)
}
