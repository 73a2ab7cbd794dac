//! The system call filter: which calls of the kernel a command may make.
//!
//! A filter that is installed per process costs nearly a millisecond, so the
//! zygote installs it once and everything inherits it. But the zygote itself
//! has to mount and to make namespaces, which no command may. Both fit into one
//! filter because of the *knock*: the kernel ignores a sixth argument of calls
//! that take fewer, but shows it to the filter. Privileged calls pass only with
//! 64 secret random bits there, which live in the zygote's memory, where no
//! command can look. (A command has no capability either, so the filter is the
//! second wall and not the first.)
//!
//! Two filters, since each can answer with one error only: what is not on the
//! list of allowed calls does not exist (`ENOSYS`, so that programs fall back,
//! as the C library does from `clone3` to `clone`), and what is dangerous is
//! forbidden (`EPERM`), as under Docker's default profile.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Compare,
    SeccompCondition as Condition, SeccompFilter, SeccompRule as Rule,
};

use crate::failure::{Failure, Step};
use crate::sys::{self, Knock};

mod calls;

/// Compiles and installs both filters.
pub(crate) fn install(knock: Knock) -> Result<(), Failure> {
    // Compiled before the first is installed: compiling needs memory, and the
    // second one to be installed answers where both have an objection.
    let [allowed, forbidden] = filters(knock)
        .map_err(|error| Failure::because(Step::InstallFilter, "", error.to_string()))?;
    for filter in [allowed, forbidden] {
        sys::install_filter(&filter)
            .map_err(|errno| Failure::new(Step::InstallFilter, "", errno))?;
    }
    Ok(())
}

fn filters(knock: Knock) -> Result<[BpfProgram; 2], seccompiler::BackendError> {
    let allowed = calls::ALLOWED
        .iter()
        .chain(calls::PRIVILEGED)
        .map(|call| (*call, Vec::new()))
        .collect();
    let [absent, forbidden] =
        [libc::ENOSYS, libc::EPERM].map(|errno| SeccompAction::Errno(errno.cast_unsigned()));
    let architecture = std::env::consts::ARCH.try_into()?;
    Ok([
        SeccompFilter::new(allowed, absent, SeccompAction::Allow, architecture)?.try_into()?,
        SeccompFilter::new(
            forbidden_calls(knock)?,
            SeccompAction::Allow,
            forbidden,
            architecture,
        )?
        .try_into()?,
    ])
}

type Rules = BTreeMap<i64, Vec<Rule>>;

fn forbidden_calls(knock: Knock) -> Result<Rules, seccompiler::BackendError> {
    let mut rules = Rules::new();
    for call in calls::FORBIDDEN {
        rules.insert(*call, Vec::new());
    }
    let unknown = || Condition::new(5, Length::Qword, Compare::Ne, knock.0);
    for call in calls::PRIVILEGED {
        rules.insert(*call, vec![Rule::new(vec![unknown()?])?]);
    }
    let mut clone = Vec::new();
    for flag in calls::NAMESPACE_FLAGS {
        let flag = u64::from(flag.cast_unsigned());
        let asks = Condition::new(0, Length::Qword, Compare::MaskedEq(flag), flag)?;
        clone.push(Rule::new(vec![asks, unknown()?])?);
    }
    rules.insert(libc::SYS_clone, clone);

    // Of the personalities, those that only report another kernel or turn off
    // address randomisation's opposite: the list is Docker's.
    let personality = calls::PERSONALITIES
        .iter()
        .map(|allowed| Condition::new(0, Length::Dword, Compare::Ne, *allowed))
        .collect::<Result<Vec<_>, _>>()?;
    rules.insert(libc::SYS_personality, vec![Rule::new(personality)?]);

    // Of some forty families of sockets, many old and rich in bugs, those that
    // a filter may have a use for.
    let mut families = Vec::new();
    for family in calls::SOCKET_FAMILIES {
        let family = u64::from(family.cast_unsigned());
        families.push(Condition::new(0, Length::Dword, Compare::Ne, family)?);
    }
    for call in [libc::SYS_socket, libc::SYS_socketpair] {
        rules.insert(call, vec![Rule::new(families.clone())?]);
    }

    // Typing into a terminal, should one ever be reachable.
    let mut terminal = Vec::new();
    for request in [libc::TIOCSTI, libc::TIOCLINUX] {
        let same = Condition::new(1, Length::Dword, Compare::Eq, request)?;
        terminal.push(Rule::new(vec![same])?);
    }
    rules.insert(libc::SYS_ioctl, terminal);
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_compile_to_what_the_kernel_takes() {
        for filter in filters(Knock(1)).unwrap() {
            assert!(filter.len() < 4096, "{} instructions", filter.len());
        }
    }

    #[test]
    fn no_call_is_both_forbidden_and_allowed() {
        for call in calls::FORBIDDEN {
            assert!(!calls::ALLOWED.contains(call), "call {call}");
        }
    }
}
