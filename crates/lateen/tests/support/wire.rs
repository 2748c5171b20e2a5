//! What goes over the wire of a pod: `tcpdump` in its network namespace, TCP put together again, TLS records told apart.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// One direction of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Flow {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
}

/// Runs until [`stop`](Self::stop).
pub(crate) struct Capture {
    child: Child,
    directory: TempDir,
}

impl Capture {
    /// Captures TCP in the network namespace of a process. Returns when packets are being seen.
    pub(crate) fn start(pid: u32) -> Self {
        let directory = TempDir::new().unwrap();
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &pid.to_string()]);
        let user = |process: &str| fs::read_link(format!("/proc/{process}/ns/user")).unwrap();
        if user("self") != user(&pid.to_string()) {
            // Whoever made a user namespace may do everything in it.
            command.args(["--user", "--preserve-credentials"]);
        }
        command.args(["tcpdump", "--interface=eth0", "--immediate-mode", "-U", "-n", "--relinquish-privileges=root", "-w"]);
        let mut child = command
            .arg(directory.path().join("pcap"))
            .arg("tcp")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("nsenter and tcpdump are installed");
        let mut complaints = BufReader::new(child.stderr.take().unwrap());
        let mut seen = String::new();
        while !seen.contains("listening on") {
            assert_ne!(complaints.read_line(&mut seen).unwrap(), 0, "tcpdump ended: {seen}");
        }
        // Keeps the pipe empty, so that the last words of tcpdump do not end it early.
        std::thread::spawn(move || complaints.lines().for_each(drop));
        Self { child, directory }
    }

    /// Whether this has been seen on the wire by now, in one packet.
    pub(crate) fn has_seen(&self, marker: &str) -> bool {
        contains(&fs::read(self.directory.path().join("pcap")).unwrap_or_default(), marker)
    }

    /// Every byte of every flow, in order.
    pub(crate) fn stop(mut self) -> BTreeMap<Flow, Vec<u8>> {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGINT).unwrap();
        self.child.wait().unwrap();
        read(&self.directory.path().join("pcap"))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether bytes hold a text.
pub(crate) fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

fn number(bytes: &[u8], at: usize, length: usize) -> usize {
    bytes[at..at + length].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
}

/// Reads a pcap file of Ethernet frames (little-endian, as this machine writes it).
fn read(path: &Path) -> BTreeMap<Flow, Vec<u8>> {
    let file = fs::read(path).unwrap();
    let little = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
    assert!(matches!(little(0), 0xa1b2_c3d4 | 0xa1b2_3c4d), "not a pcap file of this machine");
    assert_eq!(little(20), 1, "link type: Ethernet");
    let mut segments: BTreeMap<Flow, BTreeMap<u32, Vec<u8>>> = BTreeMap::new();
    let mut at = 24;
    while at + 16 <= file.len() {
        let length = little(at + 8);
        let frame = &file[at + 16..at + 16 + length];
        at += 16 + length;
        if let Some((flow, sequence, data)) = segment(frame) {
            let of_flow = segments.entry(flow).or_default();
            // A retransmission may be longer than what it repeats.
            if of_flow.get(&sequence).is_none_or(|known| known.len() < data.len()) {
                of_flow.insert(sequence, data.to_vec());
            }
        }
    }
    segments.into_iter().map(|(flow, segments)| (flow, join(flow, &segments))).collect()
}

/// The flow, sequence number and data of a TCP segment that has data.
fn segment(frame: &[u8]) -> Option<(Flow, u32, &[u8])> {
    let (from, to, tcp): (IpAddr, IpAddr, &[u8]) = match number(frame, 12, 2) {
        0x0800 => {
            let packet = &frame[14..14 + number(frame, 16, 2)];
            let address = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
            let header = 4 * usize::from(packet[0] & 15);
            (packet[9] == 6).then(|| (address(12).into(), address(16).into(), &packet[header..]))?
        }
        0x86dd => {
            let packet = &frame[14..54 + number(frame, 18, 2)];
            let address = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
            (packet[6] == 6).then(|| (address(8).into(), address(24).into(), &packet[40..]))?
        }
        _ => return None,
    };
    let port = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
    let data = &tcp[4 * usize::from(tcp[12] >> 4)..];
    let flow = Flow { from: (from, port(0)).into(), to: (to, port(2)).into() };
    let sequence = u32::from_be_bytes(tcp[4..8].try_into().unwrap());
    (!data.is_empty()).then_some((flow, sequence, data))
}

/// Puts the segments of a flow one after the other. No flow of these tests is so long that its numbers start over, save by
/// bad luck at the start, which is told.
fn join(flow: Flow, segments: &BTreeMap<u32, Vec<u8>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Numbers may start over in the middle: the first is the one after the largest gap.
    let start = segments.keys().copied().find(|s| !segments.iter().any(|(t, d)| ends_at(*t, d) == *s)).unwrap();
    let mut next = start;
    while let Some(data) = segments.get(&next) {
        bytes.extend_from_slice(data);
        next = ends_at(next, data);
    }
    let all: usize = segments.values().map(Vec::len).sum();
    assert!(bytes.len() >= all, "{flow:?}: segments are missing: {} of {all} bytes", bytes.len());
    bytes
}

fn ends_at(sequence: u32, data: &[u8]) -> u32 {
    sequence.wrapping_add(u32::try_from(data.len()).unwrap())
}

/// What is wrong with a flow if it is not one side of a TLS 1.3 connection (RFC 8446 §5.1): whole records only, a hello
/// first, then nothing but application data and the compatibility change of cipher.
pub(crate) fn not_tls13(bytes: &[u8], is_client: bool) -> Option<String> {
    let mut at = 0;
    let mut index = 0;
    while at < bytes.len() {
        if bytes.len() < at + 5 {
            return Some(format!("half a record header at {at}"));
        }
        let (kind, version, length) = (bytes[at], number(bytes, at + 1, 2), number(bytes, at + 3, 2));
        if !matches!(version, 0x0301 | 0x0303) || length > (1 << 14) + 256 || bytes.len() < at + 5 + length {
            return Some(format!("no record at {at}: {:?}", String::from_utf8_lossy(&bytes[at..bytes.len().min(at + 60)])));
        }
        let body = &bytes[at + 5..at + 5 + length];
        let fine = match (index, kind) {
            (0, 22) => body[0] == if is_client { 1 } else { 2 } && (is_client || is_server_hello_13(body)),
            (0, _) => false,
            // Change of cipher for old middle boxes, then protected records only; alerts are protected too.
            (_, 20) => body == [1],
            (_, kind) => kind == 23,
        };
        if !fine {
            return Some(format!("record {index} at {at} has type {kind}"));
        }
        at += 5 + length;
        index += 1;
    }
    (index == 0).then(|| "no bytes".to_owned())
}

/// Whether a ServerHello chooses TLS 1.3 by its extension `supported_versions` (43).
fn is_server_hello_13(hello: &[u8]) -> bool {
    // Type and length, version, random, session id, cipher suite, compression.
    let session = 38;
    let mut at = session + 1 + usize::from(hello[session]) + 3 + 2;
    while at + 4 <= hello.len() {
        let (kind, length) = (number(hello, at, 2), number(hello, at + 2, 2));
        if kind == 43 {
            return number(hello, at + 4, 2) == 0x0304;
        }
        at += 4 + length;
    }
    false
}
