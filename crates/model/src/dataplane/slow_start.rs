//! Slow start: endpoints that are new in a cluster are chosen less at first.

use serde::Serialize;
use std::time::Duration;

/// New endpoints are chosen less at first (`slow_start_config`). The weight of an endpoint that has been in the cluster for the
/// time `t` is multiplied by `max(minimum, (t / window) ^ (1 / aggression))` until the window is over.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SlowStart {
    #[serde(serialize_with = "super::json::duration")]
    window: Duration,
    minimum_percent: f64,
    aggression: f64,
}

/// No field is NaN.
impl Eq for SlowStart {}

impl SlowStart {
    /// Envoy's `min_weight_percent` where nothing is written.
    pub const DEFAULT_MINIMUM_PERCENT: f64 = 10.0;

    /// A straight line, Envoy's `aggression` where nothing is written.
    pub const DEFAULT_AGGRESSION: f64 = 1.0;

    /// A window of at least 1 ms, a minimum of 0 to 100 percent and an aggression above 0.
    ///
    /// # Errors
    /// If one of them is not in its range.
    pub fn try_new(window: Duration, minimum_percent: f64, aggression: f64) -> Result<Self, SlowStartError> {
        if window < Duration::from_millis(1) {
            return Err(SlowStartError::Window(window));
        }
        if !(0.0..=100.0).contains(&minimum_percent) {
            return Err(SlowStartError::Minimum(minimum_percent));
        }
        if !(aggression > 0.0 && aggression.is_finite()) {
            return Err(SlowStartError::Aggression(aggression));
        }
        Ok(Self { window, minimum_percent, aggression })
    }

    /// For how long an endpoint is new.
    pub fn window(&self) -> Duration {
        self.window
    }

    /// The least share of its weight that a new endpoint has, in percent.
    pub fn minimum_percent(&self) -> f64 {
        self.minimum_percent
    }

    /// The shape of the rise: 1 is a straight line, more is fast at first, less is slow at first.
    pub fn aggression(&self) -> f64 {
        self.aggression
    }
}

/// Why something is no [`SlowStart`].
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum SlowStartError {
    /// The window.
    #[error("a window of {0:?}: must be at least 1 ms")]
    Window(Duration),
    /// The minimum.
    #[error("a minimum of {0} %: must be 0 to 100")]
    Minimum(f64),
    /// The aggression.
    #[error("an aggression of {0}: must be above 0")]
    Aggression(f64),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_slow_start() {
        let second = Duration::from_secs(1);
        for (window, minimum, aggression) in [(second, 0.0, 0.01), (second, 100.0, 9.0), (Duration::from_millis(1), 10.0, 1.0)] {
            let made = SlowStart::try_new(window, minimum, aggression).expect("in range");
            assert_eq!((made.window(), made.minimum_percent(), made.aggression()), (window, minimum, aggression));
        }
        for (window, minimum, aggression) in [
            (Duration::ZERO, 10.0, 1.0),
            (Duration::from_micros(999), 10.0, 1.0),
            (second, -0.1, 1.0),
            (second, 100.1, 1.0),
            (second, f64::NAN, 1.0),
            (second, 10.0, 0.0),
            (second, 10.0, f64::NAN),
            (second, 10.0, f64::INFINITY),
        ] {
            assert!(SlowStart::try_new(window, minimum, aggression).is_err(), "{window:?} {minimum} {aggression}");
        }
    }
}
