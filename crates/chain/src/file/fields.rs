//! The keys of a mapping: known, not twice, and in their place.
//!
//! What stands behind a key is no business of this module.

use super::diagnostic::{Diagnostic, Problems};
use super::faults::{duplicate, merge_key, wrong_type};
use super::suggest::nearest;
use super::tree::{Node, Value};
use crate::units::quoted;

/// A kind of mapping.
pub(super) struct Section {
    /// What it describes.
    pub(super) what: &'static str,
    /// Where its keys belong.
    place: &'static str,
    keys: &'static [&'static str],
    /// What to write where something else stands in its place.
    example: &'static str,
}

/// The top of a chain file.
pub(super) const TOP: Section = Section {
    what: "a chain file",
    place: "at the top of the file, beside `Chain`",
    keys: &["Chain", "Name", "Deadline", "ContentType", "Parameters"],
    example: "begin the file with `Chain:`, and list the links under it",
};

/// A link by itself: what it runs.
pub(super) const LINK: Section = Section {
    what: "a link",
    place: "to a link",
    keys: &[
        "Image",
        "Command",
        "Arguments",
        "Environment",
        "WorkingDirectory",
        "User",
        "Writable",
        "Network",
        "Warm",
        "Input",
        "Output",
        "Files",
        "Data",
        "Secrets",
        "Constraints",
        "Parameters",
    ],
    example: "begin it with `Image: `",
};

/// A link in a chain: what it runs, and how the chain uses it.
pub(super) const CHAIN_LINK: Section = Section {
    what: "a link",
    place: "to a link, in the list under `Chain`",
    keys: &[
        "Image",
        "Command",
        "Arguments",
        "Environment",
        "WorkingDirectory",
        "User",
        "Writable",
        "Network",
        "Warm",
        "Input",
        "Output",
        "Files",
        "Data",
        "Secrets",
        "Constraints",
        "Name",
        "Deadline",
        "Retries",
        "AcceptedExitCodes",
    ],
    example: "begin it with `- Image: `",
};

/// A key file.
pub(super) const KEYS: Section = Section {
    what: "a key file",
    place: "at the top of a key file",
    keys: &["Keys"],
    example: "begin the file with `Keys:`, and list the keys under it",
};

/// A key of a key file.
pub(super) const KEY: Section = Section {
    what: "a key",
    place: "to a key, in the list under `Keys`",
    keys: &["Name", "SHA256", "Certificate", "May"],
    example: "write it as `consecution key new` prints it",
};

/// A literal file.
pub(super) const FILE: Section = Section {
    what: "a file",
    place: "to a file under `Files`",
    keys: &["Text", "Base64", "Mode"],
    example: "write it as in `/etc/app.conf: {Text: 'a b', Mode: 0600}`",
};

/// A parameter of a chain.
pub(super) const PARAMETER: Section = Section {
    what: "a parameter",
    place: "to a parameter, under `Parameters`",
    keys: &["Pattern", "Default"],
    example: "write it as in `width: {Pattern: '[0-9]+', Default: '200'}`",
};

/// A parameter of a link by itself.
pub(super) const LINK_PARAMETER: Section = Section {
    what: "a link's parameter",
    place: "to a link's parameter",
    keys: &["Pattern"],
    example: "write it as in `width: {Pattern: '[0-9]+'}`",
};

/// The limits of a link.
pub(super) const CONSTRAINTS: Section = Section {
    what: "`Constraints`",
    place: "under `Constraints`",
    keys: &[
        "Memory",
        "CPU",
        "Processes",
        "CPUTime",
        "Output",
        "Scratch",
        "OpenFiles",
    ],
    example: "write it as `Constraints: {Memory: 20M}`",
};

/// The entries of a mapping by their keys.
pub(super) struct Fields<'n> {
    entries: Vec<(&'static str, &'n Node, &'n Node)>,
    /// Keys that an unknown key was probably meant to be.
    suspected: Vec<&'static str>,
}

impl<'n> Fields<'n> {
    /// Checks the keys of a mapping. Nothing behind a key, as in
    /// `Constraints:`, is a mapping without entries.
    pub(super) fn read(node: &'n Node, section: &Section, problems: &mut Problems) -> Option<Self> {
        let mut fields = Self {
            entries: Vec::new(),
            suspected: Vec::new(),
        };
        let entries = match &*node.value {
            Value::Map(entries) => entries,
            Value::Null => return Some(fields),
            _ => {
                wrong_type(node, section.what, "a mapping", section.example, problems);
                return None;
            }
        };
        for (key, value) in entries {
            let word = match &*key.value {
                Value::Scalar(word) => word,
                Value::Invalid => continue,
                _ => {
                    problems.push(Diagnostic::new(
                        key.span.clone(),
                        format!("a key of {} must be a word", section.what),
                    ));
                    continue;
                }
            };
            match section.keys.iter().find(|known| *known == word) {
                Some(known) => fields.add(known, key, value, problems),
                None => fields.unknown(word, key, section, problems),
            }
        }
        Some(fields)
    }

    /// What stands behind a key, if anything does.
    pub(super) fn get(&self, key: &str) -> Option<&'n Node> {
        let entry = self.entries.iter().find(|(known, ..)| *known == key);
        entry.map(|(_, _, value)| *value)
    }

    /// Whether a key is missing, and not just misspelled.
    pub(super) fn lacks(&self, key: &str) -> bool {
        self.get(key).is_none() && !self.suspected.contains(&key)
    }

    fn add(
        &mut self,
        known: &'static str,
        key: &'n Node,
        value: &'n Node,
        problems: &mut Problems,
    ) {
        match self.entries.iter().find(|(other, ..)| *other == known) {
            Some((_, first, _)) => problems.push(duplicate(known, first, key)),
            None => self.entries.push((known, key, value)),
        }
    }

    fn unknown(&mut self, word: &str, key: &Node, section: &Section, problems: &mut Problems) {
        if word == "<<" {
            // It was to give any of them.
            self.suspected.extend(section.keys);
            problems.push(merge_key(key));
            return;
        }
        let problem = Diagnostic::new(key.span.clone(), format!("unknown key {}", quoted(word)));
        let elsewhere = [CHAIN_LINK, CONSTRAINTS, TOP, PARAMETER, FILE]
            .into_iter()
            .find(|other| other.keys.contains(&word));
        let problem = if let Some(other) = elsewhere {
            // A link that stands outside of a list stands for the list.
            self.suspected
                .extend(section.keys.iter().filter(|key| **key == "Chain"));
            problem
                .label(format!("not a key of {}", section.what))
                .help(format!("`{word}` belongs {}", other.place))
        } else if let Some(near) = nearest(word, section.keys) {
            self.suspected.push(near);
            problem.suggest(near)
        } else {
            problem
                .label(format!("not a key of {}", section.what))
                .help(format!(
                    "{} has the keys {}",
                    section.what,
                    section.keys.join(", ")
                ))
        };
        problems.push(problem);
    }
}
