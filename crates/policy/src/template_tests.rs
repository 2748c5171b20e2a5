use super::*;
use crate::request::testing::Request;
use std::collections::BTreeMap;

struct Context {
    request: Request,
    upstream: Option<SocketAddr>,
}

impl TemplateContext for Context {
    type Request = Request;

    fn request(&self) -> &Request {
        &self.request
    }

    fn downstream_remote_address(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.request.client, 4711))
    }

    fn downstream_direct_remote_address(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.request.direct_remote, 4712))
    }

    fn downstream_local_address(&self) -> Option<SocketAddr> {
        Some(self.request.destination)
    }

    fn protocol(&self) -> &str {
        "HTTP/1.1"
    }

    fn start_time(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(1_709_210_096_007)
    }

    fn upstream_host(&self) -> Option<SocketAddr> {
        self.upstream
    }

    fn hostname(&self) -> &str {
        "pod-1"
    }

    fn environment(&self, name: &str) -> Option<&str> {
        (name == "ISTIO_META_CLUSTER_ID").then_some("Kubernetes")
    }

    fn downstream_peer_uri_san(&self) -> Option<&str> {
        self.request.uri_san.as_deref()
    }

    fn requested_server_name(&self) -> Option<&str> {
        self.request.server_name.as_deref()
    }

    fn response_code(&self) -> Option<u16> {
        Some(200)
    }
}

fn context() -> Context {
    let request = Request::get("shop.example", "/p?q=1").with("x-a", "alpha").peer_san("spiffe://cluster.local/ns/a/sa/b");
    Context { request, upstream: None }
}

#[test]
fn operators() {
    for (value, expected) in [
        ("plain", "plain"),
        ("", ""),
        ("100%%", "100%"),
        ("a%%b%%", "a%b%"),
        ("[%DOWNSTREAM_REMOTE_ADDRESS%]", "[10.0.0.9:4711]"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "10.0.0.9"),
        ("%DOWNSTREAM_LOCAL_ADDRESS%", "10.0.0.1:8080"),
        ("%PROTOCOL%", "HTTP/1.1"),
        ("%START_TIME%", "2024-02-29T12:34:56.007Z"),
        ("%UPSTREAM_HOST%", ""),
        ("%HOSTNAME%", "pod-1"),
        ("%ENVIRONMENT(ISTIO_META_CLUSTER_ID)%", "Kubernetes"),
        ("%ENVIRONMENT(NONE)%", "-"),
        ("%DOWNSTREAM_PEER_URI_SAN%", "spiffe://cluster.local/ns/a/sa/b"),
        ("%REQ(X-A)%", "alpha"),
        ("%REQ(X-B?X-A)%-%REQ(X-B)%", "alpha-"),
        ("%REQ(X-A):2%", "al"),
        ("%REQ(:path)% %REQ(:METHOD)% %REQ(:authority)%", "/p?q=1 GET shop.example"),
        ("%RESPONSE_CODE%", "200"),
    ] {
        assert_eq!(ValueTemplate::parse(value).unwrap().render(&context()), expected, "{value}");
    }
}

#[test]
fn unsupported_operators_are_named() {
    for value in [
        "%CEL(request.path)%",
        "%DYNAMIC_METADATA(a:b)%",
        "50%",
        "%REQ(X",
        "%REQ()%",
        "%REQ(a):b%",
        "%START_TIME(%Y)%",
        "%PROTOCOL()%",
    ] {
        let error = ValueTemplate::parse(value).unwrap_err();
        assert!(error.reason().contains('%'), "{error}");
    }
    assert!(ValueTemplate::parse("%CEL(request.path)%").unwrap_err().to_string().contains("%CEL(request.path)%"));
}

#[test]
fn dates() {
    for (days, expected) in
        [(0, (1970, 1, 1)), (59, (1970, 3, 1)), (11_016, (2000, 2, 29)), (11_017, (2000, 3, 1)), (20_819, (2027, 1, 1))]
    {
        assert_eq!(civil_from_days(days), expected);
    }
}

#[derive(Default)]
struct Headers(BTreeMap<String, Vec<String>>);

impl HeadersMut for Headers {
    fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.into(), vec![value.into()]);
    }

    fn append(&mut self, name: &str, value: &str) {
        self.0.entry(name.into()).or_default().push(value.into());
    }
}

fn op(name: &str, value: &str, append: HeaderAppend) -> HeaderValueOp {
    HeaderValueOp { name: name.into(), value: value.into(), append }
}

#[test]
fn changes_are_applied_in_envoys_order() {
    use HeaderAppend::{AddIfAbsent, AppendOrAdd, OverwriteIfExists, OverwriteOrAdd};
    let mutation = HeaderMutation {
        remove: vec!["gone".into(), "x-gone".into()],
        set: vec![
            op("both", "added", AppendOrAdd),
            op("both", "set", OverwriteOrAdd),
            op("gone", "back", OverwriteIfExists),
            op("there", "new", OverwriteIfExists),
            op("there", "second", AddIfAbsent),
            op("absent", "first", AddIfAbsent),
            op("empty", "%REQ(nothing)%", OverwriteOrAdd),
            op("dynamic", "%PROTOCOL%", AppendOrAdd),
            op("removed", "%REQ(x-gone)%", AppendOrAdd),
            op("alternative", "%REQ(x-gone?x-a)%%REQ(x-b?x-gone)%", AppendOrAdd),
        ],
    };
    let ops = HeaderOps::for_request(&mutation).unwrap();
    let mut headers = Headers::default();
    for (name, value) in [("gone", "1"), ("there", "old"), ("both", "original"), ("empty", "kept")] {
        headers.append(name, value);
    }
    assert!(!ops.apply_literals(&mut headers), "one value needs the request");
    let mut context = context();
    context.request = context.request.with("x-gone", "still in the request");
    ops.render(&context).apply(&mut headers);
    let get = |name: &str| headers.0.get(name).cloned().unwrap_or_default();
    assert_eq!(get("both"), ["set", "added"]);
    assert_eq!(get("gone"), [""; 0]);
    assert_eq!(get("there"), ["new"]);
    assert_eq!(get("absent"), ["first"]);
    assert_eq!(get("empty"), ["kept"]);
    assert_eq!(get("dynamic"), ["HTTP/1.1"]);
    assert_eq!(get("removed"), [""; 0]);
    assert_eq!(get("alternative"), ["alpha"]);
}

#[test]
fn errors_name_the_header() {
    let mutation = HeaderMutation { remove: vec![], set: vec![op("x-a", "%NOPE%", HeaderAppend::AppendOrAdd)] };
    let error = HeaderOps::for_request(&mutation).unwrap_err().to_string();
    assert!(error.contains("set[0] (x-a)") && error.contains("%NOPE%"), "{error}");
}
