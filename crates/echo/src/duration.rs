//! Durations as Go and Kubernetes write them: `100ms`, `1.5s`, `1h2m3s`, `0`.

use std::time::Duration;

const UNITS: [(&str, f64); 8] =
    [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("μs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];

/// Parses a non-negative Go duration of at most `limit`.
pub(crate) fn parse(text: &str, limit: Duration) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as 100ms, 1.5s or 1m30s");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let (_, scale) = UNITS.iter().find(|(unit, _)| *unit == &rest[..letters]).ok_or_else(wrong)?;
        seconds += number * scale;
        rest = &rest[letters..];
    }
    if text.is_empty() {
        return Err(wrong());
    }
    if seconds > limit.as_secs_f64() {
        return Err(format!("{text} is longer than the {} s that are allowed", limit.as_secs()));
    }
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::parse;
    use std::time::Duration;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn go_durations() {
        for (text, millis) in
            [("100ms", 100), ("1.5s", 1500), ("1m30s", 90_000), ("0", 0), ("0s", 0), ("1h", 3_600_000), (".5s", 500)]
        {
            assert_eq!(parse(text, HOUR), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(parse("300us", HOUR), Ok(Duration::from_micros(300)));
    }

    #[test]
    fn refused() {
        for text in ["", "5", "ms", "1x", "-1s", "1..5s", "1s5", "NaNs", "infs", "2h", "999999999999999999999999h"] {
            assert!(parse(text, HOUR).is_err(), "{text}");
        }
    }
}
