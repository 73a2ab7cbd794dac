//! Random bytes, of the kinds that pipelines trip over.

use proptest::prelude::*;

/// A description of an input, small enough to be shown and to be made smaller.
#[derive(Debug, Clone)]
pub(crate) enum Input {
    Empty,
    /// Lines of a few words each.
    Text {
        lines: usize,
        seed: u64,
        final_newline: bool,
    },
    /// Any bytes: NUL and invalid UTF-8 too.
    Binary {
        length: usize,
        seed: u64,
    },
    /// Lines as long as that, the last one without its end.
    LongLines {
        line_length: usize,
        lines: usize,
        seed: u64,
    },
}

const MIB: usize = 1 << 20;

pub(crate) fn inputs() -> impl Strategy<Value = Input> {
    prop_oneof![
        4 => Just(Input::Empty),
        50 => text(0..60),
        12 => text(1_000..4_000),
        3 => text(60_000..120_000),
        16 => binary(0..5_000),
        8 => binary(60_000..300_000),
        2 => binary(MIB..4 * MIB),
        3 => (MIB..=MIB + 1, 1..3_usize, any::<u64>())
            .prop_map(|(line_length, lines, seed)| Input::LongLines { line_length, lines, seed }),
    ]
}

fn text(lines: std::ops::Range<usize>) -> impl Strategy<Value = Input> {
    (lines, any::<u64>(), any::<bool>()).prop_map(|(lines, seed, final_newline)| Input::Text {
        lines,
        seed,
        final_newline,
    })
}

fn binary(length: std::ops::Range<usize>) -> impl Strategy<Value = Input> {
    (length, any::<u64>()).prop_map(|(length, seed)| Input::Binary { length, seed })
}

const WORDS: [&str; 16] = [
    "this",
    "is",
    "raw",
    "data",
    "a",
    "to be",
    "TAB\there",
    "7",
    "42",
    "grüße",
    "\"quoted\"",
    "it's",
    "",
    " ",
    "back\\slash",
    "x",
];

impl Input {
    /// The bytes: always the same ones.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        match *self {
            Input::Empty => Vec::new(),
            Input::Text {
                lines,
                seed,
                final_newline,
            } => {
                let mut random = Random(seed);
                let mut text = Vec::new();
                for _ in 0..lines {
                    for _ in 0..random.next() % 5 {
                        text.extend_from_slice(
                            WORDS[random.next() as usize % WORDS.len()].as_bytes(),
                        );
                        text.push(b' ');
                    }
                    text.push(b'\n');
                }
                if !final_newline {
                    text.pop();
                }
                text
            }
            Input::Binary { length, seed } => {
                let mut random = Random(seed);
                let mut bytes = Vec::with_capacity(length + 8);
                while bytes.len() < length {
                    bytes.extend_from_slice(&random.next().to_le_bytes());
                }
                bytes.truncate(length);
                bytes
            }
            Input::LongLines {
                line_length,
                lines,
                seed,
            } => {
                let mut random = Random(seed);
                let lines =
                    (0..lines).map(|_| vec![b'a' + (random.next() % 26) as u8; line_length]);
                lines.collect::<Vec<_>>().join(&b'\n')
            }
        }
    }
}

/// Splitmix64: small, and the same everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A number below that one; 0 where there is none.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}
