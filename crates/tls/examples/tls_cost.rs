//! What TLS costs on this machine: handshakes, full and resumed, and bulk transfer over loopback TCP, with and without
//! [`BulkReader`]. Run with `cargo run --release -p lateen-tls --example tls_cost`.
#![expect(clippy::print_stdout, reason = "the figures are the purpose")]

use std::time::{Duration, Instant};

use lateen_model::identity::{SpiffeId, TrustDomain};
use lateen_tls::{
    BulkReader, CertificateAuthority, ClientParams, ClientTls, ConnectOptions, Credential, PeerExpectation, ServerParams,
    ServerTls, WorkloadIdentity, WorkloadKey, accept, connect,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

type Error = Box<dyn std::error::Error>;

const TRANSFER: usize = 2 << 30;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let id = SpiffeId::parse("spiffe://cluster.local/ns/a/sa/b")?;
    let ca = CertificateAuthority::in_memory(&TrustDomain::default(), Duration::from_secs(86_400 * 30))?;
    let key = WorkloadKey::generate()?;
    let chain = ca.sign(&key.signing_request(&id)?, &id, Duration::ZERO)?;
    let (credential, trust) = Credential::from_ca_response(&chain, &key)?;
    let identity = WorkloadIdentity::new();
    identity.install(credential);
    identity.install_trust(trust);
    let server = ServerTls::new(ServerParams::mesh(&identity, &[TrustDomain::default()]))?;
    let client = |session_servers| {
        let params = ClientParams::mesh(&identity, PeerExpectation::AnyOf([id.clone()].into()));
        ClientTls::new(ClientParams { session_servers, ..params })
    };
    LocalSet::new().run_until(measure(&server, &client(0)?, &client(1)?)).await
}

async fn measure(server: &ServerTls, full: &ClientTls, resuming: &ClientTls) -> Result<(), Error> {
    for (what, client) in [("full", full), ("resumed", resuming)] {
        let (rounds, start) = (2000, Instant::now());
        for _ in 0..rounds {
            let (near, far) = tokio::io::duplex(64 * 1024);
            let (accepted, connected) = tokio::join!(accept(far, server), connect(near, client, ConnectOptions::default()));
            let (mut accepted, mut connected) = (accepted?.0, connected?.0);
            // The first byte brings the session ticket with it.
            accepted.write_u8(1).await?;
            accepted.flush().await?;
            connected.read_u8().await?;
        }
        println!("{what} handshake, both sides: {:.0} µs", start.elapsed().as_secs_f64() * 1e6 / f64::from(rounds));
    }
    for round in 1..=3 {
        let plain = transfer(server, full, |tcp| tcp, |tcp| tcp).await?;
        let bulk = transfer(server, full, BulkReader::new, BulkReader::new).await?;
        println!("bulk, round {round}: {plain:.2} s a GB with 4 KB reads, {bulk:.2} s a GB with BulkReader (one thread, both sides)");
    }
    Ok(())
}

/// Seconds a GiB, sender and receiver on one thread: wall-clock time is CPU time.
async fn transfer<A, B>(
    server: &ServerTls,
    client: &ClientTls,
    near: impl Fn(TcpStream) -> A,
    far: impl Fn(TcpStream) -> B + 'static,
) -> Result<f64, Error>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = server.clone();
    let receiver = tokio::task::spawn_local(async move {
        let (tcp, _) = listener.accept().await?;
        let (mut stream, _) = accept(far(tcp), &server).await.map_err(std::io::Error::other)?;
        let (mut buffer, mut total) = (vec![0; 64 * 1024], 0);
        loop {
            match stream.read(&mut buffer).await? {
                0 => return Ok::<_, std::io::Error>(total),
                n => total += n,
            }
        }
    });
    let (mut stream, _) = connect(near(TcpStream::connect(address).await?), client, ConnectOptions::default()).await?;
    let (block, start) = (vec![7; 64 * 1024], Instant::now());
    for _ in 0..TRANSFER / block.len() {
        stream.write_all(&block).await?;
    }
    stream.shutdown().await?;
    let received = receiver.await??;
    assert_eq!(received, TRANSFER);
    Ok(start.elapsed().as_secs_f64() / 2.0)
}
