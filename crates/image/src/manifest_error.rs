//! What can be wrong with what is said about an image.

use crate::causes::Cause;
use crate::digest::Digest;

/// What a registry or an archive says about an image is wrong or unusable.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// The bytes are not those that the digest names.
    #[error(
        "verify {what}: its bytes have the digest {found}, but {wanted} was asked for; it was damaged or tampered with on its way"
    )]
    WrongDigest {
        /// What was verified.
        what: String,
        /// The digest that names it.
        wanted: Digest,
        /// The digest that its bytes have.
        found: Digest,
    },
    /// Fewer or more bytes than the descriptor says.
    #[error("verify {what}: it has {found} bytes instead of {wanted}; it was cut off or replaced")]
    WrongSize {
        /// What was verified.
        what: String,
        /// The size in its descriptor.
        wanted: u64,
        /// The size that it has.
        found: u64,
    },
    /// Over a bound of ours.
    #[error("read the {what}: it has {found} {unit}, at most {most} are allowed")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// What is counted.
        unit: &'static str,
        /// How many there are.
        found: u64,
        /// How many there may be.
        most: u64,
    },
    /// Its layers have more bytes than an image may have.
    #[error("read the layers: compressed they have {found} bytes, at most {most} are allowed")]
    TooManyBytes {
        /// How many there are.
        found: u64,
        /// How many there may be.
        most: u64,
    },
    /// Not JSON, or JSON of another shape.
    #[error("read the {what}")]
    Malformed {
        /// Which document.
        what: &'static str,
        /// What is wrong.
        #[source]
        problem: Cause,
    },
    /// A document of a kind that is no image.
    #[error("use the media type '{found}' as {wanted}: {advice}")]
    WrongMediaType {
        /// The media type.
        found: String,
        /// What it was used as.
        wanted: &'static str,
        /// Why not, and what to do.
        advice: &'static str,
    },
    /// No image for this machine among those offered.
    #[error("find an image for {host}: there is {} only; rebuild it for {host} or use another tag", list(.available))]
    NoPlatform {
        /// What this machine is.
        host: String,
        /// What there is.
        available: Vec<String>,
    },
    /// The config is for another machine.
    #[error(
        "use an image for {found}: this machine is {host}; use another tag, or correct the image's config if only that is wrong, for example with 'umoci config --architecture'"
    )]
    WrongPlatform {
        /// What this machine is.
        host: String,
        /// What the image is for.
        found: String,
    },
    /// Something that the document names is not there.
    #[error("find {what}: the archive or folder does not contain it; it is incomplete")]
    Missing {
        /// What is missing.
        what: String,
    },
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "nothing".to_owned()
    } else {
        names.join(", ")
    }
}

impl ContentError {
    /// Whether it says that something is no image, rather than a bad one.
    pub(crate) fn is_of_artifact(&self) -> bool {
        matches!(self, Self::WrongMediaType { .. })
    }
}
