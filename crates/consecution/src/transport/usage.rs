//! What a link's process has used, and the limit that has ended it.

use std::fmt;
use std::time::Duration;

/// What a process and its descendants have used, as far as it was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time, in user mode and in the kernel.
    pub cpu: Option<Duration>,
    /// The most memory at a time, in bytes. Counted only for a link that has a memory limit,
    /// since only that has a memory cgroup of its own.
    pub memory: Option<u64>,
    /// The bytes that it was given as input. Not counted between links that the kernel
    /// joins.
    pub bytes_in: Option<u64>,
    /// The bytes of its output. Not counted between links that the kernel joins.
    pub bytes_out: Option<u64>,
}

impl Usage {
    /// Whether nothing was counted.
    pub fn is_unknown(&self) -> bool {
        *self == Usage::default()
    }

    /// Reads what [`Usage`]'s `Display` writes. A field counts as not counted if it is
    /// missing or cannot be read; unknown fields are ignored.
    pub fn read(text: &str) -> Usage {
        let mut usage = Usage::default();
        for (name, value) in text.split(';').filter_map(|field| field.split_once('=')) {
            match name.trim() {
                "cpu" => usage.cpu = read_seconds(value.trim()),
                "mem" => usage.memory = value.trim().parse().ok(),
                "in" => usage.bytes_in = value.trim().parse().ok(),
                "out" => usage.bytes_out = value.trim().parse().ok(),
                _ => {}
            }
        }
        usage
    }
}

/// `cpu=0.001234;mem=1048576;in=17;out=17`, in seconds and bytes, on the wire and over HTTP.
/// What was not counted is left out.
///
/// Each reply has this for each of its links, so it is put together by hand, from its end:
/// the machinery of `write!` takes four times as many instructions.
impl fmt::Display for Usage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Backwards::new();
        for (name, value) in [
            (&b";out="[..], self.bytes_out),
            (b";in=", self.bytes_in),
            (b";mem=", self.memory),
        ] {
            if let Some(value) = value {
                text.number(value);
                text.put(name);
            }
        }
        if let Some(cpu) = self.cpu {
            text.digits(u64::from(cpu.subsec_micros()), 6);
            text.put(b".");
            text.number(cpu.as_secs());
            text.put(b";cpu=");
        }
        // Without the first semicolon.
        let text = text.bytes.get(text.at + 1..).unwrap_or_default();
        formatter.write_str(std::str::from_utf8(text).unwrap_or_default())
    }
}

/// A text that is written from its end to its beginning, as the digits of a number come.
struct Backwards {
    bytes: [u8; TEXT_BYTES_MAX],
    /// Where the text begins.
    at: usize,
}

/// At least the bytes of four names, four numbers of 20 digits, and six behind a point.
const TEXT_BYTES_MAX: usize = 112;

impl Backwards {
    fn new() -> Backwards {
        Backwards {
            bytes: [0; TEXT_BYTES_MAX],
            at: TEXT_BYTES_MAX,
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        let end = self.at;
        self.at -= bytes.len();
        self.bytes[self.at..end].copy_from_slice(bytes);
    }

    fn number(&mut self, number: u64) {
        let digits = number.checked_ilog10().map_or(1, |log| log + 1);
        self.digits(number, digits);
    }

    /// The last digits of a number.
    fn digits(&mut self, mut number: u64, digits: u32) {
        for _ in 0..digits {
            self.put(&[b'0' + (number % 10) as u8]);
            number /= 10;
        }
    }
}

/// Seconds with digits behind the point, of which microseconds count.
fn read_seconds(text: &str) -> Option<Duration> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = fraction.bytes().chain(std::iter::repeat(b'0')).take(6);
    let micros = digits.fold(0, |sum, digit| {
        sum * 10 + u32::from(digit.wrapping_sub(b'0'))
    });
    let is_number = fraction.bytes().all(|digit| digit.is_ascii_digit());
    is_number.then(|| Some(Duration::new(seconds.parse().ok()?, micros * 1000)))?
}

