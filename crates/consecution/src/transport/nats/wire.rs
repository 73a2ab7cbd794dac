//! The wire format: subjects, headers, frames, and the lines of a server, as
//! `docs/protocol.md` describes them.
//!
//! Pure: converts between bytes or headers and plain data. Nothing here sends, waits or
//! keeps state. No input from outside may make it panic, which `fuzz/targets/wire.rs`
//! tests.
//!
//! | for | see |
//! |---|---|
//! | names of subjects and headers | [`subject`] |
//! | what a server sends; headers as bytes | [`server_line`], [`header_block`] |
//! | values of headers, and escaping | [`header`] |
//! | requests | [`request`], [`following`] |
//! | replies in one message, and how calls ended | [`reply`], [`outcome`] |
//! | frames of a stream | [`frame`] |
//! | the kinds of messages to an inbox | [`kind`] |

pub(crate) mod following;
pub(crate) mod frame;
pub(crate) mod header;
pub(crate) mod header_block;
pub(crate) mod kind;
pub(crate) mod outcome;
pub(crate) mod reply;
pub(crate) mod request;
pub(crate) mod server_line;
pub mod subject;
