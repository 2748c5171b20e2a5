//! A strict reader of Prometheus' text format 0.0.4: it takes nothing that a scraper might refuse, and nothing that it would take
//! silently in another sense than was meant.

use std::collections::{BTreeMap, BTreeSet};

/// What a family is said to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// `_bucket`, `_sum` and `_count`.
    Histogram,
}

/// One line with a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// With its suffix.
    pub name: String,
    /// Unescaped.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

/// A metric family.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// Without suffixes.
    pub name: String,
    /// Of `# TYPE`.
    pub kind: Kind,
    /// Of `# HELP`, unescaped.
    pub help: String,
    /// In the order of the text.
    pub samples: Vec<Sample>,
}

/// Reads an exposition.
///
/// Each family must be one group of lines that begins with `# HELP` and `# TYPE`, in this order; samples must belong to the family
/// above them, no two have the same name and labels, counters are neither negative nor NaN, and each histogram has buckets that
/// grow with their bounds up to `+Inf`, which equals `_count`, and a `_sum`.
///
/// # Errors
/// The number of the line and what is wrong with it.
pub fn read(text: &str) -> Result<Vec<Family>, String> {
    if !text.is_empty() && !text.ends_with('\n') {
        return Err("the last line does not end".to_owned());
    }
    let mut families: Vec<Family> = Vec::new();
    let mut series = BTreeSet::new();
    let mut help: Option<(String, String)> = None;
    for (index, line) in text.split_terminator('\n').enumerate() {
        let at = |what: String| format!("line {}: {what}: {line}", index + 1);
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, text) = rest.split_once(' ').ok_or_else(|| at("help without a text".to_owned()))?;
            if help.is_some() {
                return Err(at("help after help".to_owned()));
            }
            help = Some((name.to_owned(), unescape(text, false).map_err(at)?));
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let family = begin(rest, help.take()).map_err(at)?;
            if families.iter().any(|f| f.name == family.name) {
                return Err(at("the family came before; its lines must be together".to_owned()));
            }
            families.push(family);
        } else if line.starts_with('#') || line.is_empty() {
            return Err(at("neither help, type nor sample".to_owned()));
        } else {
            let sample = sample(line).map_err(at)?;
            let family = families.last_mut().filter(|_| help.is_none());
            let family = family.ok_or_else(|| at("a sample without a type above it".to_owned()))?;
            if !series.insert((sample.name.clone(), sample.labels.clone())) {
                return Err(at("the same series twice".to_owned()));
            }
            add(family, sample).map_err(at)?;
        }
    }
    match help {
        Some((name, _)) => Err(format!("{name}: help without a type")),
        None => families.iter().try_for_each(complete).map(|()| families),
    }
}

/// The values of one family's samples, by a selection of labels: `value(&families, "x_total", &[("a", "b")])`. The sum, if there
/// are several; `None` if there is none.
pub fn value(families: &[Family], name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let matches = |s: &&Sample| s.name == name && labels.iter().all(|(k, v)| s.labels.get(*k).is_some_and(|l| l == v));
    let found: Vec<f64> = families.iter().flat_map(|f| &f.samples).filter(matches).map(|s| s.value).collect();
    (!found.is_empty()).then(|| found.iter().sum())
}

fn begin(rest: &str, help: Option<(String, String)>) -> Result<Family, String> {
    let (name, kind) = rest.split_once(' ').ok_or("a type without a kind")?;
    let kind = match kind {
        "counter" => Kind::Counter,
        "gauge" => Kind::Gauge,
        "histogram" => Kind::Histogram,
        other => return Err(format!("{other:?} is no kind that is known here")),
    };
    if !is_name(name, true) {
        return Err(format!("{name:?} is not a metric's name"));
    }
    let help = help.filter(|(n, _)| n == name).ok_or("no help of this name directly above")?.1;
    Ok(Family { name: name.to_owned(), kind, help, samples: Vec::new() })
}

