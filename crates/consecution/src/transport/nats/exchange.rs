//! A call that continues in frames.
//!
//! | module | for |
//! |---|---|
//! | [`state`] | decides, as plain data, what may be sent and received, and when the other side is lost |
//! | [`credit`] | counts the bytes in flight, for flow control |
//! | [`line`] | one side's connection to the other |
//! | [`body`] | the two ends of a body |
//! | [`duplex`] | moves both bodies and standard error over a line, for either side |
//! | [`caller`], [`answerer`] | the two sides: when the call is over for each |

pub(crate) mod answerer;
pub(crate) mod body;
pub(crate) mod caller;
pub(crate) mod credit;
pub(crate) mod duplex;
pub(crate) mod line;
pub(crate) mod state;
