//! Data between application and sidecar past TCP: what either end sees is what it sees over TCP. Every check runs both ways, on
//! connections that the application makes and on those that the sidecar makes to it.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as the tests do")]

mod lab;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use lab::{Lab, by_mark, lab};
use lateen_capture::ebpf::{Captured, EbpfError, Plan, Programs};
use lateen_capture::socket;

/// A pod with its sidecar's listener.
struct Accelerated {
    lab: Lab,
    proxy: TcpListener,
    application: TcpListener,
    _captured: Captured,
}

/// None where programs may not be loaded.
fn accelerated() -> Option<Accelerated> {
    let programs = match Programs::load(true) {
        Ok(programs) => programs,
        Err(EbpfError::Forbidden | EbpfError::NoCgroup) => return None,
        Err(e) => panic!("{e}"),
    };
    let lab = lab(1);
    let captured = programs.capture(&lab.pods[0], Plan::of(&by_mark(), true).unwrap().unwrap()).unwrap();
    assert!(captured.is_accelerated());
    let [proxy, application] =
        ["0.0.0.0:15001", "0.0.0.0:8080"].map(|a| lab.pods[0].run(|| TcpListener::bind(a).unwrap()).unwrap());
    Some(Accelerated { lab, proxy, application, _captured: captured })
}

impl Accelerated {
    /// A connection that the application makes: its end, and the sidecar's.
    fn outbound(&self) -> (TcpStream, TcpStream) {
        let application = self.lab.pods[0].run(|| TcpStream::connect("203.0.113.9:80").unwrap()).unwrap();
        let (proxy, _) = self.proxy.accept().unwrap();
        assert_eq!(socket::original_dst(&proxy).unwrap().address(), "203.0.113.9:80".parse().unwrap());
        (application, proxy)
    }

    /// A connection that the sidecar makes to the application: its end, and the application's.
    fn inbound(&self) -> (TcpStream, TcpStream) {
        let proxy = self.lab.pods[0].run(|| {
            let to: SocketAddr = "10.244.0.2:8080".parse().unwrap();
            let s = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket::set_mark(&s, 1337).unwrap();
            socket::bind_source(&s, to.ip()).unwrap();
            s.connect(&to.into()).unwrap();
            TcpStream::from(s)
        });
        (proxy.unwrap(), self.application.accept().unwrap().0)
    }

    /// Connections of both kinds, in both orders of their ends.
    fn all(&self) -> [(TcpStream, TcpStream); 4] {
        let turned = |(a, b)| (b, a);
        [self.outbound(), turned(self.outbound()), self.inbound(), turned(self.inbound())]
    }
}

/// Bytes that came in by TCP itself (`tcpi_bytes_received`).
fn received_by_tcp(stream: &TcpStream) -> u64 {
    const BYTES_RECEIVED: usize = 128;
    let mut info = [0_u8; 256];
    let mut size = libc::socklen_t::try_from(info.len()).unwrap();
    // SAFETY: the pointer and the length describe `info`, which lives until the call returns.
    let rc = unsafe {
        libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut size)
    };
    assert_eq!(rc, 0);
    u64::from_ne_bytes(info[BYTES_RECEIVED..BYTES_RECEIVED + 8].try_into().unwrap())
}

/// Reads to the end, in pieces. A blocking read may say EAGAIN here.
fn read_all(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    let mut piece = vec![0; 20_000];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return Ok(all),
            Ok(n) => all.extend(&piece[..n]),
            Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(e) => return Err(e),
        }
    }
}

fn read_exactly(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut all = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match stream.read(&mut all[filled..]) {
            Ok(0) => panic!("ended after {filled} of {length} bytes"),
            Ok(n) => filled += n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(e) => panic!("{e}"),
        }
    }
    all
}

/// Bytes of which no stretch is like another.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(length)
    .collect()
}

#[test]
fn messages_pass_tcp_by() {
    let Some(pod) = accelerated() else { return };
    for (mut a, mut b) in pod.all() {
        for n in 0..1000_u32 {
            let message = n.to_le_bytes();
            a.write_all(&message).unwrap();
            assert_eq!(read_exactly(&mut b, 4), message);
            b.write_all(&message).unwrap();
            assert_eq!(read_exactly(&mut a, 4), message);
        }
        // Of 4,000 bytes each way, few or none came by TCP.
        assert!(received_by_tcp(&a) < 400 && received_by_tcp(&b) < 400, "{} {}", received_by_tcp(&a), received_by_tcp(&b));
    }
}

#[test]
fn much_data_both_ways_at_once_arrives_whole_and_in_order() {
    let Some(pod) = accelerated() else { return };
    const LENGTH: usize = 24 << 20;
    for (a, b) in pod.all() {
        let (there, back) = (noise(LENGTH, 1), noise(LENGTH, 2));
        std::thread::scope(|scope| {
            for (stream, out, wanted) in [(a, &there, &back), (b, &back, &there)] {
                let mut writer = stream.try_clone().unwrap();
                scope.spawn(move || {
                    // Pieces of all sizes, so that both ways are taken in turn.
                    let mut rest = &out[..];
                    let mut size = 1;
                    while !rest.is_empty() {
                        let (piece, more) = rest.split_at(rest.len().min(size));
                        writer.write_all(piece).unwrap();
                        rest = more;
                        size = (size * 7 + 11) % 150_000;
                    }
                    writer.shutdown(Shutdown::Write).unwrap();
                });
                let mut reader = stream;
                scope.spawn(move || assert!(read_all(&mut reader).unwrap() == *wanted, "what arrived is not what was sent"));
            }
        });
    }
}

