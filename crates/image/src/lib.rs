//! From an image reference to a root folder.
//!
//! [`Store`] is the way in: it pulls an image from a registry or imports it
//! from an archive, verifies every byte against the digest that names it,
//! unpacks the layers into one folder per image, and hands out [`Image`]s that
//! keep this folder alive for as long as they are held.
//!
//! What this crate must not do: run anything, mount anything, or believe
//! anything that a registry, an archive or a layer says before it is checked.
//! All input is hostile; all of it is bounded by [`Limits`].

#![forbid(unsafe_code)]

mod config;
mod digest;
#[cfg(fuzzing)]
pub mod fuzzing;
mod import;
mod layer;
mod manifest;
mod pull;
mod reference;
mod regular;
mod source;
mod store;

pub use config::ImageConfig;
pub use digest::{Digest, DigestError};
pub use layer::{LayerError, LayerProblem, Limits, MountPoint, Owners};
pub use manifest::ContentError;
pub use pull::PullError;
pub use reference::{Reference, ReferenceError, ReferenceProblem};
pub use source::archive::{ImportError, Input};
pub use source::registry::credentials::CredentialsError;
pub use source::registry::{Registries, RegistryError, Retry, Timeouts};
pub use source::{NoProgress, Progress};
pub use store::{Entry, Image, Store, StoreError, StoreOptions};
