//! Chains, links and link ids: what a chain file says, as plain data.
//!
//! A [`Chain`] is a list of [`ChainLink`]s. Each of them says how the chain uses a
//! [`Link`], which says what runs: an image, a command in it, what that may use.
//! Links that run the same thing have the same [`LinkId`], whichever chain they are
//! in and whatever they are called there.
//!
//! ```
//! use chain::Chain;
//!
//! let file = "
//! Deadline: 10s
//! Chain:
//! - Image: busybox
//!   Command: /bin/cat
//! - Image: busybox
//!   Command: /bin/grep
//!   Arguments: [data]
//!   AcceptedExitCodes: [0, 1]
//! ";
//! let chain = Chain::parse(file, "words.yaml", "words")?;
//!
//! let [cat, grep] = &chain.links[..] else { panic!("it has two links") };
//! assert_eq!(cat.name, "cat");
//! assert_eq!(cat.id.to_string(), "188b0237c1423313d2eff0dbfb4d426a");
//! assert!(grep.accepts(1) && grep.link.is_pure());
//!
//! // A chain can be written again, and a link by itself: it has the same id.
//! let link = chain::Link::from_yaml(cat.link.to_yaml(), "a link")?;
//! assert_eq!(link.id(), cat.id);
//! # Ok::<(), chain::FileError>(())
//! ```
//!
//! A [`FileError`] has all that is wrong with a file, each [`Diagnostic`] with its
//! place, and often with an edit that puts it right. Printed, it shows the lines:
//!
//! ```
//! let error = chain::Chain::parse("Chain:\n- Imgae: busybox\n", "words.yaml", "words");
//! let error = error.unwrap_err();
//!
//! let diagnostic = &error.diagnostics()[0];
//! assert_eq!((diagnostic.line, diagnostic.column), (2, 3));
//! assert_eq!(diagnostic.suggestion.as_ref().unwrap().replacement, "Image");
//! println!("{error}");
//! ```
//!
//! This crate is pure: it opens no file, starts no thread and knows nothing of
//! images, processes or servers. Its input is hostile by assumption: no bytes may
//! make it panic, recurse without bound or use memory out of proportion; [`limits`]
//! has the bounds. [`units`] reads amounts of memory, time and CPU as users write
//! them, and [`text`] tells what of a stranger's text may be shown as it is.
#![forbid(unsafe_code)]

mod chain;
mod file;
mod identity;
mod keys;
pub mod limits;
mod link;
mod link_id;
mod parameters;
mod pattern;
mod template;
pub mod text;
pub mod units;

pub use crate::chain::{Chain, ChainLink, DEFAULT_DEADLINE, Deadline};
pub use crate::file::{Diagnostic, FileError, Suggestion};
pub use crate::keys::{Glob, Key, KeyFile, Proof, Right, RightError, is_key_name};
pub use crate::link::{Constraints, DataSource, Link, LiteralFile, Network, Warm, Writable};
pub use crate::link_id::{LinkId, LinkIdError};
pub use crate::parameters::{Filled, Parameter, ParameterError};
pub use crate::pattern::{Pattern, PatternError};
pub use crate::template::is_name;
pub use crate::units::CpuLimit;
