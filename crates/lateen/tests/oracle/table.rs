//! `docs/compatibility.md`: every field, and what the run has shown of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use lateen_model::manifest;
use lateen_model::resource::{FieldPath, Segment};

use crate::run::Sorted;

/// What a run has shown of a field.
#[derive(Default)]
struct Row {
    /// Scenarios that exercise it.
    scenarios: BTreeSet<String>,
    /// Reasons of differences that are meant, of steps that exercise it.
    reasons: BTreeSet<String>,
    /// Faults that are known, of steps that exercise it.
    faults: BTreeSet<String>,
    /// Whether another difference was found.
    differs: bool,
    /// Why documents that set it are refused.
    refused: Option<String>,
    /// What a warning says of documents that set it, which it does nothing for.
    without_effect: Option<String>,
}

/// The table.
pub(crate) struct Table(BTreeMap<String, Row>);

impl Table {
    pub(crate) fn new(fields: &[String]) -> Self {
        Self(fields.iter().map(|field| (field.clone(), Row::default())).collect())
    }

    /// Notes what a step has shown of fields.
    pub(crate) fn note(&mut self, fields: &[String], scenario: &str, sorted: &Sorted) {
        for field in fields {
            if let Some(row) = self.0.get_mut(field) {
                row.scenarios.insert(scenario.to_owned());
                row.reasons.extend(sorted.meant.iter().cloned());
                row.faults.extend(sorted.faults.iter().cloned());
                row.differs |= !sorted.other.is_empty();
            }
        }
    }

    /// Reads documents each of which has to be refused because of a field, or accepted with a warning that it does nothing; tells
    /// those that are not.
    pub(crate) fn refuse(&mut self, text: &str) -> Vec<String> {
        let mut complaints = Vec::new();
        for document in manifest::read(text, "refused.yaml") {
            let rejection = match document {
                Err(rejection) => rejection,
                Ok(document) if document.warnings.is_empty() => {
                    complaints.push(format!("{} is accepted now: it needs a scenario", document.resource.key()));
                    continue;
                }
                Ok(document) => {
                    let kind = document.resource.kind().name();
                    for warning in &document.warnings {
                        let place = |row: &mut Row| row.without_effect = Some(warning.text.clone());
                        complaints.extend(self.each_below(&field_of(kind, &warning.path), place).err());
                    }
                    continue;
                }
            };
            let Some(key) = &rejection.key else {
                complaints.push(rejection.to_string());
                continue;
            };
            for problem in &rejection.problems {
                let place = |row: &mut Row| row.refused = Some(problem.text.clone());
                complaints.extend(self.each_below(&field_of(key.kind.name(), &problem.path), place).err());
            }
        }
        complaints
    }

    /// Does something to a field and those below it.
    fn each_below(&mut self, field: &str, change: impl Fn(&mut Row)) -> Result<(), String> {
        let below = format!("{field}.");
        let rows = self.0.iter_mut().filter(|(name, _)| *name == field || name.starts_with(&below));
        match rows.map(|(_, row)| change(row)).count() {
            0 => Err(format!("{field} is no field")),
            _ => Ok(()),
        }
    }

    /// The page.
    pub(crate) fn page(&self) -> String {
        let mut page = String::from(HEAD);
        let shown = self.0.values().filter(|row| !row.scenarios.is_empty()).count();
        let refused = self.0.values().filter(|row| row.scenarios.is_empty() && row.refused.is_some()).count();
        let idle =
            self.0.values().filter(|r| r.scenarios.is_empty() && r.refused.is_none() && r.without_effect.is_some()).count();
        let all = self.0.len();
        let _ = writeln!(
            page,
            "{all} fields: {shown} exercised on both engines, {refused} refused, {idle} without an effect, as a warning says, {} none of \
             these (marked **no scenario**).",
            all - shown - refused - idle
        );
        let mut kind = "";
        for (field, row) in &self.0 {
            let (of, path) = field.split_once('.').unwrap_or((field, ""));
            if of != kind {
                let _ = write!(page, "\n## {of}\n\n| field | scenarios | as Envoy |\n|---|---|---|\n");
                kind = of;
            }
            let (scenarios, verdict) = row.cells();
            let _ = writeln!(page, "| `{path}` | {scenarios} | {verdict} |");
        }
        page
    }
}

impl Row {
    fn cells(&self) -> (String, String) {
        let scenarios = self.scenarios.iter().cloned().collect::<Vec<_>>().join(", ");
        let join = |texts: &BTreeSet<String>| texts.iter().cloned().collect::<Vec<_>>().join("; ").replace('|', "\\|");
        let (reasons, faults) = (join(&self.reasons), join(&self.faults));
        let note = self.refused.as_ref().map(|text| format!("refused in some uses: {text}"));
        let verdict = match (self.scenarios.is_empty(), &self.refused, self.differs) {
            (true, None, _) if let Some(text) = &self.without_effect => return (String::new(), format!("a warning: {text}")),
            (true, None, _) => return ("**no scenario**".to_owned(), String::new()),
            (true, Some(text), _) => return (String::new(), format!("refused: {}", text.replace('|', "\\|"))),
            (false, _, true) => "**no**".to_owned(),
            (false, _, false) if !faults.is_empty() => format!("**not in all**: {faults}"),
            (false, _, false) if reasons.is_empty() => "yes".to_owned(),
            (false, _, false) => format!("yes, but: {reasons}"),
        };
        (scenarios, [Some(verdict), note].into_iter().flatten().collect::<Vec<_>>().join("; "))
    }
}

const HEAD: &str = "<!-- Made by `cargo test -p lateen --test oracle`; LATEEN_BLESS=1 writes it anew. -->
# Compatibility

Each scenario of `crates/lateen/tests/oracle/scenarios` runs on two meshes with the same pods, control plane and certificates: one
with Lateen's proxy as every sidecar, one with Envoy 1.40. Statuses, headers, bodies, what servers saw, tries, and access logs are
compared. *Yes* means that nothing differed where the field decides; a difference that is meant is named. A field that is
*refused* makes validation fail with that message, one that has no effect is told by a *warning*; none is ignored silently.

";

/// A field by its place in a document: without `spec`, indexes and keys that follow from neither.
fn field_of(kind: &str, path: &FieldPath) -> String {
    let mut field = kind.to_owned();
    for segment in path.segments() {
        if let Segment::Key(key) = segment
            && key != "spec"
        {
            field.push('.');
            field.push_str(key);
        }
    }
    field
}
