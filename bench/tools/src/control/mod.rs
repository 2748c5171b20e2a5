//! The load of a control plane: how long edits take to the last proxy's acknowledgement, and what that costs.

mod plane;
mod proxy;
mod world;

use crate::Failure;
use crate::stats::{Usage, millis, summary};
use plane::Plane;
use proxy::{Board, Pace, Proxy};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use world::{EditKind, Size};

/// What to start, and what to do to it.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The binary `lateen`.
    #[arg(long)]
    lateen: PathBuf,
    #[command(flatten)]
    size: Size,
    /// Single edits, each waited for, of each kind.
    #[arg(long, default_value_t = 5)]
    edits: u16,
    /// Edits a second of endpoints, for --churn-seconds; 0: none.
    #[arg(long, default_value_t = 10)]
    churn: u16,
    /// How long the churn lasts.
    #[arg(long, default_value_t = 5)]
    churn_seconds: u16,
    /// Edits of endpoints as fast as the control plane takes them; 0: none.
    #[arg(long, default_value_t = 20)]
    burst: u16,
    /// Of the proxies, how many acknowledge half a second late.
    #[arg(long, default_value_t = 0)]
    slow: usize,
    /// Of the proxies, how many read nothing once they are up to date.
    #[arg(long, default_value_t = 0)]
    stuck: usize,
    /// At the end all streams break at once, and come back.
    #[arg(long)]
    reconnect: bool,
    /// At the end the control plane is killed, and another started in its place.
    #[arg(long)]
    restart: bool,
    /// How long any one step may take, in seconds.
    #[arg(long, default_value_t = 120)]
    limit: u64,
    /// A further argument of `lateen control`.
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    control_arg: Vec<String>,
}

/// Runs all of it.
pub(crate) async fn run(options: &Options) -> Result<Value, Failure> {
    let fast = options.size.proxies.checked_sub(options.slow + options.stuck).filter(|fast| *fast > 0);
    let fast = fast.ok_or("--slow and --stuck leave no fast proxy to measure by")?;
    let begun = Instant::now();
    let plane = Plane::start(options.lateen.clone(), options.control_arg.clone(), options.size).await?;
    let started = begun.elapsed();
    let empty = plane.usage()?;
    let mut bench = Bench { options, plane, board: Rc::new(Board::default()), fast, edit: 0, connected: Vec::new() };
    let mut result = json!({
        "proxies": options.size.proxies, "services": options.size.services, "endpoints": options.size.endpoints,
        "scoped": options.size.scoped, "slow": options.slow, "stuck": options.stuck,
        "start": { "seconds": started.as_secs_f64(), "cpu_seconds": empty.cpu, "resident_mb": empty.resident },
    });
    result["connect"] = bench.connect(empty).await?;
    for (name, kind) in [("endpoint", EditKind::Endpoint), ("route", EditKind::Route)] {
        result[name] = bench.single(kind).await?;
    }
    if options.churn > 0 {
        let pause = Duration::from_secs(1) / u32::from(options.churn);
        result["churn"] = bench.series(options.churn * options.churn_seconds, pause).await?;
    }
    if options.burst > 0 {
        result["burst"] = bench.series(options.burst, Duration::ZERO).await?;
    }
    if options.reconnect {
        result["reconnect"] = bench.reconnect().await?;
    }
    if options.restart {
        result["restart"] = bench.restart().await?;
    }
    result["connections_lost"] = bench.board.lost.get().into();
    result["resident_mb"] = bench.plane.usage()?.resident.into();
    Ok(result)
}

struct Bench<'a> {
    options: &'a Options,
    plane: Plane,
    board: Rc<Board>,
    /// Proxies that acknowledge at once.
    fast: usize,
    /// The newest edit's number.
    edit: u16,
    connected: Vec<(tokio::sync::oneshot::Sender<()>, JoinHandle<Proxy>)>,
}

/// What the control plane had used and sent at some moment.
struct Mark {
    at: Instant,
    usage: Usage,
    bytes: u64,
    responses: u64,
}

