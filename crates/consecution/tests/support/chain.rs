//! Chain files for tests.

use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// A link in the making. All text is written as JSON, which YAML takes.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    image: String,
    words: Vec<String>,
    settings: Vec<(String, String)>,
}

/// A link that runs these words in busybox: `link(&["grep", "a"])`.
pub(crate) fn link<Word: AsRef<str>>(words: &[Word]) -> Link {
    Link {
        image: "busybox".to_owned(),
        words: words.iter().map(|word| word.as_ref().to_owned()).collect(),
        settings: Vec::new(),
    }
}

/// A link that runs a script in busybox's shell.
pub(crate) fn shell(script: &str) -> Link {
    link(&["/bin/sh", "-c", script])
}

impl Link {
    /// With that image instead.
    pub(crate) fn image(mut self, image: &str) -> Link {
        self.image = image.to_owned();
        self
    }

    /// With that key; `value` is YAML.
    pub(crate) fn with(mut self, key: &str, value: impl ToString) -> Link {
        self.settings.push((key.to_owned(), value.to_string()));
        self
    }

    fn yaml(&self) -> String {
        let mut text = format!("- Image: {}\n", quoted(&self.image));
        if let Some((command, arguments)) = self.words.split_first() {
            let arguments: Vec<_> = arguments.iter().map(|word| quoted(word)).collect();
            text += &format!("  Command: {}\n", quoted(command));
            text += &format!("  Arguments: [{}]\n", arguments.join(", "));
        }
        for (key, value) in &self.settings {
            text += &format!("  {key}: {value}\n");
        }
        text
    }
}

/// As a JSON string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            _ if character.is_control() => quoted += &format!("\\u{:04x}", u32::from(character)),
            _ => quoted.push(character),
        }
    }
    quoted + "\""
}

/// A chain file that goes when it is dropped.
#[derive(Debug)]
pub(crate) struct ChainFile(NamedTempFile);

impl ChainFile {
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn path_buf(&self) -> PathBuf {
        self.0.path().to_owned()
    }

    /// The ids of its links, in chain order.
    #[track_caller]
    pub(crate) fn ids(&self) -> Vec<String> {
        let chain = consecution::chain_file::read(self.path()).unwrap();
        chain.links.iter().map(|link| link.id.to_string()).collect()
    }
}

/// A chain file of these links.
pub(crate) fn chain(links: impl IntoIterator<Item = Link>) -> ChainFile {
    chain_with("", links)
}

/// A chain file of these links, with that YAML at its top.
pub(crate) fn chain_with(top: &str, links: impl IntoIterator<Item = Link>) -> ChainFile {
    let links: String = links.into_iter().map(|link| link.yaml()).collect();
    file(format!("{top}\nChain:\n{links}"))
}

/// A chain file with that text, whatever it is.
pub(crate) fn file(text: impl AsRef<[u8]>) -> ChainFile {
    let mut file = tempfile::Builder::new()
        .prefix("chain-")
        .suffix(".yaml")
        .tempfile()
        .unwrap();
    file.write_all(text.as_ref()).unwrap();
    ChainFile(file)
}
