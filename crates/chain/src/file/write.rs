//! A chain as YAML that a person can read: only what differs from the
//! defaults, and in quotes only what YAML could take for something else.

use crate::chain::{Chain, ChainLink, DEFAULT_ACCEPTED_EXIT_CODES, Deadline, default_link_name};
use crate::link::{Constraints, Link, Network};
use crate::text::is_printable;
use crate::units::{format_duration, format_memory};

/// Writes a chain file.
pub(super) fn chain(chain: &Chain) -> String {
    let mut lines = Lines::default();
    lines.entry("Name", &scalar(&chain.name));
    match chain.deadline {
        Deadline::Unset => {}
        Deadline::None => lines.entry("Deadline", "none"),
        Deadline::After(deadline) => lines.entry("Deadline", &format_duration(deadline)),
    }
    lines.line("Chain:");
    for link in &chain.links {
        lines.item(|lines| write_chain_link(link, lines));
    }
    lines.text
}

/// Writes a link that stands by itself.
pub(super) fn link(link: &Link) -> String {
    let mut lines = Lines::default();
    write_what_runs(link, &mut lines);
    lines.text
}

fn write_chain_link(link: &ChainLink, lines: &mut Lines) {
    write_what_runs(&link.link, lines);
    if link.name != default_link_name(&link.link) {
        lines.entry("Name", &scalar(&link.name));
    }
    write_use(link, lines);
}

/// Writes what a link has beside what stands in its command line.
pub(super) fn settings(link: &ChainLink) -> String {
    let mut lines = Lines::default();
    write_sandbox(&link.link, &mut lines);
    write_use(link, &mut lines);
    lines.text
}

fn write_use(link: &ChainLink, lines: &mut Lines) {
    if let Some(deadline) = link.deadline {
        lines.entry("Deadline", &format_duration(deadline));
    }
    if let Some(retries) = link.retries {
        lines.entry("Retries", &retries.to_string());
    }
    if link.accepted_exit_codes != DEFAULT_ACCEPTED_EXIT_CODES {
        let codes: Vec<String> = link.accepted_exit_codes.iter().map(u8::to_string).collect();
        lines.entry("AcceptedExitCodes", &format!("[{}]", codes.join(", ")));
    }
}

fn write_what_runs(link: &Link, lines: &mut Lines) {
    lines.entry("Image", &scalar(&link.image));
    if let Some(command) = &link.command {
        lines.entry("Command", &scalar(command));
    }
    if !link.arguments.is_empty() {
        lines.line("Arguments:");
        for argument in &link.arguments {
            lines.value("-", argument);
        }
    }
    write_sandbox(link, lines);
}

fn write_sandbox(link: &Link, lines: &mut Lines) {
    if !link.environment.is_empty() {
        lines.line("Environment:");
        lines.indented(|lines| {
            for (name, value) in &link.environment {
                lines.value(&format!("{}:", scalar(name)), value);
            }
        });
    }
    if let Some(directory) = &link.working_directory {
        lines.entry("WorkingDirectory", &scalar(directory));
    }
    if let Some(user) = &link.user {
        lines.entry("User", &scalar(user));
    }
    if link.writable {
        lines.entry("Writable", "true");
    }
    if link.network == Network::Host {
        lines.entry("Network", "host");
    }
    if link.late {
        lines.entry("Warm", "false");
    }
    write_constraints(link.constraints, lines);
}

fn write_constraints(constraints: Constraints, lines: &mut Lines) {
    if constraints == Constraints::default() {
        return;
    }
    lines.line("Constraints:");
    lines.indented(|lines| {
        if let Some(memory) = constraints.memory {
            lines.entry("Memory", &format_memory(memory));
        }
        if let Some(cpu) = constraints.cpu {
            lines.entry("CPU", &cpu.to_string());
        }
        if let Some(processes) = constraints.processes {
            lines.entry("Processes", &processes.to_string());
        }
    });
}

/// YAML under construction.
#[derive(Default)]
struct Lines {
    text: String,
    indentation: usize,
    /// Whether the next line begins an item of a list.
    begins_item: bool,
}

impl Lines {
    fn line(&mut self, line: &str) {
        let indentation = if std::mem::take(&mut self.begins_item) {
            self.text.push_str(&" ".repeat(self.indentation - 2));
            self.text.push_str("- ");
            0
        } else {
            self.indentation
        };
        if !line.is_empty() {
            self.text.push_str(&" ".repeat(indentation));
            self.text.push_str(line);
        }
        self.text.push('\n');
    }

    fn entry(&mut self, key: &str, value: &str) {
        self.line(&format!("{key}: {value}"));
    }

    /// Any text behind a key or dash; text of several lines as a block, so
    /// that a script stays readable.
    fn value(&mut self, before: &str, text: &str) {
        let Some(chomping) = block_chomping(text) else {
            return self.line(&format!("{before} {}", scalar(text)));
        };
        self.line(&format!("{before} |{chomping}"));
        self.indented(|lines| {
            for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
                lines.line(line);
            }
        });
    }

    fn indented(&mut self, write: impl FnOnce(&mut Self)) {
        self.indentation += 2;
        write(self);
        self.indentation -= 2;
    }

    fn item(&mut self, write: impl FnOnce(&mut Self)) {
        self.begins_item = true;
        self.indented(write);
    }
}

/// How a block ends that holds this text; `None` where a block cannot hold it.
fn block_chomping(text: &str) -> Option<&'static str> {
    let body = text.strip_suffix('\n');
    let chomping = if body.is_some() { "" } else { "-" };
    let body = body.unwrap_or(text);
    let fits = body.contains('\n')
        && !body.starts_with([' ', '\n'])
        && !body.ends_with('\n')
        // Not `lines`: it takes a carriage return for part of a line break.
        && body
            .split('\n')
            .all(|line| line.trim_end() == line && line.chars().all(is_printable));
    fits.then_some(chomping)
}

/// Text as a YAML scalar on one line.
fn scalar(text: &str) -> String {
    if is_plain(text) {
        text.to_owned()
    } else if text.chars().all(is_printable) {
        format!("'{}'", text.replace('\'', "''"))
    } else {
        format!("\"{}\"", text.chars().map(escaped).collect::<String>())
    }
}

/// Whether no reader of YAML, of any version, takes this for anything but the
/// text that it is.
fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 9] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && !text.ends_with(':')
        && text.chars().all(|c| {
            c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '+' | ':' | '@' | '=')
        })
        && !WORDS.contains(&text.to_ascii_lowercase().as_str())
}

fn escaped(c: char) -> String {
    match c {
        '"' => "\\\"".to_owned(),
        '\\' => "\\\\".to_owned(),
        '\n' => "\\n".to_owned(),
        '\r' => "\\r".to_owned(),
        '\t' => "\\t".to_owned(),
        c if is_printable(c) => c.to_string(),
        c => match u32::from(c) {
            code @ 0..=0xff => format!("\\x{code:02x}"),
            code @ 0..=0xffff => format!("\\u{code:04x}"),
            code => format!("\\U{code:08x}"),
        },
    }
}
