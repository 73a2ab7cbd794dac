//! The JSON that a link's id is made from: `[Image, Command, Argument, …, {settings}]`.
//!
//! An absent command is `null`, which no command can be. Other settings follow as an
//! object, which no argument can be, and only where they differ from the defaults, so
//! that a setting that is added to the format one day leaves all ids as they are.
//! Written by hand rather than through a `serde_json` map, whose order depends on a
//! feature that any other crate in the tree may turn on.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use data_encoding::BASE64;

use crate::link::{Constraints, DataSource, Link, LiteralFile, Network, Warm, Writable};

/// The identity of a link: exactly what runs.
pub(crate) fn of(link: &Link) -> String {
    let mut array = format!("[{},", string(&link.image));
    match &link.command {
        Some(command) => array.push_str(&string(command)),
        None => array.push_str("null"),
    }
    for argument in &link.arguments {
        array.push(',');
        array.push_str(&string(argument));
    }
    let settings = settings(link);
    if !settings.is_empty() {
        array.push(',');
        array.push_str(&object(&settings));
    }
    array.push(']');
    array
}

/// The settings that differ from the defaults, as JSON by key.
fn settings(link: &Link) -> BTreeMap<&str, String> {
    let optional = |text: &Option<String>| text.as_deref().map(string);
    let settings = [
        ("Constraints", constraints(&link.constraints)),
        ("Data", map(&link.data, data)),
        ("Environment", map(&link.environment, |value| string(value))),
        ("Files", map(&link.files, file)),
        ("Input", optional(&link.input)),
        ("Network", network(link.network)),
        ("Output", optional(&link.output)),
        (
            "Parameters",
            map(&link.parameters, |pattern| string(pattern.as_str())),
        ),
        ("Secrets", map(&link.secrets, |name| string(name))),
        ("User", optional(&link.user)),
        ("Warm", warm(link.warm)),
        ("WorkingDirectory", optional(&link.working_directory)),
        ("Writable", writable(link.writable)),
    ];
    settings
        .into_iter()
        .filter_map(|(key, json)| Some((key, json?)))
        .collect()
}

/// The limits that are set, as whole numbers of their smallest unit, so that every
/// spelling of a limit counts as the same one.
fn constraints(constraints: &Constraints) -> Option<String> {
    let milliseconds = constraints.cpu_time.map(|time| time.as_millis());
    let limits = [
        ("CPU", constraints.cpu.map(|cpu| cpu.millicores().into())),
        ("CPUTime", milliseconds),
        ("Memory", constraints.memory.map(u128::from)),
        ("OpenFiles", constraints.open_files.map(u128::from)),
        ("Output", constraints.output.map(u128::from)),
        ("Processes", constraints.processes.map(u128::from)),
        ("Scratch", constraints.scratch.map(u128::from)),
    ];
    let limits: BTreeMap<&str, String> = limits
        .into_iter()
        .filter_map(|(key, limit)| Some((key, limit?.to_string())))
        .collect();
    (!limits.is_empty()).then(|| object(&limits))
}

fn data(source: &DataSource) -> String {
    match source {
        DataSource::Name(name) => string(name),
        DataSource::Image(image) => string(&format!("image:{image}")),
    }
}

/// Text where the content is text, else an object.
fn file(file: &LiteralFile) -> String {
    let (key, content) = match std::str::from_utf8(&file.content) {
        Ok(text) => ("Text", string(text)),
        Err(_) => ("Base64", string(&BASE64.encode(&file.content))),
    };
    let mut fields = BTreeMap::from([(key, content)]);
    if file.mode != LiteralFile::DEFAULT_MODE {
        fields.insert("Mode", file.mode.to_string());
    }
    match fields.remove("Text") {
        Some(text) if fields.is_empty() => text,
        text => {
            fields.extend(text.map(|text| ("Text", text)));
            object(&fields)
        }
    }
}

fn network(network: Network) -> Option<String> {
    match network {
        Network::None => None,
        Network::Loopback => Some(string("loopback")),
        Network::Sealed => Some(string("sealed")),
        Network::Host => Some(string("host")),
    }
}

fn warm(warm: Warm) -> Option<String> {
    match warm {
        Warm::Default => None,
        Warm::Late => Some("false".to_owned()),
        Warm::Count(count) => Some(count.to_string()),
    }
}

fn writable(writable: Writable) -> Option<String> {
    match writable {
        Writable::No => None,
        Writable::Yes => Some("true".to_owned()),
        Writable::Never => Some(string("never")),
    }
}

fn string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// An object of values by name; `None` for an empty one, which is a default.
fn map<V>(entries: &BTreeMap<String, V>, json: impl Fn(&V) -> String) -> Option<String> {
    let entries: BTreeMap<&str, String> = entries
        .iter()
        .map(|(name, value)| (name.as_str(), json(value)))
        .collect();
    (!entries.is_empty()).then(|| object(&entries))
}

