//! `lateen analyze`: what is wrong or strange in manifests, without running them.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use lateen_model::analysis::{self, Context};
use lateen_model::manifest::{self, Finding};
use lateen_model::mesh_config::{CONFIG_MAP_KEY, CONFIG_MAP_NAME, CONFIG_MAP_NAMESPACE, MeshConfig};
use lateen_model::resource::{ConfigMap, FieldPath, Resource, ResourceKey};
use serde_json::{Value, json};

/// Find what is wrong or strange in manifests, without running them
///
/// Errors are documents that a mesh would refuse. Warnings are what is accepted and probably not meant, within a document and
/// between documents: two VirtualServices for one host, references that lead nowhere, fields without an effect.
///
/// The exit status is 0 if nothing reaches the threshold, else 1.
#[derive(Debug, Args)]
pub struct Analyze {
    /// Files, or directories with *.yaml, *.yml and *.json
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// From which level on the command fails
    #[arg(long, value_enum, default_value = "error")]
    failure_threshold: Level,
    /// Let VirtualServices of any namespace route to any service, as `LATEEN_FOREIGN_ROUTES` does
    #[arg(long, env = "LATEEN_FOREIGN_ROUTES", default_value_t = false)]
    foreign_routes: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Level {
    /// Accepted, and probably not meant.
    Warning,
    /// Refused.
    Error,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people: a line for each finding.
    Table,
    /// For programs: a list of objects.
    Json,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Message {
    level: Level,
    /// Whose document it is, if that can be told.
    key: Option<ResourceKey>,
    finding: Finding,
}

impl Analyze {
    /// Reads and prints.
    ///
    /// # Errors
    /// When a path cannot be read.
    pub fn run(&self) -> Result<ExitCode, String> {
        let (files, mut unreadable) = lateen_local::manifest_files(&self.paths);
        let mut report = Report::default();
        for file in &files {
            match std::fs::read_to_string(file) {
                Ok(text) => report.read(&text, &file.display().to_string()),
                Err(e) => unreadable.push(format!("{}: {e}", file.display())),
            }
        }
        if !unreadable.is_empty() {
            return Err(unreadable.join("\n"));
        }
        let documents = report.documents;
        let messages = report.finish(self.foreign_routes);
        let text = match self.output {
            Output::Table => lines(&messages, (documents, files.len())),
            Output::Json => format!("{:#}\n", messages.iter().map(Message::json).collect::<Value>()),
        };
        let mut out = std::io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // `lateen analyze … | head` is no failure.
            Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => return Err(e.to_string()),
            _ => {}
        }
        let failed = messages.iter().any(|m| m.level >= self.failure_threshold);
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

/// What was read, and what was found in it.
#[derive(Default)]
struct Report {
    documents: usize,
    resources: Vec<Resource>,
    messages: Vec<Message>,
}

impl Report {
    fn read(&mut self, text: &str, file: &str) {
        for document in manifest::read(text, file) {
            self.documents += 1;
            match document {
                Ok(document) => self.take(document),
                Err(rejection) => {
                    let key = rejection.key;
                    let one = |finding| Message { level: Level::Error, key: key.clone(), finding };
                    self.messages.extend(rejection.problems.into_iter().map(one));
                }
            }
        }
    }

    fn take(&mut self, document: manifest::Document) {
        let mut resource = document.resource;
        let key = resource.key();
        let warning = |finding| Message { level: Level::Warning, key: Some(key.clone()), finding };
        self.messages.extend(document.warnings.into_iter().map(warning));
        if let Some(first) = self.resources.iter().find(|r| r.key() == key) {
            let text = format!("is already defined at {}", first.origin());
            let finding = Finding { origin: resource.origin().clone(), path: FieldPath::root(), text };
            self.messages.push(Message { level: Level::Error, key: Some(key), finding });
            return;
        }
        resource.metadata_mut().provenance.sequence = u64::try_from(self.resources.len()).unwrap_or(u64::MAX);
        self.resources.push(resource);
    }

    /// By place.
    fn finish(mut self, foreign_routes: bool) -> Vec<Message> {
        let mesh = self.mesh_config();
        let context = Context { root_namespace: mesh.root_namespace, foreign_routes, ..Context::default() };
        for finding in analysis::analyze(self.resources.iter(), &context) {
            let of_document = |r: &&Resource| r.origin() == &finding.origin;
            let key = self.resources.iter().find(of_document).map(Resource::key);
            self.messages.push(Message { level: Level::Warning, key, finding });
        }
        self.messages.sort_by(|a, b| {
            let place = |m: &Message| (m.finding.origin.clone(), m.finding.path.clone());
            place(a).cmp(&place(b))
        });
        self.messages
    }

    /// The mesh's own configuration, which is a text within a ConfigMap. What is wrong with it is found where that is read.
    fn mesh_config(&self) -> MeshConfig {
        let text = self.resources.iter().find_map(|r| match r {
            Resource::ConfigMap(map) if is_mesh(map) => map.data.get(CONFIG_MAP_KEY),
            _ => None,
        });
        text.and_then(|text| MeshConfig::parse(text, CONFIG_MAP_KEY).ok()).map(|parsed| parsed.config).unwrap_or_default()
    }
}

fn is_mesh(map: &ConfigMap) -> bool {
    map.metadata.namespace == CONFIG_MAP_NAMESPACE && map.metadata.name == CONFIG_MAP_NAME
}

impl Message {
    fn level(&self) -> &'static str {
        match self.level {
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }

    fn json(&self) -> Value {
        let Finding { origin, path, text } = &self.finding;
        json!({
            "level": self.level(),
            "file": &*origin.file,
            "line": origin.line,
            "column": origin.column,
            "resource": self.key.as_ref().map(ToString::to_string),
            "path": path.to_string(),
            "message": text,
        })
    }
}

/// A line for each finding, and a last one that sums up.
fn lines(messages: &[Message], (documents, files): (usize, usize)) -> String {
    let mut out = String::new();
    for message in messages {
        let Finding { origin, path, text } = &message.finding;
        out.push_str(&format!("{}: {origin}: ", message.level()));
        if let Some(key) = &message.key {
            out.push_str(&format!("{key}: "));
        }
        if !path.is_root() {
            out.push_str(&format!("{path}: "));
        }
        out.push_str(text);
        out.push('\n');
    }
    let count = |level| messages.iter().filter(|m| m.level == level).count();
    let (errors, warnings) = (count(Level::Error), count(Level::Warning));
    out.push_str(&format!("{documents} documents in {files} files: {errors} errors, {warnings} warnings\n"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<Message> {
        let mut report = Report::default();
        report.read(text, "t.yaml");
        report.finish(false)
    }

    const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {ports: [{port: 80}]}\n";

    #[test]
    fn what_is_refused_is_an_error() {
        let found = found("apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {ports: [{prot: 80}]}\n");
        assert!(!found.is_empty());
        assert!(found.iter().all(|m| m.level == Level::Error && m.finding.origin.line == 4), "{found:#?}");
        assert!(found[0].json()["resource"].as_str().unwrap().contains("web"), "{found:#?}");
    }

    #[test]
    fn what_is_defined_twice_is_an_error() {
        let found = found(&format!("{SERVICE}---\n{SERVICE}"));
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].level == Level::Error && found[0].finding.text.contains("t.yaml:1"), "{found:#?}");
    }

    #[test]
    fn what_leads_nowhere_is_a_warning_with_its_object() {
        let route = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: r, namespace: shop}\nspec: {hosts: [web], http: [{route: [{destination: {host: nobody}}]}]}\n";
        let found = found(&format!("{SERVICE}---\n{route}"));
        assert_eq!(found.len(), 1, "{found:#?}");
        assert_eq!(found[0].level, Level::Warning);
        assert!(found[0].key.as_ref().is_some_and(|k| k.name == "r"), "{found:#?}");
    }

    #[test]
    fn the_mesh_config_is_read_too() {
        let map = |mesh: &str| {
            format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata: {{mesh: '{mesh}'}}\n"
            )
        };
        assert_eq!(found(&map("{enableTracing: false}")), []);
        let wrong = found(&map("{enableTracking: false}"));
        assert!(
            wrong.len() == 1 && wrong[0].level == Level::Error && wrong[0].finding.path.to_string().contains("enableTracking"),
            "{wrong:#?}"
        );
    }

    #[test]
    fn a_line_for_each_and_a_sum() {
        let messages = found(&format!("{SERVICE}---\n{SERVICE}"));
        let text = lines(&messages, (2, 1));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("error: t.yaml:6"), "{text}");
        assert_eq!(lines[1], "2 documents in 1 files: 1 errors, 0 warnings");
    }
}
