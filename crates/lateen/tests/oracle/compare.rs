//! What differs between the engines, and which of it is meant.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::observe::{Observation, matches};
use crate::script::{Script, Step};
use crate::yaml;

/// One thing that is not the same on both engines, or not as the script expects it.
#[derive(Clone, Debug)]
pub(crate) struct Difference {
    pub(crate) scenario: String,
    pub(crate) step: String,
    pub(crate) field: String,
    pub(crate) lateen: Value,
    pub(crate) envoy: Value,
    /// What the script says, if it says anything.
    pub(crate) expected: Option<Value>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} / {} / {}\n    lateen: {}\n    envoy:  {}", self.scenario, self.step, self.field, self.lateen, self.envoy)?;
        match &self.expected {
            Some(expected) => write!(f, "\n    expected: {expected}"),
            None => Ok(()),
        }
    }
}

/// All differences of a step.
pub(crate) fn differences(scenario: &str, step: &Step, lateen: &Observation, envoy: &Observation) -> Vec<Difference> {
    compare((scenario, &step.title()), &step.expect, lateen, envoy)
}

/// All differences of what the proxies have counted in a scenario.
pub(crate) fn counted(scenario: &str, script: &Script, lateen: &Observation, envoy: &Observation) -> Vec<Difference> {
    compare((scenario, "counters"), &script.counted, lateen, envoy)
}

fn compare(
    (scenario, step): (&str, &str),
    expect: &BTreeMap<String, Value>,
    lateen: &Observation,
    envoy: &Observation,
) -> Vec<Difference> {
    let paths: BTreeSet<&String> = lateen.keys().chain(envoy.keys()).chain(expect.keys()).collect();
    let mut found = Vec::new();
    for path in paths {
        let value = |of: &Observation| of.get(path).cloned().unwrap_or(Value::Null);
        let (ours, theirs, expected) = (value(lateen), value(envoy), expect.get(path));
        if ours != theirs || expected.is_some_and(|e| *e != ours) {
            found.push(Difference {
                scenario: scenario.to_owned(),
                step: step.to_owned(),
                field: path.clone(),
                lateen: ours,
                envoy: theirs,
                expected: expected.cloned(),
            });
        }
    }
    found
}

/// A value as patterns see it.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "absent".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A difference that is meant: patterns with `*` for where it is, and why.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Meant {
    scenario: String,
    #[serde(default = "any")]
    step: String,
    field: String,
    /// What Lateen shows, as a pattern, or `absent`; anything if left out.
    lateen: Option<String>,
    pub(crate) reason: String,
    /// It is not meant, and known: a fault that waits for its repair.
    #[serde(default)]
    pub(crate) fault: bool,
    /// Which engine is faster decides whether it shows: a run in which it does not is no reason to take it out.
    #[serde(default)]
    sometimes: bool,
    #[serde(skip)]
    used: Cell<bool>,
}

fn any() -> String {
    "*".to_owned()
}

impl Meant {
    /// Whether it concerns every step of every scenario.
    pub(crate) fn is_general(&self) -> bool {
        self.scenario == "*" && self.step == "*"
    }
}

impl fmt::Display for Meant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} / {} / {}: {}", self.scenario, self.step, self.field, self.reason)
    }
}

/// The list of differences that are meant.
pub(crate) struct List(Vec<Meant>);

impl List {
    pub(crate) fn load(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let documents = yaml::documents(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        let entries = documents.iter().flat_map(|d| d.as_array().into_iter().flatten());
        let entries: Result<Vec<Meant>, _> = entries.map(Meant::deserialize).collect();
        Ok(Self(entries.map_err(|e| format!("{}: {e}", path.display()))?))
    }

    /// The entry that says that a difference is meant.
    pub(crate) fn meant(&self, difference: &Difference) -> Option<&Meant> {
        let entry = self.0.iter().find(|meant| {
            matches(&meant.scenario, &difference.scenario)
                && matches(&meant.step, &difference.step)
                && matches(&meant.field, &difference.field)
                && meant.lateen.as_ref().is_none_or(|pattern| matches(pattern, &shown(&difference.lateen)))
        })?;
        entry.used.set(true);
        Some(entry)
    }

    /// Entries of faults that were seen.
    pub(crate) fn faults(&self) -> impl Iterator<Item = &Meant> {
        self.0.iter().filter(|meant| meant.fault && meant.used.get())
    }

    /// Entries that no difference has needed.
    pub(crate) fn unused(&self) -> impl Iterator<Item = &Meant> {
        self.0.iter().filter(|meant| !meant.used.get() && !meant.sometimes)
    }
}
