//! Nodes to the keys of a key file.

use super::diagnostic::{Diagnostic, Problems};
use super::fields::{Fields, KEY, KEYS};
use super::suggest::nearest;
use super::tree::{Node, Value};
use super::value;
use crate::keys::{Key, KeyFile, Proof, RIGHTS, Right, is_key_name};
use crate::limits::{MAX_KEYS, MAX_NAME_BYTES, MAX_RIGHTS};
use crate::units::quoted;

const EXAMPLE: &str = "`consecution key new NAME --may call:CHAIN` prints a key, as it is listed \
                       under `Keys:`";

/// What a certificate is named by.
const COMMON_NAME: &str = "CN=";

/// A key file.
pub(super) fn keys(root: &Node, problems: &mut Problems) -> Option<KeyFile> {
    if matches!(*root.value, Value::Null) {
        let problem = Diagnostic::new(root.span.clone(), "the file is empty");
        problems.push(problem.help(EXAMPLE));
        return None;
    }
    let fields = Fields::read(root, &KEYS, problems)?;
    let Some(node) = fields.get("Keys") else {
        if fields.lacks("Keys") {
            let start = root.span.start;
            let problem = Diagnostic::new(start..start, "the file has no `Keys`");
            problems.push(problem.help(EXAMPLE));
        }
        return None;
    };
    let items = value::list(node, "`Keys`", EXAMPLE, MAX_KEYS, problems);
    let mut file = KeyFile::default();
    for item in items {
        let Some(key) = key(item, problems) else {
            continue;
        };
        if file.keys.iter().any(|other| other.proof == key.proof) {
            let message = format!("the key of {} is listed twice", quoted(&key.name));
            problems.push(Diagnostic::new(item.span.clone(), message));
        }
        file.keys.push(key);
    }
    Some(file)
}

fn key(node: &Node, problems: &mut Problems) -> Option<Key> {
    let fields = Fields::read(node, &KEY, problems)?;
    let proof = proof(node, &fields, problems);
    let name = match fields.get("Name") {
        Some(name) => name_of(name, problems),
        None => match &proof {
            Some(Proof::Certificate(name)) => Some(name.clone()),
            _ if fields.lacks("Name") => {
                problems.push(missing(node, "Name", "the log calls the key by it"));
                None
            }
            _ => None,
        },
    };
    let may = rights(node, &fields, problems);
    Some(Key {
        name: name?,
        proof: proof?,
        may,
    })
}

fn missing(node: &Node, key: &str, help: &str) -> Diagnostic {
    let start = node.span.start;
    Diagnostic::new(start..start, format!("the key has no `{key}`")).help(help)
}

fn name_of(node: &Node, problems: &mut Problems) -> Option<String> {
    let help = format!("use 1 to {MAX_NAME_BYTES} bytes that can be shown");
    let name = value::text(node, "`Name`", &help, problems)?;
    if !is_key_name(name) {
        let message = format!("a key cannot be called {}", quoted(name));
        problems.push(Diagnostic::new(node.span.clone(), message).help(help));
        return None;
    }
    Some(name.to_owned())
}

fn proof(node: &Node, fields: &Fields<'_>, problems: &mut Problems) -> Option<Proof> {
    match (fields.get("SHA256"), fields.get("Certificate")) {
        (Some(sum), None) => token(sum, problems),
        (None, Some(certificate)) => common_name(certificate, problems),
        (Some(_), Some(second)) => {
            let message = "a key has either a `SHA256` or a `Certificate`";
            problems.push(Diagnostic::new(second.span.clone(), message));
            None
        }
        (None, None) => {
            if fields.lacks("SHA256") && fields.lacks("Certificate") {
                let help = "`consecution key new` prints one, with its token";
                problems.push(missing(node, "SHA256", help));
            }
            None
        }
    }
}

/// The sum of a token. It may be the token itself by mistake, so no message repeats it.
fn token(node: &Node, problems: &mut Problems) -> Option<Proof> {
    let help = "64 digits from 0 to f: the SHA-256 sum of the token, not the token";
    let text = value::text(node, "`SHA256`", help, problems)?;
    let sum = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes());
    let Some(sum) = sum.ok().and_then(|sum| sum.try_into().ok()) else {
        let message = "`SHA256` is no SHA-256 sum";
        problems.push(Diagnostic::new(node.span.clone(), message).help(help));
        return None;
    };
    Some(Proof::Token(sum))
}

fn common_name(node: &Node, problems: &mut Problems) -> Option<Proof> {
    let help = "write the common name of the certificate's subject, as in `CN=batch`";
    let text = value::text(node, "`Certificate`", help, problems)?;
    let name = text.strip_prefix(COMMON_NAME);
    let Some(name) = name.filter(|name| is_key_name(name)) else {
        let message = format!("no certificate is named by {}", quoted(text));
        problems.push(Diagnostic::new(node.span.clone(), message).help(help));
        return None;
    };
    Some(Proof::Certificate(name.to_owned()))
}

