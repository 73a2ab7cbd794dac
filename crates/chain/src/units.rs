//! Amounts of memory, time and CPU as users write them, and back.
//!
//! Every amount has one value however it is spelled. Nothing here knows where
//! in a file an amount stands.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The least memory that a limit may leave: below it nothing can be started.
pub const MIN_MEMORY_BYTES: u64 = 1 << 20;
/// The greatest memory limit, one pebibyte.
pub const MAX_MEMORY_BYTES: u64 = 1 << 50;
/// The longest deadline, a year.
pub const MAX_DEADLINE_SECONDS: u64 = 365 * 24 * 60 * 60;
/// The least share of CPU that the kernel grants, a hundredth of a core.
pub const MIN_CPU_MILLICORES: u32 = 10;
/// The greatest share of CPU: as many cores as a kernel is built for.
pub const MAX_CPU_MILLICORES: u32 = 8192 * 1000;

const NANOSECONDS_PER_SECOND: u128 = 1_000_000_000;

/// Characters of a value that a message repeats.
const QUOTED_CHARS: usize = 48;

/// An amount that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// The text does not have the form of such an amount.
    #[error("{text} is not {what}: write {expected}")]
    Malformed {
        /// The text, quoted.
        text: String,
        /// What it should have been.
        what: &'static str,
        /// How that is written.
        expected: &'static str,
    },
    /// The amount is below what makes sense.
    #[error("{text} is too little: it must be {least}")]
    TooSmall {
        /// The text, quoted.
        text: String,
        /// What it must be, as in `at least 1M`.
        least: &'static str,
    },
    /// The amount is beyond what can be handled.
    #[error("{text} is too much: it must be {most}")]
    TooLarge {
        /// The text, quoted.
        text: String,
        /// What it must be, as in `at most 1024T`.
        most: &'static str,
    },
}

/// Reads an amount of memory in bytes: `20M`, `1.5G`, `512KiB`, `20971520B`; a
/// bare number is in MiB. All units are powers of 1024.
pub fn parse_memory(text: &str) -> Result<u64, UnitError> {
    Size {
        bare_shift: 20,
        what: "an amount of memory",
        expected: "a number with K, M, G or T (powers of 1024), as in `20M`",
        least: (MIN_MEMORY_BYTES, "at least 1M"),
        most: (MAX_MEMORY_BYTES, "at most 1024T"),
    }
    .parse(text)
}

/// Reads a size in bytes as [`parse_memory`] does, from one byte on; a bare number
/// is in MiB.
pub fn parse_mebibytes(text: &str) -> Result<u64, UnitError> {
    Size {
        bare_shift: 20,
        what: "a size",
        expected: "a number with K, M, G or T (powers of 1024), as in `20M`",
        least: (1, "at least 1B"),
        most: (MAX_MEMORY_BYTES, "at most 1024T"),
    }
    .parse(text)
}

/// Reads a size in bytes with the same units; a bare number is in bytes.
pub fn parse_bytes(text: &str) -> Result<u64, UnitError> {
    Size {
        bare_shift: 0,
        what: "a size",
        expected: "a number of bytes, or one with K, M, G or T (powers of 1024), as in `20M`",
        least: (0, "at least 0"),
        most: (u64::MAX, "less than 16777216T"),
    }
    .parse(text)
}

