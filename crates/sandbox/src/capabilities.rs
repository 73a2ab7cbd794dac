//! Capabilities: those over a link's own files, processes and users, for its root, and
//! none for anybody else.
//!
//! The zygote keeps those that it has in its user namespace, since mounting needs them.
//! A command loses them when it is executed, but for those that are still in the bounding
//! set, where it is root. With `no_new_privs`, nobody gains one, by a set-id file neither.

use rustix::thread::{
    CapabilitySet, capability_is_in_bounding_set, remove_capability_from_bounding_set,
};

use crate::spec::Ids;

/// What a root does with the files, processes and users of its image: `chown`, `tar -x`
/// and `cp -a` of others' files, `su`, `gosu`. They reach what belongs to the link's
/// 65,536 ids, which is nothing but its own: its private folders, its processes, and the
/// files of its image, which are read-only.
const OF_ROOT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID);

/// What a command keeps that starts as `user`. `counts_for_link` says whether what the
/// kernel bounds for each user is bounded for the link as a whole; else whoever can become
/// another user has all of it once more.
pub(crate) fn kept(user: u32, ids: Ids, counts_for_link: bool) -> CapabilitySet {
    match ids {
        Ids::Shifted { .. } if user == 0 && counts_for_link => OF_ROOT | CapabilitySet::SETUID,
        Ids::Shifted { .. } if user == 0 => OF_ROOT,
        Ids::Shifted { .. } | Ids::Own => CapabilitySet::empty(),
    }
}

/// Takes all but these out of the bounding set and forbids new privileges, for good, for
/// this process and all that it makes.
pub(crate) fn drop_for_good(kept: CapabilitySet) -> rustix::io::Result<()> {
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        // The kernel knows only so many, and says so with an error.
        match capability_is_in_bounding_set(capability) {
            Ok(true) if !kept.contains(capability) => {
                remove_capability_from_bounding_set(capability)?;
            }
            Ok(_) => {}
            Err(_) => break,
        }
    }
    rustix::thread::set_no_new_privs(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_root_of_ids_that_are_nobodys_keeps_any() {
        let shifted = Ids::Shifted { base: 1 << 20 };
        assert_eq!(kept(0, shifted, true).bits(), 0b1110_1011);
        assert_eq!(kept(0, shifted, false).bits(), 0b0110_1011);
        assert!(kept(33, shifted, true).is_empty());
        assert!(kept(0, Ids::Own, true).is_empty());
    }
}
