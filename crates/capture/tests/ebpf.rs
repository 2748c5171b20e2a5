//! Capture by eBPF against a real kernel: the same expectations as of the nftables rules, in namespaces of each test's own. Where
//! the system does not let this process load programs, the tests hold that the reason is told.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as the tests do")]

mod lab;

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lab::{ask, ask_marked, by_mark, connect, lab, serve, serve_v6};
use lateen_capture::ebpf::{Captured, EbpfError, Plan, Programs};
use lateen_capture::netns::NetNs;
use lateen_capture::rules::{CaptureConfig, DnsCapture, RangeSelection, parse_ranges};
use lateen_capture::{sandbox, socket};

/// The programs; none where they may not be loaded, which must be said.
fn programs() -> Option<Programs> {
    match Programs::load() {
        Ok(programs) => Some(programs),
        Err(EbpfError::Forbidden) if !sandbox::is_privileged() => None,
        Err(EbpfError::NoCgroup) => None,
        // Inside a user namespace that looks like root.
        Err(EbpfError::Forbidden) => None,
        Err(e) => panic!("{e}"),
    }
}

fn capture(programs: &Programs, ns: &NetNs, config: &CaptureConfig) -> Captured {
    programs.capture(ns, Plan::of(config).unwrap().unwrap()).unwrap()
}

#[test]
fn outbound_connections_reach_the_proxy_which_learns_what_was_wanted() {
    let Some(programs) = programs() else { return };
    let lab = lab(2);
    lab.pods[1]
        .run(|| ["0.0.0.0:80", "0.0.0.0:3306", "[::]:80"].map(|a| if a.starts_with('[') { serve_v6(a) } else { serve(a) }))
        .unwrap();
    let config = CaptureConfig {
        exclude_outbound_ports: vec![3306],
        exclude_outbound_ranges: parse_ranges("192.0.2.0/24").unwrap(),
        ..by_mark()
    };
    let captured = capture(&programs, &lab.pods[0], &config);
    lab.pods[0]
        .run(|| {
            serve("0.0.0.0:15001");
            serve_v6("[::]:15001");
            serve("0.0.0.0:8080");
            assert_eq!(ask("10.244.0.3:80"), "15001 10.244.0.3:80 10.244.0.2");
            assert_eq!(ask("203.0.113.9:443"), "15001 203.0.113.9:443 10.244.0.2");
            assert_eq!(ask("[fd00:6c61::3]:80"), "15001 [fd00:6c61::3]:80 fd00:6c61::2");
            // IPv4 on an IPv6 socket.
            assert_eq!(ask("[::ffff:203.0.113.9]:443"), "15001 203.0.113.9:443 10.244.0.2");
            // The application sees what it asked for.
            for to in ["203.0.113.9:443", "[fd00:6c61::3]:80", "[::ffff:203.0.113.9]:443"] {
                let to: SocketAddr = to.parse().unwrap();
                let mut stream = connect(to).unwrap();
                assert_eq!(stream.peer_addr().unwrap(), to);
                stream.read_to_end(&mut Vec::new()).unwrap();
            }
            // The proxy's own traffic, an excluded port, loopback and the pod itself: untouched.
            assert!(ask_marked("10.244.0.3:80").starts_with("80 "));
            assert!(ask_marked("[fd00:6c61::3]:80").starts_with("80 "));
            assert!(ask("10.244.0.3:3306").starts_with("3306 "));
            assert!(ask("127.0.0.1:8080").starts_with("8080 "));
            assert!(ask("0.0.0.0:8080").starts_with("8080 ") && ask("[::ffff:0.0.0.0]:8080").starts_with("8080 "));
            assert!(ask("10.244.0.2:8080").starts_with("8080 "));
            assert!(connect("192.0.2.1:80".parse().unwrap()).is_err());
        })
        .unwrap();
    // The other pod, and this one once it is let go, are left alone.
    lab.middle.run(|| assert!(ask("10.244.0.3:80").starts_with("80 "))).unwrap();
    drop(captured);
    lab.pods[0].run(|| assert!(ask("10.244.0.3:80").starts_with("80 "))).unwrap();
}

