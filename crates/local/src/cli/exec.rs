//! `lateen exec`.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Args;

use super::{fail, runtime};
use crate::exec::{Request, call};
use crate::state_dir::{MeshName, StateDir};

/// Run a command inside a pod, with this terminal's input and output
///
/// The exit status is the command's; 128 and the signal's number if a signal ended it, 127 if there is no such program, 126
/// if it cannot be run. Signals are passed on. At a terminal the command has a terminal of its own, as with `ssh -t`.
#[derive(Debug, Args)]
pub struct Exec {
    /// The mesh's name
    #[arg(long, default_value = "default")]
    name: MeshName,
    /// The pod's namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// A pod, the beginning of its name, or a deployment (`NAME`, `deploy/NAME`); `/CONTAINER` chooses a container
    #[arg(value_name = "POD[/CONTAINER]")]
    pod: String,
    /// The container; the pod's first one if absent
    #[arg(short, long)]
    container: Option<String>,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<String>,
}

impl Exec {
    /// Runs the command; its exit status is this program's.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let dir = StateDir::of(&self.name);
        if let Err(e) = dir.running() {
            return fail(&e.to_string());
        }
        let (pod, container) = split(&self.pod);
        let terminal = std::io::stdin().is_terminal() || std::io::stdout().is_terminal();
        let request = Request {
            namespace: self.namespace,
            pod,
            container: self.container.or(container),
            command: self.command,
            term: terminal.then(|| std::env::var("TERM").ok()).flatten(),
            terminal: false,
        };
        let outcome = match runtime() {
            Ok(runtime) => runtime.block_on(call(&dir, request)),
            Err(e) => return fail(&e),
        };
        match outcome {
            Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(255)),
            Err(failure) => {
                fail(&failure.text);
                ExitCode::from(failure.status)
            }
        }
    }
}

/// `[KIND/]POD[/CONTAINER]` as pod and container.
fn split(text: &str) -> (String, Option<String>) {
    let kind = ["deploy/", "deployment/", "pod/"].into_iter().find(|k| text.starts_with(k)).unwrap_or_default();
    let rest = &text[kind.len()..];
    match rest.split_once('/') {
        Some((pod, container)) => (format!("{kind}{pod}"), Some(container.to_owned())),
        None => (text.to_owned(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_named_after_the_pod() {
        let s = |pod: &str, c: Option<&str>| (pod.to_owned(), c.map(str::to_owned));
        assert_eq!(split("web"), s("web", None));
        assert_eq!(split("web/app"), s("web", Some("app")));
        assert_eq!(split("deploy/web"), s("deploy/web", None));
        assert_eq!(split("deployment/web/app"), s("deployment/web", Some("app")));
    }
}
