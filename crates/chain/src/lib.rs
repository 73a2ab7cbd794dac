//! Chains, links and link ids: what a chain file says, as plain data.
//!
//! This crate reads and writes chain files, checks them, and names links. It
//! is pure: it opens no file, starts no thread and knows nothing of images,
//! processes or servers. Its input is hostile by assumption: no bytes may make
//! it panic, recurse without bound or use memory out of proportion.
//!
//! | module | for |
//! |---|---|
//! | [`chain`](Chain) | a chain, and how it uses each of its links |
//! | [`link`](Link) | what a link runs |
//! | [`link_id`](LinkId) | the name of what a link runs |
//! | `file` | YAML to chain and back, and errors that show the line |
//! | [`limits`] | how much a chain file may hold |
//! | [`text`] | what of a stranger's text may be shown as it is |
//! | [`units`] | amounts of memory, time and CPU as users write them |
//!
//! ```
//! let file = "Chain:\n- Image: busybox\n  Command: /bin/cat\n";
//! let chain = chain::Chain::parse(file, "words.yaml", "words")?;
//! assert_eq!(chain.links[0].name, "cat");
//! assert_eq!(chain.links[0].id.to_string(), "188b0237c1423313d2eff0dbfb4d426a");
//! # Ok::<(), chain::FileError>(())
//! ```
#![forbid(unsafe_code)]

mod chain;
mod file;
pub mod limits;
mod link;
mod link_id;
pub mod text;
pub mod units;

pub use crate::chain::{Chain, ChainLink, DEFAULT_DEADLINE, Deadline};
pub use crate::file::{Diagnostic, FileError, Suggestion};
pub use crate::link::{Constraints, Link, Network};
pub use crate::link_id::{LinkId, LinkIdError};
pub use crate::units::CpuLimit;
