//! Acceleration against a real kernel, in namespaces of each test's own: an application and a sidecar that are this test's threads,
//! connected as capture connects them. Where the system does not let this process load programs, there is nothing to hold.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as the tests do")]

mod lab;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use lab::{by_mark, lab};
use lateen_capture::ebpf::{Accelerated, Accelerator, Captured, EbpfError, Plan, Programs};
use lateen_capture::netns::NetNs;
use lateen_capture::socket::{bind_source, set_mark, unread_by_application};

/// How much may wait to be read (`LIMIT` in the programs), and what one message and the buffers of TCP may add to it.
const LIMIT: usize = 256 * 1024;
const SLACK: usize = 16 * 1024 * 1024;

/// A pod that is captured and accelerated.
struct Pod {
    ns: NetNs,
    _held: (Captured, Accelerated),
    _lab: lab::Lab,
}

/// None where programs may not be loaded, or the kernel is too old, which it must say.
fn pod() -> Option<Pod> {
    let programs = match Programs::load() {
        Ok(programs) => programs,
        Err(EbpfError::Forbidden | EbpfError::NoCgroup) => return None,
        Err(e) => panic!("{e}"),
    };
    let accelerator = match Accelerator::load() {
        Ok(accelerator) => accelerator,
        Err(EbpfError::Old { .. }) => return None,
        Err(e) => panic!("{e}"),
    };
    let mut lab = lab(2);
    let ns = lab.pods.remove(0);
    let captured = programs.capture(&ns, Plan::of(&by_mark()).unwrap().unwrap()).unwrap();
    let accelerated = accelerator.accelerate(&ns, 15001).unwrap();
    Some(Pod { ns, _held: (captured, accelerated), _lab: lab })
}

/// The ends of a connection: the application's and the sidecar's.
struct Ends {
    application: TcpStream,
    sidecar: TcpStream,
}

impl Pod {
    /// The application calls out, by this address.
    fn outbound(&self, to: &'static str) -> Ends {
        self.ns
            .run(|| {
                let to: SocketAddr = to.parse().unwrap();
                let any = if to.is_ipv4() { "0.0.0.0:15001" } else { "[::]:15001" };
                let listener = listen(any);
                let application = TcpStream::connect(to).unwrap();
                let (sidecar, _) = listener.accept().unwrap();
                patient(Ends { application, sidecar })
            })
            .unwrap()
    }

    /// The sidecar calls the application at this address.
    fn inbound(&self, at: &'static str) -> Ends {
        self.ns
            .run(|| {
                let at: SocketAddr = at.parse().unwrap();
                let listener = listen(&format!("{}:8080", if at.is_ipv4() { "0.0.0.0" } else { "[::]" }));
                let s = socket2::Socket::new(socket2::Domain::for_address(at), socket2::Type::STREAM, None).unwrap();
                set_mark(&s, 1337).unwrap();
                bind_source(&s, at.ip()).unwrap();
                s.connect(&at.into()).unwrap();
                let (application, _) = listener.accept().unwrap();
                patient(Ends { application, sidecar: s.into() })
            })
            .unwrap()
    }

    fn all_kinds(&self) -> Vec<Ends> {
        vec![
            self.outbound("203.0.113.9:80"),
            self.outbound("[::ffff:203.0.113.9]:80"),
            self.outbound("[fd00:6c61::3]:80"),
            self.inbound("10.244.0.2:8080"),
            self.inbound("[fd00:6c61::2]:8080"),
        ]
    }
}

fn listen(address: &str) -> TcpListener {
    let address: SocketAddr = address.parse().unwrap();
    let s = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None).unwrap();
    s.set_reuse_address(true).unwrap();
    if address.is_ipv6() {
        s.set_only_v6(false).unwrap();
    }
    s.bind(&address.into()).unwrap();
    s.listen(16).unwrap();
    s.into()
}

/// A mistake ends a test, and does not hang it.
fn patient(ends: Ends) -> Ends {
    for end in [&ends.application, &ends.sidecar] {
        end.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        end.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    }
    ends
}

/// The segments with data that a socket has sent by TCP (`tcpi_data_segs_out`).
fn segments(socket: &TcpStream) -> u32 {
    const AT: usize = 156;
    let mut info = [0_u8; AT + 4];
    let mut size = libc::socklen_t::try_from(info.len()).unwrap();
    // SAFETY: the descriptor is open for the length of the call; the pointer and the length describe `info`, which lives until
    // the call returns, and the kernel writes at most `size` bytes.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast::<libc::c_void>(),
            &raw mut size,
        )
    };
    assert_eq!(rc, 0, "{}", io::Error::last_os_error());
    u32::from_ne_bytes(info[AT..].try_into().unwrap())
}