#[test]
fn after_half_a_close_the_other_half_goes_on() {
    let Some(pod) = accelerated() else { return };
    for (mut a, mut b) in pod.all() {
        a.write_all(b"question").unwrap();
        a.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut b).unwrap(), b"question");
        let answer = noise(3 << 20, 3);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                b.write_all(&answer).unwrap();
                b.shutdown(Shutdown::Write).unwrap();
            });
            assert!(read_all(&mut a).unwrap() == answer);
        });
    }
}

#[test]
fn what_was_written_before_a_close_is_read_after_it() {
    let Some(pod) = accelerated() else { return };
    for (mut a, mut b) in pod.all() {
        a.write_all(b"last words").unwrap();
        drop(a);
        assert_eq!(read_all(&mut b).unwrap(), b"last words");
    }
}

#[test]
fn a_reset_is_a_reset() {
    let Some(pod) = accelerated() else { return };
    for (mut a, mut b) in pod.all() {
        a.write_all(b"x").unwrap();
        assert_eq!(read_exactly(&mut b, 1), b"x");
        socket2::SockRef::from(&a).set_linger(Some(Duration::ZERO)).unwrap();
        drop(a);
        assert_eq!(read_all(&mut b).unwrap_err().kind(), ErrorKind::ConnectionReset);
        // And writing fails, too.
        let failed = (0..100).find_map(|_| b.write_all(b"y").err()).unwrap();
        assert!(matches!(failed.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{failed}");
    }
}

#[test]
fn an_idle_reader_holds_its_writer_up() {
    let Some(pod) = accelerated() else { return };
    /// TCP's own buffers hold up to `tcp_rmem` and `tcp_wmem`, some 10 MB.
    const ENOUGH: usize = 32 << 20;
    let data = noise(ENOUGH, 4);
    for (a, mut b) in pod.all() {
        for size in [64, 4096, 100_000] {
            a.set_nonblocking(true).unwrap();
            let mut written = 0;
            loop {
                match (&a).write(&data[written..(written + size).min(ENOUGH)]) {
                    Ok(n) => written += n,
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    Err(e) => panic!("{e}"),
                }
                assert!(written < ENOUGH, "nothing holds the writer up");
            }
            assert!(read_exactly(&mut b, written) == data[..written]);
        }
    }
}

#[test]
fn data_sent_before_anyone_accepts_keeps_its_order() {
    let Some(pod) = accelerated() else { return };
    let listener = pod.proxy.try_clone().unwrap();
    for deferred in [0, 5] {
        // With TCP_DEFER_ACCEPT the accepted socket is made by the first data, after the application has sent some.
        set_defer_accept(&listener, deferred);
        for n in 0..300_u32 {
            let mut application = pod.lab.pods[0].run(|| TcpStream::connect("203.0.113.9:80").unwrap()).unwrap();
            let wanted: Vec<u8> = (0..40).flat_map(|k| (n * 40 + k).to_le_bytes()).collect();
            for piece in wanted.chunks(4) {
                application.write_all(piece).unwrap();
            }
            let (mut proxy, _) = listener.accept().unwrap();
            proxy.write_all(b"welcome").unwrap();
            application.write_all(b"more").unwrap();
            application.shutdown(Shutdown::Write).unwrap();
            let got = read_all(&mut proxy).unwrap();
            assert!(got.strip_suffix(b"more").unwrap() == wanted, "connection {n}: {got:?}");
            assert_eq!(read_exactly(&mut application, 7), b"welcome");
        }
    }
}

fn set_defer_accept(listener: &TcpListener, seconds: libc::c_int) {
    let size = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap();
    // SAFETY: the pointer and the length describe `seconds`, which lives until the call returns.
    let rc = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            std::ptr::from_ref(&seconds).cast(),
            size,
        )
    };
    assert_eq!(rc, 0);
}

#[test]
fn when_the_programs_go_open_connections_go_on() {
    let Some(pod) = accelerated() else { return };
    let pairs = pod.all();
    let Accelerated { lab, _captured: captured, .. } = pod;
    for (a, b) in &pairs {
        let (mut a, mut b) = (a, b);
        a.write_all(b"before").unwrap();
        b.write_all(b"before").unwrap();
    }
    drop(captured);
    for (mut a, mut b) in pairs {
        a.write_all(b" after").unwrap();
        assert_eq!(read_exactly(&mut b, 12), b"before after");
        b.write_all(b" after").unwrap();
        drop(b);
        assert_eq!(read_all(&mut a).unwrap(), b"before after");
    }
    drop(lab);
}
