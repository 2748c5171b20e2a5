//! From what happened to what is compared: what chance, time and addresses decide is taken out.

use std::collections::{BTreeMap, BTreeSet};

use lateen_testkit::lab::PodStatus;
use serde_json::{Map, Value, json};

use crate::logs::{Entries, Logs};
use crate::mesh::base_name;
use crate::op::{End, Exchange, by_name};
use crate::script::Step;

/// What a step gave on one engine, before the logs are read.
pub(crate) struct Happened {
    pub(crate) pod: String,
    pub(crate) exchanges: Vec<Exchange>,
    /// Tries that servers saw, by deployment.
    pub(crate) tries: Option<BTreeMap<String, u64>>,
}

/// Paths to values; see the list of differences for the names.
pub(crate) type Observation = BTreeMap<String, Value>;

/// Which pods answered which of the keys, in steps whose names are remembered.
pub(crate) type Memory = BTreeMap<String, Vec<BTreeSet<String>>>;

/// What is compared of a step, and for people, what was measured of that which chance decides.
pub(crate) fn observe(
    step: &Step,
    happened: &Happened,
    logs: &mut Logs,
    pods: &[PodStatus],
    memory: &mut Memory,
) -> (Observation, Vec<String>) {
    let mut measured = shares(step, &happened.exchanges);
    let mut found = match (step.is_bytes(), happened.exchanges.as_slice()) {
        (true, [only]) => bytes(only),
        (false, [only]) => single(only),
        (_, many) => several(step, many),
    };
    if step.log {
        let entries: Vec<_> = happened.exchanges.iter().map(|e| logs.take(&happened.pod, e, pods)).collect();
        found["log"] = match entries.as_slice() {
            [only] => only.detail(is_echo(&happened.exchanges[0])),
            many => crate::logs::tally(many),
        };
        if step.connections {
            found["connections"] = Entries::connections(&entries).into();
        }
        if step.saw {
            // Which of several was last is chance.
            found["log"].as_object_mut().map(|log| ["server", "servers"].map(|key| log.remove(key)));
            found["saw"] = match entries.as_slice() {
                [only] => json!(only.saw().join(" | ")),
                many => json!(Entries::askings(many)),
            };
        }
    }
    if step.gaps {
        found["gaps"] = json!(gaps(&happened.exchanges));
        measured.push(format!("longest times without a status, in ms: {}", found["gaps"]));
    }
    if step.keys() > 0 {
        found["keys"] = keys(step, &happened.exchanges, memory);
        let moved = &found["keys"]["moved"];
        if !moved.is_null() {
            measured.push(format!("of {} keys moved: {moved}", step.keys()));
        }
    }
    if let Some(tries) = &happened.tries {
        found["tries"] = json!(tries);
        found["tries"]["all"] = tries.values().sum::<u64>().into();
    }
    let mut flat = Observation::new();
    flatten("", &hide(found, pods), &mut flat);
    for (path, (low, high)) in &step.within {
        if let Some(value) = flat.get_mut(path)
            && value.as_u64().is_some_and(|n| (*low..=*high).contains(&n))
        {
            *value = json!(format!("{low}..{high}"));
        }
    }
    let unasked = |path: &str| !step.expect.contains_key(path) && !step.within.contains_key(path);
    // Which server it was, and when, is chance unless the script says otherwise.
    for path in ["millis", "seen.version", "headers.x-echo-version"] {
        if unasked(path) {
            flat.remove(path);
        }
    }
    flat.retain(|path, _| !step.ignore.iter().any(|pattern| matches(pattern, path)));
    (flat, measured)
}

/// What a count is compared as where its share is known.
fn share_of(step: &Step, name: &str, count: u64, trials: u64) -> Option<Value> {
    let share = step.share.get(name)?;
    let usual = lateen_demo::chance::allowed(trials, *share).contains(&count);
    Some(if usual { json!(format!("a share of {share}")) } else { json!(count) })
}

