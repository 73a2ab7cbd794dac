//! Which of an index's images is for this machine.

use std::fmt;

use serde::Deserialize;

use super::{ContentError, Descriptor};

/// What an index says an image is for, and what this machine is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Platform<S = String> {
    pub(crate) os: S,
    pub(crate) architecture: S,
    pub(crate) variant: Option<S>,
}

impl Platform<&'static str> {
    /// This machine, in Go's words, which are those of the image format.
    pub(crate) fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", None),
            "x86" => ("386", None),
            "arm" => ("arm", Some("v7")),
            "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        Self {
            os: "linux",
            architecture,
            variant,
        }
    }
}

impl<S: fmt::Display + AsRef<str>> fmt::Display for Platform<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) if !variant.as_ref().is_empty() => write!(f, "/{variant}"),
            _ => Ok(()),
        }
    }
}

/// How well an image's variant suits this machine: lower is better, `None` not
/// at all.
fn rank(variant: Option<&str>) -> Option<u8> {
    let host = Platform::host();
    let runs: &[&str] = match host.architecture {
        "amd64" if runs_amd64_v3() => &["v1", "v2", "v3"],
        "amd64" => &["v1"],
        "arm64" => &["v8"],
        "arm" => &["v7", "v6", "v5"],
        _ => &[],
    };
    match variant {
        None | Some("") => Some(0),
        Some(variant) => {
            let place = runs.iter().position(|runs| *runs == variant)?;
            u8::try_from(place).ok()
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn runs_amd64_v3() -> bool {
    std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("bmi2")
}

#[cfg(not(target_arch = "x86_64"))]
fn runs_amd64_v3() -> bool {
    false
}

/// The descriptor for this machine. One that says no platform counts as the
/// last resort; its config is checked later.
pub(crate) fn choose(manifests: &[Descriptor]) -> Result<&Descriptor, ContentError> {
    let host = Platform::host();
    let score = |descriptor: &Descriptor| match &descriptor.platform {
        Some(platform) if platform.os == host.os && platform.architecture == host.architecture => {
            rank(platform.variant.as_deref())
        }
        Some(_) => None,
        None => Some(u8::MAX),
    };
    let best = manifests
        .iter()
        .filter_map(|descriptor| Some((score(descriptor)?, descriptor)))
        .min_by_key(|(score, _)| *score);
    if let Some((_, descriptor)) = best {
        return Ok(descriptor);
    }
    let named = manifests
        .iter()
        .filter_map(|descriptor| descriptor.platform.as_ref());
    let mut available: Vec<String> = named
        .filter(|platform| platform.os != "unknown")
        .map(ToString::to_string)
        .collect();
    available.dedup();
    Err(ContentError::NoPlatform {
        host: host.to_string(),
        available,
    })
}
