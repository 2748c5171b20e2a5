//! Prometheus' text format, as far as the tour reads it.

/// The sum of a counter over all label sets that have these labels.
pub(crate) fn sum(page: &str, counter: &str, labels: &[(&str, &str)]) -> u64 {
    let wanted: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    let value = |line: &str| {
        let (name, rest) = line.split_once('{')?;
        let (set, value) = rest.rsplit_once('}')?;
        let has = |w: &String| set.split(',').any(|label| label == w);
        (name == counter && wanted.iter().all(has)).then(|| value.trim().parse::<u64>().ok()).flatten()
    };
    page.lines().filter_map(value).sum()
}

#[cfg(test)]
mod tests {
    use super::sum;

    #[test]
    fn labels_select() {
        let page = "# TYPE a counter\na{x=\"1\",y=\"2\"} 3\na{x=\"1\",y=\"3\"} 4\nab{x=\"1\"} 50\na{xx=\"1\"} 60\n";
        assert_eq!((sum(page, "a", &[("x", "1")]), sum(page, "a", &[("x", "1"), ("y", "3")]), sum(page, "b", &[])), (7, 4, 0));
    }
}
