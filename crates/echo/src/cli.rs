//! The command line `lateen echo`.

use crate::client::Outgoing;
use crate::load::{self, Plan};
use crate::pipe::{self, Event, Until};
use crate::{Addresses, Config, EchoError, PodIdentity, Server, TlsServer, duration, http as web};
use bytes::Bytes;
use clap::{Args, Subcommand, ValueEnum};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// The longest time that an option can ask for.
const MAX_TIME: Duration = Duration::from_secs(24 * 3600);

/// Serve the test application, or send requests as a client would.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct EchoArgs {
    #[command(subcommand)]
    client: Option<ClientCommand>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Args, Debug)]
struct ServeArgs {
    /// Serve HTTP/1.1 and cleartext HTTP/2 on this port (0: a free one).
    #[arg(long, required = true)]
    port: Option<u16>,
    /// Listen on this address only.
    #[arg(long)]
    host: Option<IpAddr>,
    /// Serve HTTP/1.1 and HTTP/2 over TLS on this port.
    #[arg(long, value_name = "PORT", requires_all = ["tls_cert", "tls_key"])]
    tls: Option<u16>,
    /// The certificate for --tls, then its intermediates, PEM.
    #[arg(long, value_name = "FILE", requires = "tls")]
    tls_cert: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, value_name = "FILE", requires = "tls")]
    tls_key: Option<PathBuf>,
    /// Ask TLS clients for a certificate by one of these roots, PEM; who shows none is let in.
    #[arg(long, value_name = "FILE", requires = "tls")]
    tls_client_ca: Option<PathBuf>,
    /// Echo lines over TCP on this port.
    #[arg(long, value_name = "PORT")]
    tcp: Option<u16>,
    /// Say this line first to each TCP client, as server-first protocols do.
    #[arg(long, value_name = "TEXT", requires = "tcp")]
    tcp_banner: Option<String>,
    /// Be an HTTP proxy for bytes on this port: CONNECT, and POST with bodies that do not end; /tunnels of --port shows how the
    /// last tunnel was asked for.
    #[arg(long, value_name = "PORT")]
    tunnel: Option<u16>,
    /// Connections of --port, --tls and --tcp begin with the PROXY protocol (version 1 or 2): answers tell what it said, TCP
    /// clients get it as a line first.
    #[arg(long, conflicts_with = "tcp_banner")]
    proxy_protocol: bool,
    /// Serve gRPC (lateen.echo.v1.Echo, grpc.health.v1.Health) on this port.
    #[arg(long, value_name = "PORT")]
    grpc: Option<u16>,
    /// Collect OTLP spans over gRPC on this port; /traces shows them.
    #[arg(long, value_name = "PORT")]
    otlp: Option<u16>,
    /// How many spans to keep.
    #[arg(long, value_name = "N", default_value_t = 10_000, requires = "otlp")]
    kept_spans: usize,
    /// How long requests in flight may take after SIGTERM.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = time)]
    drain: Duration,
}

#[derive(Subcommand, Debug)]
enum ClientCommand {
    /// Send HTTP or gRPC requests; one prints its answer, many print who answered and how fast.
    Get(Box<GetArgs>),
    /// Connect standard input and output to a TCP port; the end of the input closes that half only.
    Tcp {
        /// HOST:PORT
        address: String,
        /// Wait there for one connection instead of connecting; standard error says `listening ADDRESS` when it can come.
        #[arg(long)]
        listen: bool,
        /// Go on until both directions have ended; standard error says `ended BYTES` when the peer's has.
        #[arg(long)]
        both: bool,
    },
    /// Send each MESSAGE over a WebSocket and print what comes back for it.
    Ws {
        /// ws://HOST[:PORT]/PATH
        url: String,
        /// What to send.
        #[arg(required = true)]
        messages: Vec<String>,
        /// Add a header to the handshake, as NAME:VALUE.
        #[arg(short = 'H', long = "header", value_name = "NAME:VALUE", value_parser = web::header)]
        headers: Vec<(HeaderName, HeaderValue)>,
    },
}

#[derive(Args, Debug)]
struct GetArgs {
    /// http://HOST[:PORT]/PATH, or grpc://HOST:PORT for lateen.echo.v1.Echo/Unary.
    url: Uri,
    /// Add a header, as NAME:VALUE.
    #[arg(short = 'H', long = "header", value_name = "NAME:VALUE", value_parser = web::header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The method [default: GET, or POST with a body].
    #[arg(short = 'X', long, value_name = "METHOD")]
    method: Option<Method>,
    /// The body, or the gRPC message.
    #[arg(short = 'd', long, value_name = "BODY")]
    data: Option<String>,
    /// How many requests [default: 1, or without end with --duration].
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Start no request after this time.
    #[arg(long, value_name = "DURATION", value_parser = time)]
    duration: Option<Duration>,
    /// How many requests may be under way at once.
    #[arg(short = 'c', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    concurrency: u16,
    /// Requests a second, due whether or not earlier ones have been answered (an open loop); latency counts from when a
    /// request was due, also if it was sent late. --concurrency limits how many wait for answers.
    #[arg(long, value_name = "R", value_parser = positive)]
    rate: Option<f64>,
    /// How long one request may take.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = time)]
    timeout: Duration,
    /// HTTP/2 with prior knowledge.
    #[arg(long)]
    http2: bool,
    /// Connect anew for each request.
    #[arg(long, conflicts_with = "http2")]
    new_connections: bool,
    /// Count the values at this JSON pointer of the answers' bodies, e.g. /body/version.
    #[arg(long, value_name = "POINTER")]
    tally: Vec<String>,
    /// How to print the result.
    #[arg(short = 'o', long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Exit with 1 unless every request was answered with a status below 400.
    #[arg(long)]
    fail: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Text,
    Json,
}