/// The measured shares of those that are known, beside what chance allows.
fn shares(step: &Step, exchanges: &[Exchange]) -> Vec<String> {
    let (statuses, versions) = (count(exchanges, |e| Some(e.status.to_string())), count(exchanges, version));
    let line = |(name, share): (&String, &f64)| {
        let (of, trials) = match name.strip_prefix("statuses.") {
            Some(status) => (statuses.get(status), statuses.values().sum::<u64>()),
            None => (versions.get(name), versions.values().sum()),
        };
        let of = of.copied().unwrap_or_default();
        format!("{name}: {of} of {trials}, for a share of {share}: {:?}", lateen_demo::chance::allowed(trials, *share))
    };
    step.share.iter().map(line).collect()
}

fn count(exchanges: &[Exchange], of: impl Fn(&Exchange) -> Option<String>) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for name in exchanges.iter().filter(|e| e.error.is_none()).filter_map(of) {
        *counts.entry(name).or_default() += 1;
    }
    counts
}

/// For each status, the longest time between two requests that got it, one after the other.
fn gaps(exchanges: &[Exchange]) -> BTreeMap<u16, u64> {
    let (mut last, mut longest) = (BTreeMap::new(), BTreeMap::new());
    for exchange in exchanges.iter().filter(|e| e.error.is_none()) {
        let gap = last.insert(exchange.status, exchange.began).map_or(0, |before: u64| exchange.began.saturating_sub(before));
        longest.entry(exchange.status).and_modify(|most| *most = gap.max(*most)).or_insert(gap);
    }
    longest
}

/// Which version answered.
fn version(exchange: &Exchange) -> Option<String> {
    by_name(&exchange.headers).get("x-echo-version").map(|version| version.join(","))
}

/// Whether a text is what a pattern with `*` says.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => text
            .strip_prefix(before)
            .is_some_and(|rest| (0..=rest.len()).filter(|at| rest.is_char_boundary(*at)).any(|at| matches(after, &rest[at..]))),
    }
}

fn flatten(path: &str, value: &Value, into: &mut Observation) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let deeper = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(&deeper, value, into);
            }
        }
        Value::Null => {}
        other => {
            into.insert(path.to_owned(), other.clone());
        }
    }
}

/// One request and its answer.
fn single(exchange: &Exchange) -> Value {
    let mut found = json!({"millis": exchange.millis});
    if let Some(error) = &exchange.error {
        // Whether FIN or RST says so depends on what was on its way.
        found["error"] = json!(if error == "reset" { "closed before an answer" } else { error });
    }
    if let Some(end) = exchange.end {
        found["end"] = json!(end);
    }
    found["tls"] = json!(exchange.tls);
    if exchange.status == 0 {
        if !exchange.body.is_empty() {
            found["body"] = String::from_utf8_lossy(&exchange.body).into_owned().into();
        }
        return found;
    }
    found["status"] = exchange.status.into();
    found["version"] = exchange.version.clone().into();
    found["headers"] = headers(&exchange.headers);
    if !exchange.interim.is_empty() {
        found["interim"] = json!(exchange.interim);
    }
    if !exchange.trailers.is_empty() {
        found["trailers"] = headers(&exchange.trailers);
    }
    match echo(exchange) {
        Some(seen) => found["seen"] = seen,
        None if is_grpc(exchange) => found["body"] = json!(format!("{} bytes of gRPC", exchange.body.len().min(1))),
        None => found["body"] = String::from_utf8_lossy(&exchange.body).into_owned().into(),
    }
    if found.get("seen").is_some() || is_grpc(exchange) {
        // The length of the pod's name is in it.
        found["headers"].as_object_mut().map(|headers| headers.remove("content-length"));
    }
    found
}

