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

use rustix::fd::OwnedFd;
use seccompiler::{BackendError, BpfProgram};

use crate::failure::{Failure, Step};
use crate::spec::Network;
use crate::sys::{self, MountToken};
use program::{Answer, Check, Table, program};

mod calls;
mod program;
mod rules;

/// What the filters of links differ in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) network: Network,
    /// Its root has no other ids, to which it could give files.
    pub(crate) ignores_owners: bool,
}

/// Compiles and installs the filter for a link of that kind. With a loopback, the
/// filter asks before a command gets a socket of the internet's: a descriptor, on which
/// it does. Who listens to a filter around ours (as that of some containers) is the only
/// one whom the kernel lets: then it does not ask.
pub(crate) fn install(token: MountToken, link: Kind) -> Result<Option<OwnedFd>, Failure> {
    let compiled = |asks| {
        filter(token, link, asks)
            .map_err(|error| Failure::because(Step::InstallFilter, "", error.to_string()))
    };
    let failure = |errno| Failure::new(Step::InstallFilter, "", errno);
    if link.network == Network::Loopback {
        match sys::install_asking_filter(&compiled(true)?) {
            Err(libc::EBUSY) => {}
            listener => return listener.map(Some).map_err(failure),
        }
    }
    sys::install_filter(&compiled(false)?).map_err(failure)?;
    Ok(None)
}

