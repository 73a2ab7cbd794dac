//! Unix pipelines whose every stage is a container.
//!
//! This is the library below the `consecution` command, for programs that call chains, or
//! run links, themselves.
//!
//! ```toml
//! [dependencies]
//! consecution = { version = "0.1", default-features = false }
//! tokio = { version = "1", features = ["rt-multi-thread"] }
//! # For streams:
//! bytes = "1"
//! futures-util = { version = "0.3", default-features = false }
//! ```
//!
//! # What a chain is
//!
//! A *chain* is a row of *links*. Each link is a command in a container image; what it
//! writes is what the next one reads, as in `cat | grep data | xargs -n 1`:
//!
//! ```
//! use consecution::chain::Chain;
//!
//! let text = r"
//! Name: words
//! Chain:
//! - {Image: busybox, Command: cat}
//! - {Image: busybox, Command: grep, Arguments: [data]}
//! - {Image: busybox, Command: xargs, Arguments: [-n, '1']}
//! ";
//! let chain = Chain::parse(text, "words.yaml", "words")?;
//! assert_eq!(chain.links.len(), 3);
//! # Ok::<(), consecution::chain::FileError>(())
//! ```
//!
//! [`chain_file::read`] reads one from a file. Every call of a chain runs each of its links
//! in a fresh process, which has no network and no lasting storage unless the link says
//! otherwise. A link never sees the end of an input that is not complete: if a link
//! fails, those behind it are cut off, and the call fails.
//!
//! A [`Portal`] calls a chain: it calls link after link, each with the output of the one
//! before it. A [`Runner`](runner::Runner) answers the calls of links: it keeps processes of
//! them ready. Calls travel over a [`Transport`](transport::Transport), and portals publish
//! their links in a [`LinkStore`](link_store::LinkStore), where runners find them. These are
//! NATS and etcd, or memory alone if portal and runner are in one process.
//!
//! # A portal against running servers
//!
//! Runners elsewhere (`consecution runner`) run the links:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use consecution::Portal;
//!
//! let portal =
//!     Portal::connect("words.yaml", "nats://127.0.0.1:4222", ["http://127.0.0.1:2379"]).await?;
//! let reply = portal.send("this is raw data").await?;
//! assert_eq!(reply, "this\nis\nraw\ndata\n");
//! # Ok(())
//! # }
//! ```
//!
//! [`Network`] is for TLS, for credentials, and for a runner in your program: its page has
//! one with both a portal and a runner.
//!
//! # A portal and a runner in one process
//!
//! It needs no server. Your program is executed once more for each link, as the parent of
//! that link's processes, so its `main` must begin with [`run_zygote_if_asked`], before
//! there is a second thread: not with `#[tokio::main]`.
//!
//! ```no_run
//! use consecution::runner::{PROCESSES_MAX_DEFAULT, Sandboxing};
//! use consecution::{Serve, chain_file, images};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     consecution::run_zygote_if_asked();
//!     let chain = chain_file::read("words.yaml".as_ref())?;
//!     let images = images("/var/lib/words".as_ref())?;
//!     let (most, rules) = (PROCESSES_MAX_DEFAULT, Sandboxing::default());
//!     tokio::runtime::Runtime::new()?.block_on(async {
//!         let serve = Serve::start(vec![chain.clone()], images, most, rules).await?;
//!         // Images that are missing are pulled, and all links opened.
//!         serve.ready(&chain).await?;
//!         let reply = serve.portals()[0].send("this is raw data").await?;
//!         assert_eq!(reply, "this\nis\nraw\ndata\n");
//!         Ok(())
//!     })
//! }
//! ```
//!
//! [`images`] opens a store of images in a folder, and pulls those that are missing;
//! [`Store::import`](image::Store::import) puts one there from a file.
//! [`OneShot`] is for a program that makes only a few calls.
//! [`portal::http::bind`] offers chains over HTTP, as `consecution serve` does.
//!
//! # Streaming
//!
//! [`Portal::send`] holds the reply in memory. [`Portal::stream`] takes and gives bodies of
//! any size, with an account of each link at the end:
//!
//! ```no_run
//! # async fn example(portal: consecution::Portal) -> Result<(), Box<dyn std::error::Error>> {
//! use bytes::Bytes;
//! use consecution::transport::Body;
//! use consecution::{ChainReply, ChainRequest};
//! use futures_util::{StreamExt, stream};
//!
//! let lines = stream::iter(1..=1_000_000).map(|n| Ok(Bytes::from(format!("data {n}\n"))));
//! let ChainReply { mut body, report } = portal.stream(ChainRequest::new(Body::new(lines)));
//! while let Some(Ok(chunk)) = body.next().await {
//!     println!("{} bytes", chunk.len());
//! }
//! // Here is the error of a run that failed, and whose body was cut off therefore.
//! for link in report.await?.links {
//!     println!("{}: {:?}", link.name, link.ending);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Read the body before you await the report: a run does not end while nobody reads its
//! output. If the run fails, the body ends with an `Err`, and the report says why: output
//! counts only once the report is `Ok`. Dropping the body stops the links, as a closed pipe
//! does in a shell.
//!
//! # Errors
//!
//! A [`ChainError`] says which link failed, and why. Its
//! [`reason`](portal::ChainFailure::reason) tells what can be done about it, and
//! [`stderr`](portal::ChainFailure::stderr) has the end of what the link wrote to standard
//! error, which is not in the text of the error.
//!
//! ```no_run
//! # async fn example(portal: consecution::Portal) {
//! use consecution::portal::FailureReason;
//!
//! match portal.send("this is raw data").await {
//!     Ok(reply) => println!("{} bytes", reply.len()),
//!     Err(error) => match &error.reason {
//!         FailureReason::Busy | FailureReason::NoRunner => println!("try again later: {error}"),
//!         FailureReason::Exited(1) => println!("{} found nothing", error.name),
//!         _ => println!("{error}\n{}", String::from_utf8_lossy(&error.stderr)),
//!     },
//! }
//! # }
//! ```
//!
//! The text of an error does not repeat those of its [sources](std::error::Error::source);
//! [`error::with_causes`] prints all of them, on one line.
//!
//! What is tried again in the background, such as a connection, is logged with
//! [`tracing`](https://docs.rs/tracing): your program chooses the subscriber.
//!
//! # Traces
//!
//! [`Traces::start`] sends distributed traces to an OpenTelemetry collector, if the standard
//! `OTEL_*` variables ask for it. Set [`trace`](ChainRequest::trace) of a request to have its
//! spans inside of one of yours.
//!
//! # Features
//!
//! | feature | |
//! |---|---|
//! | `cli` (default) | the command line, which `main.rs` calls; a program that embeds a portal or a runner does without it, by `default-features = false` |
//! | `conformance` | a suite of checks for each of the traits [`Transport`](transport::Transport) and [`LinkStore`](link_store::LinkStore), which every backend must pass: for those who write another one |
#![forbid(unsafe_code)]

mod app;
mod backoff;
pub mod chain_file;
mod chunk_queue;
#[cfg(feature = "cli")]
mod cli;
pub mod config;
#[cfg(any(test, feature = "conformance"))]
mod conformance;
mod connection;
pub mod error;
pub mod figures;
pub mod http;
pub mod link_store;
mod log_batch;
mod log_on_change;
mod name;
mod parameters;
mod pending;
mod pipe;
pub mod portal;
mod registration;
pub mod runner;
mod spans;
mod text;
pub mod trace;
pub mod transport;

/// Chain files and links as data.
pub use chain;
/// Images: references, registries and the store.
pub use image;

pub use app::{
    ConnectError, Finding, Ids, Network, OneShot, Serve, StartError, State, check_sandbox,
    default_home, images, open_store, open_store_for, run_zygote_if_asked,
};
#[cfg(feature = "cli")]
pub use cli::command_line;
pub use connection::Connection;
pub use portal::{ChainError, ChainReply, ChainRequest, Portal};
pub use spans::{SettingError, Traces};