fn add(family: &mut Family, sample: Sample) -> Result<(), String> {
    let suffix = sample.name.strip_prefix(family.name.as_str()).ok_or_else(|| format!("not of family {}", family.name))?;
    let fits = match family.kind {
        Kind::Counter | Kind::Gauge => suffix.is_empty(),
        Kind::Histogram => matches!(suffix, "_bucket" | "_sum" | "_count"),
    };
    if !fits {
        return Err(format!("suffix {suffix:?} does not belong to family {}", family.name));
    }
    if family.kind == Kind::Counter && (sample.value.is_nan() || sample.value < 0.0) {
        return Err("a counter is a number and not negative".to_owned());
    }
    if (suffix == "_bucket") != (family.kind == Kind::Histogram && sample.labels.contains_key("le")) {
        return Err("buckets, and only they, have a bound (le)".to_owned());
    }
    family.samples.push(sample);
    Ok(())
}

/// What can be told of a family when all of it is there.
fn complete(family: &Family) -> Result<(), String> {
    if family.kind != Kind::Histogram {
        return Ok(());
    }
    let without_bound = |s: &Sample| {
        let mut labels = s.labels.clone();
        labels.remove("le");
        labels
    };
    let mut series: BTreeMap<BTreeMap<String, String>, Vec<&Sample>> = BTreeMap::new();
    for sample in &family.samples {
        series.entry(without_bound(sample)).or_default().push(sample);
    }
    for (labels, samples) in &series {
        let of = |suffix: &str| {
            let name = format!("{}{suffix}", family.name);
            samples.iter().filter(move |s| s.name == name)
        };
        let one = |suffix: &str| of(suffix).next().ok_or_else(|| format!("{}{labels:?}: no {suffix}", family.name));
        let count = one("_count")?.value;
        one("_sum")?;
        let mut last = (f64::NEG_INFINITY, 0.0);
        for bucket in of("_bucket") {
            let bound = number(&bucket.labels["le"])?;
            // The negations also refuse NaN.
            if !(bound > last.0 && bucket.value >= last.1) {
                return Err(format!("{}{labels:?}: bucket {bound} does not grow from {last:?}", family.name));
            }
            last = (bound, bucket.value);
        }
        #[expect(clippy::float_cmp, reason = "both are whole numbers of the same count")]
        if last.0 != f64::INFINITY || last.1 != count {
            return Err(format!("{}{labels:?}: the last bucket is {last:?}; wanted: +Inf with the count, {count}", family.name));
        }
    }
    Ok(())
}

/// `name{label="value",…} number`. A timestamp is not expected.
fn sample(line: &str) -> Result<Sample, String> {
    let name_end = line.find(['{', ' ']).ok_or("no value")?;
    let (name, mut rest) = line.split_at(name_end);
    if !is_name(name, true) {
        return Err(format!("{name:?} is not a metric's name"));
    }
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"").ok_or("a label without a value")?;
            if !is_name(label, false) {
                return Err(format!("{label:?} is not a label's name"));
            }
            let end = closing_quote(after).ok_or("a label's value that does not end")?;
            if labels.insert(label.to_owned(), unescape(&after[..end], true)?).is_some() {
                return Err(format!("label {label} twice"));
            }
            rest = &after[end + 1..];
            match rest.strip_prefix(',') {
                Some(next) => rest = next,
                None => break,
            }
        }
        rest = rest.strip_prefix('}').ok_or("labels that do not end")?;
    }
    let value = rest.strip_prefix(' ').ok_or("no space before the value")?;
    Ok(Sample { name: name.to_owned(), labels, value: number(value)? })
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(at),
            _ => {}
        }
    }
    None
}

fn unescape(text: &str, quoted: bool) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.push(match c {
            '\\' => match chars.next() {
                Some('\\') => '\\',
                Some('n') => '\n',
                Some('"') if quoted => '"',
                other => return Err(format!("escape {other:?} is not known")),
            },
            c => c,
        });
    }
    Ok(out)
}

/// `[a-zA-Z_:][a-zA-Z0-9_:]*`; labels have no colon, and `__` begins those of Prometheus itself.
fn is_name(name: &str, colons: bool) -> bool {
    let fits = |(at, byte): (usize, u8)| {
        byte == b'_' || (byte == b':' && colons) || byte.is_ascii_alphabetic() || (at > 0 && byte.is_ascii_digit())
    };
    !name.is_empty() && name.bytes().enumerate().all(fits) && (colons || !name.starts_with("__"))
}

