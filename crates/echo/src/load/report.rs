//! The summary of many exchanges.

use crate::client::{Exchange, Got};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

type Counts = BTreeMap<String, u64>;

/// One exchange and its latency as the plan counts it.
pub(crate) struct Sample {
    pub(crate) exchange: Exchange,
    pub(crate) latency: Duration,
    /// How long after it was due the request was sent; none if the plan has no rate.
    pub(crate) late: Option<Duration>,
}

/// Collects samples.
pub(crate) struct Tally {
    statuses: Counts,
    grpc_statuses: Counts,
    pods: Counts,
    versions: Counts,
    errors: Counts,
    pointers: Vec<(String, Counts)>,
    latencies: Vec<Duration>,
    late: Vec<Duration>,
    keep_exchange: bool,
    kept: Option<Exchange>,
}

impl Tally {
    pub(crate) fn new(pointers: &[String], keep_exchange: bool) -> Self {
        Self {
            statuses: Counts::new(),
            grpc_statuses: Counts::new(),
            pods: Counts::new(),
            versions: Counts::new(),
            errors: Counts::new(),
            pointers: pointers.iter().map(|pointer| (pointer.clone(), Counts::new())).collect(),
            latencies: Vec::new(),
            late: Vec::new(),
            keep_exchange,
            kept: None,
        }
    }

    pub(crate) fn add(&mut self, sample: Sample) {
        self.latencies.push(sample.latency);
        self.late.extend(sample.late);
        match &sample.exchange.result {
            Ok(got) => self.add_answer(got),
            Err(reason) => count(&mut self.errors, reason),
        }
        if self.keep_exchange {
            self.kept = Some(sample.exchange);
        }
    }

    fn add_answer(&mut self, got: &Got) {
        count(&mut self.statuses, got.status.as_str());
        if let Some(status) = got.grpc_status() {
            count(&mut self.grpc_statuses, status);
        }
        for (name, counts) in [("x-echo-pod", &mut self.pods), ("x-echo-version", &mut self.versions)] {
            if let Some(value) = got.headers.get(name).and_then(|value| value.to_str().ok()) {
                count(counts, value);
            }
        }
        if self.pointers.is_empty() {
            return;
        }
        let body = got.body_as_json();
        for (pointer, counts) in &mut self.pointers {
            match body.pointer(pointer) {
                Some(Value::String(text)) => count(counts, text),
                Some(other) => count(counts, &other.to_string()),
                None => count(counts, "(absent)"),
            }
        }
    }

    pub(crate) fn finish(mut self, elapsed: Duration) -> Report {
        self.latencies.sort_unstable();
        self.late.sort_unstable();
        Report { tally: self, elapsed }
    }
}

fn count(counts: &mut Counts, key: &str) {
    match counts.get_mut(key) {
        Some(number) => *number += 1,
        None => {
            counts.insert(key.to_owned(), 1);
        }
    }
}

/// What this share of the sorted samples do not exceed (nearest rank), in milliseconds.
fn quantile(sorted: &[Duration], share: f64) -> f64 {
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 ≤ rank ≤ len")]
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).map_or(0.0, |sample| sample.as_secs_f64() * 1e3)
}

