//! What chance allows.

use std::ops::RangeInclusive;

/// How often a correct mesh may be called wrong: once in a million tours.
const FALSE_ALARM: f64 = 1e-6;

/// The counts that are no surprise when each of `trials` requests goes one way with the probability `share`, independently:
/// on each side of them lies at most half of [`FALSE_ALARM`]. Exact binomial probabilities, no normal approximation.
/// `share` is above 0 and below 1.
pub(crate) fn allowed(trials: u32, share: f64) -> RangeInclusive<u64> {
    let masses = masses(trials, share);
    let low = surprising(masses.iter());
    let high = u64::from(trials) - surprising(masses.iter().rev());
    low..=high
}

/// How many values from one end are, together, less likely than half of [`FALSE_ALARM`].
fn surprising<'a>(masses: impl Iterator<Item = &'a f64>) -> u64 {
    let mut sum = 0.0;
    masses
        .take_while(|mass| {
            sum += **mass;
            sum <= FALSE_ALARM / 2.0
        })
        .fold(0, |count, _| count + 1)
}

/// The probability of each count from 0 to `trials`, each from the one before, in logarithms against underflow.
fn masses(trials: u32, share: f64) -> Vec<f64> {
    let odds = share.ln() - (-share).ln_1p();
    let mut log = f64::from(trials) * (-share).ln_1p();
    let mut masses = vec![log.exp()];
    for count in 0..trials {
        log += (f64::from(trials - count) / f64::from(count + 1)).ln() + odds;
        masses.push(log.exp());
    }
    masses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probabilities_are_those_of_coins() {
        let masses = masses(4, 0.5);
        for (mass, expected) in masses.iter().zip([1.0, 4.0, 6.0, 4.0, 1.0]) {
            assert!((mass - expected / 16.0).abs() < 1e-12, "{masses:?}");
        }
    }

    #[test]
    fn the_bounds_are_the_tightest_that_keep_the_promise() {
        for (trials, share) in [(20, 0.5), (1000, 0.05), (1000, 0.95)] {
            let (range, masses) = (allowed(trials, share), masses(trials, share));
            let (start, end) = (usize::try_from(*range.start()).unwrap(), usize::try_from(*range.end()).unwrap());
            let tail = |part: &[f64]| part.iter().sum::<f64>();
            assert!(tail(&masses[..start]) <= FALSE_ALARM / 2.0 && tail(&masses[..=start]) > FALSE_ALARM / 2.0, "{range:?}");
            assert!(tail(&masses[end + 1..]) <= FALSE_ALARM / 2.0 && tail(&masses[end..]) > FALSE_ALARM / 2.0, "{range:?}");
        }
        // Five per cent of a thousand: neither none nor ten per cent.
        assert!(!allowed(1000, 0.05).contains(&10) && allowed(1000, 0.05).contains(&50) && !allowed(1000, 0.05).contains(&100));
    }

    #[test]
    fn too_few_trials_allow_everything() {
        assert_eq!(allowed(5, 0.5), 0..=5);
    }
}
