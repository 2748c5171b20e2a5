//! Which of several conflicting objects counts: the oldest one (Istio's rule).

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::meta::ObjectMeta;

/// A moment, in whole seconds since the Unix epoch: the resolution that Kubernetes writes and Istio compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From seconds since the Unix epoch, held within the years 0 to 9999 that RFC 3339 can write.
    pub fn from_unix_seconds(seconds: i64) -> Self {
        Self(seconds.clamp(-62_167_219_200, 253_402_300_799))
    }

    /// Seconds since the Unix epoch.
    pub const fn unix_seconds(self) -> i64 {
        self.0
    }

    /// Parses RFC 3339, e.g. `2024-05-01T12:00:00Z`; fractions of seconds are cut off.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if !text.is_ascii() || bytes.len() < "2024-05-01T12:00:00Z".len() {
            return None;
        }
        let number = |range: std::ops::Range<usize>| {
            let digits = &text[range];
            digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<i64>().ok()).flatten()
        };
        let separators = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
        let has_separators = separators.iter().all(|&(at, byte)| bytes[at] == byte);
        if !has_separators || !matches!(bytes[10], b'T' | b't' | b' ') {
            return None;
        }
        let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
        let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
        if !(1..=12).contains(&month) || !(1..=days_in_month(year, month)).contains(&day) {
            return None;
        }
        // 60 is a leap second; it falls together with the next.
        if hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        let offset = parse_offset(&text[19..])?;
        let days = days_from_epoch(year, month, day);
        Some(Self::from_unix_seconds(days * 86_400 + hour * 3_600 + minute * 60 + second - offset))
    }
}

/// `[.fraction](Z|+hh:mm|-hh:mm)` to seconds east of UTC.
fn parse_offset(text: &str) -> Option<i64> {
    let rest = match text.strip_prefix('.') {
        Some(fraction) => {
            let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
            (digits > 0).then(|| &fraction[digits..])?
        }
        None => text,
    };
    if matches!(rest, "Z" | "z") {
        return Some(0);
    }
    let sign = match rest.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = rest[1..].split_once(':')?;
    let two = |s: &str| (s.len() == 2 && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse::<i64>().ok()).flatten();
    let (hours, minutes) = (two(hours)?, two(minutes)?);
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3_600 + minutes * 60))
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 in the Gregorian calendar, for years 0 to 9999.
fn days_from_epoch(year: i64, month: i64, day: i64) -> i64 {
    let leaps_before = |year: i64| {
        let y = year - 1;
        y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400)
    };
    let years = (year - 1970) * 365 + leaps_before(year) - leaps_before(1970);
    let months: i64 = (1..month).map(|m| days_in_month(year, m)).sum();
    years + months + day - 1
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut days, seconds) = (self.0.div_euclid(86_400), self.0.rem_euclid(86_400));
        // A year that is not too late, found with the longest year after 1970 and the shortest before.
        let mut year = 1970 + days.div_euclid(if days < 0 { 365 } else { 366 });
        while days_from_epoch(year + 1, 1, 1) <= days {
            year += 1;
        }
        days -= days_from_epoch(year, 1, 1);
        let mut month = 1;
        while days >= days_in_month(year, month) {
            days -= days_in_month(year, month);
            month += 1;
        }
        let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
        write!(f, "{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", days + 1)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| de::Error::custom("not a time: write RFC 3339, such as 2024-05-01T12:00:00Z"))
    }
}

/// The age of an object relative to others of its kind, for "the oldest wins".
///
/// Istio compares `creationTimestamp`, then name, then namespace. An API server always gives a timestamp; a file seldom does, and
/// its place says nothing about age. So objects with a timestamp come first (they were made before the mesh read them), by
/// timestamp; the others follow in the order in which the store first saw them ([`super::Provenance::sequence`]). An edit
/// does not make an object younger, as `kubectl apply` does not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CreationOrder {
    timestamp: i64,
    sequence: u64,
    name: String,
    namespace: String,
}

impl CreationOrder {
    /// The age of the object with this metadata.
    pub fn of(metadata: &ObjectMeta) -> Self {
        let timestamp = metadata.creation_timestamp.map(Timestamp::unix_seconds);
        Self {
            timestamp: timestamp.unwrap_or(i64::MAX),
            sequence: if timestamp.is_some() { 0 } else { metadata.provenance.sequence },
            name: metadata.name.clone(),
            namespace: metadata.namespace.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::resource::Provenance;

    #[test]
    fn times_are_read_and_written() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2024-02-29T12:34:56Z", 1_709_210_096),
            ("2000-03-01T00:00:00Z", 951_868_800),
            ("1969-12-31T23:59:59Z", -1),
            ("0001-01-01T00:00:00Z", -62_135_596_800),
        ] {
            let time = Timestamp::parse(text).unwrap();
            assert_eq!(time.unix_seconds(), seconds);
            assert_eq!(time.to_string(), text);
        }
        let same = Timestamp::parse("2024-05-01T12:00:00Z");
        for text in ["2024-05-01T14:00:00+02:00", "2024-05-01T11:30:00.999-00:30", "2024-05-01 12:00:00.5Z"] {
            assert_eq!(Timestamp::parse(text), same, "{text}");
        }
        for text in [
            "",
            "2024-05-01",
            "2024-13-01T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "2024-05-01T24:00:00Z",
            "2024-05-01T12:00:00",
            "2024-05-01T12:00:00.Z",
            "2024-05-01T12:00:00+0200",
            "+024-05-01T12:00:00Z",
            "2024-05-01T12:00:00Z ",
        ] {
            assert_eq!(Timestamp::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn the_oldest_comes_first() {
        let metadata = |name: &str, timestamp: Option<i64>, sequence| ObjectMeta {
            name: name.to_owned(),
            creation_timestamp: timestamp.map(Timestamp::from_unix_seconds),
            provenance: Provenance { sequence, ..Provenance::default() },
            ..ObjectMeta::default()
        };
        let expected = [
            metadata("x", Some(1), 9),
            metadata("a", Some(2), 8),
            metadata("b", Some(2), 7),
            metadata("z", None, 1),
            metadata("y", None, 2),
        ];
        let mut found = expected.clone();
        found.reverse();
        found.sort_by_key(CreationOrder::of);
        assert_eq!(found, expected);
    }

    proptest! {
        #[test]
        fn written_times_read_back(seconds in any::<i64>()) {
            let time = Timestamp::from_unix_seconds(seconds);
            prop_assert_eq!(Timestamp::parse(&time.to_string()), Some(time));
        }

        #[test]
        fn arbitrary_text_never_panics(text in any::<String>()) {
            let _ = Timestamp::parse(&text);
        }
    }
}
