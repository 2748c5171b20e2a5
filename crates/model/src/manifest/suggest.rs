//! "Did you mean": the nearest of a list of names.

/// The allowed name nearest to `written`, if one is near enough to be meant.
#[must_use]
pub fn nearest<'a>(written: &str, allowed: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Long garbage is compared with nothing.
    if written.is_empty() || written.len() > 64 {
        return None;
    }
    let simple = simplify(written);
    let candidates: Vec<(&str, Vec<u8>)> = allowed.into_iter().map(|name| (name, simplify(name))).collect();
    let (distance, name) =
        candidates.iter().map(|(name, other)| (distance(&simple, other), *name)).min_by_key(|(distance, _)| *distance)?;
    let limit = (simple.len().max(name.len()) / 3).clamp(1, 3);
    if distance <= limit && distance < simple.len() {
        return Some(name);
    }
    // `labels` for `matchLabels`.
    let is_part = |other: &[u8]| simple.len() >= 5 && other.windows(simple.len()).any(|part| part == simple);
    candidates.iter().find(|(_, other)| is_part(other)).map(|(name, _)| *name)
}

/// Lower case without separators, so that `http1_max_pending_requests` equals `http1MaxPendingRequests`.
fn simplify(name: &str) -> Vec<u8> {
    name.bytes().filter(u8::is_ascii_alphanumeric).map(|b| b.to_ascii_lowercase()).collect()
}

/// Optimal string alignment: insertions, deletions, replacements and swaps of neighbours.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut before_previous: Vec<usize> = Vec::new();
    let mut previous: Vec<usize> = (0..=b.len()).collect();
    for (i, &x) in a.iter().enumerate() {
        let mut current = vec![i + 1];
        for (j, &y) in b.iter().enumerate() {
            let replaced = previous[j] + usize::from(x != y);
            let mut best = replaced.min(previous[j + 1] + 1).min(current[j] + 1);
            if i > 0 && j > 0 && x == b[j - 1] && a[i - 1] == y {
                best = best.min(before_previous[j - 1] + 1);
            }
            current.push(best);
        }
        before_previous = std::mem::replace(&mut previous, current);
    }
    previous[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspellings_find_their_word() {
        let fields = ["destination", "weight", "headers", "http1MaxPendingRequests", "timeout"];
        let cases = [
            ("wieght", Some("weight")),
            ("weigth", Some("weight")),
            ("Headers", Some("headers")),
            ("header", Some("headers")),
            ("http1_max_pending_requests", Some("http1MaxPendingRequests")),
            ("destinations", Some("destination")),
            ("time_out", Some("timeout")),
            ("MaxPending", Some("http1MaxPendingRequests")),
            ("port", None),
            ("x", None),
            ("", None),
        ];
        for (written, expected) in cases {
            assert_eq!(nearest(written, fields), expected, "{written:?}");
        }
    }
}
