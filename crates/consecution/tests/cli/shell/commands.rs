//! Busybox commands whose output depends on nothing but their input, and what
//! there is to know of each: whether it ends before its input does, and whether
//! it writes before that.

use proptest::prelude::*;

/// One command of a pipeline, and which exit codes are as good as 0.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    pub(crate) command: Command,
    pub(crate) accepted: Vec<u8>,
}

/// A command: its words, and its habits.
#[derive(Debug, Clone)]
pub(crate) struct Command {
    pub(crate) words: Vec<String>,
    pub(crate) leaves: Leaves,
    /// It writes nothing before the end of its input.
    pub(crate) is_patient: bool,
    /// It writes without having read anything.
    pub(crate) speaks_unasked: bool,
    /// On more input than this it takes too long for a test.
    pub(crate) input_bytes_max: usize,
}

/// When a command stops reading before the end of its input.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Leaves {
    Never,
    /// It does not read at all, or no further than any input reaches.
    Always,
    /// When it has had so many lines.
    AfterLines(usize),
    /// When it has had so many bytes.
    AfterBytes(usize),
    /// When it has written something.
    WithOutput,
    /// When it fails.
    WithFailure,
}

impl Leaves {
    /// Whether that happens on this input, with this output and exit code.
    pub(crate) fn early(self, input: &[u8], output: &[u8], code: i32) -> bool {
        match self {
            Leaves::Never => false,
            Leaves::Always => true,
            Leaves::AfterLines(lines) => {
                input.iter().filter(|byte| **byte == b'\n').count() >= lines
            }
            Leaves::AfterBytes(bytes) => input.len() >= bytes,
            Leaves::WithOutput => !output.is_empty(),
            Leaves::WithFailure => code != 0,
        }
    }
}

pub(crate) fn stages() -> impl Strategy<Value = Stage> {
    let accepted = prop_oneof![
        6 => Just(vec![0]),
        2 => Just(vec![0, 1]),
        1 => Just(vec![0, 1, 2, 3, 4, 5, 123]),
        1 => Just((0..=255).collect()),
    ];
    (commands(), accepted).prop_map(|(command, accepted)| Stage { command, accepted })
}

fn commands() -> impl Strategy<Value = Command> {
    prop_oneof![
        10 => plain(),
        6 => searching(),
        4 => patient(),
        7 => leaving(),
        5 => scripts(),
        2 => slow(),
    ]
}

fn words(line: &str) -> Command {
    Command {
        words: line.split(' ').map(str::to_owned).collect(),
        leaves: Leaves::Never,
        is_patient: false,
        speaks_unasked: false,
        input_bytes_max: usize::MAX,
    }
}

fn script(text: &str, leaves: Leaves) -> Command {
    let words = ["sh", "-c", text].map(str::to_owned).into();
    Command {
        words,
        leaves,
        ..self::words("sh")
    }
}

fn plain() -> impl Strategy<Value = Command> {
    let block = (1..70_000_u32).prop_map(|bytes| words(&format!("dd bs={bytes}")));
    let others = prop::sample::select(vec![
        "cat",
        "cat",
        "cat",
        "tr a-z A-Z",
        "tr -d aeiou",
        "tr -s \\n",
        "cut -c1-5",
        "cut -d: -f1",
        "rev",
        "fold -w 20",
        "expand",
        "uniq",
        "uniq -c",
        "tail -n +3",
        "nl",
    ]);
    prop_oneof![8 => others.prop_map(words), 1 => block]
}

fn searching() -> impl Strategy<Value = Command> {
    let pattern = prop::sample::select(vec!["a", "^t", "data", "[0-9]", "zzzz", "x$", "."]);
    let form = prop::sample::select(vec![
        "grep",
        "grep -v",
        "grep -i",
        "grep -c",
        "grep -F",
        "sed -n /@/p",
        "sed s/@/<&>/g",
        "awk /@/",
    ]);
    (pattern, form).prop_map(|(pattern, form)| {
        let line = if form.contains('@') {
            form.replace('@', pattern)
        } else {
            format!("{form} {pattern}")
        };
        Command {
            is_patient: line.starts_with("grep -c"),
            ..words(&line)
        }
    })
}

fn patient() -> impl Strategy<Value = Command> {
    prop::sample::select(vec![
        "sort",
        "sort -u",
        "sort -r",
        "wc",
        "wc -l",
        "wc -c",
        "tac",
        "tail -n 3",
        "tail -c 100",
        "md5sum",
        "sha256sum",
        "true_to_the_end",
    ])
    .prop_map(|line| match line {
        "true_to_the_end" => Command {
            is_patient: true,
            ..script("cat > /dev/null; echo seen", Leaves::Never)
        },
        line => Command {
            is_patient: true,
            ..words(line)
        },
    })
}

fn leaving() -> impl Strategy<Value = Command> {
    let always =
        prop::sample::select(vec!["true", "false", "echo out", "seq 3"]).prop_map(|line| Command {
            leaves: Leaves::Always,
            ..words(line)
        });
    let lines = (1..12_usize).prop_map(|lines| Command {
        leaves: Leaves::AfterLines(lines),
        ..words(&format!("head -n {lines}"))
    });
    let bytes = prop_oneof![1..3_000_usize, 60_000..80_000_usize].prop_map(|bytes| Command {
        leaves: Leaves::AfterBytes(bytes),
        ..words(&format!("head -c {bytes}"))
    });
    let quit = (1..5_usize).prop_map(|lines| Command {
        leaves: Leaves::AfterLines(lines),
        ..words(&format!("sed {lines}q"))
    });
    let found =
        prop::sample::select(vec!["grep -m1 a", "grep -m1 zzzz"]).prop_map(|line| Command {
            leaves: Leaves::WithOutput,
            ..words(line)
        });
    prop_oneof![2 => always, 3 => lines, 2 => bytes, 1 => quit, 1 => found]
}

fn scripts() -> impl Strategy<Value = Command> {
    prop::sample::select(vec![
        script("exit 3", Leaves::Always),
        script("echo first; exit 3", Leaves::Always),
        script("exec <&-; echo x", Leaves::Always),
        script("kill -9 $$", Leaves::Always),
        script("cat; exit 4", Leaves::Never),
        script("cat > /dev/null; exit 5", Leaves::Never),
        script("exec >&-; cat > /dev/null", Leaves::Never),
        script("cat; kill -TERM $$", Leaves::Never),
        script("cat >&2; echo done", Leaves::Never),
        Command {
            speaks_unasked: true,
            ..script("echo before; cat; echo after", Leaves::Never)
        },
        script("gzip -c | gunzip -c", Leaves::Never),
        script("exec 2>&-; cat", Leaves::Never),
        Command {
            leaves: Leaves::WithFailure,
            ..words("gunzip -c")
        },
    ])
}

/// What makes much of little, or starts a process for each line.
fn slow() -> impl Strategy<Value = Command> {
    let enlarging = prop::sample::select(vec![
        "od",
        "od -An -tx1",
        "hexdump -C",
        "xxd",
        "base64",
        "gzip -c",
        "awk {print(NR,NF,$1)}",
    ])
    .prop_map(|line| Command {
        input_bytes_max: 300_000,
        ..words(line)
    });
    let starting =
        prop::sample::select(vec!["xargs -n 1", "xargs -n 3 echo -"]).prop_map(|line| Command {
            input_bytes_max: 2_000,
            ..words(line)
        });
    prop_oneof![2 => enlarging, 3 => starting]
}
