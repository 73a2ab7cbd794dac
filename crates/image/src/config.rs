//! The image's configuration: what a container of it runs by default.
//!
//! Pure. Reads the OCI image config, which Docker's is a superset of, keeps
//! what a sandbox can honour, and checks that it is meant for this machine.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::manifest::{ContentError, Platform};

/// How the image's author wants it run. Everything may be absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// `Env`, in the image's order.
    #[serde(default)]
    pub environment: Vec<(String, String)>,
    /// `Entrypoint`; what is run, in front of the command.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// `Cmd`; the default arguments, or the whole command where there is no
    /// entrypoint.
    #[serde(default)]
    pub command: Vec<String>,
    /// `WorkingDir`; `None` means `/`.
    #[serde(default)]
    pub working_directory: Option<String>,
    /// `User`, unresolved: `name`, `uid`, `name:group`, `uid:gid`.
    #[serde(default)]
    pub user: Option<String>,
}

/// A config as it was read: the part we keep, and what proves the layers.
#[derive(Debug, Clone)]
pub(crate) struct ReadConfig {
    pub(crate) image: ImageConfig,
    /// The digest of each layer's uncompressed tar, in order.
    pub(crate) diff_ids: Vec<Digest>,
    /// Folders that are made where no layer has them: `WorkingDir` and `Volumes`.
    pub(crate) folders: Vec<String>,
}

