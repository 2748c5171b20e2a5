//! Families, series and shards.

use super::cells::{Buckets, Cell, Counter, Gauge, Handle, Histogram, Kind};
use super::expose::{Exposition, Format};
use super::labels::LabelSet;
use std::collections::{BTreeMap, HashMap};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How far a registry may grow.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Series that [`Admission::Budget`] may make the registry hold. A histogram is one series.
    pub series: usize,
    /// Series beyond those that [`Admission::Reserve`] may add.
    pub reserve: usize,
    /// A series that nobody holds and that has not changed for so long is removed.
    pub idle: Duration,
}

impl Default for Limits {
    /// 20,000 series, 1,000 more for what overflows, half an hour.
    fn default() -> Self {
        Self { series: 20_000, reserve: 1_000, idle: Duration::from_secs(1800) }
    }
}

/// Whether a new series may be made when the registry is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Always: the labels come from this process's own code.
    Always,
    /// Within [`Limits::series`]: labels may come from peers or clients.
    Budget,
    /// Within the reserve too: labels that peers choose have been replaced already.
    Reserve,
}

/// Why a family was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetricError {
    /// Not `[a-zA-Z_:][a-zA-Z0-9_:]*`.
    #[error("{0:?} is not a metric name: letters, digits, '_' and ':' are allowed, no digit first")]
    Name(String),
    /// The name is taken by a family of another kind or with other buckets.
    #[error("metric {0} exists already, with another kind or other buckets")]
    Kind(String),
}

/// A family of series: a metric name, its help and its kind. Cheap to clone.
#[derive(Debug)]
pub struct Family<H> {
    inner: Arc<FamilyInner>,
    handle: PhantomData<fn() -> H>,
}

impl<H> Clone for Family<H> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), handle: PhantomData }
    }
}

#[derive(Debug)]
pub(super) struct FamilyInner {
    index: usize,
    pub(super) name: Box<str>,
    pub(super) help: Box<str>,
    pub(super) kind: Kind,
}

/// One labelled series over all shards.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) labels: LabelSet,
    pub(super) cells: Mutex<Vec<(u32, Cell)>>,
    idle: Mutex<Idle>,
}

#[derive(Debug)]
struct Idle {
    activity: u64,
    since: Instant,
}

type Reading = Arc<dyn Fn() -> f64 + Send + Sync>;

pub(super) struct FamilyEntry {
    pub(super) inner: Arc<FamilyInner>,
    series: BTreeMap<LabelSet, Arc<Series>>,
    readings: BTreeMap<LabelSet, Reading>,
}

#[derive(Default)]
struct Table {
    families: Vec<FamilyEntry>,
    by_name: HashMap<Box<str>, usize>,
    series: usize,
    shards: u32,
}

struct Shared {
    limits: Limits,
    table: Mutex<Table>,
    generation: AtomicU64,
    overflowed: AtomicU64,
    evicted: AtomicU64,
}

/// All metrics of a process. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

/// A family as [`Exposition`] sees it.
pub(super) struct FamilySnapshot {
    pub(super) inner: Arc<FamilyInner>,
    pub(super) series: Vec<Arc<Series>>,
    pub(super) readings: Vec<(LabelSet, f64)>,
}

impl Registry {
    /// An empty registry that also exposes its own size, overflows and evictions as `lateen_metrics_*`.
    pub fn new(limits: Limits) -> Self {
        let shared = Arc::new(Shared {
            limits,
            table: Mutex::default(),
            generation: AtomicU64::new(0),
            overflowed: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
        });
        let registry = Self { shared };
        registry.expose_itself();
        registry
    }

    #[expect(clippy::cast_precision_loss, reason = "exposed numbers are floating point; exact up to 2^53")]
    fn expose_itself(&self) {
        // Weak: the readings live inside what they read.
        let read = |number: fn(&Shared) -> u64| -> Reading {
            let shared = Arc::downgrade(&self.shared);
            Arc::new(move || shared.upgrade().map_or(0.0, |shared| number(&shared) as f64))
        };
        let overflowed = read(|shared| shared.overflowed.load(Ordering::Relaxed));
        let evicted = read(|shared| shared.evicted.load(Ordering::Relaxed));
        let none = LabelSet::none;
        let own = [
            ("lateen_metrics_series_overflow_total", "Lookups that found no room for a series of their own.", overflowed),
            ("lateen_metrics_series_evicted_total", "Series removed because they were idle.", evicted),
        ];
        for (name, help, reading) in own {
            self.add_reading(name, help, Kind::Counter, none(), reading).expect("own names are valid and unique");
        }
    }

