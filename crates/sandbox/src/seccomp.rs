//! The system call filter: which calls of the kernel a command may make.
//!
//! A filter that is installed per process costs nearly a millisecond, so the
//! zygote installs it once and everything inherits it. But the zygote itself
//! has to mount and to make namespaces, which no command may. Both fit into one
//! filter because of the *mount token*: the kernel ignores a sixth argument of calls
//! that take fewer, but shows it to the filter. Privileged calls pass only with
//! 64 secret random bits there, which live in the zygote's memory, where no
//! command can look. (A command has no capability for these calls either, so the filter
//! is the second wall and not the first.)
//!
//! The filter refuses a call with an error that programs expect:
//!
//! - `ENOSYS`, if it is not on the list of allowed calls: programs then fall back, as the
//!   C library does from `clone3` to `clone`.
//! - `EPERM`, if it is dangerous, as under Docker's default profile.
//! - `EAFNOSUPPORT`, for internet and netlink sockets without a network.
//! - `ENOMEM`, for memory in huge pages.
//! - `EINVAL` and `ENOTTY`, for commands of `fcntl` and requests of `ioctl` that are on
//!   no list.
//! - `EOPNOTSUPP`, for setting extended attributes.
//! - No error, though nothing happens, for what would allow core dumps and for advice
//!   that harms others.

use seccompiler::{BackendError, BpfProgram};

use crate::failure::{Failure, Step};
use crate::spec::Network;
use crate::sys::{self, MountToken};
use program::{Answer, Check, Table, program};

mod calls;
mod program;
mod rules;

/// Compiles and installs the filter for a link with that network.
pub(crate) fn install(token: MountToken, network: Network) -> Result<(), Failure> {
    let filter = filter(token, network)
        .map_err(|error| Failure::because(Step::InstallFilter, "", error.to_string()))?;
    sys::install_filter(&filter).map_err(|errno| Failure::new(Step::InstallFilter, "", errno))
}

fn filter(token: MountToken, network: Network) -> Result<BpfProgram, BackendError> {
    let mut checks = checks(token, network)?;
    let table = table(&checks);
    // The table answers all other calls.
    for (_, rules) in &mut checks {
        rules.retain(|call, _| {
            number(*call).and_then(|call| table.get(&call)) == Some(&Answer::Check)
        });
    }
    checks.retain(|(_, rules)| !rules.is_empty());
    program(&table, &checks)
}

/// The checks of the arguments of allowed calls, each with its error. If several match a
/// call, the first one answers.
fn checks(token: MountToken, network: Network) -> Result<Vec<Check>, BackendError> {
    let mut checks = vec![
        (libc::ENOMEM, rules::huge_mappings()?),
        (libc::EPERM, rules::forbidden_calls(token)?),
        (libc::EOPNOTSUPP, rules::attributes()),
        (libc::ENOTTY, rules::unknown_requests()?),
        (libc::EINVAL, rules::unknown_values()?),
        (0, rules::ignored_advice()?),
        (0, rules::core_limits()?),
    ];
    if network == Network::None {
        checks.insert(0, (libc::EAFNOSUPPORT, rules::network_sockets()?));
    }
    Ok(checks)
}

/// The answers by the number of a call alone. A call that is refused whatever its
/// arguments are needs no check of them.
fn table(checks: &[Check]) -> Table {
    let allowed = calls::ALLOWED.iter().chain(calls::PRIVILEGED);
    let allowed = allowed.filter_map(|(_, call)| Some((number(*call)?, Answer::Allow)));
    let mut table: Table = allowed.collect();
    for (errno, rules) in checks.iter().rev() {
        for (call, rules) in rules {
            let Some(call) = number(*call) else { continue };
            if rules.is_empty() {
                table.insert(call, Answer::Refuse(*errno));
            } else if let Some(answer @ Answer::Allow) = table.get_mut(&call) {
                *answer = Answer::Check;
            }
        }
    }
    table
}

/// The number of a call, as the kernel has it.
fn number(call: i64) -> Option<u32> {
    call.try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use seccompiler::{SeccompAction, SeccompFilter, TargetArch};

    use super::program::run;
    use super::*;

    const NETWORKS: [Network; 2] = [Network::None, Network::Host];

    #[test]
    fn the_filter_compiles_to_what_the_kernel_takes() {
        for network in NETWORKS {
            let filter = filter(MountToken(1), network).unwrap();
            assert!(filter.len() < 4096, "{} instructions", filter.len());
        }
    }

    #[test]
    fn only_of_calls_that_are_allowed_the_arguments_are_checked() {
        for network in NETWORKS {
            let checks = checks(MountToken(1), network).unwrap();
            let table = table(&checks);
            for (call, rules) in checks.iter().flat_map(|(_, rules)| rules) {
                let answer = table[&number(*call).unwrap()];
                assert!(rules.is_empty() || answer == Answer::Check, "{call}");
            }
        }
    }

    /// Each check as a filter of its own. If several are installed, the kernel takes the
    /// answer of the last one that objects.
    fn separate_filters(token: MountToken, network: Network) -> Vec<BpfProgram> {
        let architecture: TargetArch = std::env::consts::ARCH.try_into().unwrap();
        let compile = |rules, others, these| -> BpfProgram {
            let filter = SeccompFilter::new(rules, others, these, architecture);
            filter.unwrap().try_into().unwrap()
        };
        let refuse = |errno: i32| SeccompAction::Errno(errno.cast_unsigned());
        let allow = SeccompAction::Allow;
        let allowed = calls::ALLOWED.iter().chain(calls::PRIVILEGED);
        let allowed = allowed.map(|(_, call)| (*call, Vec::new())).collect();
        let mut filters = vec![compile(allowed, refuse(libc::ENOSYS), allow.clone())];
        let checks = checks(token, network).unwrap().into_iter().rev();
        filters.extend(checks.map(|(errno, rules)| compile(rules, allow.clone(), refuse(errno))));
        filters
    }

    fn arguments() -> impl Strategy<Value = u64> {
        prop_oneof![
            0..40_u64,
            any::<u64>(),
            Just(TOKEN),
            any::<u32>().prop_map(u64::from),
            (0..64_u32).prop_map(|bit| 1 << bit),
            // Requests of ioctl, and commands of fcntl.
            0x5400..0x5480_u64,
            1024..1044_u64,
        ]
    }

    const TOKEN: u64 = 0x0123_4567_89ab_cdef;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn one_filter_answers_as_many_would(arguments in [
            arguments(), arguments(), arguments(), arguments(), arguments(), arguments(),
        ]) {
            static FILTERS: LazyLock<[(BpfProgram, Vec<BpfProgram>); 2]> = LazyLock::new(|| {
                NETWORKS.map(|network| {
                    let filter = filter(MountToken(TOKEN), network).unwrap();
                    (filter, separate_filters(MountToken(TOKEN), network))
                })
            });
            let allow = u32::from(SeccompAction::Allow);
            for (filter, separate) in &*FILTERS {
                for number in (0..600).chain([0x4000_0000, u32::MAX]) {
                    let mut answers = separate.iter().rev().map(|one| run(one, number, arguments));
                    let wanted = answers.find(|answer| *answer != allow).unwrap_or(allow);
                    prop_assert_eq!(run(filter, number, arguments), wanted, "call {}", number);
                }
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
