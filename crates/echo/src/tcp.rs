//! Line echo over TCP: each line comes back as it was once its end has come; the rest comes back when the client has
//! finished sending. A banner makes it a server-first protocol.

use crate::server::{App, Lease, begin};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A line that is longer comes back in pieces.
const MAX_LINE: usize = 64 * 1024;

/// Serves one connection to its end.
pub(crate) async fn serve(mut stream: TcpStream, peer: SocketAddr, app: Arc<App>, lease: Lease) {
    let Some(header) = begin(&mut stream, &app, peer).await else { return };
    // A banner would be there before the client has said whose its connection is; this line comes in its place.
    let banner = header.map(|header| header.to_string()).or_else(|| app.tcp_banner.clone());
    if let Err(error) = echo(stream, banner.as_deref(), lease).await {
        tracing::debug!(%peer, %error, "tcp connection ended");
    }
}

async fn echo(mut stream: TcpStream, banner: Option<&str>, mut lease: Lease) -> std::io::Result<()> {
    if let Some(banner) = banner {
        stream.write_all(banner.as_bytes()).await?;
        stream.write_all(b"\n").await?;
    }
    let mut pending = Vec::new();
    loop {
        let read = tokio::select! {
            read = stream.read_buf(&mut pending) => read?,
            () = lease.stopped() => 0,
        };
        if read == 0 {
            // The client's half is closed (or the server stops): ours closes after the last byte.
            stream.write_all(&pending).await?;
            return stream.shutdown().await;
        }
        let whole = match pending.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if pending.len() >= MAX_LINE => pending.len(),
            None => continue,
        };
        stream.write_all(&pending[..whole]).await?;
        pending.drain(..whole);
    }
}
