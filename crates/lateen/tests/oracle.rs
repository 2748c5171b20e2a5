//! Envoy as the oracle: scenarios run on two meshes, alike but for what runs as sidecar, and what clients and servers observe is
//! compared.
//!
//! `cargo test -p lateen --test oracle [-- NAME…]` runs all scenarios, or those whose names contain one of the words. What was
//! observed is left in `target/tmp/oracle`. `LATEEN_BLESS=1` writes `docs/compatibility.md`, which a run of all scenarios checks.
//! `LATEEN_ENVOY` and `LATEEN_BINARY` name other binaries than those that are fetched and built.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, and says what it does")]

#[path = "oracle/accounts.rs"]
mod accounts;
#[path = "oracle/agent/mod.rs"]
mod agent;
#[path = "oracle/compare.rs"]
mod compare;
#[path = "oracle/counters.rs"]
mod counters;
#[path = "oracle/credentials.rs"]
mod credentials;
#[path = "oracle/fields.rs"]
mod fields;
#[path = "oracle/logs.rs"]
mod logs;
#[path = "oracle/mesh.rs"]
mod mesh;
#[path = "oracle/observe.rs"]
mod observe;
#[path = "oracle/op.rs"]
mod op;
#[path = "oracle/places.rs"]
mod places;
#[path = "oracle/run.rs"]
mod run;
#[path = "oracle/script.rs"]
mod script;
#[path = "oracle/table.rs"]
mod table;
#[path = "oracle/yaml.rs"]
mod yaml;

pub(crate) use agent::parse as agent_parse;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "agent") {
        agent::run();
        return ExitCode::SUCCESS;
    }
    // What test runners ask of a test program.
    if arguments.iter().any(|argument| argument == "--list") {
        println!("{TEST}: test");
        return ExitCode::SUCCESS;
    }
    if arguments.iter().any(|argument| argument == "--ignored") {
        return ExitCode::SUCCESS;
    }
    let mut words: Vec<&str> = arguments.iter().map(String::as_str).filter(|argument| !argument.starts_with('-')).collect();
    words.retain(|word| !TEST.contains(word));
    let result = run::run(&words);
    credentials::forget();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(complaint) => {
            println!("\n{complaint}\n\ntest {TEST} ... FAILED");
            ExitCode::FAILURE
        }
    }
}

const TEST: &str = "both_engines_show_the_same";
