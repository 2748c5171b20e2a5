//! The cells of one series in one shard, and the handles that count in them.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// A number that only grows.
#[derive(Clone, Debug, Default)]
pub struct Counter(pub(super) Arc<AtomicU64>);

impl Counter {
    /// Counts one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Counts several.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// What this shard has counted.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down. The exposed value is the sum over all shards: `set` is for series that one shard owns.
#[derive(Clone, Debug, Default)]
pub struct Gauge(pub(super) Arc<AtomicI64>);

impl Gauge {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Takes one away.
    pub fn dec(&self) {
        self.add(-1);
    }

    /// Adds an amount, which may be negative.
    pub fn add(&self, amount: i64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// Replaces this shard's part.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// This shard's part.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A distribution in fixed buckets.
#[derive(Clone, Debug)]
pub struct Histogram(pub(super) Arc<HistogramCell>);

impl Histogram {
    /// Counts a value, given in the native unit of the family's [`Buckets`].
    pub fn observe(&self, value: u64) {
        let cell = &*self.0;
        let index = cell.buckets.upper.partition_point(|upper| *upper < value);
        cell.counts[index].fetch_add(1, Ordering::Relaxed);
        cell.sum.fetch_add(value, Ordering::Relaxed);
    }
}

#[derive(Debug)]
pub(super) struct HistogramCell {
    pub(super) buckets: Buckets,
    /// One more than bounds: the last is for what exceeds them all.
    pub(super) counts: Box<[AtomicU64]>,
    pub(super) sum: AtomicU64,
}

impl HistogramCell {
    pub(super) fn new(buckets: &Buckets) -> Self {
        let counts = (0..=buckets.upper.len()).map(|_| AtomicU64::new(0)).collect();
        Self { buckets: buckets.clone(), counts, sum: AtomicU64::new(0) }
    }
}

/// Istio's and Envoy's default bounds, in milliseconds or bytes.
const DEFAULT_BOUNDS: [f64; 19] =
    [0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4, 3e5, 6e5, 1.8e6, 3.6e6];

/// Upper bounds of a histogram's buckets. Values are counted as whole numbers of a native unit, of which `per_unit` make
/// one exposed unit: durations are observed in microseconds and exposed in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buckets {
    pub(super) upper: Arc<[u64]>,
    /// The bounds as text for the label `le`.
    pub(super) le: Arc<[Box<str>]>,
    pub(super) per_unit: u64,
}

/// Why bounds were refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BucketsError {
    /// There is none, or more than 100.
    #[error("{0} bounds; 1 to 100 are allowed")]
    Count(usize),
    /// Not ascending, negative, or not a finite number.
    #[error("bound {index} is {bound}; bounds have to be finite, not negative and ascending")]
    Order {
        /// Position, from 0.
        index: usize,
        /// The offending bound.
        bound: f64,
    },
}

impl Buckets {
    /// Checks bounds, given in the exposed unit (`sidecar.istio.io/statsHistogramBuckets` has such lists).
    pub fn try_new(bounds: &[f64], per_unit: u64) -> Result<Self, BucketsError> {
        if bounds.is_empty() || bounds.len() > 100 {
            return Err(BucketsError::Count(bounds.len()));
        }
        let mut last = -1.0;
        for (index, bound) in bounds.iter().copied().enumerate() {
            if !(bound.is_finite() && bound >= 0.0 && bound > last && bound <= 1e15) {
                return Err(BucketsError::Order { index, bound });
            }
            last = bound;
        }
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "bounds are at most 1e15, checked"
        )]
        let native = |bound: &f64| (bound * per_unit as f64).floor() as u64;
        let le = bounds.iter().map(|bound| bound.to_string().into_boxed_str()).collect();
        Ok(Self { upper: bounds.iter().map(native).collect(), le, per_unit })
    }

    /// Istio's default bounds for durations: observed in microseconds, exposed in milliseconds.
    pub fn istio_durations() -> Self {
        Self::try_new(&DEFAULT_BOUNDS, 1000).expect("the default bounds ascend")
    }

    /// Istio's default bounds for sizes in bytes.
    pub fn istio_sizes() -> Self {
        Self::try_new(&DEFAULT_BOUNDS, 1).expect("the default bounds ascend")
    }
}

