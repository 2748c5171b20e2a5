//! How new endpoints are chosen less at first, which Envoy has among the settings of each policy.

use super::common::duration;
use crate::pb::{cluster, core, typ};
use cluster::cluster::{LbConfig, LeastRequestLbConfig, RoundRobinLbConfig, SlowStartConfig};
use lateen_model::dataplane as m;

/// A key that an operator of Envoy can set at run time; it must have one.
const AGGRESSION_KEY: &str = "upstream.slow_start.aggression";

/// The settings of the policy, if new endpoints are chosen less.
pub(super) fn config(value: &m::Cluster) -> Option<LbConfig> {
    let slow_start = value.slow_start?;
    let config = SlowStartConfig {
        slow_start_window: Some(duration(slow_start.window())),
        aggression: Some(core::RuntimeDouble { default_value: slow_start.aggression(), runtime_key: AGGRESSION_KEY.to_owned() }),
        min_weight_percent: Some(typ::Percent { value: slow_start.minimum_percent() }),
    };
    match value.lb_policy {
        m::LbPolicy::RoundRobin => {
            let round_robin = RoundRobinLbConfig { slow_start_config: Some(config) };
            Some(LbConfig::RoundRobinLbConfig(round_robin))
        }
        m::LbPolicy::LeastRequest => {
            let least_request = LeastRequestLbConfig { slow_start_config: Some(config), ..Default::default() };
            Some(LbConfig::LeastRequestLbConfig(least_request))
        }
        m::LbPolicy::Random | m::LbPolicy::RingHash(_) | m::LbPolicy::Maglev(_) | m::LbPolicy::ClusterProvided => None,
    }
}
