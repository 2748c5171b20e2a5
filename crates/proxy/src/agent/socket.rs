//! Sockets on which one process is served: Envoy gets its private key over one.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tokio::net::{UnixListener, UnixStream};

/// A directory for sockets, removed with the last of them.
#[derive(Clone, Debug)]
pub(super) struct Private(Rc<Removed>);

#[derive(Debug)]
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        // What is left after that is an empty file name, of no use to anybody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Private {
    /// A new directory that only this user may enter.
    pub(super) fn directory() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("lateen-agent-{}-{:016x}", std::process::id(), rand::random::<u64>()));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(Rc::new(Removed(path))))
    }

    /// A socket of this name.
    pub(super) fn listen(&self, name: &str) -> io::Result<Listener> {
        let path = self.0.0.join(name);
        Ok(Listener { listener: UnixListener::bind(&path)?, path, _directory: self.clone() })
    }
}

/// A socket in a [`Private`] directory.
#[derive(Debug)]
pub(super) struct Listener {
    listener: UnixListener,
    path: PathBuf,
    _directory: Private,
}

impl Listener {
    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The next connection of process `pid`; others are turned away, whoever runs them.
    pub(super) async fn accept_from(&self, pid: u32) -> io::Result<UnixStream> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            let peer = stream.peer_cred()?.pid().and_then(|pid| u32::try_from(pid).ok());
            if peer == Some(pid) {
                return Ok(stream);
            }
            tracing::warn!(?peer, socket = %self.path.display(), "a process that is not this agent's Envoy was turned away");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_one_process_is_served_and_nothing_is_left() {
        let directory = Private::directory().unwrap();
        let listener = directory.listen("secrets").unwrap();
        let path = listener.path().to_owned();
        let own = std::process::id();
        let _client = UnixStream::connect(&path).await.unwrap();
        listener.accept_from(own).await.unwrap();
        let _client = UnixStream::connect(&path).await.unwrap();
        let stranger = tokio::time::timeout(std::time::Duration::from_millis(50), listener.accept_from(own + 1)).await;
        assert!(stranger.is_err(), "this process is not {}", own + 1);
        drop((directory, listener));
        assert!(!path.parent().unwrap().exists());
    }
}
