//! The last spans that were sent to `--otlp`, and their answers at `/traces` and `/traces/TRACE-ID`.

use crate::http::body::{self, Body, refusal};
use http::{Method, Response, StatusCode};
use lateen_observe::otlp::{ExportTraceServiceRequest, KeyValue, Resource, Span, any_value};
use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Keeps the newest spans, up to a fixed number.
pub(crate) struct TraceStore {
    kept: usize,
    spans: Mutex<VecDeque<Kept>>,
}

struct Kept {
    trace_id: String,
    shown: serde_json::Value,
}

impl TraceStore {
    pub(crate) fn new(kept: usize) -> Self {
        Self { kept, spans: Mutex::default() }
    }

    /// Takes the spans of one export in.
    pub(crate) fn add(&self, request: ExportTraceServiceRequest) {
        let mut spans = self.lock();
        for of_resource in request.resource_spans {
            let resource = of_resource.resource.unwrap_or_default();
            for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                if spans.len() >= self.kept {
                    spans.pop_front();
                }
                spans.push_back(Kept { trace_id: hex(&span.trace_id), shown: show(&span, &resource) });
            }
        }
    }

    /// `GET /traces`: `{"traces":[{"trace_id","spans","services"}]}`, newest last. `GET /traces/ID`:
    /// `{"trace_id","spans":[…]}`. `DELETE /traces` forgets all.
    pub(crate) fn answer(&self, method: &Method, path: &str) -> Response<Body> {
        let id = path.trim_start_matches("/traces").trim_start_matches('/');
        match (method, id) {
            (&Method::GET, "") => body::json(StatusCode::OK, &serde_json::json!({ "traces": self.list() })),
            (&Method::GET, id) => match self.trace(id) {
                spans if spans.is_empty() => refusal(StatusCode::NOT_FOUND, format!("no span of trace {id:?} is kept")),
                spans => body::json(StatusCode::OK, &serde_json::json!({ "trace_id": id, "spans": spans })),
            },
            (&Method::DELETE, "") => {
                self.lock().clear();
                body::json(StatusCode::OK, &serde_json::json!({ "traces": [] }))
            }
            _ => refusal(StatusCode::METHOD_NOT_ALLOWED, "GET /traces, GET /traces/ID and DELETE /traces are allowed"),
        }
    }

    fn list(&self) -> Vec<serde_json::Value> {
        let spans = self.lock();
        let mut order: Vec<(&str, usize, Vec<&str>)> = Vec::new();
        let mut places = std::collections::HashMap::new();
        for span in spans.iter() {
            let place = *places.entry(span.trace_id.as_str()).or_insert_with(|| {
                order.push((&span.trace_id, 0, Vec::new()));
                order.len() - 1
            });
            let (_, count, services) = &mut order[place];
            *count += 1;
            let service = span.shown["service"].as_str().unwrap_or_default();
            if !services.contains(&service) {
                services.push(service);
            }
        }
        let shown = |(id, count, services)| serde_json::json!({ "trace_id": id, "spans": count, "services": services });
        order.into_iter().map(shown).collect()
    }

    fn trace(&self, id: &str) -> Vec<serde_json::Value> {
        self.lock().iter().filter(|span| span.trace_id == id).map(|span| span.shown.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Kept>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn show(span: &Span, resource: &Resource) -> serde_json::Value {
    let resource = attributes(&resource.attributes);
    let kind = match span.kind {
        1 => "internal",
        2 => "server",
        3 => "client",
        4 => "producer",
        5 => "consumer",
        _ => "unspecified",
    };
    serde_json::json!({
        "trace_id": hex(&span.trace_id),
        "span_id": hex(&span.span_id),
        "parent_span_id": hex(&span.parent_span_id),
        "name": span.name,
        "kind": kind,
        "service": resource.get("service.name").cloned().unwrap_or_default(),
        "start_unix_nano": span.start_time_unix_nano.to_string(),
        "end_unix_nano": span.end_time_unix_nano.to_string(),
        "status": span.status.as_ref().map(|status| serde_json::json!({ "code": status.code, "message": status.message })),
        "attributes": attributes(&span.attributes),
        "resource": resource,
    })
}

fn attributes(pairs: &[KeyValue]) -> serde_json::Map<String, serde_json::Value> {
    let value = |pair: &KeyValue| match pair.value.as_ref().and_then(|any| any.value.as_ref()) {
        Some(any_value::Value::String(text)) => text.clone().into(),
        Some(any_value::Value::Bool(flag)) => (*flag).into(),
        Some(any_value::Value::Int(number)) => (*number).into(),
        Some(any_value::Value::Double(number)) => (*number).into(),
        Some(any_value::Value::Bytes(bytes)) => hex(bytes).into(),
        None => serde_json::Value::Null,
    };
    pairs.iter().map(|pair| (pair.key.clone(), value(pair))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
