//! One policy at every place that a DestinationRule has for it: scenarios that set whole `trafficPolicy`s run again with each of
//! them moved below `portLevelSettings`, to a subset, and below `portLevelSettings` of a subset. What they show must not change.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::script::{Scenario, Script};
use crate::yaml;

/// Where a policy can stand, other than in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Port,
    Subset,
    SubsetPort,
}

/// What a port's own settings do not have.
const NOT_OF_PORTS: [&str; 3] = ["tunnel", "proxyProtocol", "retryBudget"];

/// The subset that has the policies.
const SUBSET: &str = "placed";

impl Place {
    fn name(self) -> &'static str {
        match self {
            Self::Port => "port",
            Self::Subset => "subset",
            Self::SubsetPort => "subset-port",
        }
    }

    /// Where the fields of `DestinationRule.trafficPolicy` are there.
    fn prefix(self) -> &'static str {
        match self {
            Self::Port => "DestinationRule.trafficPolicy.portLevelSettings.",
            Self::Subset => "DestinationRule.subsets.trafficPolicy.",
            Self::SubsetPort => "DestinationRule.subsets.trafficPolicy.portLevelSettings.",
        }
    }
}

/// The scenario with its policies at the other places.
pub(crate) fn variants(scenario: &Scenario) -> Result<Vec<Scenario>, String> {
    let documents = yaml::documents(&scenario.manifests)?;
    let variant = |place: Place| {
        let texts: Vec<String> = moved(&documents, place).iter().map(Value::to_string).collect();
        Scenario {
            name: format!("{}@{}", scenario.name, place.name()),
            manifests: texts.join("\n---\n"),
            later: scenario.later.clone(),
            script: script(&scenario.script, place),
        }
    };
    // No cluster is the same in two that follow each other: what is known of its endpoints would stay.
    Ok([Place::Subset, Place::Port, Place::SubsetPort].map(variant).into())
}

/// Documents with their policies at each of the other places.
pub(crate) fn elsewhere(manifests: &str) -> Result<Vec<String>, String> {
    let documents = yaml::documents(manifests)?;
    let text = |place| moved(&documents, place).iter().map(Value::to_string).collect::<Vec<_>>().join("\n---\n");
    Ok([Place::Port, Place::Subset, Place::SubsetPort].map(text).into())
}

/// The same steps, which cover the fields of the place. Two steps cannot be the same in two scenarios, as access logs are one.
fn script(script: &Script, place: Place) -> Script {
    let mut script = script.clone();
    for step in &mut script.steps {
        let covered = step.covers.iter().filter_map(|pattern| pattern.strip_prefix("DestinationRule.trafficPolicy."));
        let is_there = |field: &&str| place == Place::Subset || !NOT_OF_PORTS.iter().any(|name| field.starts_with(name));
        step.covers = covered.filter(is_there).map(|field| format!("{}{field}", place.prefix())).collect();
    }
    script
}

fn moved(documents: &[Value], place: Place) -> Vec<Value> {
    let ports = ports(documents);
    let mut documents = documents.to_vec();
    let mut placed: Vec<Value> = Vec::new();
    for rule in documents.iter_mut().filter(|d| d["kind"] == "DestinationRule") {
        let host = rule["spec"]["host"].as_str().unwrap_or_default().to_owned();
        let of_host = ports.get(short(&host)).cloned().unwrap_or_else(|| vec![(80, "http".to_owned())]);
        if move_policy(&mut rule["spec"], &of_host, place) && place != Place::Port {
            let metadata = json!({"name": format!("placed-{}", short(&host)), "namespace": rule["metadata"]["namespace"]});
            placed.push(json!({"host": host, "metadata": metadata, "ports": of_host.iter().map(|p| json!([p.0, p.1])).collect::<Value>()}));
        }
    }
    for rule in &placed {
        let host = rule["host"].as_str().unwrap_or_default();
        let mut routed = false;
        for service in documents.iter_mut().filter(|d| d["kind"] == "VirtualService") {
            routed |= service["spec"]["hosts"].as_array().is_some_and(|hosts| hosts.iter().any(|h| h == host));
            choose_subset(&mut service["spec"], host);
        }
        if !routed {
            documents.push(virtual_service(rule));
        }
    }
    documents
}

