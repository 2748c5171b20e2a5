//! UTC dates for log lines, without a library's locale or allocation.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment, taken apart.
#[derive(Clone, Copy)]
pub(super) struct Civil {
    year: u64,
    month: u8,
    day: u8,
    day_of_year: u16,
    seconds_of_day: u32,
    nanos: u32,
    unix: Duration,
}

const MONTH_NAMES: [&[u8]; 12] = [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
const DAY_NAMES: [&[u8]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];

impl Civil {
    /// Takes a moment apart; what is before 1970 counts as 1970.
    #[expect(clippy::cast_possible_truncation, reason = "remainders of constants that fit")]
    pub(super) fn new(time: SystemTime) -> Self {
        let unix = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (days, seconds_of_day) = (unix.as_secs() / 86_400, (unix.as_secs() % 86_400) as u32);
        // The calendar repeats every 400 years of 146,097 days; years are counted from March, so that the leap day comes last.
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let from_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * from_march + 2) / 153;
        let day = (from_march - (153 * month_from_march + 2) / 5 + 1) as u8;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 } as u8;
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let day_of_year = if month <= 2 { from_march - 305 } else { from_march + 60 + u64::from(leap) } as u16;
        Self { year, month, day, day_of_year, seconds_of_day, nanos: unix.subsec_nanos(), unix }
    }
}

/// Appends `2006-01-02T15:04:05.000Z`, Envoy's default.
pub(super) fn write_default(out: &mut Vec<u8>, time: SystemTime) {
    let civil = Civil::new(time);
    for part in [Part::Year, Part::Text(b'-'), Part::Month, Part::Text(b'-'), Part::Day, Part::Text(b'T')] {
        part.write(out, &civil);
    }
    Part::Clock.write(out, &civil);
    out.push(b'.');
    Part::Fraction(3).write(out, &civil);
    out.push(b'Z');
}

/// One element of a `%START_TIME(…)%` format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Text(u8),
    Year,
    ShortYear,
    Month,
    MonthName,
    Day,
    DayOfYear,
    DayName,
    Hour,
    Minute,
    Second,
    Clock,
    Date,
    Zone,
    ZoneName,
    UnixSeconds,
    UnixMillis,
    UnixMicros,
    UnixNanos,
    /// So many digits after the decimal point.
    Fraction(u8),
}

/// Compiles the `strftime` conversions that Envoy documents; the offending conversion is the error.
pub(super) fn compile(format: &str) -> Result<Box<[Part]>, String> {
    let mut parts = Vec::new();
    let mut rest = format.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            parts.push(Part::Text(*byte));
            continue;
        }
        let (part, taken) = match rest {
            [b'Y', ..] => (Part::Year, 1),
            [b'y', ..] => (Part::ShortYear, 1),
            [b'm', ..] => (Part::Month, 1),
            [b'b', ..] => (Part::MonthName, 1),
            [b'd', ..] => (Part::Day, 1),
            [b'j', ..] => (Part::DayOfYear, 1),
            [b'a', ..] => (Part::DayName, 1),
            [b'H', ..] => (Part::Hour, 1),
            [b'M', ..] => (Part::Minute, 1),
            [b'S', ..] => (Part::Second, 1),
            [b'T', ..] => (Part::Clock, 1),
            [b'F', ..] => (Part::Date, 1),
            [b'z', ..] => (Part::Zone, 1),
            [b'Z', ..] => (Part::ZoneName, 1),
            [b's', ..] => (Part::UnixSeconds, 1),
            [b'E', b'3', b's', ..] => (Part::UnixMillis, 3),
            [b'E', b'6', b's', ..] => (Part::UnixMicros, 3),
            [b'E', b'9', b's', ..] => (Part::UnixNanos, 3),
            [b'f', ..] => (Part::Fraction(9), 1),
            [digits @ b'1'..=b'9', b'f', ..] => (Part::Fraction(digits - b'0'), 2),
            [b'%', ..] => (Part::Text(b'%'), 1),
            _ => {
                let shown: String = format[format.len() - rest.len()..].chars().take(3).collect();
                return Err(format!("%{shown}"));
            }
        };
        parts.push(part);
        rest = &rest[taken..];
    }
    Ok(parts.into())
}

pub(super) fn write(out: &mut Vec<u8>, parts: &[Part], time: SystemTime) {
    let civil = Civil::new(time);
    for part in parts {
        part.write(out, &civil);
    }
}

