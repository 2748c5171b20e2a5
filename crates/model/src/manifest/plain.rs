//! What an unquoted scalar means.
//!
//! The rules are those of the YAML reader that Kubernetes uses, so that a manifest means here what it means in a cluster:
//! YAML 1.2's core schema, and of YAML 1.1 also `yes`, `no`, `on`, `off`, `y` and `n` as booleans, `0o`-less octal numbers
//! (`defaultMode: 0400`), `0b` numbers and `_` between digits. Quoted scalars are always strings.

/// A scalar's value. Values other than strings keep their text for messages.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scalar {
    Null,
    Bool(bool, String),
    Int(i64, String),
    UInt(u64, String),
    Float(f64, String),
    String(String),
}

/// The value of `text`, given whether it was unquoted and which tag of the core schema stood before it.
pub(super) fn resolve(text: &str, plain: bool, tag: Option<&str>) -> Result<Scalar, String> {
    let guess = || if plain { guess(text) } else { Scalar::String(text.to_owned()) };
    let wrong = |tag: &str| format!("{:?} is not what the tag !!{tag} says", crate::resource::shorten(text));
    match tag {
        None => Ok(guess()),
        Some("str") => Ok(Scalar::String(text.to_owned())),
        Some("null") if text.is_empty() || matches!(guess_null(text), Some(Scalar::Null)) => Ok(Scalar::Null),
        Some("bool") => guess_bool(text).ok_or_else(|| wrong("bool")),
        Some("int") => guess_int(text).ok_or_else(|| wrong("int")),
        Some("float") => guess_float(text)
            .or_else(|| text.parse().ok().map(|f| Scalar::Float(f, text.to_owned())))
            .ok_or_else(|| wrong("float")),
        Some(tag @ ("null" | "map" | "seq")) => Err(wrong(tag)),
        Some(tag) => Err(format!("the tag !!{tag} is not supported")),
    }
}

fn guess(text: &str) -> Scalar {
    guess_null(text)
        .or_else(|| guess_bool(text))
        .or_else(|| guess_int(text))
        .or_else(|| guess_float(text))
        .unwrap_or_else(|| Scalar::String(text.to_owned()))
}

fn guess_null(text: &str) -> Option<Scalar> {
    matches!(text, "" | "~" | "null" | "Null" | "NULL").then_some(Scalar::Null)
}

fn guess_bool(text: &str) -> Option<Scalar> {
    let value = match text {
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "y" | "Y" => true,
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "n" | "N" => false,
        _ => return None,
    };
    Some(Scalar::Bool(value, text.to_owned()))
}

fn guess_int(text: &str) -> Option<Scalar> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let digits: String = digits.chars().filter(|&c| c != '_').collect();
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits.as_str()),
    };
    // `from_str_radix` would take a second sign.
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let value = u64::from_str_radix(digits, radix).ok()?;
    let text = text.to_owned();
    match (negative, i64::try_from(value)) {
        (false, Ok(value)) => Some(Scalar::Int(value, text)),
        (true, Ok(value)) => Some(Scalar::Int(-value, text)),
        (false, Err(_)) => Some(Scalar::UInt(value, text)),
        (true, Err(_)) => None,
    }
}

fn guess_float(text: &str) -> Option<Scalar> {
    let special = match text {
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Some(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => Some(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => Some(f64::NAN),
        _ => None,
    };
    let is_number = || {
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        digits(whole)
            && digits(fraction)
            && !(whole.is_empty() && fraction.is_empty())
            && !exponent.is_empty()
            && digits(exponent)
    };
    let value = special.or_else(|| is_number().then(|| text.parse().ok()).flatten())?;
    Some(Scalar::Float(value, text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_mean_what_they_mean_in_a_cluster() {
        let int = |value, text: &str| Scalar::Int(value, text.to_owned());
        let bool = |value, text: &str| Scalar::Bool(value, text.to_owned());
        let float = |value, text: &str| Scalar::Float(value, text.to_owned());
        let string = |text: &str| Scalar::String(text.to_owned());
        let cases = [
            ("", Scalar::Null),
            ("~", Scalar::Null),
            ("null", Scalar::Null),
            ("nullx", string("nullx")),
            ("true", bool(true, "true")),
            ("on", bool(true, "on")),
            ("No", bool(false, "No")),
            ("oN", string("oN")),
            ("1337", int(1337, "1337")),
            ("-7", int(-7, "-7")),
            ("+7", int(7, "+7")),
            ("0400", int(256, "0400")),
            ("0o400", int(256, "0o400")),
            ("0x1f", int(31, "0x1f")),
            ("0b11", int(3, "0b11")),
            ("1_000", int(1000, "1_000")),
            ("0", int(0, "0")),
            ("--7", string("--7")),
            ("0x", string("0x")),
            ("18446744073709551615", Scalar::UInt(u64::MAX, "18446744073709551615".to_owned())),
            ("1.5", float(1.5, "1.5")),
            ("1e3", float(1000.0, "1e3")),
            (".5", float(0.5, ".5")),
            ("-.inf", float(f64::NEG_INFINITY, "-.inf")),
            ("1.5s", string("1.5s")),
            ("1.2.3", string("1.2.3")),
            ("v1", string("v1")),
            ("2024-05-01", string("2024-05-01")),
            ("10.0.0.1", string("10.0.0.1")),
            (".", string(".")),
            ("-", string("-")),
        ];
        for (text, expected) in cases {
            assert_eq!(resolve(text, true, None), Ok(expected), "{text:?}");
            assert_eq!(resolve(text, false, None), Ok(string(text)), "quoted {text:?}");
        }
        assert!(matches!(resolve(".nan", true, None), Ok(Scalar::Float(value, _)) if value.is_nan()));
    }

    #[test]
    fn tags_decide_over_the_look() {
        assert_eq!(resolve("1", true, Some("str")), Ok(Scalar::String("1".to_owned())));
        assert_eq!(resolve("1", false, Some("int")), Ok(Scalar::Int(1, "1".to_owned())));
        assert!(resolve("x", true, Some("int")).is_err());
        assert!(resolve("x", true, Some("binary")).is_err());
    }
}