/// The number and name of each port of each service, by its name or the first label of its host.
fn ports(documents: &[Value]) -> BTreeMap<String, Vec<(u64, String)>> {
    let services = documents.iter().filter(|d| d["kind"] == "Service");
    let of = |service: &Value| {
        let list = service["spec"]["ports"].as_array().cloned().unwrap_or_default();
        list.iter().map(|p| (p["port"].as_u64().unwrap_or(80), p["name"].as_str().unwrap_or_default().to_owned())).collect()
    };
    let mut ports: BTreeMap<_, _> =
        services.map(|s| (s["metadata"]["name"].as_str().unwrap_or_default().to_owned(), of(s))).collect();
    for entry in documents.iter().filter(|d| d["kind"] == "ServiceEntry") {
        let number = |port: &Value| (port["number"].as_u64().unwrap_or(80), port["name"].as_str().unwrap_or_default().to_owned());
        let list: Vec<_> = entry["spec"]["ports"].as_array().into_iter().flatten().map(number).collect();
        for host in entry["spec"]["hosts"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            ports.insert(short(host).to_owned(), list.clone());
        }
    }
    ports
}

fn short(host: &str) -> &str {
    host.split('.').next().unwrap_or(host)
}

/// Moves the policy in front, if there is one alone.
fn move_policy(spec: &mut Value, ports: &[(u64, String)], place: Place) -> bool {
    let Some(policy) = spec["trafficPolicy"].as_object().cloned() else { return false };
    if policy.contains_key("portLevelSettings") || spec.get("subsets").is_some() {
        return false;
    }
    let by_ports = || {
        let (rest, own): (Map<_, _>, Map<_, _>) =
            policy.clone().into_iter().partition(|(k, _)| NOT_OF_PORTS.contains(&k.as_str()));
        let entry = |number: &u64| {
            let mut entry = own.clone();
            entry.insert("port".to_owned(), json!({"number": number}));
            Value::Object(entry)
        };
        let mut policy = rest;
        if !own.is_empty() {
            policy.insert("portLevelSettings".to_owned(), ports.iter().map(|(number, _)| entry(number)).collect());
        }
        Value::Object(policy)
    };
    match place {
        Place::Port => spec["trafficPolicy"] = by_ports(),
        Place::Subset => spec["subsets"] = json!([{"name": SUBSET, "trafficPolicy": policy}]),
        Place::SubsetPort => spec["subsets"] = json!([{"name": SUBSET, "trafficPolicy": by_ports()}]),
    }
    if place != Place::Port {
        spec.as_object_mut().map(|spec| spec.remove("trafficPolicy"));
    }
    true
}

/// Leads every route to the host to its subset.
fn choose_subset(value: &mut Value, host: &str) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| choose_subset(item, host)),
        Value::Object(map) => {
            if map.get("host").is_some_and(|h| h == host) {
                map.insert("subset".to_owned(), SUBSET.into());
            }
            map.values_mut().for_each(|value| choose_subset(value, host));
        }
        _ => {}
    }
}

/// Routes to the subset, for a host that has none.
fn virtual_service(rule: &Value) -> Value {
    let destination = |port: Option<u64>| {
        let mut destination = json!({"host": rule["host"], "subset": SUBSET});
        if let Some(port) = port {
            destination["port"] = json!({"number": port});
        }
        json!([{"destination": destination}])
    };
    let list = rule["ports"].as_array().cloned().unwrap_or_default();
    let is_tcp = |port: &&Value| port[1].as_str().is_some_and(|name| name.starts_with("tcp"));
    let tcp = list.iter().filter(is_tcp).filter_map(|p| p[0].as_u64());
    let tcp: Vec<Value> = tcp.map(|p| json!({"match": [{"port": p}], "route": destination(Some(p))})).collect();
    let mut spec = json!({"hosts": [rule["host"]], "http": [{"route": destination(None)}]});
    if !tcp.is_empty() {
        spec["tcp"] = tcp.into();
    }
    json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": rule["metadata"], "spec": spec})
}
