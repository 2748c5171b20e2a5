//! Checks of single values that several kinds share. Each answers what is wrong, worded to follow a field's name.

use std::net::IpAddr;

use super::host::Host;
use super::{Issues, Percent, ProtoDuration, shorten};
use crate::dataplane::SafeRegex;

/// The result of a check: what is wrong, if anything.
pub(crate) type Check = Result<(), String>;

/// Reports a failed check at the field that `issues` is at.
pub(crate) fn report(issues: &mut Issues, check: Check) {
    if let Err(text) = check {
        issues.error(text);
    }
}

/// Reports a failed check one field down.
pub(crate) fn report_at(issues: &mut Issues, key: &str, check: Check) {
    if let Err(text) = check {
        issues.error_at(key, text);
    }
}

/// RFC 1123 label: at most 63 of `a-z 0-9 -`, the ends not `-`.
pub(crate) fn dns_label(text: &str) -> Check {
    if is_dns_label(text) {
        return Ok(());
    }
    Err(format!(
        "{:?} must be a DNS label: at most 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit",
        shorten(text)
    ))
}

fn is_dns_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.len() <= 63 && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// RFC 1123 subdomain: DNS labels with dots between, at most 253 bytes.
pub(crate) fn dns_subdomain(text: &str) -> Check {
    if text.len() <= 253 && text.split('.').all(is_dns_label) {
        return Ok(());
    }
    let text = shorten(text);
    Err(format!(
        "{text:?} must be a DNS name: at most 253 of a-z, 0-9, '-' and '.', every part beginning and ending with a letter or digit"
    ))
}

/// The name of a container port: at most 15 of `a-z 0-9 -`, one letter at least, no `--`.
pub(crate) fn port_name(text: &str) -> Check {
    let letters = text.bytes().any(|b| b.is_ascii_lowercase());
    if is_dns_label(text) && text.len() <= 15 && letters && !text.contains("--") {
        return Ok(());
    }
    Err(format!("{:?} must be a port name: at most 15 of a-z, 0-9 and '-', with a letter", shorten(text)))
}

/// A port number.
pub(crate) fn port(number: i64) -> Check {
    match number {
        1..=65535 => Ok(()),
        _ => Err(format!("is {number}, must be a port from 1 to 65535")),
    }
}

/// A key of labels or annotations: an optional DNS name and `/`, then at most 63 of letters, digits, `-`, `_` and `.`.
pub(crate) fn qualified_name(key: &str) -> Check {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if let Some(prefix) = prefix {
        dns_subdomain(prefix).map_err(|text| format!("the part before '/' of the key {text}"))?;
    }
    match !name.is_empty() && is_label_value(name) {
        true => Ok(()),
        false => Err(format!(
            "the key {:?} must be at most 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit",
            shorten(name)
        )),
    }
}

/// A value of a label: empty, or like a key's name.
pub(crate) fn label_value(value: &str) -> Check {
    match is_label_value(value) {
        true => Ok(()),
        false => Err(format!(
            "{:?} must be at most 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit",
            shorten(value)
        )),
    }
}

fn is_label_value(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let end = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63 && bytes.iter().copied().all(inner) && end(bytes.first()) && end(bytes.last())
}

/// The name of a key in a ConfigMap or Secret, which becomes a file's name.
pub(crate) fn data_key(key: &str) -> Check {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if !key.is_empty() && key.len() <= 253 && key.bytes().all(inner) && key != "." && !key.starts_with("..") {
        return Ok(());
    }
    Err("must be at most 253 letters, digits, '-', '_' and '.', and must not begin with '..'".to_owned())
}

/// The name of an environment variable: any printable ASCII but `=` (Kubernetes' relaxed rule).
pub(crate) fn env_name(name: &str) -> Check {
    let printable = |b: u8| (0x20..0x7f).contains(&b) && b != b'=';
    match !name.is_empty() && name.bytes().all(printable) {
        true => Ok(()),
        false => Err(format!("{:?} must be printable ASCII without '='", shorten(name))),
    }
}

/// A path below a directory: relative, without `..`.
pub(crate) fn relative_path(path: &str) -> Check {
    if path.is_empty() || path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err(format!("{:?} must be a relative path without '..'", shorten(path)));
    }
    Ok(())
}

/// Istio's rule for most durations: at least 1 ms, whole milliseconds.
pub(crate) fn whole_millis(duration: ProtoDuration) -> Check {
    match duration.is_whole_millis() {
        true => Ok(()),
        false => Err(format!("is {duration}, must be at least 1ms and a whole number of milliseconds")),
    }
}

