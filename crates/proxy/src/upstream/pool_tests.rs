use super::*;
use crate::testing::exchange::{Proxy, serving};
use crate::testing::{cluster, hcm, routes};
use lateen_model::dataplane::RouteSource;
use std::io::{Read, Write};

#[test]
fn a_connection_is_counted_until_it_is_dropped_and_then_wakes_who_waits() {
    let gate = Rc::new(Gate::default());
    let (first, second) = (Counted::new(&gate), Counted::new(&gate));
    assert_eq!(gate.open.get(), 2);
    let (sender, mut receiver) = oneshot::channel();
    gate.waiting.borrow_mut().push_back(sender);
    assert!(matches!(receiver.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
    drop(first);
    assert_eq!(gate.open.get(), 1);
    assert!(matches!(receiver.try_recv(), Err(oneshot::error::TryRecvError::Closed)), "who waits must look again");
    drop(second);
    assert_eq!(gate.open.get(), 0);
}

/// A server that keeps its connections, and tells how many there have been.
fn keeping() -> (SocketAddr, std::sync::mpsc::Receiver<()>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let (opened, connections) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = opened.send(());
            std::thread::spawn(move || {
                let (mut request, mut chunk) = (Vec::new(), [0; 1024]);
                while let Ok(n @ 1..) = stream.read(&mut chunk) {
                    request.extend_from_slice(&chunk[..n]);
                    if request.ends_with(b"\r\n\r\n") {
                        request.clear();
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
                    }
                }
            });
        }
    });
    (address, connections)
}

#[tokio::test]
async fn a_connection_that_has_rested_for_too_long_is_not_used_again() {
    for (idle_timeout, expected) in [(None, 1), (Some(Duration::ZERO), 1), (Some(Duration::from_nanos(1)), 3)] {
        let (address, connections) = keeping();
        let mut app = cluster("app", Some(&[&address.to_string()]));
        app.http.idle_timeout = idle_timeout;
        let proxy = Proxy::new(&serving(hcm(RouteSource::Rds(String::new())), routes("inbound", &["app"])), &[app]);
        for _ in 0..3 {
            let answer = proxy.ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
        assert_eq!(connections.try_iter().count(), expected, "{idle_timeout:?}");
    }
}
