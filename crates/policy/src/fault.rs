//! Faults made on purpose (`envoy.extensions.filters.http.fault.v3.HTTPFault`): whom they hit.

use lateen_model::dataplane::{Fault, FaultError};
use std::time::Duration;

/// What befalls one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Injected {
    /// It waits so long first.
    pub delay: Option<Duration>,
    /// Then it fails.
    pub abort: Option<FaultError>,
}

/// Draws what befalls a request. Delay and abort are drawn apart, so that a request may meet both.
pub fn draw(fault: &Fault, mut random: impl FnMut() -> u64) -> Injected {
    Injected {
        delay: fault.delay.as_ref().filter(|d| d.share.takes(random())).map(|d| d.duration).filter(|d| !d.is_zero()),
        abort: fault.abort.as_ref().filter(|a| a.share.takes(random())).map(|a| a.error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lateen_model::dataplane::{FaultAbort, FaultDelay, Share};

    #[test]
    fn both_are_drawn_apart() {
        let fault = Fault {
            delay: Some(FaultDelay { duration: Duration::from_secs(1), share: Share::of_percent(50.0) }),
            abort: Some(FaultAbort { error: FaultError::Http(418), share: Share::of_percent(50.0) }),
        };
        let (hit, missed) = (0, 999_999);
        let drawn = |numbers: [u64; 2]| {
            let mut numbers = numbers.into_iter();
            let Injected { delay, abort } = draw(&fault, || numbers.next().unwrap());
            (delay.is_some(), abort.is_some())
        };
        assert_eq!(drawn([hit, hit]), (true, true));
        assert_eq!(drawn([hit, missed]), (true, false));
        assert_eq!(drawn([missed, hit]), (false, true));
        assert_eq!(drawn([missed, missed]), (false, false));
        assert_eq!(draw(&Fault::default(), || 0), Injected::default());
    }
}
