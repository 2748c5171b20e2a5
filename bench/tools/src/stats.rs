//! Quantiles, and what a process has used.

use serde_json::{Value, json};
use std::time::Duration;

/// Median, 99th percentile and maximum (nearest rank) in milliseconds; `null` of nothing.
pub(crate) fn summary(samples: &mut [Duration]) -> Value {
    samples.sort_unstable();
    let Some(max) = samples.last() else { return Value::Null };
    json!({
        "count": samples.len(),
        "p50_ms": millis(quantile(samples, 50)),
        "p99_ms": millis(quantile(samples, 99)),
        "max_ms": millis(*max),
    })
}

/// The sample that `percent` of the sorted, non-empty samples do not exceed.
fn quantile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[rank - 1]
}

pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// What a process has used so far.
#[derive(Clone, Copy)]
pub(crate) struct Usage {
    /// Seconds of processor time of the threads that it has now, to the nanosecond.
    pub(crate) cpu: f64,
    /// Resident memory in MB.
    pub(crate) resident: f64,
}

impl Usage {
    /// Reads it from `/proc`.
    pub(crate) fn of(pid: u32) -> std::io::Result<Self> {
        let mut nanoseconds = 0.0;
        for thread in std::fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
            let schedule = std::fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            nanoseconds += schedule.split(' ').next().and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
        }
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = resident.and_then(|text| text.trim().trim_end_matches(" kB").parse::<f64>().ok());
        Ok(Self { cpu: nanoseconds / 1e9, resident: kilobytes.unwrap_or(0.0) / 1024.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::{Usage, summary};
    use std::time::Duration;

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        let mut samples: Vec<_> = (1..=200).rev().map(Duration::from_millis).collect();
        let summary = summary(&mut samples);
        assert_eq!((&summary["p50_ms"], &summary["p99_ms"], &summary["max_ms"]), (&100.0.into(), &198.0.into(), &200.0.into()));
        assert_eq!(super::summary(&mut []), serde_json::Value::Null);
        assert_eq!(super::summary(&mut [Duration::from_millis(7)])["p50_ms"], 7.0);
    }

    #[test]
    fn usage_grows_with_work() {
        let before = Usage::of(std::process::id()).expect("this process");
        let mut sum = 0_u64;
        while Usage::of(std::process::id()).expect("this process").cpu < before.cpu + 0.01 {
            sum = (0..100_000).fold(sum, |sum, i| sum ^ std::hint::black_box(i));
        }
        assert!(before.resident > 0.5, "{}", before.resident);
    }
}
