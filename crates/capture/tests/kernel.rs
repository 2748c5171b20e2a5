//! The rules and namespaces against a real kernel, each test in network namespaces of its own. Without root, each test
//! runs itself again inside a user namespace.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as the tests do")]

mod lab;

use std::ffi::CString;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use lab::{GATEWAY, GATEWAY_V6, ask, ask_marked, by_mark, connect, lab, pod_v4, pod_v6, rust_ns, serve, serve_v6};
use lateen_capture::link::{BridgeAddresses, PodAddresses, connect_pod, has_ipv6};
use lateen_capture::netns::NetNs;
use lateen_capture::nft::{self, Action, Match, Table, Transport};
use lateen_capture::process::{Launch, launch, user_namespace_advice};
use lateen_capture::rules::{CaptureConfig, DnsCapture, RuleSet, parse_ranges};
use lateen_capture::services::{self, ServicePort};
use lateen_capture::{sandbox, socket};
use nix::sched::CloneFlags;
use nix::sys::wait::{WaitStatus, waitpid};

/// Runs `body` with the powers that it needs: here, or in a user namespace.
fn with_powers(test: &str, body: impl FnOnce()) {
    if sandbox::is_privileged() {
        return body();
    }
    let exe = std::env::current_exe().unwrap();
    let text = |s: &str| CString::new(s).unwrap();
    let spec = Launch {
        program: text(exe.to_str().unwrap()),
        arguments: ["kernel", "--exact", test, "--nocapture"].map(text).to_vec(),
        environment: std::env::vars().map(|(k, v)| text(&format!("{k}={v}"))).collect(),
        descriptors: Vec::new(),
        namespaces: CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET,
    };
    match launch(&spec) {
        Ok(pid) => assert!(matches!(waitpid(pid, None), Ok(WaitStatus::Exited(_, 0))), "{test} failed in its user namespace"),
        Err(e) => panic!("{e}: {}", user_namespace_advice().unwrap_or_default()),
    }
}

#[test]
fn outbound_traffic_is_captured_with_its_original_destination() {
    with_powers("outbound_traffic_is_captured_with_its_original_destination", || {
        let lab = lab(2);
        lab.pods[1]
            .run(|| ["0.0.0.0:80", "0.0.0.0:3306", "[::]:80"].map(|a| if a.starts_with('[') { serve_v6(a) } else { serve(a) }))
            .unwrap();
        lab.pods[0]
            .run(|| {
                serve("0.0.0.0:15001");
                serve_v6("[::]:15001");
                serve("0.0.0.0:8080");
                let config = CaptureConfig {
                    exclude_outbound_ports: vec![3306],
                    exclude_outbound_ranges: parse_ranges("192.0.2.0/24").unwrap(),
                    ..by_mark()
                };
                RuleSet::plan(&config).apply().unwrap();
                // Anywhere, existing or not: to the proxy, which learns what was wanted.
                assert_eq!(ask("10.244.0.3:80"), "15001 10.244.0.3:80 10.244.0.2");
                assert_eq!(ask("203.0.113.9:443"), "15001 203.0.113.9:443 10.244.0.2");
                assert_eq!(ask("[fd00:6c61::3]:80"), "15001 [fd00:6c61::3]:80 fd00:6c61::2");
                // The proxy's own traffic, an excluded port, loopback and the pod itself: untouched.
                assert!(ask_marked("10.244.0.3:80").starts_with("80 "));
                assert!(ask_marked("[fd00:6c61::3]:80").starts_with("80 "));
                assert!(ask("10.244.0.3:3306").starts_with("3306 "));
                assert!(ask("127.0.0.1:8080").starts_with("8080 "));
                assert!(ask("10.244.0.2:8080").starts_with("8080 "));
                // An excluded range leads where it leads: nowhere here.
                assert!(connect("192.0.2.1:80".parse().unwrap()).is_err());
            })
            .unwrap();
    });
}