    /// A family of counters; the same name again gives the same family.
    pub fn counter(&self, name: &str, help: &str) -> Result<Family<Counter>, MetricError> {
        self.family(name, help, Kind::Counter)
    }

    /// A family of gauges.
    pub fn gauge(&self, name: &str, help: &str) -> Result<Family<Gauge>, MetricError> {
        self.family(name, help, Kind::Gauge)
    }

    /// A family of histograms.
    pub fn histogram(&self, name: &str, help: &str, buckets: Buckets) -> Result<Family<Histogram>, MetricError> {
        self.family(name, help, Kind::Histogram(buckets))
    }

    /// A gauge whose value is read when it is scraped. The function must be quick and must not use the registry.
    pub fn gauge_fn(
        &self,
        name: &str,
        help: &str,
        labels: LabelSet,
        read: impl Fn() -> f64 + Send + Sync + 'static,
    ) -> Result<(), MetricError> {
        self.add_reading(name, help, Kind::Gauge, labels, Arc::new(read))
    }

    /// A counter that is kept elsewhere and read when it is scraped.
    pub fn counter_fn(
        &self,
        name: &str,
        help: &str,
        labels: LabelSet,
        read: impl Fn() -> f64 + Send + Sync + 'static,
    ) -> Result<(), MetricError> {
        self.add_reading(name, help, Kind::Counter, labels, Arc::new(read))
    }

    fn add_reading(&self, name: &str, help: &str, kind: Kind, labels: LabelSet, read: Reading) -> Result<(), MetricError> {
        let inner = self.family_inner(name, help, kind)?;
        self.lock().families[inner.index].readings.insert(labels, read);
        Ok(())
    }

    fn family<H>(&self, name: &str, help: &str, kind: Kind) -> Result<Family<H>, MetricError> {
        Ok(Family { inner: self.family_inner(name, help, kind)?, handle: PhantomData })
    }

    fn family_inner(&self, name: &str, help: &str, kind: Kind) -> Result<Arc<FamilyInner>, MetricError> {
        let valid = |(index, byte): (usize, u8)| {
            byte == b'_' || byte == b':' || byte.is_ascii_alphabetic() || (index > 0 && byte.is_ascii_digit())
        };
        if name.is_empty() || !name.bytes().enumerate().all(valid) {
            return Err(MetricError::Name(name.to_owned()));
        }
        let mut table = self.lock();
        if let Some(index) = table.by_name.get(name) {
            let inner = &table.families[*index].inner;
            return if inner.kind == kind { Ok(Arc::clone(inner)) } else { Err(MetricError::Kind(name.to_owned())) };
        }
        let index = table.families.len();
        let inner = Arc::new(FamilyInner { index, name: name.into(), help: help.into(), kind });
        table.by_name.insert(name.into(), index);
        table.families.push(FamilyEntry { inner: Arc::clone(&inner), series: BTreeMap::new(), readings: BTreeMap::new() });
        Ok(inner)
    }

    /// A new shard; each worker takes one for its lifetime.
    pub fn shard(&self) -> Shard {
        let mut table = self.lock();
        table.shards += 1;
        Shard { registry: self.clone(), id: table.shards }
    }

    /// The number of series held now.
    pub fn series_count(&self) -> usize {
        self.lock().series
    }