fn number(text: &str) -> Result<f64, String> {
    match text {
        "+Inf" => Ok(f64::INFINITY),
        "-Inf" => Ok(f64::NEG_INFINITY),
        "NaN" => Ok(f64::NAN),
        _ if text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+' | b'e' | b'E')) => {
            text.parse().map_err(|_| format!("{text:?} is not a number"))
        }
        _ => Err(format!("{text:?} is not a number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
# HELP a_total What: \\\\ and\\na line.
# TYPE a_total counter
a_total 3
a_total{b=\"x\\\"y\\\\z\\n, {}\",c=\"\"} 1.5e3
# HELP h Sizes.
# TYPE h histogram
h_bucket{le=\"0.5\"} 1
h_bucket{le=\"10\"} 1
h_bucket{le=\"+Inf\"} 4
h_sum 70.25
h_count 4
";

    #[test]
    fn what_is_right() {
        let families = read(GOOD).expect("right");
        assert_eq!(
            families.iter().map(|f| (f.name.as_str(), f.kind)).collect::<Vec<_>>(),
            [("a_total", Kind::Counter), ("h", Kind::Histogram)]
        );
        assert_eq!(families[0].help, "What: \\ and\na line.");
        assert_eq!(families[0].samples[1].labels["b"], "x\"y\\z\n, {}");
        assert_eq!(value(&families, "a_total", &[]), Some(1503.0));
        assert_eq!(value(&families, "a_total", &[("c", "")]), Some(1500.0));
        assert_eq!(value(&families, "none", &[]), None);
        assert_eq!(read("").expect("nothing is right too"), []);
    }

    #[test]
    fn what_is_wrong() {
        let head = "# HELP a A.\n# TYPE a gauge\n";
        for (what, text) in [
            ("a cut end", format!("{head}a 1")),
            ("no help", "# TYPE a gauge\na 1\n".to_owned()),
            ("help of another", "# HELP b B.\n# TYPE a gauge\na 1\n".to_owned()),
            ("help alone", "# HELP a A.\n".to_owned()),
            ("no type", "a 1\n".to_owned()),
            ("a family twice", format!("{head}a 1\n# HELP b B.\n# TYPE b gauge\nb 1\n{head}a{{x=\"1\"}} 2\n")),
            ("a sample elsewhere", format!("{head}a 1\nb 2\n")),
            ("a series twice", format!("{head}a{{x=\"1\",y=\"2\"}} 1\na{{y=\"2\",x=\"1\"}} 1\n")),
            ("a label twice", format!("{head}a{{x=\"1\",x=\"2\"}} 1\n")),
            ("a name", format!("{head}a-b 1\n")),
            ("a label's name", format!("{head}a{{x.y=\"1\"}} 1\n")),
            ("a reserved label", format!("{head}a{{__x=\"1\"}} 1\n")),
            ("an open quote", format!("{head}a{{x=\"1}} 1\n")),
            ("an escape", format!("{head}a{{x=\"\\t\"}} 1\n")),
            ("a raw quote", format!("{head}a{{x=\"a\"b\"}} 1\n")),
            ("a number", format!("{head}a one\n")),
            ("a number of Rust", format!("{head}a inf\n")),
            ("a time", format!("{head}a 1 1700000000\n")),
            ("two spaces", format!("{head}a  1\n")),
            ("an empty line", format!("{head}\na 1\n")),
            ("a carriage return", format!("{head}a 1\r\n")),
            ("a negative counter", "# HELP a A.\n# TYPE a counter\na -1\n".to_owned()),
            ("a bound on a gauge", GOOD.replace("a_total 3", "a_total{le=\"1\"} 3").replace("histogram", "gauge")),
            ("a bucket that shrinks", GOOD.replace("le=\"10\"} 1", "le=\"10\"} 0")),
            ("bounds in disorder", GOOD.replace("le=\"0.5\"", "le=\"50\"")),
            ("a count that is not the last bucket", GOOD.replace("h_count 4", "h_count 5")),
            ("no sum", GOOD.replace("h_sum 70.25\n", "")),
            ("no last bucket", GOOD.replace("h_bucket{le=\"+Inf\"} 4\n", "")),
        ] {
            assert!(read(&text).is_err(), "{what}:\n{text}");
        }
    }
}