/// Bytes: as answers, if they are HTTP/1.
fn bytes(exchange: &Exchange) -> Value {
    let text = String::from_utf8_lossy(&exchange.body).into_owned();
    let mut found = json!({"end": exchange.end, "millis": exchange.millis, "tls": exchange.tls});
    if let Some(error) = &exchange.error {
        found["error"] = json!(error);
    }
    let statuses: Vec<&str> = text.match_indices("HTTP/1.1 ").filter_map(|(at, _)| text.get(at + 9..at + 12)).collect();
    if text.starts_with("HTTP/1.") {
        found["statuses"] = json!(statuses.join(" "));
        let head = text.split("\r\n\r\n").next().unwrap_or_default();
        if let Ok((_, _, fields)) = crate::agent_parse(head) {
            found["headers"] = headers(&fields);
            found["headers"].as_object_mut().map(|map| map.remove("content-length"));
        }
    } else {
        found["bytes"] = json!(text);
    }
    // Whether the last goodbye is FIN or RST depends on what the client still sent.
    if exchange.end == Some(End::Reset) {
        found["end"] = json!("closed");
    }
    found
}

/// Many requests: how often what happened.
fn several(step: &Step, exchanges: &[Exchange]) -> Value {
    let statuses = count(exchanges, |e| Some(e.status.to_string()));
    let mut versions = count(exchanges, version);
    let mut errors: BTreeMap<String, u64> = BTreeMap::new();
    for error in exchanges.iter().filter_map(|e| e.error.clone()) {
        *errors.entry(error).or_default() += 1;
    }
    let others = exchanges.iter().filter(|e| e.error.is_none() && version(e).is_none());
    let bodies: BTreeSet<String> = others.map(|e| String::from_utf8_lossy(&e.body).into_owned()).collect();
    let bodies = bodies.into_iter().collect::<Vec<_>>().join(" | ");
    let answers = statuses.values().sum::<u64>();
    let is_open = step.share.keys().any(|name| name.starts_with("statuses."));
    let shown_status = |(status, count): (&String, &u64)| {
        let known = share_of(step, &format!("statuses.{status}"), *count, answers);
        (status.clone(), known.unwrap_or_else(|| if is_open { json!("some") } else { json!(count) }))
    };
    let statuses: Map<String, Value> = statuses.iter().map(shown_status).collect();
    let trials = versions.values().sum::<u64>();
    let shown = |version: &String, count: u64| match share_of(step, version, count, trials) {
        Some(shown) => shown,
        None if step.expect.contains_key(&format!("versions.{version}")) => json!(count),
        None if step.within.contains_key(&format!("versions.{version}")) => json!(count),
        None => json!("some"),
    };
    for version in step.share.keys().filter(|name| !name.starts_with("statuses.")) {
        versions.entry(version.clone()).or_default();
    }
    let versions: Map<String, Value> = versions.iter().map(|(v, count)| (v.clone(), shown(v, *count))).collect();
    json!({"statuses": statuses, "errors": errors, "versions": versions, "bodies": bodies})
}

/// How the keys are spread over the pods: how many pods there are, how many keys went to more than one pod, and, compared with an
/// earlier step, how many went elsewhere, those of pods that have left and others.
fn keys(step: &Step, exchanges: &[Exchange], memory: &mut Memory) -> Value {
    let mut pods: Vec<BTreeSet<String>> = vec![BTreeSet::new(); step.keys() as usize];
    for (index, exchange) in exchanges.iter().enumerate() {
        let pod = by_name(&exchange.headers).get("x-echo-pod").map(|names| names.join(","));
        let key = index % pods.len();
        pods[key].extend(pod);
    }
    let all: BTreeSet<&String> = pods.iter().flatten().collect();
    let mut found = json!({"pods": all.len(), "torn": pods.iter().filter(|of_key| of_key.len() > 1).count()});
    if step.owners {
        let of_key = |owners: &BTreeSet<String>| owners.iter().map(String::as_str).collect::<Vec<_>>().join("+");
        found["owners"] = pods.iter().map(of_key).collect::<Vec<_>>().join(" ").into();
    }
    if let Some(before) = step.against.as_ref().and_then(|name| memory.get(name)) {
        let moved = before.iter().zip(&pods).filter(|(before, now)| before != now);
        let (of_others, of_gone): (Vec<_>, Vec<_>) = moved.partition(|(before, _)| before.iter().all(|pod| all.contains(pod)));
        found["moved"] = json!({"from_those_gone": of_gone.len(), "from_those_there": of_others.len()});
    }
    if let Some(name) = &step.remember {
        memory.insert(name.clone(), pods);
    }
    found
}