const QUANTILES: [(&str, f64); 6] = [("min", 0.0), ("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];

fn quantiles(sorted: &[Duration]) -> [(&'static str, f64); 6] {
    QUANTILES.map(|(name, share)| (name, quantile(sorted, share)))
}

fn quantiles_as_json(sorted: &[Duration]) -> Value {
    quantiles(sorted)
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect::<serde_json::Map<_, Value>>()
        .into()
}

/// A finished run.
pub(crate) struct Report {
    tally: Tally,
    elapsed: Duration,
}

impl Report {
    /// Whether every request was answered with a status below 400 (and, for gRPC, with status 0).
    pub(crate) fn all_succeeded(&self) -> bool {
        let good = |status: &String| status.as_bytes()[0] < b'4';
        self.tally.errors.is_empty()
            && self.tally.statuses.keys().all(good)
            && self.tally.grpc_statuses.keys().all(|status| status == "0")
    }

    fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 requests")]
        let requests = self.tally.latencies.len() as f64;
        requests / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Everything, for programs.
    pub(crate) fn to_json(&self) -> Value {
        let tally = &self.tally;
        let mut report = json!({
            "requests": tally.latencies.len(),
            "seconds": self.elapsed.as_secs_f64(),
            "rate": self.rate(),
            "statuses": tally.statuses,
            "pods": tally.pods,
            "versions": tally.versions,
            "errors": tally.errors,
            "latency_ms": quantiles_as_json(&tally.latencies),
        });
        if !tally.late.is_empty() {
            report["late_ms"] = quantiles_as_json(&tally.late);
        }
        if !tally.grpc_statuses.is_empty() {
            report["grpc_statuses"] = json!(tally.grpc_statuses);
        }
        if !tally.pointers.is_empty() {
            report["tallies"] = json!(tally.pointers.iter().cloned().collect::<BTreeMap<_, _>>());
        }
        if let Some(exchange) = &tally.kept {
            report["response"] = crate::http::describe(exchange).into();
        }
        report
    }

    /// For people: the answer itself if there was only one, else counts and latencies.
    pub(crate) fn to_text(&self) -> String {
        if let Some(Exchange { result: Ok(got), .. }) = &self.tally.kept {
            return answer_text(got);
        }
        let mut text = String::new();
        let seconds = self.elapsed.as_secs_f64();
        let _ = writeln!(text, "requests  {} in {seconds:.2} s ({:.1}/s)", self.tally.latencies.len(), self.rate());
        let tally = &self.tally;
        let counts = [
            ("status", &tally.statuses),
            ("grpc", &tally.grpc_statuses),
            ("pod", &tally.pods),
            ("version", &tally.versions),
            ("error", &tally.errors),
        ];
        let pointers = tally.pointers.iter().map(|(pointer, counts)| (pointer.as_str(), counts));
        for (name, counts) in counts.into_iter().chain(pointers).filter(|(_, counts)| !counts.is_empty()) {
            let counts: Vec<_> = counts.iter().map(|(key, number)| format!("{key}: {number}")).collect();
            let _ = writeln!(text, "{name:<9} {}", counts.join("  "));
        }
        for (name, samples) in [("latency", &tally.latencies), ("late", &tally.late)].into_iter().filter(|(_, s)| !s.is_empty()) {
            let values = quantiles(samples).map(|(name, value)| format!("{name} {value:.2} ms"));
            let _ = writeln!(text, "{name:<9} {}", values.join("  "));
        }
        text
    }
}

fn answer_text(got: &Got) -> String {
    let mut text = format!("{:?} {}\n", got.version, got.status);
    for (name, value) in crate::http::headers_as_json(&got.headers) {
        let _ = writeln!(text, "{name}: {}", value.as_str().unwrap_or_default());
    }
    text.push('\n');
    match got.body_as_json() {
        Value::String(body) => text.push_str(&body),
        Value::Null => {}
        body => text.push_str(&serde_json::to_string_pretty(&body).unwrap_or_default()),
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    for (name, value) in crate::http::headers_as_json(&got.trailers) {
        let _ = writeln!(text, "{name}: {}", value.as_str().unwrap_or_default());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Sample, Tally};
    use crate::client::{Exchange, Got};
    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue, StatusCode, Version};
    use std::time::Duration;

    fn sample(status: u16, pod: &'static str, millis: u64) -> Sample {
        let mut headers = HeaderMap::new();
        headers.insert("x-echo-pod", HeaderValue::from_static(pod));
        let got = Got {
            status: StatusCode::from_u16(status).expect("valid"),
            version: Version::HTTP_11,
            headers,
            trailers: HeaderMap::new(),
            body: Bytes::from_static(br#"{"body":{"version":"v1"}}"#),
        };
        let latency = Duration::from_millis(millis);
        Sample { exchange: Exchange { result: Ok(got), elapsed: latency }, latency, late: None }
    }

    #[test]
    fn counts_and_nearest_rank_quantiles() {
        let mut tally = Tally::new(&["/body/version".into(), "/nowhere".into()], false);
        for millis in 1..=100 {
            tally.add(sample(if millis == 7 { 503 } else { 200 }, if millis % 2 == 0 { "a" } else { "b" }, millis));
        }
        let error = Exchange { result: Err("refused".into()), elapsed: Duration::ZERO };
        let report = tally.finish(Duration::from_secs(2));
        assert!(!report.all_succeeded());
        let json = report.to_json();
        assert_eq!((json["requests"].as_u64(), json["rate"].as_f64()), (Some(100), Some(50.0)));
        assert_eq!(json["statuses"], serde_json::json!({"200": 99, "503": 1}));
        assert_eq!(json["pods"], serde_json::json!({"a": 50, "b": 50}));
        assert_eq!(json["tallies"]["/body/version"], serde_json::json!({"v1": 100}));
        assert_eq!(json["tallies"]["/nowhere"], serde_json::json!({"(absent)": 100}));
        let latency = &json["latency_ms"];
        let quantiles = ["min", "p50", "p90", "p99", "p99.9", "max"].map(|name| latency[name].as_f64().expect("a number"));
        assert_eq!(quantiles, [1.0, 50.0, 90.0, 99.0, 100.0, 100.0]);
        assert!(json.get("late_ms").is_none(), "no rate: {json}");
        let mut tally = Tally::new(&[], false);
        tally.add(Sample { exchange: error, latency: Duration::from_millis(1), late: Some(Duration::from_millis(3)) });
        let report = tally.finish(Duration::from_secs(1));
        assert!(!report.all_succeeded());
        let text = report.to_text();
        assert!(text.contains("refused: 1") && text.contains("late      min 3.00 ms"), "{text}");
    }
}
