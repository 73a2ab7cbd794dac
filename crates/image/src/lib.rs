//! From an image's reference to a root folder.
//!
//! A [`Store`] keeps images on this machine. It pulls them from registries, as
//! [`Registries`] says how, or imports them from an [`Input`]: an archive, a folder or
//! a stream. What it hands out is an [`Image`]: a folder with the image's files, and
//! how its author wants it run. That folder stays for as long as any process holds the
//! `Image`, whatever is removed meanwhile.
//!
//! ```no_run
//! use image::{NoProgress, Reference, Registries, Store, StoreOptions};
//!
//! # async fn get() -> Result<(), Box<dyn std::error::Error>> {
//! let store = Store::open("/var/lib/example".as_ref(), StoreOptions::default())?;
//! let reference: Reference = "busybox:1.36".parse()?;
//! let image = match store.get(&reference)? {
//!     Some(image) => image,
//!     None => {
//!         // Credentials, as `docker login` has left them.
//!         let registries = Registries::from_environment()?;
//!         store.pull(&reference, &registries, &NoProgress).await?
//!     }
//! };
//! println!("{} in {}", image.digest, image.root().display());
//! println!("runs {:?} {:?}", image.config.entrypoint, image.config.command);
//! # Ok(())
//! # }
//! ```
//!
//! All input is hostile. Nothing that a registry, an archive or a layer says is
//! believed before it is checked: every byte is verified against the digest that names
//! it, no path leads out of the root folder, and all that an image may make us do has
//! a bound in [`Limits`]. This crate runs nothing and mounts nothing.
//!
//! Each module imports only those that stand above it here:
//!
//! | module | for |
//! |---|---|
//! | `digest`, `reference` | what names bytes, and what names images |
//! | `manifest`, `config` | what is said about an image; pure |
//! | `layer` | a compressed tar in, files in a root folder out |
//! | `store` | images on the disk |
//! | `source` | registries and archives, which fill files of the store |
//! | `pull`, `import` | the way from a source into the store |

#![forbid(unsafe_code)]

mod causes;
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
