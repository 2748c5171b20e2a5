//! Raw TCP through a pair of sidecars: each direction by itself, clients that say nothing, TLS of the applications' own, metrics.

use std::process::Stdio;

use super::grpc::labels;
use super::lab::lab;
use super::stream::LIMIT;
use super::support::eventually;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

/// More than the buffers of all hops hold.
fn much() -> Vec<u8> {
    (0..20_000_000_u32).map(|i| u8::try_from(i / 7 % 256).unwrap()).collect()
}

#[tokio::test]
async fn a_client_that_has_ended_is_still_sent_everything() {
    let lab = lab();
    for pod in ["client", "plain"] {
        // Not the same bytes as an opaque protocol would recognise: declared TCP, and declared nothing.
        for port in [7101, 7302] {
            let mut server = lab.listen("server", port).await;
            let mut client = lab.dial(pod, &format!("raw:{port}"));
            client.send("question\n").await;
            client.finish();
            assert_eq!(server.rest().await, b"question\n", "{pod} {port}: the end of the client's half reaches the server");
            let much = much();
            let (received, ()) = tokio::join!(client.rest(), async {
                server.send(&much).await;
                server.finish();
            });
            assert!(received == much, "{pod} {port}: {} bytes of {}", received.len(), much.len());
            assert!(client.over().await.success() && server.over().await.success(), "{pod} {port}");
        }
    }
}

#[tokio::test]
async fn a_server_that_has_ended_is_still_sent_everything() {
    let lab = lab();
    for pod in ["client", "plain"] {
        for port in [7102, 7303] {
            let mut server = lab.listen("server", port).await;
            let mut client = lab.dial(pod, &format!("raw:{port}"));
            client.send("begin\n").await;
            server.until("begin\n").await;
            server.send("answer\n").await;
            server.finish();
            assert_eq!(client.rest().await, b"answer\n", "{pod} {port}: the end of the server's half reaches the client");
            let much = much();
            let (received, ()) = tokio::join!(server.rest(), async {
                client.send(&much).await;
                client.finish();
            });
            assert!(received == much, "{pod} {port}: {} bytes of {}", received.len(), much.len());
            assert!(client.over().await.success() && server.over().await.success(), "{pod} {port}");
        }
    }
}

#[tokio::test]
async fn a_client_that_says_nothing_holds_nobody_up_and_its_end_is_passed_on() {
    let lab = lab();
    for pod in ["client", "plain"] {
        // On ports of every kind they wait while others are served, and speak at last.
        let mut silent = Vec::new();
        for address in ["server:80", "server:81", "server:82", "server:9000"] {
            for _ in 0..5 {
                silent.push((address, lab.dial(pod, address)));
            }
        }
        for port in [80, 81, 82] {
            assert_eq!(lab.curl(pod, &[&format!("http://server:{port}/now")])["path"], "/now", "{pod}");
        }
        for (address, mut client) in silent {
            let line = address.ends_with(":9000");
            client.send(if line { "late\n" } else { "GET /late HTTP/1.1\r\nHost: server\r\n\r\n" }).await;
            client.until(if line { "late\n" } else { "HTTP/1.1 200 OK\r\n" }).await;
        }
        // One that never speaks: its server sees it come and go.
        let mut server = lab.listen("server", 7103).await;
        let mut client = lab.dial(pod, "raw:7103");
        client.finish();
        assert_eq!(server.rest().await, b"", "{pod}");
        assert!(server.over().await.success(), "{pod}");
        assert_eq!(client.rest().await, b"", "{pod}");
        assert!(client.over().await.success(), "{pod}");
    }
}

#[tokio::test]
async fn nobody_listening_is_an_end_for_the_client() {
    let lab = lab();
    for address in ["raw:7104", "raw:7305"] {
        for pod in ["client", "plain"] {
            let mut client = lab.dial(pod, address);
            // The write may meet a connection that is over already.
            client.finish();
            assert!(client.is_cut().await, "{pod} {address}");
        }
    }
}

#[tokio::test]
async fn tls_of_the_applications_own_passes_untouched() {
    let lab = lab();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().display();
    lab.sh(
        "server",
        &format!(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=raw \
             -addext subjectAltName=DNS:raw -keyout {path}/key.pem -out {path}/cert.pem 2>&1"
        ),
    );
    for port in ["7401", "7304"] {
        let (certificate, key) = (format!("{path}/cert.pem"), format!("{path}/key.pem"));
        let server = ["openssl", "s_server", "-accept", port, "-cert", &certificate, "-key", &key, "-www"];
        let mut server = Command::from(lab.command("server", &server));
        let mut server = server.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
        while !timeout(LIMIT, lines.next_line()).await.unwrap().unwrap().expect("s_server runs").starts_with("ACCEPT") {}
        for pod in ["client", "plain"] {
            let page = lab.sh(pod, &format!("curl -sS -m 20 --cacert {certificate} https://raw:{port}/"));
            assert!(page.contains("TLSv1.3"), "{pod} {port}: {page}");
        }
    }
}

#[tokio::test]
async fn both_sidecars_count_connections_and_bytes_and_know_each_other() {
    let lab = lab();
    let sides = [("client", "source"), ("counted", "destination")];
    let counted = |pod: &str, reporter: &str, name: &str| {
        lab.metric(pod, name, &[("reporter", reporter), ("destination_service_name", "counted")])
    };
    for round in 1..=3_u32 {
        let mut server = lab.listen("counted", 7101).await;
        let mut client = lab.dial("client", "counted:7101");
        client.send("hello").await;
        server.until("hello").await;
        server.send("how do you do").await;
        client.until("how do you do").await;
        if round == 1 {
            // A connection is counted while it lasts, also when it rests.
            for (pod, reporter) in sides {
                eventually(&format!("the {reporter} counts an open connection"), || {
                    let opened = counted(pod, reporter, "istio_tcp_connections_opened_total");
                    let sent = counted(pod, reporter, "istio_tcp_sent_bytes_total");
                    (opened.iter().map(|(_, n)| n).sum::<f64>() > 0.5 && sent.iter().any(|(_, n)| *n > 12.5)).then_some(())
                });
                assert!(counted(pod, reporter, "istio_tcp_connections_closed_total").iter().all(|(_, n)| *n < 0.5), "{reporter}");
            }
        }
        client.finish();
        server.finish();
        assert!(client.over().await.success() && server.over().await.success());
    }
    for (pod, reporter) in sides {
        let labels = labels(reporter, &[("request_protocol", "tcp")]);
        eventually(&format!("the {reporter} counts three ends"), || {
            (counted(pod, reporter, "istio_tcp_connections_closed_total").iter().map(|(_, n)| n).sum::<f64>() > 2.5).then_some(())
        });
        for (name, value) in [
            ("istio_tcp_connections_opened_total", 3.0),
            ("istio_tcp_connections_closed_total", 3.0),
            // What the client has sent is received.
            ("istio_tcp_received_bytes_total", 15.0),
            ("istio_tcp_sent_bytes_total", 39.0),
        ] {
            assert_eq!(counted(pod, reporter, name), [(labels.clone(), value)], "{reporter} {name}");
        }
    }
}
