//! Keys of a link that runners know but cannot serve yet.
//!
//! Such a link is refused when it is loaded, so that nothing that its author asked for
//! is left out in silence.

use chain::{Link, Network, Warm};

/// The first such key of a link.
pub(super) fn key(link: &Link) -> Option<&'static str> {
    let constraints = &link.constraints;
    let keys = [
        ("Warm: number", matches!(link.warm, Warm::Count(_))),
        ("Network: loopback", link.network == Network::Loopback),
        ("Input: a folder", is_folder(link.input.as_deref())),
        ("Output: a folder", is_folder(link.output.as_deref())),
        ("Files", !link.files.is_empty()),
        ("Data", !link.data.is_empty()),
        ("Secrets", !link.secrets.is_empty()),
        ("Parameters", !link.parameters.is_empty()),
        ("Constraints: CPUTime", constraints.cpu_time.is_some()),
        ("Constraints: Output", constraints.output.is_some()),
        ("Constraints: Scratch", constraints.scratch.is_some()),
        ("Constraints: OpenFiles", constraints.open_files.is_some()),
    ];
    keys.into_iter()
        .find_map(|(key, is_asked_for)| is_asked_for.then_some(key))
}

fn is_folder(path: Option<&str>) -> bool {
    path.is_some_and(|path| path.ends_with('/'))
}
