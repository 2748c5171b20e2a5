//! The quota of retries, which Envoy does not know: it travels in the metadata of a cluster.

use super::cluster::hundredths;
use super::cx::{Cx, Result};
use crate::encode::retry_quota::NAMESPACE;
use crate::pb::{core, google, typ};
use google::value::Kind;
use lateen_model::dataplane as m;
use std::time::Duration;

/// The quota, if there is one.
pub(super) fn of(cx: &mut Cx, metadata: &core::Metadata) -> Result<Option<m::RetryQuota>> {
    let Some(lateen) = metadata.filter_metadata.get(NAMESPACE) else { return Ok(None) };
    cx.at("metadata", |cx| {
        cx.at(NAMESPACE, |cx| {
            if lateen.fields.keys().any(|key| key != "retry_quota") {
                cx.note("only retry_quota is read");
            }
            cx.optional("retry_quota", lateen.fields.get("retry_quota").cloned(), retry_quota)
        })
    })
}

fn retry_quota(cx: &mut Cx, value: google::Value) -> Result<m::RetryQuota> {
    let Some(Kind::StructValue(value)) = value.kind else { return cx.fail("is not a struct") };
    let interval = number(cx, &value, "interval_seconds")?;
    let interval = match Duration::try_from_secs_f64(interval) {
        Ok(interval) if !interval.is_zero() => interval,
        _ => return cx.fail_at("interval_seconds", "must be above 0"),
    };
    let min_retries = number(cx, &value, "min_retries")?;
    if min_retries.fract() != 0.0 || !(0.0..=f64::from(u32::MAX)).contains(&min_retries) {
        return cx.fail_at("min_retries", "is not a whole number below 2^32");
    }
    let percent = typ::Percent { value: number(cx, &value, "percent")? };
    let percent_hundredths = cx.at("percent", |cx| hundredths(cx, percent))?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole and in range")]
    Ok(m::RetryQuota { percent_hundredths, min_retries: min_retries as u32, interval })
}

fn number(cx: &mut Cx, of: &google::Struct, key: &'static str) -> Result<f64> {
    match of.fields.get(key).and_then(|value| value.kind.as_ref()) {
        Some(Kind::NumberValue(number)) => Ok(*number),
        Some(_) => cx.fail_at(key, "is not a number"),
        None => cx.fail_at(key, "is required"),
    }
}