#[test]
fn ports_and_networks_are_taken_in_as_the_rules_say() {
    let Some(programs) = programs() else { return };
    let lab = lab(2);
    lab.pods[1].run(|| ["0.0.0.0:80", "0.0.0.0:81"].map(serve)).unwrap();
    lab.pods[0].run(|| serve("0.0.0.0:15001")).unwrap();
    let to_proxy = |to: &'static str| lab.pods[0].run(|| ask(to).starts_with("15001 ")).unwrap();
    let only = |nets: &str| RangeSelection::Only(parse_ranges(nets).unwrap());
    let config = CaptureConfig { outbound_ranges: only("10.244.0.3/32,203.0.113.0/24"), ..by_mark() };
    let captured = capture(&programs, &lab.pods[0], &config);
    assert!(to_proxy("10.244.0.3:80") && to_proxy("203.0.113.255:80"));
    drop(captured);
    // A longer prefix that is in does not win over a shorter one that is out, and a port wins over the networks that are in.
    let config = CaptureConfig {
        outbound_ranges: only("203.0.113.9/32"),
        exclude_outbound_ranges: parse_ranges("203.0.113.0/24").unwrap(),
        outbound_ports: vec![81],
        ..by_mark()
    };
    let _captured = capture(&programs, &lab.pods[0], &config);
    assert!(!to_proxy("10.244.0.3:80") && to_proxy("10.244.0.3:81"));
    lab.pods[0].run(|| assert!(connect("203.0.113.9:80".parse().unwrap()).is_err())).unwrap();
}

#[test]
fn inbound_connections_reach_the_proxy_and_its_way_to_the_application_is_free() {
    let Some(programs) = programs() else { return };
    let lab = lab(2);
    let _captured = capture(&programs, &lab.pods[1], &by_mark());
    // Before the proxy listens, nobody takes its place.
    let other = lab.pods[1].run(|| TcpListener::bind("127.0.0.2:15006").unwrap()).unwrap();
    let refused = lab.pods[0].run(|| connect("10.244.0.3:8080".parse().unwrap()).unwrap_err().kind()).unwrap();
    assert_eq!(refused, std::io::ErrorKind::ConnectionRefused);
    drop(other);
    lab.pods[1]
        .run(|| {
            serve("0.0.0.0:8080");
            serve_v6("[::]:8080");
            serve("0.0.0.0:15021");
            serve("0.0.0.0:15008");
            serve("0.0.0.0:15006");
            serve_v6("[::]:15006");
            for (to, source) in [("10.244.0.3:8080", "127.0.0.6"), ("[fd00:6c61::3]:8080", "::6")] {
                let to: SocketAddr = to.parse().unwrap();
                let s = socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None).unwrap();
                socket::set_mark(&s, 1337).unwrap();
                socket::bind_source(&s, to.ip()).unwrap();
                s.connect_timeout(&to.into(), Duration::from_secs(5)).unwrap();
                let mut text = String::new();
                TcpStream::from(s).read_to_string(&mut text).unwrap();
                assert!(text.starts_with("8080 ") && text.ends_with(source), "{text}");
            }
            // The sidecar's outbound connection to its own pod is inbound traffic; the application's is not.
            assert!(ask_marked("10.244.0.3:8080").starts_with("15006 10.244.0.3:8080"));
            assert!(ask("10.244.0.3:8080").starts_with("8080 "));
        })
        .unwrap();
    lab.pods[0]
        .run(|| {
            assert_eq!(ask("10.244.0.3:8080"), "15006 10.244.0.3:8080 10.244.0.2");
            assert_eq!(ask("10.244.0.3:9999"), "15006 10.244.0.3:9999 10.244.0.2");
            assert_eq!(ask("[fd00:6c61::3]:8080"), "15006 [fd00:6c61::3]:8080 fd00:6c61::2");
            assert!(ask("10.244.0.3:15021").starts_with("15021 "));
            assert!(ask("10.244.0.3:15008").starts_with("15008 "));
        })
        .unwrap();
}

