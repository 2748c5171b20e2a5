//! How new endpoints are chosen less at first, which Envoy has among the settings of each policy.

use super::common::duration;
use super::cx::{Cx, Result};
use crate::pb::cluster;
use cluster::cluster::{LbConfig, SlowStartConfig};
use lateen_model::dataplane as m;

/// The settings of the policy that the cluster has; those of another mean nothing.
pub(super) fn of(cx: &mut Cx, policy: m::LbPolicy, config: Option<&LbConfig>) -> Result<Option<m::SlowStart>> {
    let (field, written) = match (policy, config) {
        (m::LbPolicy::RoundRobin, Some(LbConfig::RoundRobinLbConfig(config))) => {
            ("round_robin_lb_config", config.slow_start_config.as_ref())
        }
        (m::LbPolicy::LeastRequest, Some(LbConfig::LeastRequestLbConfig(config))) => {
            ("least_request_lb_config", config.slow_start_config.as_ref())
        }
        _ => return Ok(None),
    };
    cx.at(field, |cx| cx.optional("slow_start_config", written.cloned(), slow_start))
}

fn slow_start(cx: &mut Cx, value: SlowStartConfig) -> Result<m::SlowStart> {
    let window = cx.required("slow_start_window", value.slow_start_window, duration)?;
    let minimum = value.min_weight_percent.map_or(m::SlowStart::DEFAULT_MINIMUM_PERCENT, |percent| percent.value);
    // Values of Envoy's runtime are not known here: what is written holds.
    let aggression = value.aggression.map_or(m::SlowStart::DEFAULT_AGGRESSION, |aggression| aggression.default_value);
    m::SlowStart::try_new(window, minimum, aggression).or_else(|error| cx.fail(error.to_string()))
}
