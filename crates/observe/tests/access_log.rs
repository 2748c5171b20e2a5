//! Lines as people and their tools read them.

use lateen_observe::access_log::{FormatError, LogFormat, LogRecord, TlsInfo};
use lateen_observe::istio::GrpcStatus;
use lateen_observe::{HeaderLookup, ResponseFlag, ResponseFlags};
use proptest::prelude::*;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(1_136_214_245_678)
}

fn write(format: &LogFormat, record: &LogRecord<'_>) -> String {
    let (mut out, mut scratch) = (Vec::new(), b"left over".to_vec());
    format.write(record, &mut out, &mut scratch);
    String::from_utf8(out).expect("UTF-8")
}

struct Heads {
    request: http::HeaderMap,
    pseudo: [(&'static str, &'static [u8]); 3],
}

impl HeaderLookup for Heads {
    fn nth(&self, name: &str, index: usize) -> Option<&[u8]> {
        self.pseudo[..].nth(name, index).or_else(|| self.request.nth(name, index))
    }
}

fn heads() -> Heads {
    let mut request = http::HeaderMap::new();
    request.insert("user-agent", http::HeaderValue::from_static("curl/8"));
    request.insert("x-request-id", http::HeaderValue::from_static("4ab1"));
    Heads { request, pseudo: [(":method", b"GET"), (":path", b"/v1/orders?x=1"), (":authority", b"order-service")] }
}

fn record<'a>(heads: &'a Heads, response: &'a http::HeaderMap) -> LogRecord<'a> {
    LogRecord {
        protocol: Some("HTTP/1.1"),
        request_headers: heads,
        response_headers: response,
        response_code: Some(503),
        flags: ResponseFlags::from(ResponseFlag::UpstreamOverflow),
        response_code_details: Some("upstream reset before response started{overflow}"),
        bytes_received: 5,
        bytes_sent: 81,
        duration: Some(Duration::from_micros(2_700)),
        upstream_host: Some("10.0.0.7:8080".parse::<std::net::SocketAddr>().expect("an address").into()),
        upstream_cluster: Some("outbound|80||order-service.production.svc.cluster.local"),
        downstream_local_address: Some("10.96.0.1:80".parse::<std::net::SocketAddr>().expect("an address").into()),
        downstream_remote_address: Some("[fd00::5]:40000".parse::<std::net::SocketAddr>().expect("an address").into()),
        route_name: Some("default"),
        ..LogRecord::new(start())
    }
}

#[test]
fn istio_text() {
    let (heads, mut response) = (heads(), http::HeaderMap::new());
    response.insert("x-envoy-upstream-service-time", http::HeaderValue::from_static("2"));
    assert_eq!(
        write(&LogFormat::istio_text(), &record(&heads, &response)),
        "[2006-01-02T15:04:05.678Z] \"GET /v1/orders?x=1 HTTP/1.1\" 503 UO upstream_reset_before_response_started{overflow} - \
         \"-\" 5 81 2 2 \"-\" \"curl/8\" \"4ab1\" \"order-service\" \"10.0.0.7:8080\" \
         outbound|80||order-service.production.svc.cluster.local - 10.96.0.1:80 [fd00::5]:40000 - default\n"
    );
}

#[test]
fn istio_text_of_a_tcp_connection() {
    let record = LogRecord { bytes_sent: 7, ..LogRecord::new(start()) };
    assert_eq!(
        write(&LogFormat::istio_text(), &record),
        "[2006-01-02T15:04:05.678Z] \"- - -\" 0 - - - \"-\" 0 7 - - \"-\" \"-\" \"-\" \"-\" \"-\" - - - - - -\n"
    );
}

#[test]
fn istio_json() {
    let (heads, response) = (heads(), http::HeaderMap::new());
    let line = write(&LogFormat::istio_json(), &record(&heads, &response));
    let wanted = r#"{"start_time":"2006-01-02T15:04:05.678Z","route_name":"default","method":"GET","path":"/v1/orders?x=1","protocol":"HTTP/1.1","response_code":503,"response_flags":"UO","response_code_details":"upstream_reset_before_response_started{overflow}","connection_termination_details":null,"bytes_received":5,"bytes_sent":81,"duration":2,"upstream_service_time":null,"x_forwarded_for":null,"user_agent":"curl/8","request_id":"4ab1","authority":"order-service","upstream_host":"10.0.0.7:8080","upstream_cluster":"outbound|80||order-service.production.svc.cluster.local","upstream_local_address":null,"downstream_local_address":"10.96.0.1:80","downstream_remote_address":"[fd00::5]:40000","requested_server_name":null,"upstream_transport_failure_reason":null}"#;
    assert_eq!(line, format!("{wanted}\n"));
    let sparse = write(&LogFormat::istio_json().omit_empty_values(true), &LogRecord::new(start()));
    assert_eq!(
        sparse,
        "{\"start_time\":\"2006-01-02T15:04:05.678Z\",\"response_code\":0,\"response_flags\":\"-\",\"bytes_received\":0,\"bytes_sent\":0}\n"
    );
}