/// The same, or zero.
pub(crate) fn whole_millis_or_zero(duration: ProtoDuration) -> Check {
    match duration.get().is_zero() {
        true => Ok(()),
        false => whole_millis(duration),
    }
}

/// A share of requests: 0, or 0.0001 to 100.
pub(crate) fn percentage(percent: Percent) -> Check {
    // NaN fails both comparisons.
    match percent.value == 0.0 || (0.0001..=100.0).contains(&percent.value) {
        true => Ok(()),
        false => Err(format!("is {}, must be 0 or 0.0001 to 100", percent.value)),
    }
}

/// A number that must not be below zero.
pub(crate) fn not_negative(number: i32) -> Check {
    match number {
        0.. => Ok(()),
        _ => Err(format!("is {number}, must not be negative")),
    }
}

/// A whole per cent, 0 to 100.
pub(crate) fn whole_percent(number: i32) -> Check {
    match number {
        0..=100 => Ok(()),
        _ => Err(format!("is {number}, must be 0 to 100")),
    }
}

/// A status that a response may be given: 200 to 600, Istio's bounds.
pub(crate) fn http_status(status: i64) -> Check {
    match status {
        200..=600 => Ok(()),
        _ => Err(format!("is {status}, must be an HTTP status from 200 to 600")),
    }
}

/// Whether `status` is one that HTTP has a name for (RFC 9110 and the registry).
pub(crate) fn is_named_http_status(status: u16) -> bool {
    matches!(status, 100..=103 | 200..=208 | 226 | 300..=305 | 307 | 308 | 400..=418 | 421..=426 | 428 | 429 | 431 | 451 | 500..=508 | 510 | 511)
}

/// The name of a header: an HTTP token (RFC 9110, section 5.6.2).
pub(crate) fn header_name(name: &str) -> Check {
    match is_token(name) {
        true => Ok(()),
        false => Err(format!("{:?} is not a header name", shorten(name))),
    }
}

/// An HTTP token.
pub(crate) fn is_token(text: &str) -> bool {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(token)
}

/// A host of a service or a route: a DNS name, possibly with a wildcard at its beginning, or an IP address.
pub(crate) fn wildcard_host(host: &str) -> Check {
    Host::try_new(host).map(|_| ()).map_err(|error| error.to_string())
}

