//! A chain as YAML that a person can read: only what differs from the
//! defaults, and in quotes only what YAML could take for something else.

use std::borrow::Cow;

use data_encoding::BASE64;

use crate::chain::{Chain, ChainLink, DEFAULT_ACCEPTED_EXIT_CODES, Deadline, default_link_name};
use crate::link::{Constraints, DataSource, Link, LiteralFile, Network, Warm, Writable};
use crate::parameters::Parameter;
use crate::template;
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
    write_call(chain, &mut lines);
    lines.line("Chain:");
    let texts = match chain.parameters.is_empty() {
        true => Texts::AsTheyAre,
        false => Texts::Templates,
    };
    for link in &chain.links {
        lines.item(|lines| write_chain_link(link, texts, lines));
    }
    lines.text
}

/// What becomes of texts that may be templates.
#[derive(Clone, Copy)]
enum Texts {
    AsTheyAre,
    /// They are read as templates, also those of links that are none.
    Templates,
}

impl Texts {
    fn of<'t>(self, link: &Link, text: &'t str) -> Cow<'t, str> {
        match self {
            Self::Templates if link.parameters.is_empty() => template::escape(text).into(),
            _ => text.into(),
        }
    }
}

/// Writes what a caller may give, and what it gets.
pub(super) fn call(chain: &Chain) -> String {
    let mut lines = Lines::default();
    write_call(chain, &mut lines);
    lines.text
}

fn write_call(chain: &Chain, lines: &mut Lines) {
    if let Some(media_type) = &chain.content_type {
        lines.entry("ContentType", &scalar(media_type));
    }
    if chain.parameters.is_empty() {
        return;
    }
    lines.line("Parameters:");
    lines.indented(|lines| {
        for (name, Parameter { pattern, default }) in &chain.parameters {
            lines.line(&format!("{}:", scalar(name)));
            lines.indented(|lines| {
                lines.value("Pattern:", pattern.as_str());
                if let Some(default) = default {
                    lines.value("Default:", default);
                }
            });
        }
    });
}

/// Writes a link that stands by itself.
pub(super) fn link(link: &Link) -> String {
    let mut lines = Lines::default();
    write_what_runs(link, Texts::AsTheyAre, &mut lines);
    if !link.parameters.is_empty() {
        lines.line("Parameters:");
        lines.indented(|lines| {
            for (name, pattern) in &link.parameters {
                lines.line(&format!("{}:", scalar(name)));
                lines.indented(|lines| lines.value("Pattern:", pattern.as_str()));
            }
        });
    }
    lines.text
}

fn write_chain_link(link: &ChainLink, texts: Texts, lines: &mut Lines) {
    write_what_runs(&link.link, texts, lines);
    if link.name != default_link_name(&link.link) {
        lines.entry("Name", &scalar(&link.name));
    }
    write_use(link, lines);
}

/// Writes what a link has beside what stands in its command line.
pub(super) fn settings(link: &ChainLink) -> String {
    let mut lines = Lines::default();
    write_sandbox(&link.link, Texts::AsTheyAre, &mut lines);
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

fn write_what_runs(link: &Link, texts: Texts, lines: &mut Lines) {
    lines.entry("Image", &scalar(&link.image));
    if let Some(command) = &link.command {
        lines.entry("Command", &scalar(command));
    }
    if !link.arguments.is_empty() {
        lines.line("Arguments:");
        for argument in &link.arguments {
            lines.value("-", &texts.of(link, argument));
        }
    }
    write_sandbox(link, texts, lines);
}

fn write_sandbox(link: &Link, texts: Texts, lines: &mut Lines) {
    if !link.environment.is_empty() {
        lines.line("Environment:");
        lines.indented(|lines| {
            for (name, value) in &link.environment {
                let before = format!("{}:", scalar(name));
                lines.value(&before, &texts.of(link, value));
            }
        });
    }
    if let Some(directory) = &link.working_directory {
        lines.entry("WorkingDirectory", &scalar(directory));
    }
    if let Some(user) = &link.user {
        lines.entry("User", &scalar(user));
    }
    match link.writable {
        Writable::No => {}
        Writable::Yes => lines.entry("Writable", "true"),
        Writable::Never => lines.entry("Writable", "never"),
    }
    match link.network {
        Network::None => {}
        Network::Loopback => lines.entry("Network", "loopback"),
        Network::Sealed => lines.entry("Network", "sealed"),
        Network::Host => lines.entry("Network", "host"),
    }
    match link.warm {
        Warm::Default => {}
        Warm::Late => lines.entry("Warm", "false"),
        Warm::Count(count) => lines.entry("Warm", &count.to_string()),
    }
    if let Some(path) = &link.input {
        lines.entry("Input", &scalar(path));
    }
    if let Some(path) = &link.output {
        lines.entry("Output", &scalar(path));
    }
    write_beside(link, lines);
    write_constraints(link.constraints, lines);
}

/// Writes what a link finds beside its image.
fn write_beside(link: &Link, lines: &mut Lines) {
    if !link.files.is_empty() {
        lines.line("Files:");
        lines.indented(|lines| {
            for (path, file) in &link.files {
                write_file(path, file, lines);
            }
        });
    }
    if !link.data.is_empty() {
        lines.line("Data:");
        lines.indented(|lines| {
            for (path, source) in &link.data {
                let source = match source {
                    DataSource::Name(name) => scalar(name),
                    DataSource::Image(image) => scalar(&format!("image:{image}")),
                };
                lines.entry(&scalar(path), &source);
            }
        });
    }
    if !link.secrets.is_empty() {
        lines.line("Secrets:");
        lines.indented(|lines| {
            for (path, name) in &link.secrets {
                lines.entry(&scalar(path), &scalar(name));
            }
        });
    }
}

fn write_file(path: &str, file: &LiteralFile, lines: &mut Lines) {
    let path = format!("{}:", scalar(path));
    let text = std::str::from_utf8(&file.content);
    let has_mode = file.mode != LiteralFile::DEFAULT_MODE;
    if let (Ok(text), false) = (text, has_mode) {
        return lines.value(&path, text);
    }
    lines.line(&path);
    lines.indented(|lines| {
        match text {
            Ok(text) => lines.value("Text:", text),
            Err(_) => lines.entry("Base64", &scalar(&BASE64.encode(&file.content))),
        }
        if has_mode {
            lines.entry("Mode", &format!("{:04o}", file.mode));
        }
    });
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
        if let Some(time) = constraints.cpu_time {
            lines.entry("CPUTime", &format_duration(time));
        }
        if let Some(bytes) = constraints.output {
            lines.entry("Output", &format_memory(bytes));
        }
        if let Some(bytes) = constraints.scratch {
            lines.entry("Scratch", &format_memory(bytes));
        }
        if let Some(files) = constraints.open_files {
            lines.entry("OpenFiles", &files.to_string());
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
