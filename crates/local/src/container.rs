//! A pod's containers: started in order, probed, restarted, and stopped.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lateen_capture::process::ExitCode;
use lateen_model::resource::{Container, LifecycleHandler, RestartPolicy};
use nix::sys::signal::Signal;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::dns_files;
use crate::environment::{Variables, downward, variables};
use crate::init::{Mount, Place, Role, Spec};
use crate::mesh::Mesh;
use crate::pod::Pod;
use crate::probe::{Check, address};
use crate::prober::{Prober, Sick};
use crate::spawn::{Process, Stdio};
use crate::{sidecar, volumes};

/// Where the running binary is found by every process of the mesh.
pub(crate) const BIN_DIR: &str = "/.lateen/bin";
/// Where a sidecar finds its token and the roots.
pub(crate) const PROXY_DIR: &str = "/.lateen/proxy";
/// Seconds between `SIGTERM` and `SIGKILL`, unless the pod says otherwise.
const GRACE: i64 = 30;
/// When the whole mesh stops, nobody waits that long.
const GRACE_AT_THE_END: Duration = Duration::from_secs(2);

/// Doubling waits between restarts; a process that has run for long starts afresh.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// The first restart is at once.
    pub(crate) fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: Duration::ZERO }
    }

    /// How long to wait, after the process has run for `ran`.
    pub(crate) fn after(&mut self, ran: Duration) -> Duration {
        if ran > self.most.saturating_mul(2) {
            self.next = Duration::ZERO;
        }
        let wait = self.next;
        self.next = self.next.saturating_mul(2).clamp(self.first, self.most);
        wait
    }
}

/// Files that every container of the pod sees: names, labels, and, for a sidecar, its credentials.
pub(crate) fn write_common_files(mesh: &Mesh, pod: &Pod) -> io::Result<()> {
    let id = &pod.identity;
    let info = id.dir.join("podinfo");
    fs::create_dir_all(&info)?;
    volumes::write_atomically(&info.join("labels"), downward(&id.fields.labels).as_bytes(), 0o644)?;
    volumes::write_atomically(&info.join("annotations"), downward(&id.fields.annotations).as_bytes(), 0o644)?;
    let files = dns_files::Files::new(&mesh.network, &id.fields, &id.spec);
    volumes::write_atomically(&id.dir.join("resolv.conf"), files.resolv_conf.as_bytes(), 0o644)?;
    volumes::write_atomically(&id.dir.join("hosts"), files.hosts.as_bytes(), 0o644)?;
    volumes::write_atomically(&id.dir.join("nsswitch.conf"), files.nsswitch.as_bytes(), 0o644)?;
    if id.injected { sidecar::write_files(mesh, pod) } else { Ok(()) }
}

/// What every process of a pod sees at a path of its own.
pub(crate) fn common_mounts(pod: &Pod) -> Vec<Mount> {
    let mount =
        |file: &str, target: &str| Mount { source: pod.identity.dir.join(file), target: PathBuf::from(target), read_only: true };
    vec![
        mount("resolv.conf", "/etc/resolv.conf"),
        mount("hosts", "/etc/hosts"),
        mount("nsswitch.conf", "/etc/nsswitch.conf"),
        mount("podinfo", "/etc/podinfo"),
    ]
}

/// Directories that no process of a pod sees: the state of this and of other meshes, and a name cache that would ask the machine's resolver.
pub(crate) fn hidden(mesh: &Mesh) -> Vec<PathBuf> {
    let nscd = [PathBuf::from("/run/nscd"), PathBuf::from("/var/run/nscd")];
    let mut hidden = vec![mesh.dir.all().to_owned()];
    hidden.extend(nscd.into_iter().filter(|p| p.is_dir()).take(1));
    hidden
}

/// Opens a log to append to.
pub(crate) fn log_file(mesh: &Mesh, name: &str) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(mesh.log_path(name))
}

/// Variables that every process of the mesh has from outside, and the path on which `lateen` is found.
pub(crate) fn base_variables(mesh: &Mesh) -> Variables {
    let mut vars = Variables::default();
    for (name, value) in &mesh.base_environment {
        vars.set(name, value);
    }
    let path = mesh.base_environment.iter().find(|(n, _)| n == "PATH").map_or("/usr/local/bin:/usr/bin:/bin", |(_, v)| v);
    vars.set("PATH", format!("{BIN_DIR}:{path}"));
    vars
}

