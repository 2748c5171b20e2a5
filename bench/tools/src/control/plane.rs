//! The process that is measured: `lateen control`, and how it is told of the world.

use super::world::{EditKind, Size, edited_route};
use crate::Failure;
use crate::stats::Usage;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// A control plane that runs; it ends with this value.
pub(crate) struct Plane {
    lateen: PathBuf,
    arguments: Vec<String>,
    directory: tempfile::TempDir,
    size: Size,
    child: Child,
    generation: u64,
    /// Where ADS is, in plain text.
    pub(crate) address: String,
}

impl Plane {
    /// Starts one that knows all of the world, and waits until it serves.
    pub(crate) async fn start(lateen: PathBuf, arguments: Vec<String>, size: Size) -> Result<Self, Failure> {
        let directory = tempfile::tempdir()?;
        std::fs::create_dir(directory.path().join("manifests"))?;
        std::fs::write(directory.path().join("manifests/world.yaml"), size.manifests())?;
        std::fs::write(directory.path().join("manifests/edited.yaml"), edited_route(0))?;
        let address = free_address()?;
        let child = spawn(&lateen, &arguments, &directory, &address)?;
        let mut plane = Self { lateen, arguments, directory, size, child, generation: 0, address };
        plane.tell(0).await?;
        Ok(plane)
    }

    /// Ends it as a crash would, and starts another in its place.
    pub(crate) async fn restart(&mut self, edit: u16) -> Result<(), Failure> {
        self.child.kill()?;
        self.child.wait()?;
        self.child = spawn(&self.lateen, &self.arguments, &self.directory, &self.address)?;
        self.tell(edit).await
    }

    /// Makes an edit.
    pub(crate) async fn edit(&mut self, kind: EditKind, edit: u16) -> Result<(), Failure> {
        match kind {
            EditKind::Endpoint => self.change(edit).await,
            EditKind::Route => {
                // Renamed into place: nobody reads half of it.
                let manifests = self.directory.path().join("manifests");
                let new = self.directory.path().join("edited.new");
                std::fs::write(&new, edited_route(edit))?;
                Ok(std::fs::rename(new, manifests.join("edited.yaml"))?)
            }
        }
    }

    /// What it has used.
    pub(crate) fn usage(&self) -> std::io::Result<Usage> {
        Usage::of(self.child.id())
    }

    /// Tells of all pods, again and again until the control plane has taken them.
    async fn tell(&mut self, edit: u16) -> Result<(), Failure> {
        self.generation += 1;
        let body = serde_json::to_string(&self.size.cluster(edit, self.generation))?;
        let mut reason = "it was not asked".to_owned();
        for _ in 0..600 {
            match self.call("PUT", &body).await {
                Ok(answer) if answer.starts_with("HTTP/1.1 200") => return Ok(()),
                Ok(answer) if answer.starts_with("HTTP/1.1 4") => return Err(answer.into()),
                Ok(answer) => reason = answer,
                Err(error) => reason = error.to_string(),
            }
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("`lateen control` ended: {status}").into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(format!("`lateen control` takes no pods: {reason}").into())
    }

    /// Tells of the one pod that an edit changes.
    async fn change(&mut self, edit: u16) -> Result<(), Failure> {
        let base = self.generation;
        self.generation += 1;
        let body = serde_json::to_string(&self.size.change(edit, base))?;
        let answer = self.call("PATCH", &body).await?;
        if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(answer.into()) }
    }

    async fn call(&self, method: &str, body: &str) -> std::io::Result<String> {
        let mut stream = UnixStream::connect(self.directory.path().join("control.sock")).await?;
        let length = body.len();
        let head = format!("{method} /v1/cluster HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_address() -> std::io::Result<String> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

fn spawn(lateen: &PathBuf, arguments: &[String], directory: &tempfile::TempDir, address: &str) -> Result<Child, Failure> {
    let path = |name: &str| directory.path().join(name);
    let log = std::fs::OpenOptions::new().create(true).append(true).open(path("control.log"))?;
    let mut command = Command::new(lateen);
    command.arg("control").arg(path("manifests")).arg("--ca-dir").arg(path("ca"));
    command.arg("--state-socket").arg(path("control.sock")).args(["--grpc-addr", address]);
    command.args(["--secure-grpc-addr", "127.0.0.1:0", "--http-addr", "none", "--monitoring-addr", "none"]).args(arguments);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
    child.map_err(|error| format!("{}: {error}", lateen.display()).into())
}