#[test]
fn operators() {
    let (heads, response) = (heads(), http::HeaderMap::new());
    let record = LogRecord {
        grpc_status: GrpcStatus::parse(b"14"),
        downstream_tls: TlsInfo { peer_uri_san: Some("spiffe://a/ns/b/sa/c"), version: Some("TLSv1.3"), ..TlsInfo::default() },
        trace_id: Some("0af7"),
        request_duration: Some(Duration::from_millis(3)),
        upstream_request_attempts: Some(2),
        ..record(&heads, &response)
    };
    for (format, wanted) in [
        ("plain", "plain"),
        ("100%% %PROTOCOL%%%", "100% HTTP/1.1%"),
        ("%REQ(X-Absent?User-Agent):4%", "curl"),
        ("%REQ_WITHOUT_QUERY(:PATH)%", "/v1/orders"),
        ("%RESP(X)% %TRAILER(Y)%", "- -"),
        ("%START_TIME(%Y %s.%3f)%", "2006 1136214245.678"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_REMOTE_PORT%", "fd00::5 40000"),
        ("%UPSTREAM_REMOTE_ADDRESS% %UPSTREAM_LOCAL_PORT%", "10.0.0.7:8080 -"),
        ("%GRPC_STATUS% %GRPC_STATUS_NUMBER%", "Unavailable 14"),
        ("%DOWNSTREAM_PEER_URI_SAN% %DOWNSTREAM_TLS_VERSION% %UPSTREAM_TLS_CIPHER%", "spiffe://a/ns/b/sa/c TLSv1.3 -"),
        ("%TRACE_ID% %REQUEST_DURATION% %RESPONSE_DURATION% %UPSTREAM_REQUEST_ATTEMPT_COUNT%", "0af7 3 - 2"),
        ("%ENVIRONMENT(LATEEN_NO_SUCH_VARIABLE)%", "-"),
        ("%BYTES_SENT%\n", "81"),
    ] {
        let compiled = LogFormat::text(format).expect(format);
        assert_eq!(write(&compiled, &record), format!("{wanted}\n"), "{format}");
    }
    let empty = LogFormat::text("[%RESP(X)%]").expect("valid").omit_empty_values(true);
    assert_eq!(write(&empty, &record), "[]\n");
}

#[test]
fn what_is_not_supported_is_named() {
    for (format, hint) in [
        ("%DYNAMIC_METADATA(a:b)%", "DYNAMIC_METADATA"),
        ("%FILTER_STATE(x:PLAIN)%", "FILTER_STATE"),
        ("%CEL(request.path)%", "CEL"),
        ("%NO_SUCH%", "NO_SUCH"),
        ("%REQ%", "parentheses"),
        ("%PROTOCOL(x)%", "PROTOCOL"),
        ("%START_TIME(%Q)%", "%Q"),
        ("50% of", "byte 2"),
        ("%REQ(x%", "byte 0"),
        ("%BYTES_SENT:x%", "byte 0"),
        ("%", "byte 0"),
    ] {
        let error = LogFormat::text(format).expect_err(format).to_string();
        assert!(error.contains(hint), "{format}: {error}");
    }
    let format = serde_json::json!({"a": {"b": "%NOPE%"}});
    let error = LogFormat::json(format.as_object().expect("an object")).expect_err("unknown operator");
    assert!(matches!(&error, FormatError::Key(key, _) if key == "a"), "{error}");
}

#[test]
fn custom_json_nests_and_keeps_types() {
    let format = serde_json::json!({
        "sent": "%BYTES_SENT%", "text": "got \"%BYTES_SENT%\" by %PROTOCOL%", "at": {"to": "%UPSTREAM_HOST%"},
        "list": ["%ROUTE_NAME%", 1, true, null], "ke\"y": "x",
    });
    let (heads, response) = (heads(), http::HeaderMap::new());
    let compiled = LogFormat::json(format.as_object().expect("an object")).expect("valid");
    let line: serde_json::Value = serde_json::from_str(&write(&compiled, &record(&heads, &response))).expect("JSON");
    let wanted = serde_json::json!({
        "sent": 81, "text": "got \"81\" by HTTP/1.1", "at": {"to": "10.0.0.7:8080"},
        "list": ["default", 1, true, null], "ke\"y": "x",
    });
    assert_eq!(line, wanted);
}

/// How many fields a line of the text format has, reading quotes and brackets as its parsers do.
fn fields(line: &str) -> usize {
    let mut quoted = false;
    line.chars().fold(1, |count, c| {
        quoted ^= c == '"';
        count + usize::from(c == ' ' && !quoted)
    })
}

proptest! {
    #[test]
    fn no_client_can_forge_a_line(path in proptest::collection::vec(any::<u8>(), 0..60), agent in "\\PC*", sni in "[^ ]*") {
        let headers: &[(&str, &[u8])] = &[(":path", &path), ("user-agent", agent.as_bytes()), (":method", b"GET")];
        let headers = OwnedHeaders(headers.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect());
        let record = LogRecord { request_headers: &headers, requested_server_name: Some(&sni), ..LogRecord::new(start()) };
        let line = write(&LogFormat::istio_text(), &record);
        prop_assert_eq!(line.matches('\n').count(), 1);
        prop_assert_eq!(line.matches('"').count(), 14);
        prop_assert_eq!(fields(line.trim_end_matches('\n')), 22, "{}", line);
        let json = write(&LogFormat::istio_json(), &record);
        prop_assert_eq!(json.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        prop_assert_eq!(value.as_object().map(serde_json::Map::len), Some(24));
    }

    #[test]
    fn any_format_compiles_or_is_refused(format in "(%|[A-Z_]{1,12}|START_TIME|REQ|\\(|\\)|:|[0-9]|\\PC){0,20}") {
        if let Ok(compiled) = LogFormat::text(&format) {
            write(&compiled, &LogRecord::new(start()));
        }
    }
}

struct OwnedHeaders(Vec<(String, Vec<u8>)>);

impl HeaderLookup for OwnedHeaders {
    fn nth(&self, name: &str, index: usize) -> Option<&[u8]> {
        self.0.iter().filter(|(held, _)| held == name).nth(index).map(|(_, value)| value.as_slice())
    }
}
