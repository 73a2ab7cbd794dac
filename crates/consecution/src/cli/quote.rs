//! Quotes words for a shell, so that a printed command line can be pasted into one.

use std::borrow::Cow;

use chain::text::is_printable;

/// The word, in quotes if a shell needs them.
pub(crate) fn quote(word: &str) -> Cow<'_, str> {
    let is_plain =
        |character: char| character.is_ascii_alphanumeric() || "-_./:=,@%+".contains(character);
    if !word.is_empty() && word.chars().all(is_plain) {
        return Cow::Borrowed(word);
    }
    if word.chars().all(is_printable) {
        return Cow::Owned(format!("'{}'", word.replace('\'', "'\\''")));
    }
    let escaped: String = word.chars().map(escape).collect();
    Cow::Owned(format!("$'{escaped}'"))
}

/// A character inside a shell's `$'…'`; invisible ones become octal escapes.
fn escape(character: char) -> String {
    match character {
        '\n' => "\\n".to_owned(),
        '\r' => "\\r".to_owned(),
        '\t' => "\\t".to_owned(),
        '\\' | '\'' => format!("\\{character}"),
        character if is_printable(character) => character.to_string(),
        character => {
            let mut buffer = [0; 4];
            let bytes = character.encode_utf8(&mut buffer).bytes();
            // Always three digits, so that a digit that follows is not read as a fourth.
            bytes.map(|byte| format!("\\{byte:03o}")).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_needs_it() {
        for (word, wanted) in [
            ("/bin/cat", "/bin/cat"),
            ("", "''"),
            ("a b", "'a b'"),
            ("$HOME", "'$HOME'"),
            ("größer", "'größer'"),
            ("it's", "'it'\\''s'"),
            ("\\n", "'\\n'"),
            (
                "a\nb'\\\t7\u{1}7\u{202e}",
                "$'a\\nb\\'\\\\\\t7\\0017\\342\\200\\256'",
            ),
        ] {
            assert_eq!(quote(word), wanted);
        }
    }
}
