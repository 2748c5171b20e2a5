//! What chance allows: exact bounds for counts that come from random choices, such as a weighted traffic split.

use std::ops::RangeInclusive;

/// How often a correct mesh may be called wrong: once in a billion runs.
const FALSE_ALARM: f64 = 1e-9;

/// The counts that are no surprise when each of `trials` requests goes one way with the probability `share`, independently: on
/// each side of them lies at most half of one false alarm in a billion.
///
/// # Panics
/// If `share` is not from 0 to 1.
pub fn allowed(trials: u64, share: f64) -> RangeInclusive<u64> {
    binomial_bounds(trials, share, FALSE_ALARM)
}

/// The counts of successes in `trials` independent trials of `probability` that are not surprising: outside of them lies at most
/// `error / 2` of the probability on each side, and they are the tightest such bounds. Exact (no normal approximation).
fn binomial_bounds(trials: u64, probability: f64, error: f64) -> RangeInclusive<u64> {
    assert!((0.0..=1.0).contains(&probability) && (0.0..=1.0).contains(&error), "probabilities are from 0 to 1");
    // By symmetry, the upper tail is the lower tail of the failures.
    let low = below_tail(trials, probability, error / 2.0);
    let high = trials - below_tail(trials, 1.0 - probability, error / 2.0);
    low..=high
}

/// The smallest `k` with P(X ≤ k) > `tail`, so that P(X < k) ≤ `tail`.
fn below_tail(trials: u64, probability: f64, tail: f64) -> u64 {
    if probability <= 0.0 {
        return 0;
    }
    if probability >= 1.0 {
        return trials;
    }
    // P(X = 0), then P(X = k + 1) / P(X = k) = (n − k) / (k + 1) · p / (1 − p), in logarithms against underflow.
    let odds = probability.ln() - (-probability).ln_1p();
    let mut log_mass = to_f64(trials) * (-probability).ln_1p();
    let mut sum = 0.0;
    for k in 0..trials {
        sum += log_mass.exp();
        if sum > tail {
            return k;
        }
        log_mass += (to_f64(trials - k) / to_f64(k + 1)).ln() + odds;
    }
    trials
}

/// Exact up to 2^53, far above any number of requests.
#[expect(clippy::cast_precision_loss, reason = "counts of requests are small")]
fn to_f64(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_cases_by_hand() {
        // Ten fair coins: P(X = 0) = 1/1024.
        assert_eq!(binomial_bounds(10, 0.5, 2.0 / 1024.0), 1..=9);
        assert_eq!(binomial_bounds(10, 0.5, 1.9 / 1024.0), 0..=10);
        // P(X ≤ 1) = 11/1024.
        assert_eq!(binomial_bounds(10, 0.5, 22.0 / 1024.0 + 1e-12), 2..=8);
        assert_eq!(binomial_bounds(0, 0.3, 1e-6), 0..=0);
        assert_eq!(binomial_bounds(100, 0.0, 1e-6), 0..=0);
        assert_eq!(binomial_bounds(100, 1.0, 1e-6), 100..=100);
    }

    #[test]
    fn the_canary_split() {
        // Close to mean ± 6.1 standard deviations, and skewed upwards as the binomial of a small share is.
        let bounds = allowed(2000, 0.05);
        assert!((43..=52).contains(bounds.start()) && (160..=174).contains(bounds.end()), "{bounds:?}");
        assert!(!bounds.contains(&200) && bounds.contains(&100));
    }

    #[test]
    fn too_few_trials_allow_everything() {
        assert_eq!(allowed(5, 0.5), 0..=5);
    }

    #[test]
    fn the_tails_hold_what_they_promise() {
        for (n, p) in [(50, 0.05), (200, 0.3), (1000, 0.95), (5000, 0.001)] {
            let bounds = binomial_bounds(n, p, 1e-3);
            let mass = |range: std::ops::Range<u64>| range.map(|k| pmf(n, k, p)).sum::<f64>();
            let (below, above) = (mass(0..*bounds.start()), mass(bounds.end() + 1..n + 1));
            assert!(below <= 5e-4 && above <= 5e-4, "{n} {p}: {below} {above}");
            assert!(below + pmf(n, *bounds.start(), p) > 5e-4, "{n} {p}: the lower bound is not tight");
            assert!(above + pmf(n, *bounds.end(), p) > 5e-4, "{n} {p}: the upper bound is not tight");
        }
    }

    /// Another way to the same numbers: the logarithm of the factorials.
    fn pmf(n: u64, k: u64, p: f64) -> f64 {
        let log_factorial = |m: u64| (1..=m).map(|i| to_f64(i).ln()).sum::<f64>();
        let log_choose = log_factorial(n) - log_factorial(k) - log_factorial(n - k);
        (log_choose + to_f64(k) * p.ln() + to_f64(n - k) * (1.0 - p).ln()).exp()
    }
}