/// Runs the pod's containers: the sidecar first, then init containers one after the other, then all the others.
pub(crate) async fn run_all(mesh: Arc<Mesh>, pod: Arc<Pod>) {
    if pod.identity.injected {
        tokio::select! {
            () = sidecar::until_ready(&mesh, &pod) => {}
            () = pod.stopping() => return,
        }
    }
    for container in &pod.identity.spec.init_containers {
        if !run_init(&mesh, &pod, container).await {
            return;
        }
        pod.change(&mesh, |s| s.initialized += 1);
    }
    let mut all = JoinSet::new();
    for index in 0..pod.identity.spec.containers.len() {
        all.spawn(keep(mesh.clone(), pod.clone(), index));
    }
    all.join_all().await;
}

/// Runs an init container until it succeeds; false if the pod ends meanwhile or the container may not be run again.
async fn run_init(mesh: &Arc<Mesh>, pod: &Arc<Pod>, container: &Container) -> bool {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    while !pod.is_stopping() {
        let start = Instant::now();
        let mark = log_length(mesh, pod, container);
        let problem = match start_container(mesh, pod, container).await {
            Ok(process) => {
                let code = tokio::select! {
                    code = process.ended() => code,
                    () = pod.stopping() => {
                        process.stop(Signal::SIGTERM, GRACE_AT_THE_END).await;
                        return false;
                    }
                };
                if code.code() == 0 {
                    return true;
                }
                ended(mesh, pod, container, (code, mark))
            }
            Err(e) => format!("init container {}: {e}", container.name),
        };
        pod.note(mesh, &problem);
        if pod.identity.spec.restart_policy == Some(RestartPolicy::Never) {
            pod.change(mesh, |s| s.init_failed = true);
            return false;
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.after(start.elapsed())) => {}
            () = pod.stopping() => {}
        }
    }
    false
}

/// Keeps one container running until the pod ends.
async fn keep(mesh: Arc<Mesh>, pod: Arc<Pod>, index: usize) {
    let container = &pod.identity.spec.containers[index];
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    while !pod.is_stopping() {
        let start = Instant::now();
        let mark = log_length(&mesh, &pod, container);
        let again = match start_container(&mesh, &pod, container).await {
            Ok(process) => {
                let code = watch_over(&mesh, &pod, index, &process).await;
                pod.change(&mesh, |s| {
                    let c = &mut s.containers[index];
                    c.process = None;
                    c.ready = false;
                    c.last_exit = Some(code);
                });
                if pod.is_stopping() {
                    return;
                }
                let policy = pod.identity.spec.restart_policy.unwrap_or_default();
                let restart = policy == RestartPolicy::Always || (policy == RestartPolicy::OnFailure && code.code() != 0);
                if restart || code.code() != 0 {
                    pod.note(&mesh, &ended(&mesh, &pod, container, (code, mark)));
                }
                restart
            }
            Err(e) => {
                pod.note(&mesh, &format!("container {}: {e}", container.name));
                true
            }
        };
        if !again {
            pod.change(&mesh, |s| s.containers[index].finished = true);
            return;
        }
        let wait = backoff.after(start.elapsed());
        pod.change(&mesh, |s| s.containers[index].waiting = !wait.is_zero());
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = pod.stopping() => return,
        }
        pod.change(&mesh, |s| s.containers[index].restarts += 1);
    }
}

/// How long a container's log is before it is started (again).
fn log_length(mesh: &Mesh, pod: &Pod, container: &Container) -> u64 {
    fs::metadata(mesh.log_path(&log_name(pod, &container.name))).map_or(0, |meta| meta.len())
}

/// How a container ended, with the last lines that it wrote since its log was `mark` bytes long.
fn ended(mesh: &Mesh, pod: &Pod, container: &Container, (code, mark): (ExitCode, u64)) -> String {
    let path = mesh.log_path(&log_name(pod, &container.name));
    let how = match code.code() {
        n @ 129.. => format!("was ended by signal {}", n - 128),
        n => format!("ended with status {n}"),
    };
    let tail = tail(&path, mark, 5);
    let tail = if tail.is_empty() { String::new() } else { format!("; its last lines:\n{tail}") };
    format!("container {} {how} ({}){tail}", container.name, path.display())
}

/// The last lines of a log behind its first `from` bytes, indented.
pub(crate) fn tail(path: &Path, from: u64, lines: usize) -> String {
    /// No more of a log is read.
    const MOST: u64 = 8192;
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(from.max(len.saturating_sub(MOST))))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        Ok(text)
    };
    let text = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].iter().map(|l| format!("    {l}")).collect::<Vec<_>>().join("\n")
}