/// Answers datagrams with a word.
fn answer(bind: &str, word: &'static [u8], mark: bool) {
    let s = UdpSocket::bind(bind).unwrap();
    if mark {
        socket::set_mark(&s, 1337).unwrap();
    }
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = s.recv_from(&mut buffer) {
            s.send_to(word, from).unwrap();
        }
    });
}

/// Asks a DNS server over UDP, on a connected socket or not, and holds that the answer seems to come from it.
fn query(server: &str, connected: bool, mark: bool) -> String {
    let server: SocketAddr = server.parse().unwrap();
    let s = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
    if mark {
        socket::set_mark(&s, 1337).unwrap();
    }
    s.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    if connected {
        s.connect(server).unwrap();
        assert_eq!(s.peer_addr().unwrap(), server);
        s.send(b"?").unwrap();
    } else {
        s.send_to(b"?", server).unwrap();
    }
    let mut buffer = [0; 64];
    let (len, from) = s.recv_from(&mut buffer).unwrap();
    assert_eq!(from, server);
    String::from_utf8_lossy(&buffer[..len]).into_owned()
}

#[test]
fn dns_queries_reach_the_dns_proxy_and_its_own_go_out() {
    let Some(programs) = programs() else { return };
    let lab = lab(2);
    lab.pods[1].run(|| ["0.0.0.0:53", "[fd00:6c61::3]:53", "0.0.0.0:54"].map(|a| answer(a, b"server", false))).unwrap();
    lab.pods[1].run(|| serve("0.0.0.0:53")).unwrap();
    lab.pods[0]
        .run(|| {
            answer("127.0.0.1:15053", b"proxy", true);
            answer("[::1]:15053", b"proxy", true);
            serve("127.0.0.1:15053");
            serve("0.0.0.0:15001");
        })
        .unwrap();
    let all = CaptureConfig { dns: DnsCapture::All, ..by_mark() };
    let captured = capture(&programs, &lab.pods[0], &all);
    lab.pods[0]
        .run(|| {
            for server in ["10.244.0.3:53", "[fd00:6c61::3]:53"] {
                for connected in [true, false] {
                    assert_eq!(query(server, connected, false), "proxy");
                    assert_eq!(query(server, connected, true), "server");
                }
            }
            // Over TCP too, and other datagrams never.
            assert!(ask("10.244.0.3:53").starts_with("15053 "));
            assert!(ask_marked("10.244.0.3:53").starts_with("53 "));
            assert_eq!(query("10.244.0.3:54", true, false), "server");
            assert_eq!(query("10.244.0.3:54", false, false), "server");
            // One socket may ask many: each answer comes from whom was asked last.
            let s = UdpSocket::bind("0.0.0.0:0").unwrap();
            s.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            for (to, word) in [("203.0.113.1:53", "proxy"), ("10.244.0.3:54", "server"), ("10.244.0.3:53", "proxy")] {
                s.send_to(b"?", to).unwrap();
                let mut buffer = [0; 64];
                let (len, from) = s.recv_from(&mut buffer).unwrap();
                assert_eq!((String::from_utf8_lossy(&buffer[..len]).as_ref(), from.to_string().as_str()), (word, to));
            }
        })
        .unwrap();
    drop(captured);
    let some = CaptureConfig { dns: DnsCapture::Servers(vec!["203.0.113.1".parse().unwrap()]), ..by_mark() };
    let _captured = capture(&programs, &lab.pods[0], &some);
    lab.pods[0]
        .run(|| {
            assert_eq!(query("203.0.113.1:53", false, false), "proxy");
            assert_eq!(query("10.244.0.3:53", false, false), "server");
            assert!(ask("10.244.0.3:53").starts_with("15001 "));
        })
        .unwrap();
}

