//! Bodies larger than any buffer: whole, and never held in memory.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use super::lab::{Lab, lab};
use super::stream::{LIMIT, Wire};

/// What a sidecar may grow by however many bodies stand still in it: some buffers for each, and none of the bodies.
const MAX_GROWTH_KIB: u64 = 32 * 1024;

/// How many looks in a row see no progress where everything stands still, and what counts as progress, in bytes: sidecars talk
/// to their control plane all the while.
const STILL: u32 = 25;
const PROGRESS: u64 = 64 * 1024;

/// Held by the test that measures.
static MEASURING: Mutex<()> = Mutex::const_new(());

#[test]
fn a_hundred_megabytes_come_back_as_they_went() {
    let lab = lab();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("body").display().to_string();
    let made = Command::new("sh").args(["-c", &format!("head -c 100000000 /dev/urandom > {file}")]).status().unwrap();
    assert!(made.success());
    let sum = |pod: &str, script: &str| lab.sh(pod, &format!("{script} | sha256sum"));
    let expected = sum("client", &format!("cat {file}"));
    for (pod, what, upload) in [
        ("client", "with a length over HTTP/1.1", format!("-T {file} http://server:80/mirror")),
        ("client", "in chunks over HTTP/1.1", format!("-T - http://server:82/mirror < {file}")),
        ("client", "over HTTP/2", format!("--http2-prior-knowledge -T {file} http://server:81/mirror")),
        ("plain", "without a sidecar", format!("-T {file} http://server:82/mirror")),
    ] {
        let found = sum(pod, &format!("curl -sS -m 120 {upload}"));
        assert_eq!(found, expected, "{what}");
    }
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The sidecars of the slow client and of its server, and their memory before.
struct Memory(Vec<(&'static str, u32, u64)>);

impl Memory {
    fn of(lab: &Lab) -> Self {
        let of = |pod: &'static str| {
            let pid = lab.pod(pod).proxy_pid.unwrap();
            (pod, pid, resident_kib(pid))
        };
        Self(["slow", "full"].map(of).into())
    }

    fn assert_bounded(&self) {
        for (pod, pid, before) in &self.0 {
            let now = resident_kib(*pid);
            assert!(now < before + MAX_GROWTH_KIB, "the sidecar of {pod} has grown from {before} to {now} KiB");
        }
    }

    /// Looks until nothing moves any more; memory is bounded all the while.
    async fn until_still(&self, progress: impl Fn() -> u64) {
        let (mut last, mut still) = (progress(), 0);
        let watching = async {
            while still < STILL || last == 0 {
                sleep(Duration::from_millis(20)).await;
                self.assert_bounded();
                let now = progress();
                still = if now < last + PROGRESS { still + 1 } else { 0 };
                last = now;
            }
        };
        timeout(2 * LIMIT, watching).await.expect("everything goes on although nobody reads");
    }
}

/// Bytes that have come into a pod so far.
fn came(lab: &Lab, pod: &str) -> u64 {
    let devices = lab.sh(pod, "cat /proc/net/dev");
    let line = devices.lines().find_map(|l| l.trim().strip_prefix("eth0:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

const ENDLESS: u64 = 4_000_000_000;

#[tokio::test]
async fn slow_readers_stop_their_servers_and_fill_no_memory() {
    let lab = lab();
    let _alone = MEASURING.lock().await;
    let memory = Memory::of(&lab);
    let request = format!("GET /bytes/{ENDLESS} HTTP/1.1\r\nHost: full\r\n\r\n");
    let mut readers: Vec<Wire> = Vec::new();
    for _ in 0..10 {
        let mut reader = lab.dial("slow", "full:80");
        reader.send(&request).await;
        reader.until("HTTP/1.1 200 OK\r\n").await;
        readers.push(reader);
    }
    // Ten streams of one connection, too, the windows of which are never given back.
    let mut builder = h2::client::Builder::new();
    // Room for all streams, so that each can be read by itself.
    builder.initial_window_size(1 << 18).initial_connection_window_size(1 << 24);
    let handshake = builder.handshake::<_, Bytes>(lab.stream("slow", "full:80"));
    let (mut send, connection) = timeout(LIMIT, handshake).await.unwrap().unwrap();
    let driver = tokio::spawn(connection);
    let mut bodies = Vec::new();
    for _ in 0..10 {
        std::future::poll_fn(|cx| send.poll_ready(cx)).await.unwrap();
        let request = Request::get(format!("http://full/bytes/{ENDLESS}")).body(()).unwrap();
        let (response, _) = send.send_request(request, true).unwrap();
        bodies.push(timeout(LIMIT, response).await.unwrap().unwrap().into_body());
    }
    memory.until_still(|| came(&lab, "slow")).await;
    // They have stopped, not ended: each goes on when it is read.
    for reader in &mut readers {
        reader.skip(20_000_000).await;
    }
    for body in &mut bodies {
        let mut read = 0;
        while read < 5_000_000 {
            let data: Bytes = timeout(LIMIT, body.data()).await.expect("goes on").unwrap().unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            read += data.len();
        }
    }
    memory.assert_bounded();
    driver.abort();
}

#[tokio::test]
async fn slow_servers_stop_their_clients_and_fill_no_memory() {
    const TOTAL: u64 = 300_000_000;
    let lab = lab();
    let _alone = MEASURING.lock().await;
    let memory = Memory::of(&lab);
    for port in [7101, 7001] {
        let mut server = lab.listen("full", port).await;
        let mut client = lab.dial("slow", &format!("full:{port}"));
        client.send(format!("PUT /up HTTP/1.1\r\nHost: full\r\nContent-Length: {TOTAL}\r\n\r\n")).await;
        server.until("\r\n\r\n").await;
        let sent = Arc::new(AtomicU64::new(0));
        let counter = sent.clone();
        let sending = tokio::spawn(async move {
            let piece = vec![b'x'; 100_000];
            while counter.load(Ordering::Relaxed) < TOTAL {
                client.send_at_leisure(&piece).await;
                counter.fetch_add(piece.len() as u64, Ordering::Relaxed);
            }
            client
        });
        memory.until_still(|| sent.load(Ordering::Relaxed)).await;
        assert!(sent.load(Ordering::Relaxed) < TOTAL / 2, "{port}: nobody has read, and all was taken");
        server.skip(TOTAL).await;
        memory.assert_bounded();
        drop(timeout(LIMIT, sending).await.unwrap().unwrap());
    }
}