/// What kind of series a family has, with what its cells need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram(Buckets),
}

/// One series' cell in one shard.
#[derive(Clone, Debug)]
pub(super) enum Cell {
    Counter(Arc<AtomicU64>),
    Gauge(Arc<AtomicI64>),
    Histogram(Arc<HistogramCell>),
}

impl Cell {
    pub(super) fn new(kind: &Kind) -> Self {
        match kind {
            Kind::Counter => Self::Counter(Arc::default()),
            Kind::Gauge => Self::Gauge(Arc::default()),
            Kind::Histogram(buckets) => Self::Histogram(Arc::new(HistogramCell::new(buckets))),
        }
    }

    /// Whether a handle to it is held anywhere.
    pub(super) fn is_held(&self) -> bool {
        let references = match self {
            Self::Counter(cell) => Arc::strong_count(cell),
            Self::Gauge(cell) => Arc::strong_count(cell),
            Self::Histogram(cell) => Arc::strong_count(cell),
        };
        references > 1
    }

    /// A number that changes whenever the cell is used.
    pub(super) fn activity(&self) -> u64 {
        match self {
            Self::Counter(cell) => cell.load(Ordering::Relaxed),
            Self::Gauge(cell) => cell.load(Ordering::Relaxed).cast_unsigned(),
            Self::Histogram(cell) => cell.counts.iter().map(|count| count.load(Ordering::Relaxed)).fold(0, u64::wrapping_add),
        }
    }
}

mod sealed {
    /// The handle types; nobody else can be one.
    pub trait Handle: Sized {
        /// The handle to a cell, if the cell is of its kind.
        #[allow(private_interfaces, reason = "sealed: nobody outside calls it")]
        fn from_cell(cell: &super::Cell) -> Option<Self>;
    }
}
pub(super) use sealed::Handle;

#[allow(private_interfaces, reason = "sealed: nobody outside calls it")]
impl Handle for Counter {
    fn from_cell(cell: &Cell) -> Option<Self> {
        match cell {
            Cell::Counter(cell) => Some(Self(Arc::clone(cell))),
            _ => None,
        }
    }
}

#[allow(private_interfaces, reason = "sealed: nobody outside calls it")]
impl Handle for Gauge {
    fn from_cell(cell: &Cell) -> Option<Self> {
        match cell {
            Cell::Gauge(cell) => Some(Self(Arc::clone(cell))),
            _ => None,
        }
    }
}

#[allow(private_interfaces, reason = "sealed: nobody outside calls it")]
impl Handle for Histogram {
    fn from_cell(cell: &Cell) -> Option<Self> {
        match cell {
            Cell::Histogram(cell) => Some(Self(Arc::clone(cell))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Buckets, BucketsError, Histogram, HistogramCell};
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    #[test]
    fn values_fall_into_the_bucket_that_bounds_them() {
        let buckets = Buckets::try_new(&[0.5, 1.0, 5.0], 1000).expect("ascending");
        let histogram = Histogram(Arc::new(HistogramCell::new(&buckets)));
        for micros in [0, 500, 501, 1000, 5000, 5001, u64::MAX / 2] {
            histogram.observe(micros);
        }
        let counts: Vec<_> = histogram.0.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        assert_eq!(counts, [2, 2, 1, 2]);
    }

    #[test]
    fn wrong_bounds_are_refused() {
        assert_eq!(Buckets::try_new(&[], 1), Err(BucketsError::Count(0)));
        for bounds in [vec![1.0, 1.0], vec![2.0, 1.0], vec![-1.0], vec![f64::INFINITY]] {
            assert!(matches!(Buckets::try_new(&bounds, 1), Err(BucketsError::Order { .. })), "{bounds:?}");
        }
        assert!(matches!(Buckets::try_new(&[f64::NAN], 1), Err(BucketsError::Order { .. })));
    }

    #[test]
    fn le_labels_are_plain_numbers() {
        let le: Vec<_> = Buckets::istio_durations().le.iter().map(ToString::to_string).collect();
        assert_eq!(le[..3], ["0.5", "1", "5"]);
        assert_eq!(le[18], "3600000");
    }
}
