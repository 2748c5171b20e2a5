//! `/call?url=…`: calls on, and answers what it got. The caller's trace headers go along, which is all that an application
//! has to do for its part of a distributed trace.

use super::body::{self, Body, refusal};
use crate::client::{Exchange, Outgoing};
use crate::control::MAX_DELAY;
use crate::duration;
use crate::server::Connection;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use std::str::FromStr;
use std::time::Duration;

/// What an application in an Istio mesh has to pass on (Istio, "Distributed tracing", header propagation).
const PROPAGATED: [&str; 18] = [
    "x-request-id",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "b3",
    "traceparent",
    "tracestate",
    "x-datadog-trace-id",
    "x-datadog-parent-id",
    "x-datadog-sampling-priority",
    "x-ot-span-context",
    "x-cloud-trace-context",
    "grpc-trace-bin",
    "sw8",
    "baggage",
    "x-client-trace-id",
];

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// Carries the call out. An answer, whatever its status, makes a 200 that describes it; no answer makes a 502.
pub(crate) async fn answer(connection: &Connection, request: Request<Incoming>) -> Response<Body> {
    let outgoing = match parse(request.uri().query().unwrap_or_default(), request.headers()) {
        Ok(outgoing) => outgoing,
        Err(reason) => return refusal(StatusCode::BAD_REQUEST, reason),
    };
    let exchange = connection.app.client.send(&outgoing).await;
    let me = &connection.app.identity;
    let status = if exchange.result.is_ok() { StatusCode::OK } else { StatusCode::BAD_GATEWAY };
    let mut answer = describe(&exchange);
    answer.insert("url".into(), outgoing.url.to_string().into());
    answer.insert("caller".into(), serde_json::json!({ "pod": me.pod, "namespace": me.namespace, "version": me.version() }));
    body::json(status, &answer)
}

/// `status`, `headers`, `trailers`, `protocol`, `body` (JSON if it is, else text) or `error`; `ms`, the time to the last byte.
pub(crate) fn describe(exchange: &Exchange) -> serde_json::Map<String, serde_json::Value> {
    let mut answer = serde_json::Map::new();
    match &exchange.result {
        Ok(got) => {
            answer.insert("status".into(), got.status.as_u16().into());
            answer.insert("protocol".into(), super::routes::protocol_name(got.version).into());
            answer.insert("headers".into(), super::routes::headers_as_json(&got.headers).into());
            if !got.trailers.is_empty() {
                answer.insert("trailers".into(), super::routes::headers_as_json(&got.trailers).into());
            }
            answer.insert("body".into(), got.body_as_json());
        }
        Err(reason) => {
            answer.insert("error".into(), reason.clone().into());
        }
    }
    answer.insert("ms".into(), (exchange.elapsed.as_secs_f64() * 1e3).into());
    answer
}

fn parse(query: &str, incoming: &HeaderMap) -> Result<Outgoing, String> {
    let mut url = None;
    let mut outgoing = Outgoing::get(http::Uri::from_static("/"));
    outgoing.timeout = DEFAULT_TIMEOUT;
    for name in PROPAGATED.map(HeaderName::from_static) {
        for value in incoming.get_all(&name) {
            outgoing.headers.append(name.clone(), value.clone());
        }
    }
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "url" => url = Some(value.parse::<http::Uri>().map_err(|error| format!("url: {error}"))?),
            "method" => outgoing.method = Method::from_str(&value).map_err(|_| format!("method: {value:?} is not a method"))?,
            "body" => outgoing.body = value.into_owned().into(),
            "timeout" => outgoing.timeout = duration::parse(&value, MAX_DELAY).map_err(|reason| format!("timeout: {reason}"))?,
            "http2" => outgoing.http2 = value.parse().map_err(|_| format!("http2: {value:?} is not true or false"))?,
            "header" => {
                let (name, value) = header(&value)?;
                outgoing.headers.append(name, value);
            }
            _ => return Err(format!("{name:?} is not one of url, method, body, header, timeout, http2")),
        }
    }
    outgoing.url = url.ok_or("url is missing")?;
    outgoing.check()?;
    Ok(outgoing)
}

/// Parses `NAME:VALUE` as on curl's command line.
pub(crate) fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or_else(|| format!("header: {text:?} is not NAME:VALUE"))?;
    let name = HeaderName::from_str(name.trim()).map_err(|_| format!("header: {name:?} is not a header name"))?;
    let value =
        HeaderValue::from_str(value.trim_matches([' ', '\t'])).map_err(|_| format!("header: {value:?} is not a header value"))?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::parse;
    use http::{HeaderMap, HeaderValue};

    #[test]
    fn trace_headers_go_along_and_others_stay() {
        let mut incoming = HeaderMap::new();
        for name in super::PROPAGATED {
            incoming.insert(name, HeaderValue::from_static("v"));
        }
        incoming.insert("authorization", HeaderValue::from_static("secret"));
        let outgoing =
            parse("url=http://a/b&method=POST&header=x-a:%201&header=x-a:2&body=hi%20there", &incoming).expect("valid");
        assert_eq!(outgoing.headers.keys().filter(|name| super::PROPAGATED.contains(&name.as_str())).count(), 18);
        assert!(!outgoing.headers.contains_key("authorization"));
        assert_eq!(outgoing.headers.get_all("x-a").iter().count(), 2);
        assert_eq!((outgoing.method.as_str(), &outgoing.body[..]), ("POST", &b"hi there"[..]));
    }

    #[test]
    fn wrong_calls_are_refused() {
        let none = HeaderMap::new();
        for (query, hint) in [
            ("", "url is missing"),
            ("url=http://a&methd=GET", "methd"),
            ("url=ftp://a", "ftp"),
            ("url=/relative", "http://"),
            ("url=http://a&header=x", "NAME:VALUE"),
            ("url=http://a&header=x:%0d%0ay:1", "header value"),
            ("url=http://a&timeout=5", "timeout"),
        ] {
            let error = parse(query, &none).expect_err(query);
            assert!(error.contains(hint), "{query}: {error}");
        }
    }
}
