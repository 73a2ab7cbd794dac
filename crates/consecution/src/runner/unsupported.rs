//! Keys of a link that runners know but cannot serve yet.
//!
//! Such a link is refused when it is loaded, so that nothing that its author asked for
//! is left out in silence.

use chain::Link;

/// The first such key of a link.
pub(super) fn key(link: &Link) -> Option<&'static str> {
    let constraints = &link.constraints;
    let keys = [
        ("Constraints: CPUTime", constraints.cpu_time.is_some()),
        ("Constraints: Output", constraints.output.is_some()),
        ("Constraints: OpenFiles", constraints.open_files.is_some()),
    ];
    keys.into_iter()
        .find_map(|(key, is_asked_for)| is_asked_for.then_some(key))
}
