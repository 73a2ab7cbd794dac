//! Which of an index's images is for this machine.

use std::fmt;

use serde::Deserialize;

use super::{ContentError, Descriptor};

/// What an index says an image is for, and what this machine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Platform<S = String> {
    /// Empty where it is not said, as the architecture.
    pub(crate) os: S,
    pub(crate) architecture: S,
    pub(crate) variant: Option<S>,
}

/// As it is written: by hand, too, so that parts may be missing.
#[derive(Deserialize)]
struct Written {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
}

impl<'de> Deserialize<'de> for Platform {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Written::deserialize(deserializer)?;
        Ok(Self::normalized(
            &written.os.unwrap_or_default(),
            &written.architecture.unwrap_or_default(),
            &written.variant.unwrap_or_default(),
        ))
    }
}

impl Platform {
    /// A platform in Go's words. Builders that are no Go programs write what
    /// `uname -m` says, or what their users wrote.
    pub(crate) fn normalized(os: &str, architecture: &str, variant: &str) -> Self {
        let architecture = architecture.to_lowercase();
        let variant = variant.to_lowercase();
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("amd64" | "x86_64" | "x86-64" | "x64", "v1") => ("amd64", ""),
            ("amd64" | "x86_64" | "x86-64" | "x64", variant) => ("amd64", variant),
            ("386" | "i386" | "i486" | "i586" | "i686" | "x86", _) => ("386", ""),
            ("arm64" | "aarch64" | "armv8" | "armv8l", "8" | "v8") => ("arm64", ""),
            ("arm64" | "aarch64" | "armv8" | "armv8l", variant) => ("arm64", variant),
            ("armhf" | "armv7" | "armv7l", _) => ("arm", "v7"),
            ("armel" | "armv6" | "armv6l", _) => ("arm", "v6"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "6") => ("arm", "v6"),
            ("arm", "7") => ("arm", "v7"),
            ("powerpc64le", variant) => ("ppc64le", variant),
            ("loongarch64", variant) => ("loong64", variant),
            other => other,
        };
        Self {
            os: os.to_lowercase(),
            architecture: architecture.to_owned(),
            variant: Some(variant.to_owned()).filter(|variant| !variant.is_empty()),
        }
    }

    /// Whether what is said of it is said of this machine, too.
    pub(crate) fn is_hosts(&self) -> bool {
        let host = Platform::host();
        let fits = |said: &str, host| said.is_empty() || said == host;
        fits(&self.os, host.os) && fits(&self.architecture, host.architecture)
    }

    fn is_said(&self) -> bool {
        !self.os.is_empty() && !self.architecture.is_empty()
    }
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
        let said = |part: &S| match part.as_ref() {
            "" => "unknown".to_owned(),
            part => part.to_owned(),
        };
        write!(f, "{}/{}", said(&self.os), said(&self.architecture))?;
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

/// Most entries that are tried, since each may have to be fetched.
const CANDIDATES_MAX: usize = 8;

/// The descriptors that may be of this machine's image, best first. Those that say
/// no platform, or half of one, come last; their config is checked later.
pub(crate) fn candidates(manifests: &[Descriptor]) -> Result<Vec<&Descriptor>, ContentError> {
    let score = |descriptor: &Descriptor| match &descriptor.platform {
        Some(platform) if !platform.is_hosts() => None,
        Some(platform) if platform.is_said() => rank(platform.variant.as_deref()),
        Some(_) => Some(u8::MAX - 1),
        None => Some(u8::MAX),
    };
    let images = manifests.iter().filter(|entry| !entry.is_artifact());
    let mut scored: Vec<(u8, &Descriptor)> = images
        .filter_map(|descriptor| Some((score(descriptor)?, descriptor)))
        .collect();
    scored.sort_by_key(|(score, _)| *score);
    scored.truncate(CANDIDATES_MAX);
    if !scored.is_empty() {
        return Ok(scored.into_iter().map(|(_, entry)| entry).collect());
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
        host: Platform::host().to_string(),
        available,
    })
}