fn rights(node: &Node, fields: &Fields<'_>, problems: &mut Problems) -> Vec<Right> {
    let help = "list what its holder may do, as in `May: [call:words, view]`";
    let Some(may) = fields.get("May") else {
        if fields.lacks("May") {
            problems.push(missing(node, "May", help));
        }
        return Vec::new();
    };
    let items = value::list(may, "`May`", help, MAX_RIGHTS, problems);
    let is_list = matches!(*may.value, Value::List(_) | Value::Null);
    if items.is_empty() && is_list {
        let problem = Diagnostic::new(may.span.clone(), "the key may do nothing");
        problems.push(problem.help(help));
    }
    items
        .iter()
        .filter_map(|item| right(item, problems))
        .collect()
}

fn right(node: &Node, problems: &mut Problems) -> Option<Right> {
    let help = "write view, call:CHAIN, calls, tap, metrics or admin";
    let text = value::text(node, "a right", help, problems)?;
    match text.parse() {
        Ok(right) => Some(right),
        Err(error) => {
            let message = format!("{} is no right: {error}", quoted(text));
            let problem = Diagnostic::new(node.span.clone(), message);
            let words = RIGHTS.map(|(word, _)| word);
            problems.push(match nearest(text, &words) {
                Some(near) => problem.suggest(near),
                None => problem,
            });
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUM: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    fn read(text: &str) -> Result<KeyFile, Vec<(usize, String)>> {
        KeyFile::parse(text, "keys.yaml").map_err(|error| {
            let each = error.diagnostics().iter();
            each.map(|one| (one.line, one.message.clone())).collect()
        })
    }

    #[test]
    fn a_key_file_lists_who_may_do_what() {
        let text = format!(
            "Keys:\n- Name: shop\n  SHA256: {SUM}\n  May: [call:words, 'call:resize-*', calls]\n\
             - Certificate: CN=batch\n  May: ['call:*']\n"
        );
        let file = read(&text).unwrap();
        let [shop, batch] = &file.keys[..] else {
            panic!("{file:?}")
        };
        assert_eq!(shop.name, "shop");
        assert!(matches!(shop.proof, Proof::Token(sum) if sum[..2] == [0x9f, 0x86]));
        let may: Vec<_> = shop.may.iter().map(Right::to_string).collect();
        assert_eq!(may, ["call:words", "call:resize-*", "calls"]);
        assert_eq!(batch.name, "batch");
        assert_eq!(batch.proof, Proof::Certificate("batch".to_owned()));
        // Everybody can be locked out.
        assert_eq!(read("Keys: []"), Ok(KeyFile::default()));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, line, wanted) in [
            ("", 1, "the file is empty"),
            ("Key: []", 1, "unknown key `Key`"),
            ("Keys: 1", 1, "`Keys` must be a list, not text"),
            ("Keys:\n- May: [view]", 2, "the key has no `SHA256`"),
            ("Keys:\n- Name: a\n  SHA256: SUM", 2, "the key has no `May`"),
            (
                "Keys:\n- SHA256: SUM\n  May: [view]",
                2,
                "the key has no `Name`",
            ),
            (
                "Keys:\n- Name: a\n  SHA256: SUM\n  May: []",
                4,
                "the key may do nothing",
            ),
            (
                "Keys:\n- Name: a\n  SHA256: SUM\n  May: [veiw]",
                4,
                "`veiw` is no right",
            ),
            (
                "Keys:\n- Name: a\n  SHA256: SUM\n  May: ['call:']",
                4,
                "`call:` is no right",
            ),
            (
                "Keys:\n- Name: ' '\n  SHA256: SUM\n  May: [view]",
                2,
                "a key cannot be called",
            ),
            (
                "Keys:\n- Certificate: batch\n  May: [view]",
                2,
                "no certificate is named by `batch`",
            ),
            (
                "Keys:\n- Certificate: CN=a\n  SHA256: SUM\n  May: [view]",
                2,
                "a key has either a `SHA256` or a `Certificate`",
            ),
            (
                "Keys:\n- {Name: a, SHA256: SUM, May: [tap]}\n- {Name: b, SHA256: SUM, May: [tap]}",
                3,
                "the key of `b` is listed twice",
            ),
        ] {
            let problems = read(&text.replace("SUM", SUM)).unwrap_err();
            let is_there =
                |(at, message): &(usize, String)| *at == line && message.contains(wanted);
            assert!(problems.iter().any(is_there), "{text}: {problems:?}");
        }
    }

    #[test]
    fn no_message_repeats_what_may_be_a_token() {
        let problems = read("Keys:\n- {Name: a, SHA256: hidden, May: [view]}").unwrap_err();
        assert!(problems[0].1.contains("no SHA-256 sum"), "{problems:?}");
        assert!(!format!("{problems:?}").contains("hidden"), "{problems:?}");
    }
}
