//! Prometheus' text format 0.0.4, and OpenMetrics 1.0 for scrapers that ask for it.

use super::cells::{Cell, Kind};
use super::labels::LabelSet;
use super::registry::{FamilySnapshot, Series, lock};
use std::fmt::Write;
use std::sync::atomic::Ordering;

/// A piece of the exposition is handed out once it has this size.
const PIECE: usize = 64 * 1024;

/// Which text format to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format, version 0.0.4.
    #[default]
    Prometheus,
    /// OpenMetrics, version 1.0.0.
    OpenMetrics,
}

impl Format {
    /// What a scraper asks for in its `accept` header.
    pub fn negotiate(accept: Option<&str>) -> Self {
        let wanted =
            accept.is_some_and(|accept| accept.split(',').any(|kind| kind.trim().starts_with("application/openmetrics-text")));
        if wanted { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// The `content-type` of the answer.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The exposition in pieces, so that a large one need not be in memory at once.
pub struct Exposition {
    families: std::vec::IntoIter<FamilySnapshot>,
    current: Option<(FamilySnapshot, usize)>,
    format: Format,
    ended: bool,
}

impl Exposition {
    pub(super) fn new(families: Vec<FamilySnapshot>, format: Format) -> Self {
        Self { families: families.into_iter(), current: None, format, ended: false }
    }

    /// Writes the next line group; false at the end.
    fn step(&mut self, out: &mut String) -> bool {
        if let Some((family, next)) = &mut self.current {
            if let Some(series) = family.series.get(*next) {
                *next += 1;
                write_series(out, &family.inner.name, self.format, series, &family.inner.kind);
                return true;
            }
            self.current = None;
        }
        match self.families.next() {
            Some(family) if family.series.is_empty() && family.readings.is_empty() => true,
            Some(family) => {
                write_head(out, &family, self.format);
                for (labels, value) in &family.readings {
                    write_sample(out, &family.inner.name, "", labels, None, &number(*value));
                }
                self.current = Some((family, 0));
                true
            }
            None => false,
        }
    }
}

impl Iterator for Exposition {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        if self.ended {
            return None;
        }
        let mut out = String::new();
        while out.len() < PIECE {
            if !self.step(&mut out) {
                self.ended = true;
                if self.format == Format::OpenMetrics {
                    out.push_str("# EOF\n");
                }
                break;
            }
        }
        Some(out)
    }
}

fn write_head(out: &mut String, family: &FamilySnapshot, format: Format) {
    let name = &*family.inner.name;
    // OpenMetrics names the family of a counter without its suffix, and knows no counter without one.
    let (name, kind) = match (&family.inner.kind, format) {
        (Kind::Counter, Format::Prometheus) => (name, "counter"),
        (Kind::Counter, Format::OpenMetrics) => name.strip_suffix("_total").map_or((name, "unknown"), |stem| (stem, "counter")),
        (Kind::Gauge, _) => (name, "gauge"),
        (Kind::Histogram(_), _) => (name, "histogram"),
    };
    let _ = write!(out, "# HELP {name} ");
    for c in family.inner.help.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if format == Format::OpenMetrics => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    let _ = writeln!(out, "\n# TYPE {name} {kind}");
}

fn write_series(out: &mut String, name: &str, format: Format, series: &Series, kind: &Kind) {
    let cells = lock(&series.cells);
    match kind {
        Kind::Counter => {
            let total = cells.iter().map(|(_, cell)| cell.activity()).fold(0, u64::wrapping_add);
            write_sample(out, name, "", &series.labels, None, itoa::Buffer::new().format(total));
        }
        Kind::Gauge => {
            let total = cells.iter().map(|(_, cell)| cell.activity()).fold(0, u64::wrapping_add).cast_signed();
            write_sample(out, name, "", &series.labels, None, itoa::Buffer::new().format(total));
        }
        Kind::Histogram(buckets) => {
            let mut counts = vec![0_u64; buckets.upper.len() + 1];
            let mut sum = 0_u64;
            for (_, cell) in cells.iter() {
                let Cell::Histogram(cell) = cell else { continue };
                for (total, count) in counts.iter_mut().zip(&cell.counts) {
                    *total = total.wrapping_add(count.load(Ordering::Relaxed));
                }
                sum = sum.wrapping_add(cell.sum.load(Ordering::Relaxed));
            }
            let mut cumulated = 0;
            let bounds = buckets.le.iter().map(|le| &**le).chain(["+Inf"]);
            for (le, count) in bounds.zip(counts) {
                cumulated += count;
                // OpenMetrics wants bounds as floating point numbers.
                let float = format == Format::OpenMetrics && le.bytes().all(|byte| byte.is_ascii_digit());
                let le = (le, if float { ".0" } else { "" });
                write_sample(out, name, "_bucket", &series.labels, Some(le), itoa::Buffer::new().format(cumulated));
            }
            write_sample(out, name, "_sum", &series.labels, None, &scaled(sum, buckets.per_unit));
            write_sample(out, name, "_count", &series.labels, None, itoa::Buffer::new().format(cumulated));
        }
    }
}

fn write_sample(out: &mut String, name: &str, suffix: &str, labels: &LabelSet, le: Option<(&str, &str)>, value: &str) {
    out.push_str(name);
    out.push_str(suffix);
    let labels = labels.as_str();
    if !labels.is_empty() || le.is_some() {
        out.push('{');
        out.push_str(labels);
        if let Some((bound, fraction)) = le {
            out.push_str(if labels.is_empty() { "le=\"" } else { ",le=\"" });
            out.push_str(bound);
            out.push_str(fraction);
            out.push('"');
        }
        out.push('}');
    }
    out.push(' ');
    out.push_str(value);
    out.push('\n');
}

/// A sum of native units in exposed units, exactly.
fn scaled(sum: u64, per_unit: u64) -> String {
    let (whole, rest) = (sum / per_unit, sum % per_unit);
    if rest == 0 {
        return whole.to_string();
    }
    let digits = per_unit.ilog10() as usize;
    let fraction = format!("{rest:0digits$}");
    format!("{whole}.{}", fraction.trim_end_matches('0'))
}

fn number(value: f64) -> String {
    if value.is_nan() {
        "NaN".into()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf".into() } else { "-Inf".into() }
    } else {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::{Format, number, scaled};

    #[test]
    fn sums_are_exact() {
        assert_eq!(scaled(1_500, 1000), "1.5");
        assert_eq!(scaled(2_000, 1000), "2");
        assert_eq!(scaled(7, 1000), "0.007");
        assert_eq!(scaled(7, 1), "7");
    }

    #[test]
    fn numbers_of_the_format() {
        assert_eq!([1.0, 0.25, f64::NAN, f64::INFINITY].map(number), ["1", "0.25", "NaN", "+Inf"]);
    }

    #[test]
    fn negotiation() {
        let prometheus = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Format::negotiate(Some(prometheus)), Format::OpenMetrics);
        assert_eq!(Format::negotiate(Some("*/*")), Format::Prometheus);
        assert_eq!(Format::negotiate(None), Format::Prometheus);
    }
}