fn object(entries: &BTreeMap<&str, String>) -> String {
    let mut object = String::from("{");
    for (index, (key, value)) in entries.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        // Writing to a string cannot fail.
        let _ = write!(object, "{comma}{}:{value}", string(key));
    }
    object.push('}');
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::Pattern;
    use crate::units::CpuLimit;
    use std::time::Duration;

    fn cat() -> Link {
        Link {
            command: Some("/bin/cat".into()),
            ..Link::new("busybox")
        }
    }

    #[test]
    fn the_id_is_what_md5sum_gives() {
        // printf '["busybox","/bin/cat"]' | md5sum
        assert_eq!(cat().id().to_string(), "188b0237c1423313d2eff0dbfb4d426a");
    }

    #[test]
    fn the_identity_has_exact_bytes() {
        assert_eq!(of(&cat()), r#"["busybox","/bin/cat"]"#);
        assert_eq!(of(&Link::new("busybox")), r#"["busybox",null]"#);
        let tricky = Link {
            arguments: vec!["a\"\\/\u{e9}\u{1f600}\n\u{1}\u{7f}".into(), String::new()],
            ..cat()
        };
        assert_eq!(
            of(&tricky),
            "[\"busybox\",\"/bin/cat\",\"a\\\"\\\\/\u{e9}\u{1f600}\\n\\u0001\u{7f}\",\"\"]"
        );
    }

    #[test]
    fn settings_come_last_sorted_and_only_where_set() {
        let link = Link {
            arguments: vec!["-n".into()],
            environment: [("Z", "1"), ("A", "2")]
                .map(|(n, v)| (n.into(), v.into()))
                .into(),
            working_directory: Some("/tmp".into()),
            user: Some("1000".into()),
            writable: Writable::Yes,
            network: Network::Host,
            warm: Warm::Late,
            constraints: Constraints {
                memory: Some(20 << 20),
                cpu: CpuLimit::from_millicores(500),
                processes: Some(8),
                ..Constraints::default()
            },
            ..cat()
        };
        assert_eq!(
            of(&link),
            concat!(
                r#"["busybox","/bin/cat","-n",{"Constraints":{"CPU":500,"Memory":20971520,"Processes":8},"#,
                r#""Environment":{"A":"2","Z":"1"},"Network":"host","User":"1000","#,
                r#""Warm":false,"WorkingDirectory":"/tmp","Writable":true}]"#
            )
        );
    }

    #[test]
    fn settings_that_came_later_have_exact_bytes() {
        let data = |path: &str, source| (path.to_owned(), source);
        let file = |path: &str, content: &[u8], mode| {
            let content = content.to_vec();
            (path.to_owned(), LiteralFile { content, mode })
        };
        let link = Link {
            network: Network::Loopback,
            writable: Writable::Never,
            warm: Warm::Count(8),
            input: Some("/tmp/in.docx".into()),
            output: Some("/tmp/out/".into()),
            files: [
                file("/etc/a", b"a\n", 0o644),
                file("/etc/b", b"b", 0o755),
                file("/etc/c", b"\xff", 0o644),
                file("/etc/d", b"\xff", 0o600),
            ]
            .into(),
            data: [
                data("/m", DataSource::Name("whisper".into())),
                data("/n", DataSource::Image("models:1".into())),
            ]
            .into(),
            secrets: [("/run/secrets/key".into(), "stripe".into())].into(),
            parameters: [("width".into(), Pattern::new("[0-9]+").unwrap())].into(),
            constraints: Constraints {
                cpu_time: Some(Duration::from_millis(1500)),
                output: Some(1),
                scratch: Some(1 << 20),
                open_files: Some(64),
                ..Constraints::default()
            },
            arguments: vec!["${width}".into()],
            ..cat()
        };
        assert_eq!(
            of(&link),
            concat!(
                r#"["busybox","/bin/cat","${width}",{"#,
                r#""Constraints":{"CPUTime":1500,"OpenFiles":64,"Output":1,"Scratch":1048576},"#,
                r#""Data":{"/m":"whisper","/n":"image:models:1"},"#,
                r#""Files":{"/etc/a":"a\n","/etc/b":{"Mode":493,"Text":"b"},"#,
                r#""/etc/c":{"Base64":"/w=="},"/etc/d":{"Base64":"/w==","Mode":384}},"#,
                r#""Input":"/tmp/in.docx","Network":"loopback","Output":"/tmp/out/","#,
                r#""Parameters":{"width":"[0-9]+"},"Secrets":{"/run/secrets/key":"stripe"},"#,
                r#""Warm":8,"Writable":"never"}]"#
            )
        );
        let sealed = Link {
            network: Network::Sealed,
            ..cat()
        };
        assert_eq!(
            of(&sealed),
            r#"["busybox","/bin/cat",{"Network":"sealed"}]"#
        );
    }
}