fn log_name(pod: &Pod, container: &str) -> String {
    format!("{}_{}_{container}", pod.identity.fields.namespace, pod.identity.fields.name)
}

/// The variables of a container, before its own.
fn pod_variables(mesh: &Mesh, pod: &Pod) -> Variables {
    let f = &pod.identity.fields;
    let mut vars = base_variables(mesh);
    vars.set("HOSTNAME", &f.name);
    vars.set("POD_NAME", &f.name);
    vars.set("POD_NAMESPACE", &f.namespace);
    vars.set("POD_IP", pod.ip().to_string());
    vars.set("SERVICE_ACCOUNT", &f.service_account);
    let labels: Vec<String> = f.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    vars.set("LATEEN_POD_LABELS", labels.join(","));
    vars
}

/// All variables of a container.
pub(crate) fn container_variables(mesh: &Mesh, pod: &Pod, container: &Container) -> Result<Variables, String> {
    variables(container, &pod.identity.fields, &mesh.resources(), pod_variables(mesh, pod)).map_err(|e| e.to_string())
}

async fn start_container(mesh: &Arc<Mesh>, pod: &Arc<Pod>, container: &Container) -> Result<Process, String> {
    let vars = container_variables(mesh, pod, container)?;
    let command: Vec<String> = container.command.iter().chain(&container.args).map(|a| vars.expand(a)).collect();
    if command.is_empty() {
        return Err("it has no command; an image's own cannot be known here".to_owned());
    }
    let mut mounts = common_mounts(pod);
    mounts.extend(volumes::mounts(container, &pod.identity.spec, &pod.volumes_dir()).map_err(|e| e.to_string())?);
    let spec = Spec {
        place: Place::Own { host_name: host_name(pod), mounts, hidden: hidden(mesh), contained: true },
        network: true,
        role: Role::Application,
        command,
        environment: vars.into_pairs(),
        working_dir: container.working_dir.as_ref().map(PathBuf::from),
        terminal: false,
    };
    let network = pod.network().ok_or("the pod has no network")?;
    let log = log_file(mesh, &log_name(pod, &container.name)).map_err(|e| format!("log: {e}"))?;
    mesh.spawner.spawn(&spec, Some(&network), Stdio::Log(&log)).await.map_err(|e| e.to_string())
}

/// The pod's host name: its own name, cut to what the kernel takes.
pub(crate) fn host_name(pod: &Pod) -> String {
    let name = pod.identity.spec.hostname.as_ref().unwrap_or(&pod.identity.fields.name);
    name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned()
}

/// Stays with a running container: hooks, probes, and what they cause. Returns how it ended.
async fn watch_over(mesh: &Arc<Mesh>, pod: &Arc<Pod>, index: usize, process: &Process) -> ExitCode {
    let container = &pod.identity.spec.containers[index];
    let unprobed = container.readiness_probe.is_none() && container.startup_probe.is_none();
    let mut late = false;
    pod.change(mesh, |s| {
        late = s.ending;
        let c = &mut s.containers[index];
        c.process = Some(process.clone());
        c.waiting = false;
        c.ready = unprobed && !late;
    });
    if late {
        // Those that stop the pod have not seen it.
        return process.stop(stop_signal(container), grace(mesh, pod)).await;
    }
    let (tell, mut sick) = mpsc::channel(1);
    let mut helpers = JoinSet::new();
    if let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.post_start.clone()) {
        let (mesh, pod, process, tell) = (mesh.clone(), pod.clone(), process.clone(), tell.clone());
        helpers.spawn(async move {
            if let Err(e) = run_hook(&mesh, &pod, index, &hook, &process).await {
                let name = &pod.identity.spec.containers[index].name;
                pod.note(&mesh, &format!("container {name}: postStart failed ({e}); restarting it"));
                let _ = tell.send(Sick { grace: None }).await;
            }
        });
    }
    let prober = Prober { mesh: mesh.clone(), pod: pod.clone(), index, process: process.clone(), tell };
    helpers.spawn(prober.run());
    let code = tokio::select! {
        code = process.ended() => code,
        Some(sick) = sick.recv() => {
            pod.change(mesh, |s| s.containers[index].ready = false);
            let own = sick.grace.filter(|_| !mesh.is_stopping());
            end(mesh, pod, index, process, own.unwrap_or_else(|| grace(mesh, pod))).await
        }
    };
    helpers.shutdown().await;
    code
}

