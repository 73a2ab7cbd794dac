//! `consecution key`: makes keys for HTTP.

use chain::{Right, is_key_name};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use sha2::{Digest, Sha256};

/// How many random bytes a token has.
const TOKEN_BYTES: usize = 32;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Makes a key: prints its token, which is stored nowhere, and its entry for the
    /// file that --keys names.
    New {
        /// What the log is to call the holder of the key.
        #[arg(value_parser = name)]
        name: String,
        /// What the holder may do: `view`, `call:CHAIN` (in which `*` stands for any
        /// characters), `calls`, `tap`, `metrics` or `admin`. Repeat the option for
        /// several, or separate them by commas.
        #[arg(
            long,
            value_name = "RIGHT",
            value_delimiter = ',',
            default_value = "call:*"
        )]
        may: Vec<Right>,
    },
}

pub(crate) fn execute(command: Command) -> anyhow::Result<u8> {
    let Command::New { name, may } = command;
    let mut bytes = [0; TOKEN_BYTES];
    fill_with_chance(&mut bytes)?;
    let token = BASE64URL_NOPAD.encode(&bytes);
    super::print(&format!(
        "Token for {name}, who sends it as `Authorization: Bearer TOKEN`:\n\n{token}\n\n\
         Entry for the list `Keys` in the file that --keys names:\n\n{}",
        entry(&name, &token, &may)
    ))?;
    Ok(0)
}

/// A key as it stands in a file.
fn entry(name: &str, token: &str, may: &[Right]) -> String {
    let sum = HEXLOWER.encode(&Sha256::digest(token));
    let name = yaml(name);
    let may: Vec<_> = may.iter().map(|right| yaml(&right.to_string())).collect();
    let may = may.join(", ");
    format!("- Name: {name}\n  SHA256: {sum}\n  May: [{may}]\n")
}

/// A text as YAML has it.
fn yaml(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b":._-".contains(&byte);
    let begins_plain = text.starts_with(|first: char| first.is_ascii_alphabetic());
    let is_null = text.eq_ignore_ascii_case("null");
    match begins_plain && text.bytes().all(is_plain) && !text.ends_with(':') && !is_null {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "''")),
    }
}

fn fill_with_chance(bytes: &mut [u8]) -> anyhow::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let filled = rustix::rand::getrandom(&mut *rest, rustix::rand::GetRandomFlags::empty())?;
        rest = &mut rest[filled..];
    }
    Ok(())
}

fn name(text: &str) -> Result<String, &'static str> {
    match is_key_name(text) {
        true => Ok(text.to_owned()),
        false => Err("a name has 1 to 100 bytes that can be shown, and no blanks around them"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chain::{KeyFile, Proof};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_printed_is_a_key(given in "\\PC{1,20}", right in "(view|call:[a-z*]{1,9})") {
            let given = given.trim();
            prop_assume!(name(given).is_ok());
            let right: Right = right.parse().unwrap();
            let text = format!("Keys:\n{}", entry(given, "token", &[right.clone(), Right::Tap]));
            let file = KeyFile::parse(&text, "keys").unwrap();
            prop_assert_eq!(&file.keys[0].name, given);
            prop_assert_eq!(&file.keys[0].may, &[right, Right::Tap]);
            let sum: [u8; 32] = Sha256::digest("token").into();
            prop_assert_eq!(&file.keys[0].proof, &Proof::Token(sum));
        }
    }
}