fn filter(token: MountToken, link: Kind, asks: bool) -> Result<BpfProgram, BackendError> {
    let mut checks = checks(token, link, asks)?;
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

/// The checks of the arguments of allowed calls, each with its answer. If several match a
/// call, the first one answers. `asks` says whether somebody listens to the filter.
fn checks(token: MountToken, link: Kind, asks: bool) -> Result<Vec<Check>, BackendError> {
    let mut checks = vec![
        (Answer::Refuse(libc::ENOMEM), rules::huge_mappings()?),
        (Answer::Refuse(libc::EPERM), rules::forbidden_calls(token)?),
        (
            Answer::Refuse(libc::EPROTONOSUPPORT),
            rules::unknown_protocols()?,
        ),
        (Answer::Refuse(libc::EOPNOTSUPP), rules::attributes()),
        (Answer::Refuse(libc::ENOTTY), rules::unknown_requests()?),
        (Answer::Refuse(libc::EINVAL), rules::unknown_values()?),
        (Answer::Refuse(0), rules::ignored_advice()?),
        (Answer::Refuse(0), rules::core_limits()?),
    ];
    let mut first = |errno, rules| checks.insert(0, (Answer::Refuse(errno), rules));
    match link.network {
        Network::Sealed => first(libc::EAFNOSUPPORT, rules::network_sockets()?),
        Network::Loopback => {
            first(libc::EPROTONOSUPPORT, rules::internet_beyond_loopback()?);
            first(libc::ENOPROTOOPT, rules::options_beyond_loopback()?);
            first(libc::EOPNOTSUPP, rules::route_sockets()?);
        }
        Network::Host => {}
    }
    if link.ignores_owners {
        checks.push((Answer::Refuse(0), rules::ignored_owners()?));
    }
    if asks {
        checks.push((Answer::Ask, rules::internet_sockets(token)?));
    }
    Ok(checks)
}

/// The answers by the number of a call alone. A call that is refused whatever its
/// arguments are needs no check of them.
fn table(checks: &[Check]) -> Table {
    let allowed = calls::ALLOWED.iter().chain(calls::PRIVILEGED);
    let allowed = allowed.filter_map(|(_, call)| Some((number(*call)?, Answer::Allow)));
    let mut table: Table = allowed.collect();
    for (refusal, rules) in checks.iter().rev() {
        for (call, rules) in rules {
            let Some(call) = number(*call) else { continue };
            if rules.is_empty() {
                table.insert(call, *refusal);
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

    use super::program::{alone, run};
    use super::*;

    /// Each with whether the filter asks.
    const FILTERS: [(Kind, bool); 5] = [
        (kind(Network::Sealed), false),
        (kind(Network::Loopback), true),
        (kind(Network::Loopback), false),
        (kind(Network::Host), false),
        (OF_ONE_ID, false),
    ];

    const OF_ONE_ID: Kind = Kind {
        network: Network::Sealed,
        ignores_owners: true,
    };

    const fn kind(network: Network) -> Kind {
        Kind {
            network,
            ignores_owners: false,
        }
    }

    #[test]
    fn the_filter_compiles_to_what_the_kernel_takes() {
        for (kind, asks) in FILTERS {
            let filter = filter(MountToken(1), kind, asks).unwrap();
            assert!(filter.len() < 4096, "{} instructions", filter.len());
        }
    }

    #[test]
    fn only_of_calls_that_are_allowed_the_arguments_are_checked() {
        for (kind, asks) in FILTERS {
            let checks = checks(MountToken(1), kind, asks).unwrap();
            let table = table(&checks);
            for (call, rules) in checks.iter().flat_map(|(_, rules)| rules) {
                let answer = table[&number(*call).unwrap()];
                assert!(rules.is_empty() || answer == Answer::Check, "{call}");
            }
        }
    }

    /// Each check as a filter of its own. If several are installed, the kernel takes the
    /// answer of the last one that objects.
    fn separate_filters(token: MountToken, kind: Kind, asks: bool) -> Vec<BpfProgram> {
        let architecture: TargetArch = std::env::consts::ARCH.try_into().unwrap();
        let unknown = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
        let allowed = calls::ALLOWED.iter().chain(calls::PRIVILEGED);
        let allowed = allowed.map(|(_, call)| (*call, Vec::new())).collect();
        let known = SeccompFilter::new(allowed, unknown, SeccompAction::Allow, architecture);
        let mut filters = vec![known.unwrap().try_into().unwrap()];
        let checks = checks(token, kind, asks).unwrap().into_iter().rev();
        filters.extend(checks.map(|(answer, rules)| alone(rules, answer).unwrap()));
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
            static COMPILED: LazyLock<[(BpfProgram, Vec<BpfProgram>); FILTERS.len()]> = LazyLock::new(|| {
                FILTERS.map(|(kind, asks)| {
                    let filter = filter(MountToken(TOKEN), kind, asks).unwrap();
                    (filter, separate_filters(MountToken(TOKEN), kind, asks))
                })
            });
            let allow = u32::from(SeccompAction::Allow);
            for (filter, separate) in &*COMPILED {
                for number in (0..600).chain([0x4000_0000, u32::MAX]) {
                    let mut answers = separate.iter().rev().map(|one| run(one, number, arguments));
                    let wanted = answers.find(|answer| *answer != allow).unwrap_or(allow);
                    prop_assert_eq!(run(filter, number, arguments), wanted, "call {}", number);
                }
            }
        }
    }

    #[test]
    fn who_may_have_a_socket_of_the_internets() {
        const UNIX: u64 = libc::AF_UNIX as u64;
        const STREAM: u64 = libc::SOCK_STREAM as u64;
        let refused = |errno| program::action(Answer::Refuse(errno));
        let [asked, allowed] = [Answer::Ask, Answer::Allow].map(program::action);
        let [v4, v6, netlink] =
            [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK].map(|family| family as u64);
        let [tcp, udp, icmp] = [libc::IPPROTO_TCP, libc::IPPROTO_UDP, libc::IPPROTO_ICMP]
            .map(|protocol| protocol as u64);
        let audit = libc::NETLINK_AUDIT as u64;
        for (network, inet, ping, route, auditing) in [
            (
                Network::Sealed,
                refused(libc::EAFNOSUPPORT),
                refused(libc::EAFNOSUPPORT),
                refused(libc::EAFNOSUPPORT),
                refused(libc::EAFNOSUPPORT),
            ),
            (
                Network::Loopback,
                asked,
                refused(libc::EPROTONOSUPPORT),
                refused(libc::EOPNOTSUPP),
                refused(libc::EPROTONOSUPPORT),
            ),
            (
                Network::Host,
                allowed,
                allowed,
                allowed,
                refused(libc::EPROTONOSUPPORT),
            ),
        ] {
            let asks = network == Network::Loopback;
            let filter = filter(MountToken(TOKEN), kind(network), asks).unwrap();
            let answer = |call: i64, family, protocol, token| {
                run(
                    &filter,
                    number(call).unwrap(),
                    [family, STREAM, protocol, 0, 0, token],
                )
            };
            let socket = |family, protocol| answer(libc::SYS_socket, family, protocol, 0);
            assert_eq!(socket(UNIX, 0), allowed);
            for family in [v4, v6] {
                for protocol in [0, tcp, udp] {
                    assert_eq!(
                        socket(family, protocol),
                        inet,
                        "{network:?} {family} {protocol}"
                    );
                }
            }
            assert_eq!(socket(v4, icmp), ping, "{network:?}");
            assert_eq!(socket(netlink, 0), route, "{network:?}");
            assert_eq!(socket(netlink, audit), auditing, "{network:?}");
            // The zygote's own.
            let own = answer(libc::SYS_socket, v4, 0, TOKEN);
            assert_eq!(own == allowed, network != Network::Sealed);
            let pair = answer(libc::SYS_socketpair, v4, 0, 0);
            assert_eq!(pair == allowed, network == Network::Host);
        }
    }

    #[test]
    fn where_root_has_one_id_only_it_can_give_files_to_anybody() {
        const ROOT: u64 = 0;
        const AS_IT_IS: u64 = u32::MAX as u64;
        let filter = filter(MountToken(TOKEN), OF_ONE_ID, false).unwrap();
        let allowed = program::action(Answer::Allow);
        let ignored = program::action(Answer::Refuse(0));
        for (user, group, answer) in [
            (ROOT, ROOT, allowed),
            (ROOT, AS_IT_IS, allowed),
            (AS_IT_IS, AS_IT_IS, allowed),
            (1000, ROOT, ignored),
            (AS_IT_IS, 5, ignored),
            (1000, 1000, ignored),
        ] {
            let run = |call, arguments| run(&filter, number(call).unwrap(), arguments);
            assert_eq!(run(libc::SYS_fchown, [3, user, group, 0, 0, 0]), answer);
            assert_eq!(run(libc::SYS_fchownat, [3, 4, user, group, 0, 0]), answer);
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
