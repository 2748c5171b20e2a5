//! The Envoy runner against a real Envoy.
#![allow(clippy::unwrap_used, reason = "a helper that fails, fails the test")]

use std::net::SocketAddr;

use lateen_testkit::envoy::{Envoy, EnvoyBinary, EnvoyConfig, EnvoyError, socket_address, tcp_cluster};
use lateen_testkit::http_client::{HttpClient, HttpVersion};
use lateen_testkit::raw_http::RawConnection;
use serde_json::{Value, json};
use tokio::net::TcpListener;

fn listener(address: SocketAddr, status: u16) -> Value {
    json!({
        "name": "direct",
        "address": socket_address(address),
        "filter_chains": [{ "filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "direct",
                "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [
                    { "match": { "prefix": "/" }, "direct_response": { "status": status, "body": { "inline_string": "ahoy" } } },
                ]}]},
                "http_filters": [{ "name": "envoy.filters.http.router", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" } }],
            },
        }]}],
    })
}

/// A port that was free a moment ago.
async fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn envoy_serves_and_is_ended_with_its_handle() {
    let binary = EnvoyBinary::locate().unwrap();
    let address = free_address().await;
    let config = EnvoyConfig::fixed(&[listener(address, 418)], &[tcp_cluster("unused", free_address().await)]);
    let mut envoy = Envoy::start(&binary, &config).await.unwrap();
    envoy.wait_ready().await.unwrap();

    let answer = HttpClient::new(HttpVersion::Http1).get(&format!("http://{address}/")).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (418, "ahoy"));
    let mut raw = RawConnection::connect(address).await.unwrap();
    let response = raw.exchange("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert_eq!((response.status, response.header("Server")), (418, Some("envoy")));
    let dump = envoy.admin_get("/config_dump").await.unwrap().json().unwrap();
    assert!(dump["configs"].as_array().is_some_and(|c| !c.is_empty()));
    assert!(envoy.log().contains("starting main dispatch loop"), "{}", envoy.log());

    let process = format!("/proc/{}", envoy.pid());
    assert!(std::path::Path::new(&process).exists());
    drop(envoy);
    assert!(!std::path::Path::new(&process).exists());
}

#[tokio::test]
async fn a_bootstrap_that_envoy_refuses_is_told_with_its_log() {
    let binary = EnvoyBinary::locate().unwrap();
    let error = Envoy::start(&binary, &EnvoyConfig::new(json!({ "no_such_field": 1 }))).await.unwrap_err();
    assert!(matches!(&error, EnvoyError::Ended { log, .. } if log.contains("no_such_field")), "{error}");
}