fn is_grpc(exchange: &Exchange) -> bool {
    by_name(&exchange.headers).get("content-type").is_some_and(|v| v[0].starts_with("application/grpc"))
}

fn is_echo(exchange: &Exchange) -> bool {
    echo(exchange).is_some() || is_grpc(exchange)
}

/// What the test application saw of the request, if the answer is its.
fn echo(exchange: &Exchange) -> Option<Value> {
    let body: Value = serde_json::from_slice(&exchange.body).ok()?;
    let mut seen = body.as_object()?.clone();
    if !seen.contains_key("service_account") {
        return None;
    }
    for volatile in ["pod", "namespace", "service_account"] {
        seen.remove(volatile);
    }
    if let Some(peer) = seen.get_mut("peer") {
        // The port is chance.
        *peer = peer.as_str().and_then(|p| p.rsplit_once(':')).map_or("", |(ip, _)| ip).into();
    }
    if let Some(Value::Object(map)) = seen.get_mut("headers") {
        for (name, value) in map.iter_mut() {
            *value = steady(name, value.as_str().unwrap_or_default()).into();
        }
    }
    Some(Value::Object(seen))
}

fn headers(list: &[(String, String)]) -> Value {
    let map = by_name(list).into_iter().filter(|(name, _)| name != "x-echo-pod").map(|(name, values)| {
        let values: Vec<String> = values.iter().map(|value| steady(&name, value)).collect();
        (name, values.join(" | ").into())
    });
    Value::Object(map.collect())
}

/// A header's value without what differs from request to request.
fn steady(name: &str, value: &str) -> String {
    let is_hex = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    match name {
        "date" => "<date>".to_owned(),
        "x-envoy-upstream-service-time" if value.parse::<u64>().is_ok() => "<ms>".to_owned(),
        "x-request-id" if value.len() == 36 && is_hex(value) => "<id>".to_owned(),
        "x-envoy-peer-metadata" => "<metadata>".to_owned(),
        "set-cookie" => match value.split_once('=').map(|(name, rest)| (name, rest.split_once(';').unwrap_or((rest, "")))) {
            Some((name, (value, attributes))) if is_hex(value.trim_matches('"')) => {
                format!("{name}={};{attributes}", value.replace(|c: char| c.is_ascii_hexdigit(), "h"))
            }
            _ => value.to_owned(),
        },
        "traceparent" => value.rsplit_once('-').map_or("", |(_, flags)| flags).to_owned(),
        "x-b3-traceid" | "x-b3-spanid" | "x-b3-parentspanid" if is_hex(value) => "<id>".to_owned(),
        "x-forwarded-client-cert" => {
            let part = |part: &str| if part.starts_with("Hash=") { "Hash=<hash>".to_owned() } else { part.to_owned() };
            value.split(';').map(part).collect::<Vec<_>>().join(";")
        }
        _ => value.to_owned(),
    }
}

/// Puts names in the place of pods' addresses.
fn hide(value: Value, pods: &[PodStatus]) -> Value {
    match value {
        Value::String(mut text) => {
            for pod in pods {
                text = replace_address(&text, &pod.ip, &base_name(pod));
            }
            Value::String(text)
        }
        Value::Array(items) => items.into_iter().map(|item| hide(item, pods)).collect(),
        Value::Object(map) => map.into_iter().map(|(key, value)| (key, hide(value, pods))).collect(),
        other => other,
    }
}

/// Replaces an address where it is one and not the beginning of a longer one.
fn replace_address(text: &str, address: &str, name: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(address) {
        let end = at + address.len();
        let longer = rest[end..].starts_with(|c: char| c.is_ascii_digit());
        out.push_str(&rest[..at]);
        out.push_str(if longer { address } else { name });
        rest = &rest[end..];
    }
    out + rest
}
