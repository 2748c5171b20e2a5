//! Load that no common tool makes: TCP connections and bytes, gRPC streams, and proxies of a control plane by the thousand.
//!
//! Each command prints one JSON object. `bench/run` starts them; `lateen-bench help` explains them.

mod control;
mod grpc;
mod stats;
mod tcp;

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Why a command could not do its work, for people.
type Failure = Box<dyn std::error::Error>;

/// Load generators for the benchmarks of Lateen; each prints one JSON object.
#[derive(Parser)]
#[command(version)]
enum Command {
    /// Serve TCP for the other commands: connections say in their first byte what they want.
    Serve {
        /// The port.
        #[arg(long)]
        port: u16,
    },
    /// TCP load on a `serve`.
    #[command(flatten)]
    Tcp(TcpCommand),
    /// Control plane load: starts `lateen control` and connects proxies to it.
    Control(Box<control::Options>),
}

#[derive(Subcommand)]
enum TcpCommand {
    /// Connect, exchange one byte and close, again and again.
    Connect(Load),
    /// Send as much as goes through; what counts has arrived.
    Send(Load),
    /// Open connections, use each once, say so with a line, and hold them until standard input ends.
    Hold {
        /// HOST:PORT
        address: String,
        /// How many connections.
        #[arg(short = 'n', long)]
        count: usize,
        /// Ask for / on this host by HTTP/1.1 instead of exchanging a byte.
        #[arg(long, value_name = "HOST")]
        http: Option<String>,
    },
    /// Messages to and fro on streams of `lateen.echo.v1.Echo/BidiStream`.
    Stream(Load),
}

/// Where the load goes to, how much at once, and for how long.
#[derive(clap::Args)]
struct Load {
    /// HOST:PORT
    address: String,
    /// How many connections (or streams) at once.
    #[arg(short = 'c', long, default_value_t = 1)]
    concurrency: usize,
    /// Seconds.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

impl Load {
    fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

fn main() -> ExitCode {
    let command = Command::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(Failure::from).and_then(|runtime| {
        let done = tokio::task::LocalSet::new().block_on(&runtime, until_signal(run(command)));
        runtime.shutdown_background();
        done
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("error: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// Work that a signal ends; whatever it had started ends with it.
async fn until_signal(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        done = work => done,
        _ = terminate.recv() => Err("ended by SIGTERM".into()),
        _ = interrupt.recv() => Err("ended by SIGINT".into()),
    }
}

async fn run(command: Command) -> Result<(), Failure> {
    let result = match command {
        Command::Serve { port } => return tcp::serve(port).await,
        Command::Tcp(TcpCommand::Hold { address, count, http }) => return tcp::hold(&address, count, http.as_deref()).await,
        Command::Tcp(TcpCommand::Connect(load)) => tcp::connect(&load).await?,
        Command::Tcp(TcpCommand::Send(load)) => tcp::send(&load).await?,
        Command::Tcp(TcpCommand::Stream(load)) => grpc::stream(&load).await?,
        Command::Control(options) => control::run(&options).await?,
    };
    print_line(&result.to_string());
    Ok(())
}

#[expect(clippy::print_stdout, reason = "what a command prints is its result")]
fn print_line(text: &str) {
    println!("{text}");
}