/// How a size is read. Units are always the same.
struct Size {
    /// The unit of a bare number, as a power of 2.
    bare_shift: u32,
    what: &'static str,
    expected: &'static str,
    /// What it may be, in bytes, and as messages say it.
    least: (u64, &'static str),
    most: (u64, &'static str),
}

impl Size {
    fn parse(&self, text: &str) -> Result<u64, UnitError> {
        let malformed = || UnitError::Malformed {
            text: quoted(text),
            what: self.what,
            expected: self.expected,
        };
        let (number, unit) = Decimal::split(text).ok_or_else(malformed)?;
        let shift = match unit.to_ascii_lowercase().as_str() {
            "" => self.bare_shift,
            "b" => 0,
            "k" | "ki" | "kib" => 10,
            "m" | "mi" | "mib" => 20,
            "g" | "gi" | "gib" => 30,
            "t" | "ti" | "tib" => 40,
            _ => return Err(malformed()),
        };
        let bytes = number.times(1 << shift);
        match bytes.and_then(|bytes| u64::try_from(bytes).ok()) {
            Some(bytes) if bytes < self.least.0 => Err(UnitError::TooSmall {
                text: quoted(text),
                least: self.least.1,
            }),
            Some(bytes) if bytes <= self.most.0 => Ok(bytes),
            _ => Err(UnitError::TooLarge {
                text: quoted(text),
                most: self.most.1,
            }),
        }
    }
}

/// Writes bytes so that [`parse_memory`] reads the same number back, in the
/// greatest unit of which they are a whole number.
pub fn format_memory(bytes: u64) -> String {
    let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
    let unit = units
        .into_iter()
        .find(|(shift, _)| bytes != 0 && bytes.is_multiple_of(1 << shift));
    match unit {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => format!("{bytes}B"),
    }
}

/// Reads a time: `500ms`, `1.5s`, `5m`, `1h`; a bare number is in seconds.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let malformed = || UnitError::Malformed {
        text: quoted(text),
        what: "a time",
        expected: "a number with ms, s, m or h, as in `30s`",
    };
    let (number, unit) = Decimal::split(text).ok_or_else(malformed)?;
    let nanoseconds_per_unit = match unit {
        "ms" => NANOSECONDS_PER_SECOND / 1000,
        "" | "s" => NANOSECONDS_PER_SECOND,
        "m" => 60 * NANOSECONDS_PER_SECOND,
        "h" => 60 * 60 * NANOSECONDS_PER_SECOND,
        _ => return Err(malformed()),
    };
    let too_large = || UnitError::TooLarge {
        text: quoted(text),
        most: "at most 8760h",
    };
    let nanoseconds = number.times(nanoseconds_per_unit).ok_or_else(too_large)?;
    if nanoseconds == 0 {
        return Err(UnitError::TooSmall {
            text: quoted(text),
            least: "more than zero",
        });
    }
    if nanoseconds > u128::from(MAX_DEADLINE_SECONDS) * NANOSECONDS_PER_SECOND {
        return Err(too_large());
    }
    Ok(Duration::from_nanos_u128(nanoseconds))
}

/// Writes a time so that [`parse_duration`] reads the same one back.
pub fn format_duration(duration: Duration) -> String {
    let (seconds, nanoseconds) = (duration.as_secs(), duration.subsec_nanos());
    if nanoseconds == 0 {
        match seconds {
            0 => "0s".to_owned(),
            _ if seconds.is_multiple_of(3600) => format!("{}h", seconds / 3600),
            _ if seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
            _ => format!("{seconds}s"),
        }
    } else if seconds == 0 && nanoseconds.is_multiple_of(1_000_000) {
        format!("{}ms", nanoseconds / 1_000_000)
    } else {
        let decimal = format!("{seconds}.{nanoseconds:09}");
        format!("{}s", decimal.trim_end_matches('0'))
    }
}

/// A share of CPU time, in thousandths of a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuLimit(u32);

impl CpuLimit {
    /// A limit of so many thousandths of a core, if that is between
    /// [`MIN_CPU_MILLICORES`] and [`MAX_CPU_MILLICORES`].
    pub fn from_millicores(millicores: u32) -> Option<Self> {
        (MIN_CPU_MILLICORES..=MAX_CPU_MILLICORES)
            .contains(&millicores)
            .then_some(Self(millicores))
    }

    /// The limit in thousandths of a core.
    pub fn millicores(self) -> u32 {
        self.0
    }
}

impl fmt::Display for CpuLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cores, rest) = (self.0 / 1000, self.0 % 1000);
        if rest == 0 {
            write!(f, "{cores}")
        } else {
            let decimal = format!("{cores}.{rest:03}");
            f.write_str(decimal.trim_end_matches('0'))
        }
    }
}

impl FromStr for CpuLimit {
    type Err = UnitError;

