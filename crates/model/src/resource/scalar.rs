//! Scalars in the textual forms that Kubernetes and protobuf's JSON mapping give them.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A non-negative duration as Istio writes it: `"1.5s"`, and also `"100ms"`, `"1m"` or `"1h30m"`.
///
/// Protobuf's JSON mapping knows seconds only; Istio reads Go's duration syntax, and its own documentation uses `1m` and `1h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProtoDuration(Duration);

impl ProtoDuration {
    /// Wraps a duration.
    pub const fn new(duration: Duration) -> Self {
        Self(duration)
    }

    /// The duration.
    pub const fn get(self) -> Duration {
        self.0
    }

    /// Whether this is a positive whole number of milliseconds, which Istio demands of most of its durations.
    pub fn is_whole_millis(self) -> bool {
        !self.0.is_zero() && self.0.subsec_nanos().is_multiple_of(1_000_000)
    }

    /// Parses Go's duration syntax: one or more of a decimal number and a unit (`ns`, `us`, `µs`, `ms`, `s`, `m`, `h`), or `0`.
    pub fn parse(text: &str) -> Result<Self, DurationError> {
        let wrong = || DurationError::Syntax(text.chars().take(64).collect());
        if text.starts_with('-') && text.len() > 1 {
            return Err(DurationError::Negative);
        }
        let mut rest = text.strip_prefix('+').unwrap_or(text);
        if rest == "0" {
            return Ok(Self(Duration::ZERO));
        }
        if rest.is_empty() {
            return Err(wrong());
        }
        let mut total: u128 = 0;
        while !rest.is_empty() {
            let number_len = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
            let (number, tail) = rest.split_at(number_len);
            let unit_len = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_len);
            let nanos = unit_nanos(unit).and_then(|unit| scale(number, unit)).ok_or_else(wrong)?;
            total = total.checked_add(nanos).ok_or(DurationError::TooLong)?;
            rest = tail;
        }
        // Protobuf's own bound (10,000 years) is longer than what Go's int64 of nanoseconds holds, so the latter decides.
        let total = u64::try_from(total).ok().filter(|n| i64::try_from(*n).is_ok()).ok_or(DurationError::TooLong)?;
        Ok(Self(Duration::from_nanos(total)))
    }
}

/// Nanoseconds in one `unit`.
fn unit_nanos(unit: &str) -> Option<u128> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// `number` (decimal, at most 18 digits on either side of its point) times `unit`, cut to whole nanoseconds.
fn scale(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |s: &str| s.len() <= 18 && s.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return None;
    }
    let parse = |s: &str| if s.is_empty() { Some(0) } else { s.parse::<u128>().ok() };
    let power = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    Some(parse(whole)?.checked_mul(unit)? + parse(fraction)?.checked_mul(unit)? / power)
}

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not a number and a unit.
    #[error("{0:?} is not a duration: write a number and a unit (ms, s, m, h), such as \"1.5s\"")]
    Syntax(String),
    /// Below zero.
    #[error("a duration must not be negative")]
    Negative,
    /// More than about 292 years.
    #[error("the duration is too long")]
    TooLong,
}

impl From<ProtoDuration> for Duration {
    fn from(duration: ProtoDuration) -> Self {
        duration.0
    }
}

impl fmt::Display for ProtoDuration {
    /// Protobuf's canonical form: seconds, with 0, 3, 6 or 9 fractional digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanos) = (self.0.as_secs(), self.0.subsec_nanos());
        match nanos {
            0 => write!(f, "{seconds}s"),
            n if n % 1_000_000 == 0 => write!(f, "{seconds}.{:03}s", n / 1_000_000),
            n if n % 1_000 == 0 => write!(f, "{seconds}.{:06}s", n / 1_000),
            n => write!(f, "{seconds}.{n:09}s"),
        }
    }
}

impl Serialize for ProtoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ProtoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = ProtoDuration;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as \"1.5s\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ProtoDuration, E> {
                ProtoDuration::parse(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// A number or a name, as in Kubernetes' `targetPort: 8080` and `targetPort: http`, or a percentage as in `maxSurge: 25%`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IntOrString {
    /// Written as a number.
    Int(i32),
    /// Written as text (also text made of digits).
    String(String),
}

