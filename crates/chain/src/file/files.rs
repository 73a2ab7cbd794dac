//! Nodes to what a link finds beside its image: `Files`, `Data`, `Secrets`.

use std::collections::BTreeMap;

use data_encoding::BASE64;

use super::diagnostic::{Diagnostic, Problems};
use super::faults::wrong_type;
use super::fields::{FILE, Fields};
use super::link::image_name;
use super::path;
use super::templates::no_name;
use super::tree::{Node, Value};
use super::value::{self, Entries};
use crate::limits::{MAX_FILES, MAX_LITERAL_FILE_BYTES, MAX_LITERAL_FILES_BYTES};
use crate::link::{DataSource, Link, LiteralFile};
use crate::template::is_name;
use crate::units::quoted;

/// A mapping by paths.
struct Beside {
    entries: Entries,
    /// What one of them is.
    what: &'static str,
    /// Whether none can be a folder.
    is_file: bool,
}

const FILES: Beside = Beside {
    entries: Entries {
        what: "`Files`",
        name: "the path of a file",
        items: "files",
        max: MAX_FILES,
        help: "write each file behind its path, as in `/etc/app.conf: 'a line'`",
    },
    what: "a file",
    is_file: true,
};

const DATA: Beside = Beside {
    entries: Entries {
        what: "`Data`",
        name: "the path of data",
        items: "paths",
        max: MAX_FILES,
        help: "write the name of the data behind its path, as in `/models: whisper`",
    },
    what: "data",
    is_file: false,
};

const SECRETS: Beside = Beside {
    entries: Entries {
        what: "`Secrets`",
        name: "the path of a secret",
        items: "secrets",
        max: MAX_FILES,
        help: "write the name of a secret behind its path, as in `/run/secrets/key: stripe`",
    },
    what: "a secret",
    is_file: true,
};

/// What stands before an image's reference in `Data`.
const IMAGE_PREFIX: &str = "image:";

/// The greatest permissions: no set-id, no sticky bit.
const MODE_MAX: u32 = 0o777;

/// Reads what a link finds beside its image.
pub(super) fn read(link: &mut Link, fields: &Fields<'_>, problems: &mut Problems) {
    let mut taken = Taken::default();
    for (key, path) in [("Input", &link.input), ("Output", &link.output)] {
        if let (Some(node), Some(path)) = (fields.get(key), path) {
            let path = path.trim_end_matches('/').to_owned();
            taken.add(format!("`{key}`"), path, node, problems);
        }
    }
    if let Some(node) = fields.get("Files") {
        link.files = literal_files(node, &mut taken, problems);
    }
    if let Some(node) = fields.get("Data") {
        link.data = by_path(node, &DATA, &mut taken, data, problems);
    }
    if let Some(node) = fields.get("Secrets") {
        link.secrets = by_path(node, &SECRETS, &mut taken, secret, problems);
    }
}

/// Paths that are in use, none of which may be at or below another one.
#[derive(Default)]
struct Taken<'n>(Vec<(String, String, &'n Node)>);

impl<'n> Taken<'n> {
    fn add(&mut self, what: String, path: String, node: &'n Node, problems: &mut Problems) {
        let mut others = self.0.iter();
        let clash = others.find(|(_, other, _)| {
            path::is_at_or_below(&path, other) || path::is_at_or_below(other, &path)
        });
        if let Some((other_what, other, first)) = clash {
            let message = if path == *other {
                format!("{what} is where {other_what} is: {}", quoted(&path))
            } else if path::is_at_or_below(&path, other) {
                format!("{what} lies in {other_what}: {}", quoted(&path))
            } else {
                format!("{what} would hide {other_what}: {}", quoted(&path))
            };
            problems.push(
                Diagnostic::new(node.span.clone(), message)
                    .label("give it a place of its own")
                    .related(first.span.clone(), other_what.clone()),
            );
        }
        self.0.push((what, path, node));
    }
}

/// The values of a mapping by paths.
fn by_path<'n, T>(
    node: &'n Node,
    kind: &Beside,
    taken: &mut Taken<'n>,
    read: impl Fn(&Node, &mut Problems) -> Option<T>,
    problems: &mut Problems,
) -> BTreeMap<String, T> {
    let mut found = BTreeMap::new();
    for (text, key, value) in value::entries(node, &kind.entries, problems) {
        let path = path::read_only(key, kind.entries.name, text, kind.is_file, problems);
        if let Some(path) = &path {
            taken.add(kind.what.to_owned(), path.clone(), key, problems);
        }
        if let (Some(value), Some(path)) = (read(value, problems), path) {
            found.insert(path, value);
        }
    }
    found
}

fn literal_files<'n>(
    node: &'n Node,
    taken: &mut Taken<'n>,
    problems: &mut Problems,
) -> BTreeMap<String, LiteralFile> {
    let files = by_path(node, &FILES, taken, literal_file, problems);
    let bytes: usize = files.values().map(|file| file.content.len()).sum();
    if bytes > MAX_LITERAL_FILES_BYTES {
        let message = format!("`Files` has {bytes} bytes");
        problems.push(
            Diagnostic::new(node.span.clone(), message)
                .label(format!("at most {MAX_LITERAL_FILES_BYTES} bytes together"))
                .help(OTHER_WAYS),
        );
    }
    files
}

