//! What this host offers to sandboxes, looked at without making one.

use crate::cgroup::Cgroups;
use crate::sys;

/// What this host offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facilities {
    /// The version of Landlock that the kernel has; 0 where it has none.
    pub landlock: u32,
    /// Each controller of cgroups that limits need, and where cgroups for it can
    /// be made, if they can.
    pub controllers: Vec<(&'static str, Option<std::path::PathBuf>)>,
}

/// Looks at what this host offers to this process.
pub fn facilities() -> Facilities {
    let cgroups = Cgroups::new();
    let controllers = cgroups.controllers();
    Facilities {
        landlock: sys::landlock_version(),
        controllers: controllers
            .into_iter()
            .map(|(controller, place)| (controller, place.map(Into::into)))
            .collect(),
    }
}
