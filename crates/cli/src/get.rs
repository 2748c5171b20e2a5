//! `lateen get`: resources that are in force, with their statuses.

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use lateen_local::{Client, MeshName};
use serde_json::{Value, json};

use crate::table::Table;
use crate::yaml;

/// Show resources that are in force, with their status
///
/// What the control plane has in force is shown, not what the files say: of a document that is refused, the last good version. Objects
/// of the Gateway API have a status that tells what became of them. What is made for a Gateway (a Deployment, a Service) is
/// shown too.
#[derive(Debug, Args)]
pub struct Get {
    /// A kind: `httproute`, `gateways`, `svc`, `gateways.networking.istio.io`, …
    kind: String,
    /// Only the object of this name
    name: Option<String>,
    /// Only objects of this namespace
    #[arg(short, long)]
    namespace: Option<String>,
    /// The mesh's name
    #[arg(long = "name", default_value = "default", value_name = "MESH")]
    mesh: MeshName,
    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people: what is there, and what is wrong with it.
    Table,
    /// As manifests have it.
    Yaml,
    /// For programs: the object that is named, else a list.
    Json,
}

impl Get {
    /// Asks and prints.
    ///
    /// # Errors
    /// When no such mesh runs, the kind is none, or there is no object of the name that is given.
    pub fn run(&self) -> Result<ExitCode, String> {
        let mesh = Client::connect(&self.mesh)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| format!("cannot start: {e}"))?;
        let found = runtime.block_on(mesh.resources(&self.kind, self.namespace.as_deref(), self.name.as_deref()))?;
        if let (Some(name), []) = (&self.name, found.as_slice()) {
            let place = self.namespace.as_ref().map(|ns| format!(" in the namespace {ns}")).unwrap_or_default();
            return Err(format!("there is no {} {name}{place}", self.kind));
        }
        let text = match self.output {
            Output::Table => table(&found).text(),
            Output::Yaml => yaml::document(&self.document(found)),
            Output::Json => format!("{:#}\n", self.document(found)),
        };
        let mut out = std::io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // `lateen get … | head` is no failure.
            Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.to_string()),
            _ => Ok(ExitCode::SUCCESS),
        }
    }

    /// The one object that is named, else a `List`.
    fn document(&self, mut found: Vec<Value>) -> Value {
        if self.name.is_some() && found.len() == 1 {
            return found.remove(0);
        }
        json!({"apiVersion": "v1", "kind": "List", "items": found})
    }
}

fn table(objects: &[Value]) -> Table {
    let mut table = Table::new(&["NAMESPACE", "KIND", "NAME", "STATUS"]);
    for object in objects {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let meta = &object["metadata"];
        table.row([text(&meta["namespace"]), text(&object["kind"]), text(&meta["name"]), summary(&object["status"])]);
    }
    table
}

/// What is wrong, each with the word and the sentence of its condition; else what holds.
fn summary(status: &Value) -> String {
    let mut places: Vec<(String, &Value)> = vec![(String::new(), status)];
    for (key, name) in [("listeners", "name"), ("parents", "parentRef"), ("ancestors", "ancestorRef")] {
        for holder in status[key].as_array().map(Vec::as_slice).unwrap_or_default() {
            let label = &holder[name];
            let label = label.as_str().or_else(|| label["name"].as_str()).unwrap_or_default();
            places.push((format!("{label}: "), holder));
        }
    }
    let all = places.iter().flat_map(|(place, holder)| {
        let list = holder["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().map(move |condition| (place.as_str(), condition))
    });
    let (wrong, right): (Vec<_>, Vec<_>) = all.partition(|(_, c)| is_wrong(c));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if wrong.is_empty() {
        let mut held: Vec<String> = right.iter().filter(|(_, c)| c["status"] == "True").map(|(_, c)| text(&c["type"])).collect();
        let mut seen = std::collections::BTreeSet::new();
        held.retain(|word| seen.insert(word.clone()));
        return held.join(", ");
    }
    let one = |(place, c): &(&str, &Value)| format!("{place}{} ({})", text(&c["reason"]), text(&c["message"]));
    wrong.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// A conflict is what is wrong if it is there, everything else if it is not.
fn is_wrong(condition: &Value) -> bool {
    (condition["status"] == "True") == (condition["type"] == "Conflicted")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_what_is_wrong_or_what_holds() {
        let condition = |type_: &str, status: &str, reason: &str| json!({"type": type_, "status": status, "reason": reason, "message": "why"});
        for (status, expected) in [
            (json!(null), ""),
            (
                json!({"conditions": [condition("Accepted", "True", "Accepted")],
                       "listeners": [{"name": "web", "conditions": [condition("Conflicted", "False", "NoConflicts")]}]}),
                "Accepted",
            ),
            (
                json!({"conditions": [condition("Accepted", "True", "Accepted")],
                       "listeners": [{"name": "web", "conditions": [condition("Conflicted", "True", "HostnameConflict")]}]}),
                "web: HostnameConflict (why)",
            ),
            (
                json!({"parents": [
                    {"parentRef": {"name": "gw"}, "conditions": [condition("Accepted", "True", "Accepted"), condition("ResolvedRefs", "False", "InvalidKind")]},
                    {"parentRef": {"name": "other"}, "conditions": [condition("Accepted", "False", "NotAllowedByListeners")]},
                ]}),
                "gw: InvalidKind (why); other: NotAllowedByListeners (why)",
            ),
        ] {
            assert_eq!(summary(&status), expected, "{status}");
        }
    }
}