const HOLD: &str = "LATEEN_TEST_HOLDS_CAPTURE_OF";

/// Not a test of its own: the process that the next one kills.
#[test]
fn holds_until_it_is_killed() {
    let Some(path) = std::env::var_os(HOLD) else { return };
    let programs = Programs::load().unwrap();
    let _captured = capture(&programs, &NetNs::open(path.as_ref()).unwrap(), &by_mark());
    println!("\nholding");
    loop {
        std::thread::park();
    }
}

#[test]
fn nothing_is_left_when_the_holder_is_killed() {
    let Some(_) = programs() else { return };
    let lab = lab(2);
    lab.pods[1].run(|| serve("0.0.0.0:80")).unwrap();
    lab.pods[0].run(|| serve("0.0.0.0:15001")).unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), lab.pods[0].as_fd().as_raw_fd());
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["holds_until_it_is_killed", "--exact", "--nocapture"])
        .env(HOLD, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "holding"));
    lab.pods[0].run(|| assert!(ask("10.244.0.3:80").starts_with("15001 "))).unwrap();
    holder.kill().unwrap();
    holder.wait().unwrap();
    // The kernel releases what a killed process held a moment after it has gone.
    let start = Instant::now();
    while lab.pods[0].run(|| ask("10.244.0.3:80").starts_with("15001 ")).unwrap() {
        assert!(start.elapsed() < Duration::from_secs(60));
    }
}

#[test]
fn a_restarted_proxy_takes_over_and_none_means_refusal() {
    let Some(programs) = programs() else { return };
    let lab = lab(2);
    let _captured = capture(&programs, &lab.pods[1], &by_mark());
    let to: SocketAddr = "10.244.0.3:8080".parse().unwrap();
    for _ in 0..3 {
        let listener = lab.pods[1]
            .run(|| {
                let s = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
                s.set_reuse_address(true).unwrap();
                s.bind(&"0.0.0.0:15006".parse::<SocketAddr>().unwrap().into()).unwrap();
                s.listen(16).unwrap();
                TcpListener::from(s)
            })
            .unwrap();
        let client = lab.pods[0].run(|| connect(to).unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(accepted.local_addr().unwrap(), to);
        assert_eq!(socket::original_dst(&accepted).unwrap().address(), to);
        // An application that starts meanwhile may have the port that the proxy's connections carry.
        let application = lab.pods[1].run(|| TcpListener::bind("0.0.0.0:8080")).unwrap();
        assert!(application.is_ok(), "{application:?}");
        drop(listener);
        let refused = lab.pods[0].run(|| connect(to).unwrap_err().kind()).unwrap();
        assert_eq!(refused, std::io::ErrorKind::ConnectionRefused, "while no proxy listens");
        drop((client, accepted));
    }
}

#[test]
fn the_compiled_programs_are_those_of_the_source() {
    let version = ["clang-14", "clang"].iter().find_map(|name| {
        let out = Command::new(name).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        text.contains("version 14.").then_some(())
    });
    if version.is_none() {
        // Another version makes other code of the same source.
        return;
    }
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("bpf");
    let fresh = std::env::temp_dir().join(format!("lateen-{}-bpf", std::process::id()));
    std::fs::create_dir(&fresh).unwrap();
    let compiled = Command::new(dir.join("compile")).arg(&fresh).status().unwrap();
    let different = ["capture", "accelerate"].iter().find(|name| {
        let object = format!("{name}.bpf.o");
        std::fs::read(dir.join(&object)).unwrap() != std::fs::read(fresh.join(&object)).unwrap_or_default()
    });
    let _ = std::fs::remove_dir_all(&fresh);
    assert!(compiled.success());
    assert_eq!(different, None, "the object in bpf/ is not what its source compiles to: run crates/capture/bpf/compile");
}
