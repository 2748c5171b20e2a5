//! The `lateen` binary: one subcommand a role, wiring only.

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Lateen, a service mesh
///
/// `lateen demo` shows what it does; `lateen up DIR` runs your own manifests on this machine.
#[derive(Parser)]
#[command(version, propagate_version = true)]
struct Lateen {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    Up(lateen_local::cli::Up),
    Status(lateen_local::cli::StatusArgs),
    Exec(lateen_local::cli::Exec),
    Config(lateen_cli::config::Config),
    Get(lateen_cli::get::Get),
    Analyze(lateen_cli::analyze::Analyze),
    Down(lateen_local::cli::Down),
    Demo(lateen_demo::Demo),
    /// Run the test application, an HTTP, TCP and gRPC server that tells who answered, or its client
    Echo(lateen_echo::cli::EchoArgs),
    /// Run the control plane: configuration, certificates, discovery (`lateen up` does)
    Control(Box<lateen_control::cli::ControlArgs>),
    /// Run a proxy (`lateen up` does, beside each injected pod)
    Proxy(lateen_proxy::cli::ProxyArgs),
    Capture(lateen_local::cli::Capture),
    #[command(hide = true, name = lateen_local::cli::Supervisor::NAME)]
    Supervisor(lateen_local::cli::Supervisor),
    #[command(hide = true, name = lateen_local::cli::Init::NAME)]
    Init(lateen_local::cli::Init),
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("LATEEN_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let ansi = lateen_local::coloured(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi).init();
    let done: Result<ExitCode, Box<dyn std::error::Error>> = match Lateen::parse().role {
        Role::Echo(args) => args.run().map_err(Into::into),
        Role::Control(args) => {
            give_memory_back();
            lateen_control::cli::run(*args).map(|()| ExitCode::SUCCESS).map_err(Into::into)
        }
        Role::Proxy(args) => {
            give_memory_back();
            lateen_proxy::cli::run(&args).map(|()| ExitCode::SUCCESS).map_err(Into::into)
        }
        Role::Up(args) => Ok(args.run()),
        Role::Down(args) => Ok(args.run()),
        Role::Status(args) => Ok(args.run()),
        Role::Exec(args) => Ok(args.run()),
        Role::Capture(args) => Ok(args.run()),
        Role::Config(args) => args.run().map_err(Into::into),
        Role::Get(args) => args.run().map_err(Into::into),
        Role::Analyze(args) => args.run().map_err(Into::into),
        Role::Demo(args) => args.run().map_err(Into::into),
        Role::Supervisor(args) => Ok(args.run()),
        Role::Init(args) => Ok(args.run()),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}

/// Has the allocator give unused memory back also while nothing is allocated. That takes a thread of its own, which those roles
/// cannot have that start other processes.
fn give_memory_back() {
    if let Err(error) = tikv_jemalloc_ctl::background_thread::write(true) {
        tracing::debug!(%error, "unused memory is given back only while memory is used");
    }
}