impl Part {
    fn write(self, out: &mut Vec<u8>, civil: &Civil) {
        let seconds = u64::from(civil.seconds_of_day);
        let unix = civil.unix;
        match self {
            Self::Text(byte) => out.push(byte),
            Self::Year => padded(out, civil.year, 4),
            Self::ShortYear => padded(out, civil.year % 100, 2),
            Self::Month => padded(out, civil.month.into(), 2),
            Self::MonthName => out.extend_from_slice(MONTH_NAMES[usize::from(civil.month - 1)]),
            Self::Day => padded(out, civil.day.into(), 2),
            Self::DayOfYear => padded(out, civil.day_of_year.into(), 3),
            Self::DayName => out.extend_from_slice(DAY_NAMES[usize::try_from(unix.as_secs() / 86_400 % 7).unwrap_or(0)]),
            Self::Hour => padded(out, seconds / 3600, 2),
            Self::Minute => padded(out, seconds / 60 % 60, 2),
            Self::Second => padded(out, seconds % 60, 2),
            Self::Clock => joined(out, civil, [Self::Hour, Self::Minute, Self::Second], b':'),
            Self::Date => joined(out, civil, [Self::Year, Self::Month, Self::Day], b'-'),
            Self::Zone => out.extend_from_slice(b"+0000"),
            Self::ZoneName => out.extend_from_slice(b"UTC"),
            Self::UnixSeconds => padded(out, unix.as_secs(), 1),
            Self::UnixMillis => padded(out, u64::try_from(unix.as_millis()).unwrap_or(u64::MAX), 1),
            Self::UnixMicros => padded(out, u64::try_from(unix.as_micros()).unwrap_or(u64::MAX), 1),
            Self::UnixNanos => padded(out, u64::try_from(unix.as_nanos()).unwrap_or(u64::MAX), 1),
            Self::Fraction(digits) => {
                padded(out, u64::from(civil.nanos) / 10_u64.pow(9 - u32::from(digits)), digits.into());
            }
        }
    }
}

fn joined(out: &mut Vec<u8>, civil: &Civil, parts: [Part; 3], separator: u8) {
    for (index, part) in parts.into_iter().enumerate() {
        if index > 0 {
            out.push(separator);
        }
        part.write(out, civil);
    }
}

fn padded(out: &mut Vec<u8>, number: u64, width: usize) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(number).as_bytes();
    out.extend(std::iter::repeat_n(b'0', width.saturating_sub(digits.len())));
    out.extend_from_slice(digits);
}

#[cfg(test)]
mod tests {
    use super::{compile, write, write_default};
    use std::time::{Duration, UNIX_EPOCH};

    fn default(seconds: u64, millis: u64) -> String {
        let mut out = Vec::new();
        write_default(&mut out, UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_millis(millis));
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn default_form() {
        assert_eq!(default(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(default(1_136_214_245, 7), "2006-01-02T15:04:05.007Z");
        assert_eq!(default(951_782_400, 0), "2000-02-29T00:00:00.000Z");
        assert_eq!(default(4_107_542_400, 999), "2100-03-01T00:00:00.999Z");
        assert_eq!(default(1_735_689_599, 0), "2024-12-31T23:59:59.000Z");
    }

    #[test]
    fn custom_forms() {
        let time = UNIX_EPOCH + Duration::new(1_136_214_245, 7_008_009);
        for (format, wanted) in [
            ("%Y/%m/%dT%H:%M:%S%z %s", "2006/01/02T15:04:05+0000 1136214245"),
            ("%a %d %b %y %j %F %T %Z", "Mon 02 Jan 06 002 2006-01-02 15:04:05 UTC"),
            ("%s.%3f|%6f|%f|%1f", "1136214245.007|007008|007008009|0"),
            ("%E3s %E6s %E9s 100%%", "1136214245007 1136214245007008 1136214245007008009 100%"),
        ] {
            let mut out = Vec::new();
            write(&mut out, &compile(format).expect(format), time);
            assert_eq!(String::from_utf8(out).expect("ASCII"), wanted);
        }
        let mut out = Vec::new();
        write(&mut out, &compile("%j").expect("valid"), UNIX_EPOCH + Duration::from_secs(1_735_689_599));
        assert_eq!(out, b"366");
        assert_eq!(compile("%Y %Q"), Err("%Q".into()));
        assert_eq!(compile("%"), Err("%".into()));
    }
}
