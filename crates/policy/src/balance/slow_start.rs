//! How much of its weight a new host has.

use lateen_model::dataplane::SlowStart;
use std::time::Duration;

/// The share of its weight that a host has at `age`, which is how long it has been in the cluster: from the minimum to 1, and 1
/// once the window is over. As in Envoy, an age below one millisecond counts as one.
pub fn factor(settings: &SlowStart, age: Duration) -> f64 {
    if age >= settings.window() {
        return 1.0;
    }
    let time = age.max(Duration::from_millis(1)).as_secs_f64() / settings.window().as_secs_f64();
    // The usual straight line needs no power.
    let risen =
        if settings.aggression().to_bits() == 1.0_f64.to_bits() { time } else { time.powf(settings.aggression().recip()) };
    risen.max(settings.minimum_percent() / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn settings(minimum: f64, aggression: f64) -> SlowStart {
        SlowStart::try_new(Duration::from_secs(100), minimum, aggression).expect("in range")
    }

    #[test]
    fn documented_shapes() {
        for (minimum, aggression, seconds, expected) in [
            // A straight line, above the minimum.
            (10.0, 1.0, 0.0, 0.1),
            (10.0, 1.0, 9.0, 0.1),
            (10.0, 1.0, 11.0, 0.11),
            (10.0, 1.0, 50.0, 0.5),
            (10.0, 1.0, 99.0, 0.99),
            (10.0, 1.0, 100.0, 1.0),
            (10.0, 1.0, 1000.0, 1.0),
            // Fast at first, and slow at first.
            (10.0, 2.0, 25.0, 0.5),
            (10.0, 0.5, 50.0, 0.25),
            (10.0, 0.1, 79.0, 0.1),
            (10.0, 0.1, 90.0, 0.348_678_440_1),
            // No minimum: the first millisecond.
            (0.0, 1.0, 0.0, 0.000_01),
            (100.0, 1.0, 0.0, 1.0),
        ] {
            let got = factor(&settings(minimum, aggression), Duration::from_secs_f64(seconds));
            assert!((got - expected).abs() < 1e-9, "{minimum} % {aggression} after {seconds} s: {got}");
        }
    }

    proptest! {
        #[test]
        fn rises_from_the_minimum_to_all(minimum in 0.0..=100.0, aggression in 0.01..20.0, ages in prop::array::uniform2(0u64..200_000)) {
            let settings = settings(minimum, aggression);
            let [a, b] = ages.map(|age| factor(&settings, Duration::from_millis(age)));
            for value in [a, b] {
                prop_assert!((minimum / 100.0..=1.0).contains(&value), "{}", value);
            }
            prop_assert!(if ages[0] <= ages[1] { a <= b } else { b <= a }, "{} {}", a, b);
        }
    }
}