impl Bench<'_> {
    fn limit(&self) -> Duration {
        Duration::from_secs(self.options.limit)
    }

    fn mark(&self) -> Result<Mark, Failure> {
        let (bytes, responses) = (self.board.bytes.get(), self.board.responses.get());
        Ok(Mark { at: Instant::now(), usage: self.plane.usage()?, bytes, responses })
    }

    /// What was used and sent since.
    fn since(&self, mark: &Mark) -> Result<Value, Failure> {
        let usage = self.plane.usage()?;
        Ok(json!({
            "seconds": mark.at.elapsed().as_secs_f64(), "cpu_seconds": usage.cpu - mark.usage.cpu, "resident_mb": usage.resident,
            "bytes": self.board.bytes.get() - mark.bytes, "responses": self.board.responses.get() - mark.responses,
        }))
    }

    fn launch(&mut self, proxies: Vec<Proxy>) {
        for mut proxy in proxies {
            let (stop, mut stopped) = tokio::sync::oneshot::channel();
            let address = self.plane.address.clone();
            let task = tokio::task::spawn_local(async move {
                tokio::select! {
                    () = proxy.run(&address) => {}
                    _ = &mut stopped => {}
                }
                proxy
            });
            self.connected.push((stop, task));
        }
    }

    /// All proxies connect for the first time, at once, and get everything.
    async fn connect(&mut self, empty: Usage) -> Result<Value, Failure> {
        let mark = self.mark()?;
        let pace = |number: usize| match number {
            n if n < self.options.stuck => Pace::Stuck,
            n if n < self.options.stuck + self.options.slow => Pace::Slow,
            _ => Pace::Fast,
        };
        let size = self.options.size;
        let proxies = (0..size.proxies).map(|n| Proxy::new(&size.workload(n), pace(n), Rc::clone(&self.board)));
        let proxies = proxies.collect();
        self.launch(proxies);
        if !self.board.until(self.limit(), |board| board.synced.get() >= size.proxies).await {
            let synced = self.board.synced.get();
            return Err(format!("only {synced} of {} proxies have got everything in {:?}", size.proxies, self.limit()).into());
        }
        let mut result = self.since(&mark)?;
        #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
        let per_proxy = (self.plane.usage()?.resident - empty.resident) * 1024.0 / size.proxies as f64;
        result["memory_per_proxy_kb"] = per_proxy.into();
        Ok(result)
    }

    /// Edits one after the other.
    async fn single(&mut self, kind: EditKind) -> Result<Value, Failure> {
        let mark = self.mark()?;
        let (mut each, mut last) = (Vec::new(), Vec::new());
        for _ in 0..self.options.edits {
            self.make(kind).await?;
            self.wait().await?;
            let waits = self.board.take().concat();
            last.extend(waits.iter().max());
            each.extend(waits);
        }
        self.with_waits(&mark, each, last)
    }

    /// Edits of endpoints, with this time from one to the next; later ones may overtake earlier ones.
    async fn series(&mut self, count: u16, pause: Duration) -> Result<Value, Failure> {
        let mark = self.mark()?;
        let mut tick = tokio::time::interval(pause.max(Duration::from_micros(1)));
        for _ in 0..count {
            tick.tick().await;
            self.make(EditKind::Endpoint).await?;
        }
        self.wait().await?;
        let waits = self.board.take();
        let last = waits.iter().filter_map(|waits| waits.iter().max().copied()).collect();
        self.with_waits(&mark, waits.concat(), last)
    }

    async fn make(&mut self, kind: EditKind) -> Result<(), Failure> {
        self.edit = self.edit.checked_add(1).ok_or("too many edits")?;
        self.board.edit(kind, self.edit);
        self.plane.edit(kind, self.edit).await
    }

    /// Waits until all fast proxies have acknowledged the newest edit.
    async fn wait(&self) -> Result<(), Failure> {
        if self.board.until(self.limit(), |board| board.acknowledged() >= self.fast).await {
            return Ok(());
        }
        let reached = self.board.acknowledged();
        Err(format!("edit {} reached {reached} of {} proxies in {:?}", self.edit, self.fast, self.limit()).into())
    }

    fn with_waits(&self, mark: &Mark, mut each: Vec<Duration>, mut last: Vec<Duration>) -> Result<Value, Failure> {
        let mut result = self.since(mark)?;
        result["each_proxy"] = summary(&mut each);
        result["last_proxy"] = summary(&mut last);
        Ok(result)
    }

    /// All streams break and come back, and tell what they have: from then until an edit of the same moment is everywhere.
    async fn reconnect(&mut self) -> Result<Value, Failure> {
        let mark = self.mark()?;
        let mut proxies = Vec::new();
        for (stop, task) in std::mem::take(&mut self.connected) {
            let _ = stop.send(());
            proxies.push(task.await?);
        }
        self.launch(proxies);
        self.make(EditKind::Endpoint).await?;
        self.wait().await?;
        self.finish(&mark)
    }

    /// A control plane that has just started, against all proxies at once: from its end until an edit is everywhere.
    async fn restart(&mut self) -> Result<Value, Failure> {
        let mark = self.mark()?;
        self.edit = self.edit.checked_add(1).ok_or("too many edits")?;
        self.board.edit(EditKind::Endpoint, self.edit);
        self.plane.restart(self.edit).await?;
        let told = mark.at.elapsed();
        self.wait().await?;
        let mut result = self.finish(&Mark { usage: Usage { cpu: 0.0, resident: 0.0 }, ..mark })?;
        result["serves_after_ms"] = millis(told).into();
        Ok(result)
    }

    fn finish(&self, mark: &Mark) -> Result<Value, Failure> {
        self.with_waits(mark, self.board.take().concat(), Vec::new())
    }
}