const OTHER_WAYS: &str = "put it into the image, or give it to the runner as `Data`";

fn literal_file(node: &Node, problems: &mut Problems) -> Option<LiteralFile> {
    let file = match &*node.value {
        Value::Map(_) => described_file(node, problems)?,
        Value::List(_) => {
            wrong_type(node, FILE.what, "text or a mapping", FILE_HELP, problems);
            return None;
        }
        _ => LiteralFile::new(value::text(node, FILE.what, FILE_HELP, problems)?),
    };
    if file.content.len() > MAX_LITERAL_FILE_BYTES {
        let message = format!("a file has {} bytes", file.content.len());
        problems.push(
            Diagnostic::new(node.span.clone(), message)
                .label(format!("at most {MAX_LITERAL_FILE_BYTES} bytes"))
                .help(OTHER_WAYS),
        );
        return None;
    }
    Some(file)
}

const FILE_HELP: &str = "write its text, '' for an empty file, or `{Text: …, Mode: 0755}`";

fn described_file(node: &Node, problems: &mut Problems) -> Option<LiteralFile> {
    let fields = Fields::read(node, &FILE, problems)?;
    let (text, base64) = (fields.get("Text"), fields.get("Base64"));
    let content = match (text, base64) {
        (Some(text), None) => value::text(text, "`Text`", FILE_HELP, problems).map(Into::into),
        (None, Some(base64)) => decoded(base64, problems),
        (Some(text), Some(base64)) => {
            problems.push(
                Diagnostic::new(base64.span.clone(), "a file has both `Text` and `Base64`")
                    .label("leave one of them out")
                    .related(text.span.clone(), "the other one"),
            );
            None
        }
        (None, None) => {
            if fields.lacks("Text") && fields.lacks("Base64") {
                let message = "a file has neither `Text` nor `Base64`";
                let problem = Diagnostic::new(node.span.clone(), message);
                problems.push(problem.label("nothing in it").help(FILE_HELP));
            }
            None
        }
    };
    let mode = match fields.get("Mode") {
        Some(node) => mode(node, problems),
        None => Some(LiteralFile::DEFAULT_MODE),
    };
    Some(LiteralFile {
        content: content?,
        mode: mode?,
    })
}

fn decoded(node: &Node, problems: &mut Problems) -> Option<Vec<u8>> {
    let help = "`base64 FILE` writes it; line breaks do not matter";
    let text = value::text(node, "`Base64`", help, problems)?;
    let text: String = text.split_ascii_whitespace().collect();
    match BASE64.decode(text.as_bytes()) {
        Ok(content) => Some(content),
        Err(error) => {
            problems.push(
                Diagnostic::new(node.span.clone(), "`Base64` is not Base64")
                    .label(error.to_string())
                    .help(help),
            );
            None
        }
    }
}

/// Permissions, which are written in octal.
fn mode(node: &Node, problems: &mut Problems) -> Option<u32> {
    let help = "write permissions in octal, from 0 to 0777, as in `0644`";
    let text = value::text(node, "`Mode`", help, problems)?;
    let is_octal = !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    let mode = u32::from_str_radix(text, 8).ok();
    let mode = mode.filter(|mode| is_octal && *mode <= MODE_MAX);
    if mode.is_none() {
        let message = format!("`Mode` must be permissions, not {}", quoted(text));
        problems.push(Diagnostic::new(node.span.clone(), message).help(help));
    }
    mode
}

fn data(node: &Node, problems: &mut Problems) -> Option<DataSource> {
    let help = "write the name under which runners have it, or `image:` and an image's reference";
    let text = value::text(node, "the name of data", help, problems)?;
    if let Some(image) = text.strip_prefix(IMAGE_PREFIX) {
        return image_name(node, "an image of `Data`", image, help, problems)
            .map(DataSource::Image);
    }
    if is_name(text) {
        return Some(DataSource::Name(text.to_owned()));
    }
    let problem = no_name("data", text, node);
    problems.push(match text.contains(['/', ':']) {
        true => problem.help(help),
        false => problem,
    });
    None
}

fn secret(node: &Node, problems: &mut Problems) -> Option<String> {
    let help = "write the name under which runners have it; the secret itself stands nowhere";
    let name = value::text(node, "the name of a secret", help, problems)?;
    if is_name(name) {
        return Some(name.to_owned());
    }
    // Not the text: it may be the secret.
    problems.push(
        Diagnostic::new(node.span.clone(), "a secret cannot be called so").help(
            "use 1 to 64 of A-Z a-z 0-9 _ -, the first a letter or _; \
             the secret itself is for the runner, as in `--secret NAME=FILE`",
        ),
    );
    None
}