    /// Reads a number of cores: `2`, `0.5`. What is finer than a thousandth is
    /// cut off.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let malformed = || UnitError::Malformed {
            text: quoted(text),
            what: "a number of cores",
            expected: "a decimal number, as in `0.5`",
        };
        let (number, "") = Decimal::split(text).ok_or_else(malformed)? else {
            return Err(malformed());
        };
        let millicores = number
            .times(1000)
            .and_then(|cores| u32::try_from(cores).ok());
        match millicores {
            Some(millicores) if millicores < MIN_CPU_MILLICORES => Err(UnitError::TooSmall {
                text: quoted(text),
                least: "at least 0.01",
            }),
            Some(millicores) if millicores <= MAX_CPU_MILLICORES => Ok(Self(millicores)),
            _ => Err(UnitError::TooLarge {
                text: quoted(text),
                most: "at most 8192",
            }),
        }
    }
}

/// A decimal number without sign or exponent: `digits / 10^scale`.
struct Decimal {
    digits: u128,
    scale: u32,
}

impl Decimal {
    /// Digits that fit, and that leave room for a unit, in 128 bits.
    const MAX_DIGITS: usize = 20;

    /// Splits `1.5GiB` into the number and what follows it.
    fn split(text: &str) -> Option<(Self, &str)> {
        let number_end = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(number_end);
        let (whole, fraction) = match number.split_once('.') {
            Some((_, "")) => return None,
            Some((whole, fraction)) => (whole, fraction),
            None => (number, ""),
        };
        if whole.is_empty() || fraction.contains('.') {
            return None;
        }
        let whole = whole.trim_start_matches('0');
        let fraction = fraction.trim_end_matches('0');
        // Whatever lies beyond is too fine for any unit, and is cut off.
        let fraction = &fraction[..fraction.len().min(Self::MAX_DIGITS)];
        if whole.len() > Self::MAX_DIGITS {
            let digits = u128::MAX;
            return Some((Self { digits, scale: 0 }, unit));
        }
        let scale = u32::try_from(fraction.len()).ok()?;
        let digits = format!("0{whole}{fraction}")
            .bytes()
            .try_fold(0u128, |sum, digit| {
                sum.checked_mul(10)?.checked_add(u128::from(digit - b'0'))
            });
        let digits = digits.unwrap_or(u128::MAX);
        Some((Self { digits, scale }, unit))
    }

    /// The whole part of the product; `None` where it is out of range.
    fn times(&self, factor: u128) -> Option<u128> {
        // Dividing first keeps the product in range; each part is exact.
        let power = 10u128.checked_pow(self.scale)?;
        let whole = (self.digits / power).checked_mul(factor)?;
        whole.checked_add((self.digits % power).checked_mul(factor)? / power)
    }
}