    /// Changes when cached handles have to be let go ([`SeriesCache`](super::SeriesCache) does so).
    pub fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::Relaxed)
    }

    /// Counts a lookup that had to be given a shared series.
    pub(crate) fn count_overflow(&self) {
        self.shared.overflowed.fetch_add(1, Ordering::Relaxed);
    }

    /// Removes series that are idle and that nobody holds, and asks the caches to let go of idle ones that are held. Run it
    /// every few minutes; a series goes at the second run after it has become idle, and never while it could be counted in.
    pub fn sweep(&self, now: Instant) {
        let limit = self.shared.limits.idle;
        let mut held_by_caches = false;
        let mut table = self.lock();
        let mut removed = 0;
        for family in &mut table.families {
            family.series.retain(|_, series| {
                if !series.is_idle(now, limit) {
                    return true;
                }
                let held = lock(&series.cells).iter().any(|(_, cell)| cell.is_held());
                held_by_caches |= held;
                removed += usize::from(!held);
                held
            });
        }
        table.series -= removed;
        drop(table);
        self.shared.evicted.fetch_add(removed as u64, Ordering::Relaxed);
        // Caches also have to start over when there is room again for what they had to map to shared series.
        if held_by_caches || removed > 0 {
            self.shared.generation.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The metrics in Prometheus' text format, in pieces; the registry is not locked while they are made.
    pub fn expose(&self, format: Format) -> Exposition {
        let table = self.lock();
        let mut readings = Vec::new();
        let mut families: Vec<FamilySnapshot> = Vec::with_capacity(table.families.len());
        for family in &table.families {
            readings.push(family.readings.iter().map(|(labels, read)| (labels.clone(), Arc::clone(read))).collect::<Vec<_>>());
            let series = family.series.values().cloned().collect();
            families.push(FamilySnapshot { inner: Arc::clone(&family.inner), series, readings: Vec::new() });
        }
        drop(table);
        for (family, readings) in families.iter_mut().zip(readings) {
            family.readings = readings.into_iter().map(|(labels, read)| (labels, read())).collect();
        }
        families.sort_by(|a, b| a.inner.name.cmp(&b.inner.name));
        Exposition::new(families, format)
    }

    /// The whole exposition as one text.
    pub fn render(&self, format: Format) -> String {
        self.expose(format).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        lock(&self.shared.table)
    }
}

impl Series {
    fn is_idle(&self, now: Instant, limit: Duration) -> bool {
        let activity = lock(&self.cells).iter().map(|(_, cell)| cell.activity()).fold(0, u64::wrapping_add);
        let mut idle = lock(&self.idle);
        if idle.activity != activity {
            *idle = Idle { activity, since: now };
        }
        now.saturating_duration_since(idle.since) >= limit
    }
}

/// No holder of a lock here leaves its data half changed, so a panic elsewhere must not spread through it.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One worker's part of a [`Registry`]. Resolving takes the registry's lock: do it once and keep the handle.
#[derive(Clone)]
pub struct Shard {
    registry: Registry,
    id: u32,
}

impl Shard {
    /// The registry that this is a part of.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The handle of a series whose labels this process chooses itself.
    pub fn get<H: Handle>(&self, family: &Family<H>, labels: &LabelSet) -> H {
        self.admit(labels, Admission::Always, |resolver| resolver.get(family)).expect("Admission::Always admits")
    }

    /// Resolves one or several series with the same labels, all or none; none when the registry is too full for them.
    pub fn admit<T>(&self, labels: &LabelSet, admission: Admission, resolve: impl FnOnce(&mut Resolver<'_>) -> T) -> Option<T> {
        let mut table = self.registry.lock();
        let limits = &self.registry.shared.limits;
        let limit = match admission {
            Admission::Always => usize::MAX,
            Admission::Budget => limits.series,
            Admission::Reserve => limits.series + limits.reserve,
        };
        let fits = table.series < limit;
        let mut resolver = Resolver { table: &mut table, labels, shard: self.id, may_add: fits, refused: false };
        let resolved = resolve(&mut resolver);
        (!resolver.refused).then_some(resolved)
    }
}

/// Hands out the series of one label set; see [`Shard::admit`].
pub struct Resolver<'a> {
    table: &'a mut Table,
    labels: &'a LabelSet,
    shard: u32,
    may_add: bool,
    refused: bool,
}

impl Resolver<'_> {
    /// The handle of this family's series. When the registry is full it is one that nobody reads, and [`Shard::admit`]
    /// returns none.
    pub fn get<H: Handle>(&mut self, family: &Family<H>) -> H {
        let inner = &family.inner;
        H::from_cell(&self.cell(inner)).expect("a family's cells are of its kind")
    }

    fn cell(&mut self, inner: &FamilyInner) -> Cell {
        let entry = &mut self.table.families[inner.index];
        let series = match entry.series.get(self.labels) {
            Some(series) => series,
            None if !self.may_add => {
                self.refused = true;
                return Cell::new(&inner.kind);
            }
            None => {
                self.table.series += 1;
                let idle = Mutex::new(Idle { activity: 0, since: Instant::now() });
                let series = Series { labels: self.labels.clone(), cells: Mutex::default(), idle };
                entry.series.entry(self.labels.clone()).or_insert(Arc::new(series))
            }
        };
        let mut cells = lock(&series.cells);
        if let Some((_, cell)) = cells.iter().find(|(shard, _)| *shard == self.shard) {
            return cell.clone();
        }
        let cell = Cell::new(&inner.kind);
        cells.push((self.shard, cell.clone()));
        cell
    }
}
