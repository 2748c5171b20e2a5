//! When a certificate is to be replaced.

use std::time::{Duration, SystemTime};

/// How much of a certificate's life is kept as a reserve, during which a failed renewal can be tried again
/// (`SECRET_GRACE_PERIOD_RATIO`, `SECRET_GRACE_PERIOD_RATIO_JITTER`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RotationPolicy {
    ratio: f64,
    jitter: f64,
}

impl Default for RotationPolicy {
    /// Istio's: half of the life, 1 % more or less.
    fn default() -> Self {
        Self { ratio: 0.5, jitter: 0.01 }
    }
}

impl RotationPolicy {
    /// `None` unless both are from 0 to 1.
    pub fn try_new(ratio: f64, jitter: f64) -> Option<Self> {
        let in_range = |x: f64| (0.0..=1.0).contains(&x);
        (in_range(ratio) && in_range(jitter)).then_some(Self { ratio, jitter })
    }

    /// How long to wait, from `now`, before the certificate is to be replaced: until `not_after − (ratio ± jitter) × life`.
    ///
    /// `issued` is when the certificate was obtained, not its `notBefore`, which lies two minutes in the past on purpose.
    /// `random` from −1 to 1 chooses within the jitter, so that the workloads of a mesh do not renew all at once.
    /// Zero if the time has come, also for a certificate that has ended or whose times make no sense.
    pub fn delay(&self, issued: SystemTime, not_after: SystemTime, now: SystemTime, random: f64) -> Duration {
        let life = not_after.duration_since(issued).unwrap_or_default();
        let reserve = (self.ratio + self.jitter * random.clamp(-1.0, 1.0)).clamp(0.0, 1.0);
        let wait = life.mul_f64(1.0 - reserve);
        (issued + wait).duration_since(now).unwrap_or_default()
    }

    /// [`delay`](Self::delay) from the present moment, with a random choice within the jitter.
    pub fn delay_from_now(&self, issued: SystemTime, not_after: SystemTime) -> Duration {
        self.delay(issued, not_after, SystemTime::now(), rand::random_range(-1.0..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: SystemTime = SystemTime::UNIX_EPOCH;

    fn at(seconds: f64) -> SystemTime {
        START + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn half_of_the_life_by_default() {
        let policy = RotationPolicy::default();
        for (life, now, random, expected) in [
            (86_400.0, 0.0, 0.0, 43_200.0),
            (86_400.0, 43_199.0, 0.0, 1.0),
            (86_400.0, 0.0, 1.0, 42_336.0),
            (86_400.0, 0.0, -1.0, 44_064.0),
            (4.0, 0.0, 0.0, 2.0),
            (4.0, 1.5, 0.0, 0.5),
            (4.0, 2.0, 0.0, 0.0),
            (4.0, 9.0, 0.0, 0.0),
            (0.0, 0.0, 0.0, 0.0),
        ] {
            let delay = policy.delay(START, at(life), at(now), random).as_secs_f64();
            assert!((delay - expected).abs() < 1e-6, "life {life}, now {now}, random {random}: {delay}");
        }
    }

    #[test]
    fn extremes_are_clamped() {
        let never_early = RotationPolicy::try_new(0.0, 0.0).unwrap();
        assert_eq!(never_early.delay(START, at(10.0), START, 1.0), Duration::from_secs(10));
        let always = RotationPolicy::try_new(1.0, 1.0).unwrap();
        assert_eq!(always.delay(START, at(10.0), START, 5.0), Duration::ZERO);
        // An end before the beginning, and a clock that went back.
        assert_eq!(RotationPolicy::default().delay(at(10.0), START, at(10.0), 0.0), Duration::ZERO);
        assert_eq!(RotationPolicy::default().delay(at(10.0), at(20.0), START, 0.0), Duration::from_secs(15));
        for (ratio, jitter) in [(-0.1, 0.0), (1.1, 0.0), (0.5, f64::NAN), (f64::NAN, 0.0), (0.5, 2.0)] {
            assert_eq!(RotationPolicy::try_new(ratio, jitter), None);
        }
    }
}
