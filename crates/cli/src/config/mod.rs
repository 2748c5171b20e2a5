//! `lateen config`: the configuration that a pod's sidecar has in force, as it says itself.

mod clusters;
mod endpoints;
mod field;
mod learnt;
mod listeners;
mod routes;
mod secrets;

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use lateen_local::{Client, MeshName};
use serde_json::Value;

use crate::table::Table;

/// Show the configuration that a pod's sidecar has in force
///
/// The sidecar itself is asked, so that this is what traffic meets, not what somebody meant to send.
#[derive(Debug, Args)]
pub struct Config {
    #[command(subcommand)]
    kind: Kind,
}

/// What to show.
#[derive(Debug, Subcommand)]
enum Kind {
    /// Where the sidecar takes connections, and what becomes of them
    Listeners(Selection),
    /// How requests find a cluster: virtual hosts, matches, the VirtualService they come from
    Routes(Selection),
    /// Services and subsets that the sidecar can reach, and the DestinationRule that shapes each
    Clusters(Selection),
    /// Addresses of each cluster, their health, and whether outlier detection has ejected them
    Endpoints(Selection),
    /// The certificate and the roots, without keys
    Secrets(Selection),
    /// What was learnt on demand, under an automatic scope
    Learnt(Selection),
}

/// Which sidecar, and how to print.
#[derive(Debug, Args)]
struct Selection {
    /// A pod, the beginning of its name, or a deployment (`NAME`, `deploy/NAME`)
    #[arg(value_name = "POD")]
    pod: String,
    /// The pod's namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// The mesh's name
    #[arg(long, default_value = "default")]
    name: MeshName,
    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

/// How a command prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For programs: a list of objects, each with `name`.
    Json,
}

/// How a page's entries become rows.
type Tabulate = fn(&[Value]) -> Table;

impl Kind {
    /// The page of the sidecar's admin interface, how its entries become rows, and which sidecar is meant.
    fn parts(&self) -> (&'static str, Tabulate, &Selection) {
        match self {
            Self::Listeners(s) => ("listeners", listeners::table, s),
            Self::Routes(s) => ("routes", routes::table, s),
            Self::Clusters(s) => ("clusters", clusters::table, s),
            Self::Endpoints(s) => ("endpoints", endpoints::table, s),
            Self::Secrets(s) => ("secrets", secrets::table, s),
            Self::Learnt(s) => ("learnt", learnt::table, s),
        }
    }
}

impl Config {
    /// Asks and prints.
    ///
    /// # Errors
    /// When no such mesh runs, there is no such pod, it has no sidecar, or the sidecar does not answer; the text says what
    /// there is instead.
    pub fn run(&self) -> Result<ExitCode, String> {
        let (page, table, selection) = self.kind.parts();
        let mesh = Client::connect(&selection.name)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| format!("cannot start: {e}"))?;
        let path = format!("config/{page}");
        let asked = mesh.admin_page(&selection.namespace, &selection.pod, &path);
        let entries: Vec<Value> = serde_json::from_slice(&runtime.block_on(asked)?)
            .map_err(|e| format!("the sidecar answered something else than a list of {page}: {e}"))?;
        let text = match selection.output {
            Output::Table => table(&entries).text(),
            Output::Json => format!("{:#}\n", Value::Array(entries)),
        };
        let mut out = std::io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // `lateen config … | head` is no failure.
            Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.to_string()),
            _ => Ok(ExitCode::SUCCESS),
        }
    }
}
