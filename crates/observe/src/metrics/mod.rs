//! Counters, gauges and histograms that cost a request a few uncontended additions.
//!
//! A [`Registry`] holds families of series. Each worker has a [`Shard`], in which it resolves a series once and keeps the
//! handle; the cells behind the handles belong to that shard, and are summed over all shards when Prometheus scrapes.
//! The number of series is bounded ([`Limits`]), because labels may come from peers, and idle ones are removed.

mod cache;
mod cells;
mod expose;
mod labels;
mod registry;

pub use cache::SeriesCache;
pub use cells::{Buckets, BucketsError, Counter, Gauge, Histogram};
pub use expose::{Exposition, Format};
pub use labels::{LabelSet, LabelSetBuilder};
pub use registry::{Admission, Family, Limits, MetricError, Registry, Resolver, Shard};
