//! What a link runs.
//!
//! Everything here changes what a process does with its input, and so counts
//! towards the [`LinkId`]. How a chain uses a link must not appear here.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::identity;
use crate::link_id::LinkId;
use crate::pattern::Pattern;
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
    /// Whether the root can be written.
    pub writable: Writable,
    /// Which network the command sees.
    pub network: Network,
    /// How many processes are started before their requests come.
    pub warm: Warm,
    /// Where the input is stored before the command is executed: a path below a
    /// private folder. A slash at the end means a folder, and a tar that is unpacked
    /// there; `/dev/stdin` stores it nowhere, but the command can seek in its stdin.
    pub input: Option<String>,
    /// Where the command leaves its output: a path below a private folder. A slash at
    /// the end means a folder, and a tar of what is there.
    pub output: Option<String>,
    /// Small files over those of the image, read-only, by path.
    pub files: BTreeMap<String, LiteralFile>,
    /// Files and folders that runners have, or images, read-only, by path.
    pub data: BTreeMap<String, DataSource>,
    /// Names of secrets that runners have, by the path at which the command finds one.
    pub secrets: BTreeMap<String, String>,
    /// The parameters that are used in [`arguments`](Self::arguments) and in the values
    /// of [`environment`](Self::environment), and their patterns. Where there are any,
    /// those texts are templates, with `${name}` for a value and `$${` for a literal
    /// `${`; where there are none, they are texts.
    pub parameters: BTreeMap<String, Pattern>,
    /// What the command may use up.
    pub constraints: Constraints,
}

/// Whether a link can write to its root.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Writable {
    /// As the default is, which is not in the id: `Writable: false`.
    #[default]
    No,
    /// A private root that is thrown away with the process.
    Yes,
    /// A root that is read-only, whatever the default is.
    Never,
}

/// Processes of a link that are started before their requests come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Warm {
    /// As many as calls need.
    #[default]
    Default,
    /// None: each process is started when its request has come.
    Late,
    /// So many in reserve.
    Count(u16),
}

/// A small file that a link brings along.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LiteralFile {
    /// What is in it.
    pub content: Vec<u8>,
    /// Its permissions: nine bits.
    pub mode: u32,
}

impl LiteralFile {
    /// The permissions of a file whose link does not say any.
    pub const DEFAULT_MODE: u32 = 0o644;

    /// A file with the default permissions.
    pub fn new(content: impl Into<Vec<u8>>) -> Self {
        Self {
            content: content.into(),
            mode: Self::DEFAULT_MODE,
        }
    }
}

/// Where data of a link comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DataSource {
    /// A file or folder that the runner has by this name. The name promises that it is
    /// the same everywhere, as an image's does.
    Name(String),
    /// The root of the image of this reference.
    Image(String),
}

/// Which network a link sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Network {
    /// No network but, perhaps, a loopback of its own, so that the link is a function
    /// of its input.
    #[default]
    None,
    /// A loopback of its own, and nothing else.
    Loopback,
    /// No network at all, not even a loopback.
    Sealed,
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
    /// Processor time of all its processes together.
    pub cpu_time: Option<Duration>,
    /// Bytes of output.
    pub output: Option<u64>,
    /// Bytes in its private folders.
    pub scratch: Option<u64>,
    /// Files that each of its processes may have open.
    pub open_files: Option<u32>,
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
        LinkId::of(&identity::of(self))
    }

    /// Whether the output can depend on nothing but the input, so that a call
    /// may safely be made again.
    pub fn is_pure(&self) -> bool {
        self.network != Network::Host
    }

    /// Whether each process is executed after its request has come: `Warm: false`, or
    /// what it needs comes with the request.
    pub fn is_late(&self) -> bool {
        self.warm == Warm::Late || self.input.is_some() || !self.parameters.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_links_are_pure_but_those_with_the_hosts_network() {
        let with = |network| Link {
            network,
            ..Link::new("busybox")
        };
        for network in [Network::None, Network::Loopback, Network::Sealed] {
            assert!(with(network).is_pure(), "{network:?}");
        }
        assert!(!with(Network::Host).is_pure());
    }

    #[test]
    fn what_comes_with_a_request_makes_a_link_late() {
        let link = Link::new("busybox");
        assert!(!link.is_late());
        let warm = |warm| Link {
            warm,
            ..link.clone()
        };
        assert!(warm(Warm::Late).is_late() && !warm(Warm::Count(8)).is_late());
        let input = Link {
            input: Some("/dev/stdin".into()),
            ..link.clone()
        };
        assert!(input.is_late());
        let output = Link {
            output: Some("/tmp/out".into()),
            ..link.clone()
        };
        assert!(!output.is_late());
        let pattern = Pattern::new("a*").unwrap();
        let parameters = Link {
            parameters: [("x".into(), pattern)].into(),
            ..link
        };
        assert!(parameters.is_late());
    }
}
