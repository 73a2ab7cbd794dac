//! A call that goes on in frames.
//!
//! [`state`] decides, as plain data: what may be sent, what may come, and who is
//! lost; [`credit`] counts for it. [`line`] is one side's way to the other, [`body`] the two ends of a body.
//! [`duplex`] moves both bodies and standard error over a line, for either side;
//! [`caller`] and [`answerer`] say when a call is over.

pub(crate) mod answerer;
pub(crate) mod body;
pub(crate) mod caller;
pub(crate) mod credit;
pub(crate) mod duplex;
pub(crate) mod line;
pub(crate) mod state;