#[derive(Deserialize)]
struct Raw {
    architecture: Option<String>,
    os: Option<String>,
    variant: Option<String>,
    config: Option<RawRun>,
    rootfs: Option<RawRootfs>,
    // What a manifest or an index has, and a config never.
    #[serde(rename = "schemaVersion")]
    schema_version: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    manifests: Option<IgnoredAny>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawRun {
    env: Option<Vec<String>>,
    entrypoint: Option<OneOrMany>,
    cmd: Option<OneOrMany>,
    working_dir: Option<String>,
    user: Option<String>,
    volumes: Option<BTreeMap<String, IgnoredAny>>,
}

#[derive(Deserialize)]
struct RawRootfs {
    /// `null` where an image has no layers.
    diff_ids: Option<Vec<Digest>>,
}

/// Docker of old wrote a plain string where a list is meant.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn into_list(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// Reads a config blob whose digest was verified, for a manifest of `layers` layers.
/// [`manifest::read`](crate::manifest::read) refuses everything that this accepts, so
/// that no digest can name two images.
pub(crate) fn read(bytes: &[u8], layers: usize) -> Result<ReadConfig, ContentError> {
    let raw: Raw = serde_json::from_slice(bytes).map_err(|cause| ContentError::Malformed {
        what: "config",
        problem: cause.into(),
    })?;
    let rootfs = check_shape(&raw)?;
    check_platform(&raw)?;
    let diff_ids = rootfs.diff_ids.clone().unwrap_or_default();
    if diff_ids.len() != layers {
        return Err(ContentError::Malformed {
            what: "config",
            problem: format!(
                "it names {} layers, the manifest has {layers}",
                diff_ids.len()
            )
            .into(),
        });
    }
    let mut run = raw.config.unwrap_or_default();
    let volumes = run.volumes.take().unwrap_or_default();
    let image = keep(run);
    let folders = image.working_directory.iter().cloned();
    Ok(ReadConfig {
        folders: folders.chain(volumes.into_keys()).collect(),
        image,
        diff_ids,
    })
}

fn check_shape(raw: &Raw) -> Result<&RawRootfs, ContentError> {
    let malformed = |problem: &str| ContentError::Malformed {
        what: "config",
        problem: problem.into(),
    };
    if raw.schema_version.is_some() || raw.layers.is_some() || raw.manifests.is_some() {
        return Err(malformed("it is a manifest or an index, and no config"));
    }
    let rootfs = raw.rootfs.as_ref();
    rootfs.ok_or_else(|| malformed("it has no 'rootfs', which the config of each image has"))
}

fn check_platform(raw: &Raw) -> Result<(), ContentError> {
    let said = |part: &'_ Option<String>| part.clone().unwrap_or_default();
    let (os, architecture) = (said(&raw.os), said(&raw.architecture));
    let platform = Platform::normalized(&os, &architecture, &said(&raw.variant));
    if platform.is_hosts() {
        return Ok(());
    }
    Err(ContentError::WrongPlatform {
        host: Platform::host().to_string(),
        found: platform.to_string(),
    })
}

fn keep(run: RawRun) -> ImageConfig {
    let pair = |text: String| match text.split_once('=') {
        Some((name, value)) => (name.to_owned(), value.to_owned()),
        None => (text, String::new()),
    };
    let some = |text: Option<String>| text.filter(|text| !text.is_empty());
    ImageConfig {
        environment: run.env.unwrap_or_default().into_iter().map(pair).collect(),
        entrypoint: run.entrypoint.map(OneOrMany::into_list).unwrap_or_default(),
        command: run.cmd.map(OneOrMany::into_list).unwrap_or_default(),
        working_directory: some(run.working_dir),
        user: some(run.user),
    }
}

/// The config of an image that came without one: a bare root file system.
pub(crate) fn synthetic(diff_id: &Digest) -> Vec<u8> {
    let host = Platform::host();
    serde_json::json!({
        "architecture": host.architecture,
        "os": host.os,
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    })
    .to_string()
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::causes::with_causes;

    fn config(architecture: &str, rest: &str) -> Vec<u8> {
        format!(
            r#"{{"architecture":"{architecture}","os":"linux",{rest}"rootfs":{{"diff_ids":[]}}}}"#
        )
        .into_bytes()
    }

    #[test]
    fn what_docker_writes_is_read() {
        let bytes = config(
            Platform::host().architecture,
            r#""config":{"Env":["A=b=c","B="],"Cmd":["sh"],"Entrypoint":null,"WorkingDir":"","User":"1:2","Labels":null},"#,
        );
        let image = read(&bytes, 0).unwrap().image;
        assert_eq!(
            image.environment,
            [("A".into(), "b=c".into()), ("B".into(), String::new())]
        );
        assert_eq!(image.command, ["sh"]);
        assert!(image.entrypoint.is_empty());
        assert_eq!(image.working_directory, None);
        assert_eq!(image.user.as_deref(), Some("1:2"));
    }

    #[test]
    fn another_machines_image_is_refused() {
        let error = read(&config("vax", ""), 0).unwrap_err();
        assert!(error.to_string().contains("linux/vax"), "{error}");
        let error = read(br#"{"os":"plan9","rootfs":{}}"#, 0).unwrap_err();
        assert!(error.to_string().contains("plan9/unknown"), "{error}");
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn this_machine_has_several_names() {
        for name in ["amd64", "AMD64", "x86_64", "X86_64", "x86-64", ""] {
            assert!(read(&config(name, ""), 0).is_ok(), "{name}");
            let variant = config(name, r#""variant":"v1","#);
            assert!(read(&variant, 0).is_ok(), "{name}");
        }
        let linux = br#"{"os":"Linux","architecture":null,"rootfs":{}}"#;
        assert!(read(linux, 0).is_ok());
        for name in ["arm64", "aarch64", "i386", "x86", "amd"] {
            assert!(read(&config(name, ""), 0).is_err(), "{name}");
        }
    }

    #[test]
    fn layers_must_be_as_many_as_the_manifest_has() {
        let bytes = config(Platform::host().architecture, "");
        let error = with_causes(&read(&bytes, 1).unwrap_err());
        assert!(error.contains("names 0 layers"), "{error}");
    }

    #[test]
    fn an_image_without_layers_says_so_in_several_ways() {
        for ids in [
            r#""diff_ids":[]"#,
            r#""diff_ids":null"#,
            r#""type":"layers""#,
        ] {
            let text = format!(r#"{{"os":"linux","rootfs":{{{ids}}}}}"#);
            assert!(read(text.as_bytes(), 0).unwrap().diff_ids.is_empty());
            assert!(read(text.as_bytes(), 1).is_err(), "{ids}");
        }
        let null = br#"{"os":"linux","rootfs":{"diff_ids":[null]}}"#;
        assert!(read(null, 1).is_err() && read(null, 0).is_err());
    }

    #[test]
    fn a_synthetic_config_reads_back() {
        let diff_id = Digest::of(b"layer");
        let bytes = synthetic(&diff_id);
        assert_eq!(bytes, synthetic(&diff_id));
        assert_eq!(read(&bytes, 1).unwrap().diff_ids, [diff_id]);
    }
}
