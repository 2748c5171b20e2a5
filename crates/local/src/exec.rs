//! `lateen exec`: a command inside a container, with the caller's own standard input, output and error.
//!
//! The caller connects to a Unix socket and sends one message: a JSON [`Request`] with its three descriptors attached.
//! From then on each side sends JSON lines: the caller signals, the supervisor how it went.

mod call;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use lateen_capture::fdpass::receive_with_fds;
use lateen_model::resource::Container;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::{UnixListener, UnixStream};

pub(crate) use call::call;

use crate::container::container_variables;
use crate::find::find_pod;
use crate::init::{Place, Role, Spec};
use crate::injection::PROXY;
use crate::mesh::Mesh;
use crate::pod::Pod;
use crate::spawn::{Process, SpawnError, Stdio};

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
    /// Whether the descriptors are a terminal that is the command's alone, to be its controlling terminal.
    pub(crate) terminal: bool,
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
    /// It did not run.
    Error(Failure),
    Exit(i32),
}

/// Why a command did not run, and the exit status that says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) text: String,
    /// 127: there is no such program; 126: it cannot be run (both as a shell has them); 1: anything else.
    pub(crate) status: u8,
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self { text, status: 1 }
    }
}

impl From<SpawnError> for Failure {
    fn from(error: SpawnError) -> Self {
        Self { text: error.to_string(), status: error.status() }
    }
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
        Err(e) => Outcome::Error(format!("bad request: {e}").into()),
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

async fn start(mesh: &Arc<Mesh>, request: &Request, fds: &[OwnedFd; 3]) -> Result<Process, Failure> {
    let pod = find_pod(mesh, &request.namespace, &request.pod)?;
    let (container, beside) = target(&pod, request.container.as_deref())?;
    let mut vars = container_variables(mesh, &pod, &container)?;
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
        terminal: request.terminal,
    };
    let [stdin, stdout, stderr] = fds;
    let stdio = Stdio::Given([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]);
    mesh.spawner.spawn(&spec, None, stdio).await.map_err(Failure::from)
}

/// The container that is meant and its process: of a gateway without containers that of the proxy.
fn target(pod: &Pod, name: Option<&str>) -> Result<(Container, Process), Failure> {
    let containers = &pod.identity.spec.containers;
    let index = match name {
        None => 0,
        Some(name) if containers.is_empty() && name == PROXY => 0,
        Some(name) => containers.iter().position(|c| c.name == *name).ok_or_else(|| {
            let names: Vec<&str> = containers.iter().map(|c| c.name.as_str()).collect();
            format!("pod {} has no container `{name}`; it has {}", pod.key(), names.join(", "))
        })?,
    };
    let (container, process) = match containers.get(index) {
        Some(container) => (container.clone(), pod.state().containers.get(index).and_then(|c| c.process.clone())),
        None => {
            let proxy = pod.identity.proxy_container.clone().unwrap_or_default();
            (Container { name: PROXY.to_owned(), ..proxy }, pod.state().proxy.clone())
        }
    };
    let Some(process) = process else {
        let why = pod.state().message.lines().next().map(|line| format!(" ({line})")).unwrap_or_default();
        return Err(format!("container {} of pod {} does not run{why}", container.name, pod.key()).into());
    };
    Ok((container, process))
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