#[test]
fn inbound_traffic_is_captured_and_the_proxys_way_to_the_application_is_free() {
    with_powers("inbound_traffic_is_captured_and_the_proxys_way_to_the_application_is_free", || {
        let lab = lab(2);
        lab.pods[1]
            .run(|| {
                serve("0.0.0.0:15006");
                serve_v6("[::]:15006");
                serve("0.0.0.0:8080");
                serve_v6("[::]:8080");
                serve("0.0.0.0:15021");
                serve("0.0.0.0:15008");
                RuleSet::plan(&by_mark()).apply().unwrap();
                // The sidecar connects to its application from 127.0.0.6 (or ::6), marked: not captured.
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
                // The sidecar's outbound connection to its own pod is inbound traffic.
                assert!(ask_marked("10.244.0.3:8080").starts_with("15006 10.244.0.3:8080"));
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
    });
}

#[test]
fn applying_twice_is_applying_once_and_removing_leaves_nothing() {
    with_powers("applying_twice_is_applying_once_and_removing_leaves_nothing", || {
        rust_ns()
            .run(|| {
                let full = CaptureConfig { dns: DnsCapture::All, drop_invalid: true, ..by_mark() };
                let words = || -> Vec<String> {
                    let tables = RuleSet::installed().unwrap();
                    tables
                        .iter()
                        .flat_map(|t| t.chains.iter().map(move |c| (t, c)))
                        .flat_map(|(t, c)| {
                            c.rules.iter().map(move |r| format!("{} {} {}", t.name, c.name, r.words.clone().unwrap()))
                        })
                        .collect()
                };
                let planned: Vec<String> = RuleSet::plan(&full)
                    .tables()
                    .iter()
                    .flat_map(|t| t.chains.iter().map(move |c| (t, c)))
                    .flat_map(|(t, c)| c.rules.iter().map(move |r| format!("{} {} {r}", t.name, c.name)))
                    .collect();
                RuleSet::plan(&full).apply().unwrap();
                let once = words();
                let sorted = |mut v: Vec<String>| {
                    v.sort();
                    v
                };
                assert_eq!(sorted(once.clone()), sorted(planned));
                RuleSet::plan(&full).apply().unwrap();
                assert_eq!(words(), once);
                // Fewer features: the tables that are no longer needed go.
                RuleSet::plan(&by_mark()).apply().unwrap();
                let names: Vec<String> = RuleSet::installed().unwrap().into_iter().map(|t| t.name).collect();
                assert_eq!(names, ["istio-proxy-nat"]);
                RuleSet::remove().unwrap();
                RuleSet::remove().unwrap();
                assert!(RuleSet::installed().unwrap().is_empty());
            })
            .unwrap();
    });
}

#[test]
fn dns_queries_reach_the_dns_proxy_and_its_own_go_out() {
    with_powers("dns_queries_reach_the_dns_proxy_and_its_own_go_out", || {
        let lab = lab(2);
        let answer_with = |bind: &str, word: &'static [u8], mark: bool| {
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
        };
        lab.pods[1].run(|| answer_with("0.0.0.0:53", b"server", false)).unwrap();
        lab.pods[0]
            .run(|| {
                answer_with("127.0.0.1:15053", b"proxy", true);
                RuleSet::plan(&CaptureConfig { dns: DnsCapture::All, ..by_mark() }).apply().unwrap();
                let query = |mark: bool| {
                    let s = UdpSocket::bind("0.0.0.0:0").unwrap();
                    if mark {
                        socket::set_mark(&s, 1337).unwrap();
                    }
                    s.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                    s.send_to(b"?", "10.244.0.3:53").unwrap();
                    let mut buffer = [0; 64];
                    let (len, from) = s.recv_from(&mut buffer).unwrap();
                    assert_eq!(from, "10.244.0.3:53".parse().unwrap());
                    String::from_utf8_lossy(&buffer[..len]).into_owned()
                };
                assert_eq!(query(false), "proxy");
                assert_eq!(query(true), "server");
            })
            .unwrap();
    });
}

#[test]
fn service_addresses_lead_to_every_endpoint_and_to_none_when_there_is_none() {
    with_powers("service_addresses_lead_to_every_endpoint_and_to_none_when_there_is_none", || {
        let lab = lab(3);
        for (n, pod) in lab.pods.iter().enumerate().skip(1) {
            pod.run(|| {
                let listener = TcpListener::bind("0.0.0.0:8080").unwrap();
                std::thread::spawn(move || {
                    for stream in listener.incoming() {
                        write!(stream.unwrap(), "pod{n}").unwrap();
                    }
                });
            })
            .unwrap();
        }
        let range = ["10.96.0.0/16".parse().unwrap()];
        let service = |endpoints: &[usize]| ServicePort {
            address: "10.96.0.7".parse().unwrap(),
            port: 80,
            transport: Transport::Tcp,
            endpoints: endpoints.iter().map(|n| SocketAddr::new(pod_v4(*n), 8080)).collect(),
        };
        lab.middle.run(|| services::apply(&[service(&[1, 2])], &range).unwrap()).unwrap();
        let answers = lab.pods[0].run(|| (0..64).map(|_| ask("10.96.0.7:80")).collect::<Vec<_>>()).unwrap();
        // The chance that a fair draw leaves one out in 64 is 2^-63.
        assert!(answers.contains(&"pod1".to_owned()) && answers.contains(&"pod2".to_owned()));
        // A pod reaches itself by the service's address too.
        lab.middle.run(|| services::apply(&[service(&[1])], &range).unwrap()).unwrap();
        assert_eq!(lab.pods[1].run(|| ask("10.96.0.7:80")).unwrap(), "pod1");
        lab.middle.run(|| services::apply(&[service(&[])], &range).unwrap()).unwrap();
        let refused = lab.pods[0].run(|| connect("10.96.0.7:80".parse().unwrap()).unwrap_err()).unwrap();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn pods_that_come_and_go_do_not_disturb_the_others() {
    with_powers("pods_that_come_and_go_do_not_disturb_the_others", || {
        let lab = lab(1);
        let mac = || {
            std::fs::read_to_string("/proc/thread-self/net/arp")
                .unwrap()
                .split_whitespace()
                .find(|w| w.contains(':'))
                .map(str::to_owned)
        };
        lab.middle.run(|| serve("10.244.0.1:53")).unwrap();
        lab.pods[0].run(|| ask("10.244.0.1:53")).unwrap();
        let before = lab.pods[0].run(mac).unwrap().unwrap();
        let bridge = BridgeAddresses { v4: GATEWAY.parse().unwrap(), v6: GATEWAY_V6.parse().unwrap() };
        // One of so many ports has a lower hardware address than the first, but for one case in 2^16.
        let more: Vec<NetNs> = (1..17)
            .map(|n| {
                let pod = NetNs::create().unwrap();
                let (IpAddr::V4(v4), IpAddr::V6(v6)) = (pod_v4(n), pod_v6(n)) else { unreachable!() };
                lab.middle.run(|| connect_pod(&pod, &format!("veth{n}"), PodAddresses { v4, v6 }, bridge).unwrap()).unwrap();
                pod
            })
            .collect();
        assert!(lab.pods[0].run(|| ask("10.244.0.1:53")).unwrap().starts_with("53 "));
        let after = more[0].run(|| {
            ask("10.244.0.1:53");
            mac()
        });
        assert_eq!(after.unwrap().unwrap(), before);
    });
}

#[test]
fn a_refused_transaction_names_the_rule_and_changes_nothing() {
    with_powers("a_refused_transaction_names_the_rule_and_changes_nothing", || {
        rust_ns()
            .run(|| {
                let mut good = Table::new("lateen-test").regular("c");
                good.push("c", vec![Match::Protocol(Transport::Tcp)], Action::Return);
                nft::replace(&[good.clone()]).unwrap();
                let mut bad = good;
                bad.push("c", Vec::new(), Action::Jump("nowhere".to_owned()));
                let error = nft::replace(&[bad]).unwrap_err().to_string();
                assert!(error.contains("rule `jump nowhere` in inet lateen-test c"), "{error}");
                let left = nft::installed(&["lateen-test"]).unwrap();
                assert_eq!(left[0].chains[0].rules.len(), 1);
                nft::remove(&["lateen-test"]).unwrap();
            })
            .unwrap();
    });
}

/// Makes the calling thread, and those that it starts, see a kernel without IPv6: `socket(AF_INET6, …)` fails as there.
fn forget_ipv6() {
    const LOAD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    /// Where `struct seccomp_data` has the call's number and its first argument.
    const NUMBER: u32 = 0;
    const ARGUMENT: u32 = 16;
    let step = |code, k, jf| libc::sock_filter { code, jt: 0, jf, k };
    let mut program = [
        step(LOAD, NUMBER, 0),
        step(JUMP_IF_EQUAL, u32::try_from(libc::SYS_socket).unwrap(), 3),
        step(LOAD, ARGUMENT, 0),
        step(JUMP_IF_EQUAL, u32::try_from(libc::AF_INET6).unwrap(), 1),
        step(RETURN, libc::SECCOMP_RET_ERRNO | u32::try_from(libc::EAFNOSUPPORT).unwrap(), 0),
        step(RETURN, libc::SECCOMP_RET_ALLOW, 0),
    ];
    let filter = libc::sock_fprog { len: u16::try_from(program.len()).unwrap(), filter: program.as_mut_ptr() };
    // SAFETY: the first call takes integers; the second reads the program, which is live, and touches this thread alone.
    let installed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, std::ptr::from_ref(&filter))
    };
    assert_eq!(installed, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_machine_without_ipv6_has_pods_with_ipv4() {
    with_powers("a_machine_without_ipv6_has_pods_with_ipv4", || {
        assert!(has_ipv6());
        let without = std::thread::spawn(|| {
            forget_ipv6();
            assert!(!has_ipv6());
            let lab = lab(2);
            lab.pods[1].run(|| serve("0.0.0.0:80")).unwrap();
            let addresses = || std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap();
            let (answer, v6) = lab.pods[0].run(|| (ask("10.244.0.3:80"), addresses())).unwrap();
            assert!(answer.ends_with("10.244.0.2"), "{answer}");
            let in_the_middle = lab.middle.run(addresses).unwrap();
            for ours in ["fd006c61", "00000000000000000000000000000006 "] {
                assert!(!v6.contains(ours) && !in_the_middle.contains(ours), "{v6}{in_the_middle}");
            }
        });
        without.join().unwrap();
        // With IPv6 the same pods have it.
        let v6 = lab(1).pods[0].run(|| std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap()).unwrap();
        assert!(v6.contains("fd006c61"), "{v6}");
    });
}
