//! What TLS costs on this machine, in time of the CPU: handshakes, full and resumed, and bulk transfer over loopback TCP. Run with
//! `cargo run --release -p lateen-tls --example tls_cost`.
#![expect(clippy::print_stdout, reason = "the figures are the purpose")]

use std::time::Duration;

use lateen_model::identity::{SpiffeId, TrustDomain};
use lateen_tls::{
    CertificateAuthority, ClientParams, ClientTls, ConnectOptions, Credential, PeerExpectation, ServerParams, ServerTls,
    WorkloadIdentity, WorkloadKey, accept, connect,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
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
        let (rounds, start) = (2000, cpu_seconds()?);
        for _ in 0..rounds {
            let (near, far) = tokio::io::duplex(64 * 1024);
            let (accepted, connected) = tokio::join!(accept(far, server), connect(near, client, ConnectOptions::default()));
            let (mut accepted, mut connected) = (accepted?.0, connected?.0);
            // The first byte brings the session ticket with it.
            accepted.write_u8(1).await?;
            accepted.flush().await?;
            connected.read_u8().await?;
        }
        println!("{what} handshake, both sides: {:.0} µs", (cpu_seconds()? - start) * 1e6 / f64::from(rounds));
    }
    for _ in 0..3 {
        println!("bulk, both sides: {:.2} s a GB", transfer(server, full).await?);
    }
    Ok(())
}

/// CPU-seconds a GiB, of sender and receiver together.
async fn transfer(server: &ServerTls, client: &ClientTls) -> Result<f64, Error> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = server.clone();
    let receiver = tokio::task::spawn_local(async move {
        let (tcp, _) = listener.accept().await?;
        let (mut stream, _) = accept(tcp, &server).await.map_err(std::io::Error::other)?;
        let (mut buffer, mut total) = (vec![0; 64 * 1024], 0);
        loop {
            match stream.read(&mut buffer).await? {
                0 => return Ok::<_, std::io::Error>(total),
                n => total += n,
            }
        }
    });
    let (mut stream, _) = connect(TcpStream::connect(address).await?, client, ConnectOptions::default()).await?;
    let (block, start) = (vec![7; 64 * 1024], cpu_seconds()?);
    for _ in 0..TRANSFER / block.len() {
        stream.write_all(&block).await?;
    }
    stream.shutdown().await?;
    let received = receiver.await??;
    assert_eq!(received, TRANSFER);
    Ok((cpu_seconds()? - start) / 2.0)
}

/// User and system time of this process (fields 14 and 15 of `/proc/self/stat`, in ticks of 10 ms).
fn cpu_seconds() -> Result<f64, Error> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit_once(')').ok_or("no command name")?.1.split_whitespace().collect();
    let ticks: u32 = fields[11].parse::<u32>()? + fields[12].parse::<u32>()?;
    Ok(f64::from(ticks) / 100.0)
}