fn time(text: &str) -> Result<Duration, String> {
    duration::parse(text, MAX_TIME)
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| *number > 0.0 && *number <= 1e6);
    number.ok_or_else(|| format!("{text:?} is not a number above 0 and at most 1000000"))
}

impl EchoArgs {
    /// Runs the command on a runtime of its own until it is done or a signal ends it.
    pub fn run(self) -> Result<ExitCode, EchoError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let code = runtime.block_on(async {
            match self.client {
                None => self.serve.run().await,
                Some(ClientCommand::Get(args)) => args.run().await,
                Some(ClientCommand::Tcp { address, listen, both }) => {
                    let until = if both { Until::BothEnd } else { Until::PeerEnds };
                    let (input, output) = (tokio::io::stdin(), tokio::io::stdout());
                    let tell = |event| {
                        if !matches!((event, until), (Event::PeerEnded(_), Until::PeerEnds)) {
                            eprintln!("{event}");
                        }
                    };
                    let done = match listen {
                        true => pipe::listen(&address, input, output, until, tell).await,
                        false => pipe::connect(&address, input, output, until, tell).await,
                    };
                    done.map(|()| ExitCode::SUCCESS)
                }
                Some(ClientCommand::Ws { url, messages, headers }) => {
                    let headers: HeaderMap = headers.into_iter().collect();
                    print(&(pipe::websocket(&url, &messages, &headers).await?.join("\n") + "\n"))
                }
            }
        });
        // A terminal read that is still blocked (`tcp` with an open standard input) must not hold the process.
        runtime.shutdown_background();
        code
    }
}

impl ServeArgs {
    async fn run(self) -> Result<ExitCode, EchoError> {
        let tls = match (self.tls, self.tls_cert, self.tls_key) {
            (Some(port), Some(certificate), Some(key)) => {
                Some(TlsServer { port, certificate, key, client_roots: self.tls_client_ca })
            }
            _ => None,
        };
        let config = Config {
            host: self.host,
            port: self.port.ok_or_else(|| EchoError::Usage("--port is required".into()))?,
            tls,
            tcp: self.tcp,
            tcp_banner: self.tcp_banner,
            tunnel: self.tunnel,
            proxy_protocol: self.proxy_protocol,
            grpc: self.grpc,
            otlp: self.otlp,
            kept_spans: self.kept_spans,
            drain: self.drain,
        };
        let stop = termination()?;
        let server = Server::bind(config, PodIdentity::from_environment()?).await?;
        let Addresses { http, tls, tcp, tunnel, grpc, otlp } = server.addresses();
        let shown = [("http", Some(http)), ("tls", tls), ("tcp", tcp), ("tunnel", tunnel), ("grpc", grpc), ("otlp", otlp)];
        let lines = shown.iter().filter_map(|(name, address)| address.map(|address| format!("listening {name} {address}\n")));
        print(&lines.collect::<String>())?;
        server.serve(stop).await;
        Ok(ExitCode::SUCCESS)
    }
}

impl GetArgs {
    async fn run(self) -> Result<ExitCode, EchoError> {
        let (fail, output) = (self.fail, self.output);
        let plan = self.plan()?;
        let report = load::run(&plan, termination()?).await?;
        match output {
            Output::Text => print(&report.to_text())?,
            Output::Json => print(&format!("{:#}\n", report.to_json()))?,
        };
        Ok(if fail && !report.all_succeeded() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    fn plan(self) -> Result<Plan, EchoError> {
        let method = self.method.unwrap_or(if self.data.is_some() { Method::POST } else { Method::GET });
        let outgoing = Outgoing {
            method,
            url: self.url,
            headers: self.headers.into_iter().collect(),
            body: self.data.map(Bytes::from).unwrap_or_default(),
            timeout: self.timeout,
            http2: self.http2,
        };
        outgoing.check().map_err(EchoError::Usage)?;
        let count = self.count.or(if self.duration.is_some() { None } else { Some(1) });
        Ok(Plan {
            outgoing,
            count,
            duration: self.duration,
            concurrency: self.concurrency.into(),
            rate: self.rate,
            pointers: self.tally,
            new_connections: self.new_connections,
        })
    }
}

/// Resolves at the first SIGTERM or SIGINT from now on.
fn termination() -> Result<impl Future<Output = ()>, EchoError> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn print(text: &str) -> Result<ExitCode, EchoError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // `lateen echo get … | head` is no failure.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        written => Ok(written.map(|()| ExitCode::SUCCESS)?),
    }
}
