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
//! Several filters, since each can answer with one error only: what is not on the
//! list of allowed calls does not exist (`ENOSYS`, so that programs fall back,
//! as the C library does from `clone3` to `clone`), what is dangerous is
//! forbidden (`EPERM`), as under Docker's default profile, without a network there
//! is neither the internet nor netlink (`EAFNOSUPPORT`), there is no memory in huge
//! pages (`ENOMEM`), commands of `fcntl` and requests of `ioctl` that are not on a list
//! are unknown (`EINVAL`, `ENOTTY`), no file takes attributes (`EOPNOTSUPP`), and what would allow core dumps, or is advice that
//! harms others, seems to succeed (no error).

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use crate::failure::{Failure, Step};
use crate::spec::Network;
use crate::sys::{self, Knock};
use rules::Rules;

mod calls;
mod rules;

/// Compiles and installs the filters for a link with that network.
pub(crate) fn install(knock: Knock, network: Network) -> Result<(), Failure> {
    // Compiled before the first is installed: compiling needs memory, and the
    // last one to be installed answers where several have an objection.
    let filters = filters(knock, network)
        .map_err(|error| Failure::because(Step::InstallFilter, "", error.to_string()))?;
    for filter in filters {
        sys::install_filter(&filter)
            .map_err(|errno| Failure::new(Step::InstallFilter, "", errno))?;
    }
    Ok(())
}

fn filters(knock: Knock, network: Network) -> Result<Vec<BpfProgram>, seccompiler::BackendError> {
    let allowed: Rules = calls::ALLOWED
        .iter()
        .chain(calls::PRIVILEGED)
        .map(|(_, call)| (*call, Vec::new()))
        .collect();
    let architecture = std::env::consts::ARCH.try_into()?;
    let compile = |rules, others, these| -> Result<BpfProgram, seccompiler::BackendError> {
        SeccompFilter::new(rules, others, these, architecture)?.try_into()
    };
    let refuse = |errno: i32| SeccompAction::Errno(errno.cast_unsigned());
    let allow = SeccompAction::Allow;
    let mut filters = vec![compile(allowed, refuse(libc::ENOSYS), allow.clone())?];
    let mut refusals = vec![
        (0, rules::core_limits()?),
        (0, rules::ignored_advice()?),
        (libc::EINVAL, rules::unknown_values()?),
        (libc::ENOTTY, rules::unknown_requests()?),
        (libc::EOPNOTSUPP, rules::attributes()),
        (libc::EPERM, rules::forbidden_calls(knock)?),
        (libc::ENOMEM, rules::huge_mappings()?),
    ];
    if network == Network::None {
        refusals.push((libc::EAFNOSUPPORT, rules::network_sockets()?));
    }
    for (errno, rules) in refusals {
        filters.push(compile(rules, allow.clone(), refuse(errno))?);
    }
    Ok(filters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_compile_to_what_the_kernel_takes() {
        for network in [Network::None, Network::Host] {
            for filter in filters(Knock(1), network).unwrap() {
                assert!(filter.len() < 4096, "{} instructions", filter.len());
            }
        }
    }

    #[test]
    fn no_call_is_both_forbidden_and_allowed() {
        for (name, call) in calls::ALLOWED {
            assert!(!calls::FORBIDDEN.contains(call), "{name}");
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn what_each_allowed_call_leaves_behind_is_documented() {
        let document = include_str!("../../../docs/sandbox.md");
        let (_, table) = document.split_once("## What the kernel keeps\n").unwrap();
        let (table, _) = table.split_once("\n## ").unwrap();
        let rows = table.lines().filter(|line| line.starts_with("| `"));
        let calls = rows.filter_map(|row| row.split('|').nth(1));
        let mut documented: Vec<_> = calls
            .flat_map(|calls| calls.split('`').skip(1).step_by(2))
            .collect();
        documented.sort_unstable();
        let mut allowed: Vec<_> = calls::ALLOWED
            .iter()
            .map(|(name, _)| name.strip_prefix("SYS_").unwrap())
            .collect();
        allowed.sort_unstable();
        assert_eq!(documented, allowed);
    }
}
