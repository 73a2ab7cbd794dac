//! What travels: subjects, headers, frames, and the lines of a server, as
//! `docs/protocol.md` describes them.
//!
//! Pure: bytes and headers in, plain data out, and the other way round. Nothing here
//! sends, waits or remembers, and nothing that comes from outside makes it panic:
//! `fuzz/targets/wire.rs` tries.
//!
//! | for | see |
//! |---|---|
//! | names of subjects and headers | [`subject`] |
//! | what a server sends, and headers as bytes | [`server_line`], [`header_block`] |
//! | values of headers, and how text is escaped | [`header`] |
//! | what a request says | [`request`], [`following`] |
//! | what a reply in one message says | [`reply`], [`outcome`] |
//! | frames of a stream | [`frame`] |
//! | whose a message is | [`kind`] |

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