/// Bytes of which each tells where it stands, so that none can be lost, doubled or overtaken.
fn pattern(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|n| u8::try_from((n ^ (n >> 8) ^ (n >> 16)) & 0xff).unwrap()).collect()
}

/// Reads to the end and compares with the pattern; how many bytes there were.
fn read_pattern(mut from: &TcpStream) -> usize {
    let mut buffer = vec![0; 64 * 1024];
    let mut count = 0;
    loop {
        let n = from.read(&mut buffer).unwrap();
        if n == 0 {
            return count;
        }
        assert!(buffer[..n] == pattern(count, n), "from byte {count} on");
        count += n;
    }
}

/// Sends the pattern until the socket takes no more; how many bytes it took.
fn fill(mut socket: &TcpStream, most: usize) -> usize {
    socket.set_nonblocking(true).unwrap();
    let mut count = 0;
    while count < most {
        match socket.write(&pattern(count, 16 * 1024)) {
            Ok(n) => count += n,
            Err(e) => {
                assert_eq!(e.kind(), io::ErrorKind::WouldBlock);
                break;
            }
        }
    }
    socket.set_nonblocking(false).unwrap();
    count
}

#[test]
fn both_ends_are_handed_what_the_other_sends() {
    let Some(pod) = pod() else { return };
    for Ends { application, sidecar } in pod.all_kinds() {
        for (mut from, mut to) in [(&application, &sidecar), (&sidecar, &application)] {
            for word in ["one", "two", "three"] {
                from.write_all(word.as_bytes()).unwrap();
                let mut got = vec![0; word.len()];
                to.read_exact(&mut got).unwrap();
                assert_eq!(got, word.as_bytes());
            }
            assert_eq!(segments(from), 0, "past TCP");
        }
    }
}

#[test]
fn only_the_pods_own_connections_with_its_sidecar_are_accelerated() {
    let Some(pod) = pod() else { return };
    let other = |to: &'static str, source: &'static str| {
        let listener = listen("0.0.0.0:7000");
        let s = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        s.bind(&source.parse::<SocketAddr>().unwrap().into()).unwrap();
        s.connect(&to.parse::<SocketAddr>().unwrap().into()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let client = TcpStream::from(s);
        (&client).write_all(b"by TCP").unwrap();
        (&accepted).read_exact(&mut [0; 6]).unwrap();
        segments(&client)
    };
    assert_eq!(pod.ns.run(|| other("127.0.0.1:7000", "127.0.0.1:0")).unwrap(), 1);
    // The same addresses and ports where nobody asked for it.
    assert_eq!(pod._lab.pods[0].run(|| other("127.0.0.1:7000", "127.0.0.6:0")).unwrap(), 1);
    let Pod { ns, _held: (_captured, accelerated), _lab } = pod;
    let one = ns.run(|| other("127.0.0.1:7000", "127.0.0.6:0")).unwrap();
    drop(accelerated);
    let none = ns.run(|| other("127.0.0.1:7000", "127.0.0.6:0")).unwrap();
    assert_eq!((one, none), (0, 1));
}

#[test]
fn an_end_that_closes_is_read_to_its_end_and_the_other_direction_goes_on() {
    let Some(pod) = pod() else { return };
    for Ends { application, sidecar } in pod.all_kinds() {
        (&application).write_all(&pattern(0, 50_000)).unwrap();
        application.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_pattern(&sidecar), 50_000);
        (&sidecar).write_all(&pattern(0, 70_000)).unwrap();
        sidecar.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_pattern(&application), 70_000);
        assert_eq!((segments(&application), segments(&sidecar)), (0, 0), "past TCP");
    }
    for Ends { application, sidecar } in pod.all_kinds() {
        (&sidecar).write_all(&pattern(0, 50_000)).unwrap();
        drop(sidecar);
        assert_eq!(read_pattern(&application), 50_000);
    }
}

