//! The quota of retries, which Envoy does not know: it travels in the metadata of a cluster.

use crate::any::{OrderedKind, OrderedStruct};
use lateen_model::dataplane as m;

/// The namespace of metadata that only Lateen's proxy reads.
pub(crate) const NAMESPACE: &str = "lateen";

/// `interval_seconds`, `min_retries`, `percent`.
pub(super) fn written(quota: &m::RetryQuota) -> OrderedStruct {
    let mut fields = OrderedStruct::default();
    fields.set("interval_seconds", OrderedKind::Number(quota.interval.as_secs_f64()));
    fields.set("min_retries", OrderedKind::Number(quota.min_retries.into()));
    fields.set("percent", OrderedKind::Number(f64::from(quota.percent_hundredths) / 100.0));
    fields
}