impl fmt::Display for IntOrString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(number) => number.fmt(f),
            Self::String(text) => text.fmt(f),
        }
    }
}

impl Serialize for IntOrString {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Int(number) => serializer.serialize_i32(*number),
            Self::String(text) => serializer.serialize_str(text),
        }
    }
}

impl<'de> Deserialize<'de> for IntOrString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = IntOrString;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or a string")
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<IntOrString, E> {
                let number = i32::try_from(number).map_err(|_| E::custom("the number does not fit in 32 bits"))?;
                Ok(IntOrString::Int(number))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<IntOrString, E> {
                let number = i32::try_from(number).map_err(|_| E::custom("the number does not fit in 32 bits"))?;
                Ok(IntOrString::Int(number))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<IntOrString, E> {
                Ok(IntOrString::String(text.to_owned()))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// A field that Kubernetes or Istio defines and whose inside this version does not interpret, kept as it was written.
///
/// Whether its presence is harmless or refused is said by the kind's `unsupported` function; keeping the value lets a
/// changed one be noticed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Passthrough(pub serde_json::Value);

/// Bytes written as base64 in JSON (`Secret.data`, `ConfigMap.binaryData`). The debug form shows only their number, for
/// they may be secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Base64Bytes(Vec<u8>);

impl Base64Bytes {
    /// Wraps bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The decoded bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Base64Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0.len())
    }
}

impl Serialize for Base64Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use base64::Engine as _;
        serializer.serialize_str(&base64::engine::general_purpose::STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use base64::Engine as _;
        let text = String::deserialize(deserializer)?;
        // Kubernetes' JSON decoder ignores line breaks inside base64, and block scalars bring them.
        let text: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(text)
            .map_err(|e| de::Error::custom(format_args!("not base64: {e}")))?;
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_as_istio_reads_them() {
        for (text, nanos) in [
            ("0", 0),
            ("0s", 0),
            ("1.5s", 1_500_000_000),
            ("+1s", 1_000_000_000),
            ("100ms", 100_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1m0.5s", 60_500_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("3us", 3_000),
            ("3µs", 3_000),
            ("7ns", 7),
        ] {
            assert_eq!(ProtoDuration::parse(text).map(|d| d.get().as_nanos()), Ok(nanos), "{text:?}");
        }
        for text in ["", "1", "s", ".s", "1d", "1 s", "1s ", "1.2.3s", "1e3s", "s1", "1S", "ä", "-", &"9".repeat(30)] {
            assert!(matches!(ProtoDuration::parse(text), Err(DurationError::Syntax(_))), "{text:?}");
        }
        assert_eq!(ProtoDuration::parse("-1s"), Err(DurationError::Negative));
        assert_eq!(ProtoDuration::parse("9999999h"), Err(DurationError::TooLong));
    }

    #[test]
    fn whole_milliseconds() {
        let whole = |text: &str| ProtoDuration::parse(text).unwrap().is_whole_millis();
        assert!(whole("1ms") && whole("1s") && whole("1.001s"));
        assert!(!whole("0s") && !whole("0.5ms") && !whole("1.0005s"));
    }

    #[test]
    fn base64_is_not_shown() {
        let bytes: Base64Bytes = serde_json::from_str("\"c2Vj\\ncmV0\"").unwrap();
        assert_eq!(bytes.as_bytes(), b"secret");
        assert_eq!(format!("{bytes:?}"), "<6 bytes>");
        assert_eq!(serde_json::to_string(&bytes).unwrap(), "\"c2VjcmV0\"");
    }

    proptest! {
        #[test]
        fn written_durations_read_back(nanos in 0..=i64::MAX) {
            let duration = ProtoDuration::new(Duration::from_nanos(nanos.unsigned_abs()));
            prop_assert_eq!(ProtoDuration::parse(&duration.to_string()), Ok(duration));
        }

        #[test]
        fn arbitrary_text_never_panics(text in any::<String>()) {
            let _ = ProtoDuration::parse(&text);
        }
    }
}
