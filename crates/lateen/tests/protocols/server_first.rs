//! Protocols in which the server speaks first (MySQL, SMTP, SSH, FTP), on ports declared and undeclared.

use super::lab::lab;

/// The client hears the greeting before it says anything, then talks.
async fn greeted(pod: &str, address: &str) {
    let lab = lab();
    // The second time the sidecar may know the server.
    for _ in 0..2 {
        let mut client = lab.dial(pod, address);
        assert_eq!(client.until("\n").await, "220 ready\n", "{pod} {address}");
        client.send("HELO me\n").await;
        assert_eq!(client.until("\n").await, "HELO me\n", "{pod} {address}");
        client.finish();
        assert_eq!(client.rest().await, b"", "{pod} {address}");
        assert!(client.over().await.success(), "{pod} {address}");
    }
}

#[tokio::test]
async fn server_first_on_a_port_declared_tcp() {
    greeted("client", "server:9001").await;
}

#[tokio::test]
async fn server_first_on_a_port_declared_tcp_to_a_client_without_a_sidecar() {
    greeted("plain", "server:9001").await;
}

#[tokio::test]
async fn server_first_on_an_undeclared_port() {
    greeted("client", "server:9002").await;
}

#[tokio::test]
async fn server_first_on_an_undeclared_port_to_a_client_without_a_sidecar() {
    greeted("plain", "server:9002").await;
}

#[tokio::test]
async fn server_first_on_a_port_of_no_service() {
    // By the pod's own address: passed through by both sidecars.
    let lab = lab();
    let ip = lab.pod("server").ip;
    for pod in ["client", "plain"] {
        let mut server = lab.listen("server", 7999).await;
        let mut client = lab.dial(pod, &format!("{ip}:7999"));
        server.send("220 ready\n").await;
        assert_eq!(client.until("\n").await, "220 ready\n", "{pod}");
        client.send("bye\n").await;
        server.until("bye\n").await;
    }
}

#[tokio::test]
async fn server_first_on_a_port_declared_mysql() {
    let lab = lab();
    for pod in ["client", "plain"] {
        let mut server = lab.listen("server", 7201).await;
        let mut client = lab.dial(pod, "raw:7201");
        server.send(b"\x4a\x00\x00\x00\x0a8.0.36\x00").await;
        assert_eq!(client.until("8.0.36\0").await.as_bytes(), b"\x4a\x00\x00\x00\x0a8.0.36\x00", "{pod}");
        client.send(b"\x20\x00\x00\x01login").await;
        server.until("login").await;
    }
}

#[tokio::test]
async fn server_first_ports_take_clients_that_speak_first_all_the_same() {
    let lab = lab();
    for pod in ["client", "plain"] {
        let mut client = lab.dial(pod, "server:9002");
        client.send("EHLO me\n").await;
        assert_eq!(client.until("me\n").await, "220 ready\nEHLO me\n", "{pod}");
    }
}