/// A limit of the link that its process has met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// `Constraints: Memory`: the kernel has killed a part of it.
    Memory,
    /// `Constraints: CPUTime`.
    CpuTime,
    /// `Constraints: Output`.
    Output,
    /// `Constraints: Scratch`: a private folder was full.
    Scratch,
    /// `Constraints: Processes`: the kernel has refused it a process or thread.
    Processes,
    /// A system call that the sandbox's filter answers by killing.
    Filter,
}

impl Limit {
    /// All limits.
    pub const ALL: [Limit; 6] = [
        Limit::Memory,
        Limit::CpuTime,
        Limit::Output,
        Limit::Scratch,
        Limit::Processes,
        Limit::Filter,
    ];

    /// Its name on the wire, over HTTP and in problems.
    pub fn name(self) -> &'static str {
        match self {
            Limit::Memory => "memory",
            Limit::CpuTime => "cpu-time",
            Limit::Output => "output",
            Limit::Scratch => "scratch",
            Limit::Processes => "processes",
            Limit::Filter => "filter",
        }
    }

    /// The limit of this name.
    pub fn of_name(name: &str) -> Option<Limit> {
        Limit::ALL.into_iter().find(|limit| limit.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn usage() -> impl Strategy<Value = Usage> {
        let cpu = prop::option::of((any::<u64>(), 0..1_000_000_u32));
        let cpu = cpu.prop_map(|cpu| cpu.map(|(s, micros)| Duration::new(s, micros * 1000)));
        let bytes = || any::<Option<u64>>();
        (cpu, bytes(), bytes(), bytes()).prop_map(|(cpu, memory, bytes_in, bytes_out)| Usage {
            cpu,
            memory,
            bytes_in,
            bytes_out,
        })
    }

    #[test]
    fn what_was_not_counted_is_left_out() {
        let usage = Usage {
            cpu: Some(Duration::from_nanos(1_234_999)),
            memory: None,
            bytes_in: Some(17),
            bytes_out: Some(0),
        };
        assert_eq!(usage.to_string(), "cpu=0.001234;in=17;out=0");
        assert_eq!(Usage::default().to_string(), "");
        assert!(Usage::default().is_unknown() && !usage.is_unknown());
    }

    #[test]
    fn what_cannot_be_read_is_not_counted() {
        let cpu = |text: &str| Usage::read(text).cpu;
        assert_eq!(cpu("cpu=1.5"), Some(Duration::from_millis(1500)));
        assert_eq!(cpu("cpu=7"), Some(Duration::from_secs(7)));
        assert_eq!(cpu("cpu=0.0000019"), Some(Duration::from_micros(1)));
        for text in [
            "cpu",
            "cpu=",
            "cpu=.5",
            "cpu=-1",
            "cpu=1.x",
            "cpu=1e3",
            "cpu=1.2.3",
        ] {
            assert_eq!(cpu(text), None, "{text}");
        }
        let some = Usage::read("new=1; in=x;mem=99999999999999999999;;out=5");
        assert_eq!(
            some,
            Usage {
                bytes_out: Some(5),
                ..Usage::default()
            }
        );
    }

    proptest! {
        #[test]
        fn it_reads_back_as_written(usage in usage()) {
            prop_assert_eq!(Usage::read(&usage.to_string()), usage);
        }

        #[test]
        fn whatever_is_read_reads_back_as_written(
            text in prop_oneof![any::<String>(), "(cpu|mem|in|out)=[0-9.;=a-z]{0,12}"],
        ) {
            let usage = Usage::read(&text);
            prop_assert_eq!(Usage::read(&usage.to_string()), usage);
        }
    }

    #[test]
    fn limits_are_known_by_their_names() {
        for limit in Limit::ALL {
            assert_eq!(Limit::of_name(limit.name()), Some(limit));
        }
        assert_eq!(Limit::of_name("patience"), None);
    }
}