/// Runs a command beside a container's process; `Ok` if it succeeds.
pub(crate) async fn exec(mesh: &Mesh, pod: &Pod, index: usize, beside: &Process, command: &[String]) -> Result<(), String> {
    let container = &pod.identity.spec.containers[index];
    let spec = Spec {
        place: Place::Beside(beside.pid()),
        network: false,
        role: Role::Application,
        command: command.to_vec(),
        environment: container_variables(mesh, pod, container)?.into_pairs(),
        working_dir: container.working_dir.as_ref().map(PathBuf::from),
        terminal: false,
    };
    let log = File::options().write(true).open("/dev/null").map_err(|e| e.to_string())?;
    let process = mesh.spawner.spawn(&spec, None, Stdio::Log(&log)).await.map_err(|e| e.to_string())?;
    // A probe that takes too long is abandoned, and must not be left behind.
    let ender = EndOnDrop(process);
    match ender.0.ended().await.code() {
        0 => Ok(()),
        code => Err(format!("`{}` ended with status {code}", command.join(" "))),
    }
}

struct EndOnDrop(Process);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.signal(Signal::SIGKILL);
    }
}

async fn run_hook(mesh: &Mesh, pod: &Pod, index: usize, hook: &LifecycleHandler, process: &Process) -> Result<(), String> {
    let container = &pod.identity.spec.containers[index];
    if let Some(action) = &hook.exec {
        return exec(mesh, pod, index, process, &action.command).await;
    }
    if let Some(pause) = hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(pause.seconds).unwrap_or_default())).await;
        return Ok(());
    }
    if let Some(action) = &hook.http_get {
        let address = address(action.host.as_ref(), action.port.as_ref(), container, pod.ip())?;
        let network = pod.network().ok_or("the pod has no network")?;
        return Check::Http { address, action: action.clone() }.run(&network).await;
    }
    Err("it has no action that is supported".to_owned())
}

fn stop_signal(container: &Container) -> Signal {
    let name = container.lifecycle.as_ref().and_then(|l| l.stop_signal.as_deref());
    name.and_then(|n| n.parse().ok()).unwrap_or(Signal::SIGTERM)
}

fn grace(mesh: &Mesh, pod: &Pod) -> Duration {
    if mesh.is_stopping() {
        return GRACE_AT_THE_END;
    }
    let seconds = pod.identity.spec.termination_grace_period_seconds.unwrap_or(GRACE);
    Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}

/// Ends one container: hook, signal, and at the end of the grace period the kill. Returns how it ended.
async fn end(mesh: &Mesh, pod: &Pod, index: usize, process: &Process, grace: Duration) -> ExitCode {
    let container = &pod.identity.spec.containers[index];
    let deadline = tokio::time::Instant::now() + grace;
    let hook = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref());
    if let Some(hook) = hook.filter(|_| !mesh.is_stopping()) {
        let run = tokio::time::timeout_at(deadline, run_hook(mesh, pod, index, hook, process));
        // A process that ends by itself meanwhile needs no hook any more.
        tokio::select! {
            outcome = run => if let Ok(Err(e)) = outcome {
                pod.note(mesh, &format!("container {}: preStop: {e}", container.name));
            },
            code = process.ended() => return code,
        }
    }
    let left = deadline.saturating_duration_since(tokio::time::Instant::now());
    process.stop(stop_signal(container), left).await
}

/// Stops all containers at once; one that is just being started stops as soon as it runs.
pub(crate) async fn stop_all(mesh: &Arc<Mesh>, pod: &Arc<Pod>) {
    let mut running: Vec<(usize, Process)> = Vec::new();
    pod.change(mesh, |s| {
        s.ending = true;
        running = s.containers.iter().enumerate().filter_map(|(i, c)| Some((i, c.process.clone()?))).collect();
    });
    let mut all = JoinSet::new();
    for (index, process) in running {
        let (mesh, pod) = (mesh.clone(), pod.clone());
        all.spawn(async move { end(&mesh, &pod, index, &process, grace(&mesh, &pod)).await });
    }
    all.join_all().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_come_at_once_and_then_ever_more_slowly() {
        let s = Duration::from_secs;
        let mut backoff = Backoff::new(s(1), s(4));
        let waits: Vec<Duration> = (0..5).map(|_| backoff.after(Duration::ZERO)).collect();
        assert_eq!(waits, [s(0), s(1), s(2), s(4), s(4)]);
        assert_eq!(backoff.after(s(100)), s(0));
    }
}