#[test]
fn an_end_that_is_gone_fails_the_other() {
    let Some(pod) = pod() else { return };
    for Ends { application, sidecar } in pod.all_kinds() {
        let reset = socket2::SockRef::from(&sidecar).set_linger(Some(Duration::ZERO));
        reset.unwrap();
        (&application).write_all(b"never read").unwrap();
        drop(sidecar);
        let error = (&application).read(&mut [0; 16]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert!((&application).write_all(b"nobody is there").is_err());
    }
    // An end that is closed in order, with nothing unread: sending fails as soon as the other end has said so.
    for Ends { application, sidecar } in pod.all_kinds() {
        drop(application);
        let start = Instant::now();
        while (&sidecar).write_all(b"anybody?").is_ok() {
            assert!(start.elapsed() < Duration::from_secs(10));
        }
    }
}

#[test]
fn an_application_has_to_wait_for_a_sidecar_that_does_not_read() {
    let Some(pod) = pod() else { return };
    for Ends { application, sidecar } in pod.all_kinds() {
        let sent = fill(&application, 4 * SLACK);
        assert!((LIMIT..LIMIT + SLACK).contains(&sent), "{sent} bytes were taken");
        let reader = thread::spawn(move || read_pattern(&sidecar));
        let mut rest = &application;
        rest.write_all(&pattern(sent, 20_000_000)).unwrap();
        drop(application);
        assert_eq!(reader.join().unwrap(), sent + 20_000_000);
    }
}

#[test]
fn a_sidecar_learns_what_its_application_has_not_read() {
    let Some(pod) = pod() else { return };
    for Ends { application, sidecar } in pod.all_kinds() {
        assert_eq!(unread_by_application(&sidecar).unwrap(), 0);
        (&sidecar).write_all(&pattern(0, 300_000)).unwrap();
        assert_eq!(unread_by_application(&sidecar).unwrap(), 300_000);
        let mut some = vec![0; 100_000];
        (&application).read_exact(&mut some).unwrap();
        assert_eq!(unread_by_application(&sidecar).unwrap(), 200_000);
        (&sidecar).write_all(&pattern(300_000, 1)).unwrap();
        assert_eq!(segments(&sidecar), 0, "never by TCP");
        drop(application);
        let start = Instant::now();
        while unread_by_application(&sidecar).unwrap() > 0 {
            assert!(start.elapsed() < Duration::from_secs(10));
        }
    }
    // Where nothing is accelerated nobody knows.
    let Ends { application: _application, sidecar } = pod._lab.pods[0]
        .run(|| {
            let listener = listen("127.0.0.1:7000");
            let application = TcpStream::connect("127.0.0.1:7000").unwrap();
            Ends { application, sidecar: listener.accept().unwrap().0 }
        })
        .unwrap();
    assert!(unread_by_application(&sidecar).is_err());
}

#[test]
fn who_takes_the_sidecars_place_does_not_get_the_machines_memory() {
    let Some(pod) = pod() else { return };
    let Ends { application: _idle, sidecar } = pod.inbound("10.244.0.2:8080");
    let mut sent = 0;
    let error = loop {
        match (&sidecar).write(&pattern(sent, 64 * 1024)) {
            Ok(n) => sent += n,
            Err(error) => break error,
        }
        assert!(sent < 4 * SLACK, "{sent} bytes were taken");
    };
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
}

#[test]
fn bytes_that_come_before_the_other_end_is_there_are_not_overtaken() {
    let Some(pod) = pod() else { return };
    pod.ns
        .run(|| {
            let listener = listen("0.0.0.0:15001");
            // The accepting end comes about with the first bytes only.
            // SAFETY: the descriptor is open for the length of the call, and the pointer and length describe the value.
            let rc = unsafe {
                let seconds: libc::c_int = 5;
                let size = libc::socklen_t::try_from(size_of_val(&seconds)).unwrap();
                let value = std::ptr::from_ref(&seconds).cast::<libc::c_void>();
                libc::setsockopt(listener.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, value, size)
            };
            assert_eq!(rc, 0);
            let count = 300;
            let clients = thread::spawn({
                let here = NetNs::current().unwrap();
                move || {
                    here.run(|| {
                        for _ in 0..count {
                            let mut client = TcpStream::connect("203.0.113.9:80").unwrap();
                            for n in 0..50 {
                                client.write_all(&pattern(n * 100, 100)).unwrap();
                            }
                        }
                    })
                    .unwrap();
                }
            });
            for _ in 0..count {
                let (accepted, _) = listener.accept().unwrap();
                accepted.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                assert_eq!(read_pattern(&accepted), 5000);
            }
            clients.join().unwrap();
        })
        .unwrap();
}
