//! Keys of a link that runners know but cannot serve yet.
//!
//! Such a link is refused when it is loaded, so that nothing that its author asked for
//! is left out in silence.

use chain::{Link, Warm};

/// The first such key of a link.
pub(super) fn key(link: &Link) -> Option<&'static str> {
    matches!(link.warm, Warm::Count(_)).then_some("Warm: number")
}
