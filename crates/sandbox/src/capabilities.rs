//! Capabilities: a command has none, in any set, and cannot get any.
//!
//! The zygote keeps those that it has in its user namespace, since mounting
//! needs them. A command loses them when it is executed: with an empty bounding
//! set and `no_new_privs`, not even root inside, nor a set-id file, gains one.

use rustix::thread::{
    CapabilitySet, capability_is_in_bounding_set, remove_capability_from_bounding_set,
};

/// Empties the bounding set and forbids new privileges, for good, for this
/// process and all that it makes.
pub(crate) fn drop_for_good() -> rustix::io::Result<()> {
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        // The kernel knows only so many, and says so with an error.
        match capability_is_in_bounding_set(capability) {
            Ok(true) => remove_capability_from_bounding_set(capability)?,
            Ok(false) => {}
            Err(_) => break,
        }
    }
    rustix::thread::set_no_new_privs(true)
}
