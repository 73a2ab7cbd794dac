//! What a link runs.
//!
//! Everything here changes what a process does with its input, and so counts
//! towards the [`LinkId`]. How a chain uses a link must not appear here.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::link_id::LinkId;
use crate::units::CpuLimit;

/// What a link runs: an image, a command in it, and what the command finds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Link {
    /// The image's reference, as the file gives it.
    pub image: String,
    /// A path in the image, or a bare name looked up in the image's `PATH`;
    /// `None` for the image's own entrypoint and command.
    pub command: Option<String>,
    /// Arguments of the command. Without a command they take the place of the
    /// image's `Cmd`, as with `docker run IMAGE ARGUMENT…`.
    pub arguments: Vec<String>,
    /// Variables set over those of the image.
    pub environment: BTreeMap<String, String>,
    /// An absolute path in the image; `None` for the image's own.
    pub working_directory: Option<String>,
    /// A user and perhaps a group, by name or number (`nobody`, `1000:1000`);
    /// `None` for the image's own.
    pub user: Option<String>,
    /// Whether the root is a private, throw-away writable one.
    pub writable: bool,
    /// Which network the command sees.
    pub network: Network,
    /// Whether each process is started for its request, after that has come, and
    /// none ahead: `Warm: false`.
    pub late: bool,
    /// What the command may use up.
    pub constraints: Constraints,
}

/// Which network a link sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Network {
    /// No network, so that the link is a function of its input.
    #[default]
    None,
    /// The network of the host it runs on.
    Host,
}

/// What one process of a link may use up; `None` sets no limit of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Constraints {
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// CPU time per time.
    pub cpu: Option<CpuLimit>,
    /// Processes and threads at a time.
    pub processes: Option<u32>,
}

impl Link {
    /// A link that runs an image as it is.
    pub fn new(image: impl Into<String>) -> Self {
        Self {
            image: image.into(),
            ..Self::default()
        }
    }

    /// The name of what this link runs.
    pub fn id(&self) -> LinkId {
        LinkId::of(&self.identity())
    }

    /// Whether the output can depend on nothing but the input, so that a call
    /// may safely be made again.
    pub fn is_pure(&self) -> bool {
        self.network == Network::None
    }

    /// The JSON that the id is made from: `[Image, Command, Argument, …]`.
    ///
    /// An absent command is `null`, which no command can be. Other settings
    /// follow as an object, which no argument can be, and only where they
    /// differ from the defaults, so that a setting that is added to the format
    /// one day leaves all ids as they are. Written by hand rather than through
    /// a `serde_json` map, whose order depends on a feature that any other
    /// crate in the tree may turn on.
    fn identity(&self) -> String {
        let mut array = format!("[{},", json_string(&self.image));
        match &self.command {
            Some(command) => array.push_str(&json_string(command)),
            None => array.push_str("null"),
        }
        for argument in &self.arguments {
            array.push(',');
            array.push_str(&json_string(argument));
        }
        let settings = self.settings();
        if !settings.is_empty() {
            array.push(',');
            array.push_str(&json_object(&settings));
        }
        array.push(']');
        array
    }

    /// The settings that differ from the defaults, as JSON by key.
    fn settings(&self) -> BTreeMap<&str, String> {
        let mut settings = BTreeMap::new();
        let constraints = self.constraints.settings();
        if !constraints.is_empty() {
            settings.insert("Constraints", json_object(&constraints));
        }
        if !self.environment.is_empty() {
            let variables = self
                .environment
                .iter()
                .map(|(name, value)| (name.as_str(), json_string(value)))
                .collect();
            settings.insert("Environment", json_object(&variables));
        }
        if self.network == Network::Host {
            settings.insert("Network", json_string("host"));
        }
        if let Some(user) = &self.user {
            settings.insert("User", json_string(user));
        }
        if self.late {
            settings.insert("Warm", "false".to_owned());
        }
        if let Some(directory) = &self.working_directory {
            settings.insert("WorkingDirectory", json_string(directory));
        }
        if self.writable {
            settings.insert("Writable", "true".to_owned());
        }
        settings
    }
}

impl Constraints {
    /// The limits that are set, as whole numbers of their smallest unit, so
    /// that every spelling of a limit counts as the same one.
    fn settings(&self) -> BTreeMap<&str, String> {
        let limits = [
            ("CPU", self.cpu.map(|cpu| u64::from(cpu.millicores()))),
            ("Memory", self.memory),
            ("Processes", self.processes.map(u64::from)),
        ];
        limits
            .into_iter()
            .filter_map(|(key, limit)| Some((key, limit?.to_string())))
            .collect()
    }
}

fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn json_object(entries: &BTreeMap<&str, String>) -> String {
    let mut object = String::from("{");
    for (index, (key, value)) in entries.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        // Writing to a string cannot fail.
        let _ = write!(object, "{comma}{}:{value}", json_string(key));
    }
    object.push('}');
    object
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(cat().identity(), r#"["busybox","/bin/cat"]"#);
        assert_eq!(Link::new("busybox").identity(), r#"["busybox",null]"#);
        let tricky = Link {
            arguments: vec!["a\"\\/\u{e9}\u{1f600}\n\u{1}\u{7f}".into(), String::new()],
            ..cat()
        };
        assert_eq!(
            tricky.identity(),
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
            writable: true,
            network: Network::Host,
            late: true,
            constraints: Constraints {
                memory: Some(20 << 20),
                cpu: CpuLimit::from_millicores(500),
                processes: Some(8),
            },
            ..cat()
        };
        assert_eq!(
            link.identity(),
            concat!(
                r#"["busybox","/bin/cat","-n",{"Constraints":{"CPU":500,"Memory":20971520,"Processes":8},"#,
                r#""Environment":{"A":"2","Z":"1"},"Network":"host","User":"1000","#,
                r#""Warm":false,"WorkingDirectory":"/tmp","Writable":true}]"#
            )
        );
    }

    #[test]
    fn a_link_is_pure_without_a_network() {
        assert!(cat().is_pure());
        let link = Link {
            network: Network::Host,
            ..cat()
        };
        assert!(!link.is_pure());
    }
}