/// A value in backticks for a message: printable, on one line, not too long.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::new();
    for c in text.chars().take(QUOTED_CHARS) {
        match c {
            '"' | '\'' | '\\' => quoted.push(c),
            _ => quoted.extend(c.escape_debug()),
        }
    }
    if text.chars().nth(QUOTED_CHARS).is_some() {
        quoted.push('…');
    }
    format!("`{quoted}`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn memory_has_one_value_however_it_is_spelled() {
        let spellings = [
            "20",
            "20M",
            "20m",
            "20Mi",
            "20MiB",
            "20.0M",
            "020",
            "20480K",
            "20480KiB",
            "20971520B",
            "0.01953125G",
        ];
        for text in spellings {
            assert_eq!(parse_memory(text), Ok(20 << 20), "{text}");
        }
        assert_eq!(parse_memory("1.5G"), Ok(3 << 29));
        assert_eq!(parse_memory("1T"), Ok(1 << 40));
    }

    #[test]
    fn unusable_memory_is_refused() {
        for text in [
            "", "M", "-1M", "+1M", "20MB", "20 M", "1e3", "1.M", ".5M", "1.2.3M", "20X", "0x10",
        ] {
            assert!(
                matches!(parse_memory(text), Err(UnitError::Malformed { .. })),
                "{text}"
            );
        }
        for text in ["0", "1023K", "0.5", "20B"] {
            assert!(
                matches!(parse_memory(text), Err(UnitError::TooSmall { .. })),
                "{text}"
            );
        }
        let long = "9".repeat(5000);
        for text in [
            "1025T",
            "99999999999999999999T",
            "340282366920938463463374607431768211455",
            &long,
        ] {
            assert!(
                matches!(parse_memory(text), Err(UnitError::TooLarge { .. })),
                "{text}"
            );
        }
        for text in ["18446744073709551616", "16777216T", &long] {
            assert!(
                matches!(parse_bytes(text), Err(UnitError::TooLarge { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn a_bare_size_is_in_its_own_unit_and_all_others_are_the_same() {
        assert_eq!(parse_bytes("1000"), Ok(1000));
        assert_eq!(parse_bytes("0"), Ok(0));
        assert_eq!(parse_bytes("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(parse_mebibytes("2"), Ok(2 << 20));
        assert_eq!(parse_mebibytes("1B"), Ok(1));
        for text in ["64K", "10M", "1.5G", "512KiB", "1T", "7B"] {
            assert_eq!(parse_bytes(text), parse_mebibytes(text), "{text}");
        }
        assert!(matches!(
            parse_mebibytes("0"),
            Err(UnitError::TooSmall { .. })
        ));
        for text in ["", "10MB", "ten", "-1", "1e3", " 1"] {
            let parsed = parse_bytes(text);
            assert!(
                matches!(parsed, Err(UnitError::Malformed { .. })),
                "{text}: {parsed:?}"
            );
        }
    }

    #[test]
    fn durations_have_units() {
        for (text, milliseconds) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("30", 30_000),
            ("0.5", 500),
            ("1.5s", 1500),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("8760h", 31_536_000_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
    }

    #[test]
    fn unusable_durations_are_refused() {
        for text in [
            "", "s", "-1s", "1d", "1 s", "1S", "1e3s", "inf", "NaN", "1m30s",
        ] {
            assert!(
                matches!(parse_duration(text), Err(UnitError::Malformed { .. })),
                "{text}"
            );
        }
        for text in ["0", "0s", "0.0h", "0.0000001ms"] {
            assert!(
                matches!(parse_duration(text), Err(UnitError::TooSmall { .. })),
                "{text}"
            );
        }
        for text in ["8761h", "99999999999999999999999999999999h"] {
            assert!(
                matches!(parse_duration(text), Err(UnitError::TooLarge { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn cores_are_counted_in_thousandths() {
        for (text, millicores) in [
            ("2", 2000),
            ("0.5", 500),
            ("2.0", 2000),
            ("0.01", 10),
            ("1.2345", 1234),
        ] {
            assert_eq!(
                text.parse().map(CpuLimit::millicores),
                Ok(millicores),
                "{text}"
            );
        }
        for text in ["", "0", "0.009", "-1", "500m", "8193", "1e1", "half"] {
            assert!(text.parse::<CpuLimit>().is_err(), "{text}");
        }
    }

    #[test]
    fn messages_repeat_values_safely() {
        assert_eq!(quoted("a\n\u{1b}[0m'"), "`a\\n\\u{1b}[0m'`");
        assert_eq!(quoted(&"x".repeat(99)).chars().count(), QUOTED_CHARS + 3);
    }

    proptest! {
        #[test]
        fn memory_reads_back_as_written(bytes in MIN_MEMORY_BYTES..=MAX_MEMORY_BYTES) {
            prop_assert_eq!(parse_memory(&format_memory(bytes)), Ok(bytes));
        }

        #[test]
        fn durations_read_back_as_written(
            seconds in 0..MAX_DEADLINE_SECONDS,
            nanoseconds in 1u32..1_000_000_000,
        ) {
            let duration = Duration::new(seconds, nanoseconds);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn whole_seconds_read_back_as_written(seconds in 1..=MAX_DEADLINE_SECONDS) {
            let duration = Duration::from_secs(seconds);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn cpu_limits_read_back_as_written(millicores in MIN_CPU_MILLICORES..=MAX_CPU_MILLICORES) {
            let limit = CpuLimit(millicores);
            prop_assert_eq!(limit.to_string().parse(), Ok(limit));
        }

        #[test]
        fn no_text_panics(text in "\\PC*|[0-9.]{0,60}[a-zA-Z]{0,3}") {
            let _ = parse_memory(&text);
            let _ = parse_bytes(&text);
            let _ = parse_duration(&text);
            let _ = text.parse::<CpuLimit>();
        }
    }
}