/// A fully qualified or short DNS name without a wildcard.
pub(crate) fn fqdn(host: &str) -> Check {
    match Host::try_new(host) {
        Ok(host) if host.is_wildcard() => Err(format!("{host} must be one name, without a wildcard")),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// An IP address or CIDR block.
pub(crate) fn ip_block(text: &str) -> Check {
    match text.parse::<IpAddr>().is_ok() || text.parse::<ipnet::IpNet>().is_ok() {
        true => Ok(()),
        false => Err(format!("{:?} must be an IP address or a CIDR block such as 10.0.0.0/8", shorten(text))),
    }
}

/// The most characters that Istio allows in a regular expression.
pub(crate) const MAX_REGEX_CHARS: usize = 1024;
/// What nearly every expression in use needs less than.
const SMALL_REGEX_BYTES: usize = 32 << 10;
/// The most expressions of an object that may need more than [`SMALL_REGEX_BYTES`]: compiling one takes milliseconds,
/// and no manifest may keep its reader busy for minutes.
const MAX_LARGE_REGEXES: usize = 100;

/// Reports what is wrong with a regular expression of RE2's syntax, one field down.
pub(crate) fn report_regex_at(issues: &mut Issues, key: &str, pattern: &str) {
    let _ = regex_at(issues, key, pattern);
}

/// The same; how many groups the expression has, the whole match included, unless it was reported.
pub(crate) fn regex_at(issues: &mut Issues, key: &str, pattern: &str) -> Option<usize> {
    if pattern.chars().count() > MAX_REGEX_CHARS {
        issues.error_at(key, format!("the regular expression is longer than {MAX_REGEX_CHARS} characters"));
        return None;
    }
    // Compiled as proxies do it, so that what passes here is not refused there.
    if let Ok(small) = SafeRegex::builder(pattern).size_limit(SMALL_REGEX_BYTES).build() {
        return Some(small.captures_len());
    }
    let compiled = match issues.count_large_regex() {
        count if count > MAX_LARGE_REGEXES => {
            Err(format!("only {MAX_LARGE_REGEXES} large regular expressions are allowed in one object"))
        }
        _ => large_regex(pattern),
    };
    compiled.map_err(|text| issues.error_at(key, text)).ok()
}

fn large_regex(pattern: &str) -> Result<usize, String> {
    let compiled = SafeRegex::builder(pattern).build();
    match compiled {
        // Anchored, it takes a little more.
        Ok(regex) if SafeRegex::try_new(pattern).is_ok() => Ok(regex.captures_len()),
        Ok(_) | Err(regex::Error::CompiledTooBig(_)) => {
            Err("the regular expression is too large when compiled: use smaller repetitions".to_owned())
        }
        // The last line of a syntax error says what is wrong; the others draw it.
        Err(other) => {
            let text = other.to_string();
            let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
            Err(format!("{:?} is not a regular expression: {reason}", shorten(pattern)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(check: fn(&str) -> Check, good: &[&str], bad: &[&str]) {
        for text in good {
            assert_eq!(check(text), Ok(()), "{text:?}");
        }
        for text in bad {
            assert!(check(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn names() {
        let long = "a".repeat(64);
        table(dns_label, &["a", "a-1", "1a"], &["", "-a", "a-", "A", "a.b", "a_b", &long]);
        table(dns_subdomain, &["a", "a.b-c.d"], &["", ".", "a..b", "a.", "-a.b", &"a.".repeat(127)]);
        table(port_name, &["http", "http-web", "a1"], &["", "1", "-a", "a--b", "HTTP", "sixteen-letters-"]);
        table(qualified_name, &["app", "app.kubernetes.io/name", "a_B.c"], &["", "/a", "a/", "a/b/c", "A.b/c", "-a", "a b"]);
        table(label_value, &["", "v1", "a_B.c-d", "1"], &["-a", "a-", "a b", "ä", &long]);
        table(data_key, &["mesh", "a.b-c_D", ".hidden"], &["", ".", "..", "..a", "a/b", "a b"]);
        table(env_name, &["A", "my.var", "a-b"], &["", "a=b", "a\n", "ä"]);
        table(relative_path, &["a", "a/b", "..a"], &["", "/a", "..", "a/../b"]);
        table(header_name, &["x-a", "X_1", "a!"], &["", "a b", ":path", "a:b", "ä"]);
    }

    #[test]
    fn numbers() {
        assert!(port(1).is_ok() && port(65535).is_ok() && port(0).is_err() && port(65536).is_err() && port(-1).is_err());
        assert!(http_status(200).is_ok() && http_status(600).is_ok() && http_status(199).is_err() && http_status(601).is_err());
        assert!(
            whole_percent(0).is_ok() && whole_percent(100).is_ok() && whole_percent(101).is_err() && whole_percent(-1).is_err()
        );
        for (value, good) in
            [(0.0, true), (0.0001, true), (100.0, true), (0.00001, false), (100.1, false), (-1.0, false), (f64::NAN, false)]
        {
            assert_eq!(percentage(Percent { value }).is_ok(), good, "{value}");
        }
    }

    #[test]
    fn hostile_regular_expressions_are_refused_cheaply() {
        let errors = |patterns: &[&str]| {
            let mut issues = Issues::default();
            for pattern in patterns {
                report_regex_at(&mut issues, "regex", pattern);
            }
            issues.into_errors().into_iter().map(|issue| issue.text).collect::<Vec<_>>()
        };
        assert!(errors(&["^/v[0-9]+/.*$", r"\w+", "[äöü]+", r"\pL", &"a".repeat(1024)]).is_empty());
        assert!(errors(&[&"a".repeat(1025)])[0].contains("1024"));
        assert!(errors(&[r"(\w{1000}){1000}"])[0].contains("too large"));
        // Small with ASCII classes, which proxies compile, large with Unicode's.
        assert!(errors(&[r"\w{1,100}"]).is_empty());
        assert!(errors(&[r"\pL{1,100}"])[0].contains("too large"));
        assert!(errors(&[r"(?-u)\xff"])[0].contains("UTF-8"));
        assert!(errors(&["a("])[0].contains("unclosed group"));
        assert_eq!(errors(&["*"]).len(), 1);
        assert_eq!(errors(&[&"(".repeat(1000)]).len(), 1);
        assert!(errors(&[r"\pL"; MAX_LARGE_REGEXES]).is_empty());
        assert!(errors(&[r"\pL"; MAX_LARGE_REGEXES + 1])[0].contains("only 100 large"));
    }
}
