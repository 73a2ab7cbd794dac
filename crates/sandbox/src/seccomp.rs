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
//! are no internet protocols (`EAFNOSUPPORT`), there is no memory in huge pages
//! (`ENOMEM`), and what would allow core dumps seems to succeed (no error).

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Compare,
    SeccompCondition as Condition, SeccompFilter, SeccompRule as Rule,
};

use crate::failure::{Failure, Step};
use crate::spec::Network;
use crate::sys::{self, Knock};

mod calls;

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
        .map(|call| (*call, Vec::new()))
        .collect();
    let architecture = std::env::consts::ARCH.try_into()?;
    let compile = |rules, others, these| -> Result<BpfProgram, seccompiler::BackendError> {
        SeccompFilter::new(rules, others, these, architecture)?.try_into()
    };
    let refuse = |errno: i32| SeccompAction::Errno(errno.cast_unsigned());
    let allow = SeccompAction::Allow;
    let mut filters = vec![
        compile(allowed, refuse(libc::ENOSYS), allow.clone())?,
        compile(core_limits()?, allow.clone(), refuse(0))?,
        compile(forbidden_calls(knock)?, allow.clone(), refuse(libc::EPERM))?,
        compile(huge_mappings()?, allow.clone(), refuse(libc::ENOMEM))?,
    ];
    if network == Network::None {
        let refused = refuse(libc::EAFNOSUPPORT);
        filters.push(compile(internet_sockets()?, allow, refused)?);
    }
    Ok(filters)
}

/// Setting the limit of core dumps, which has to stay what it is: the kernel takes
/// 0 for "as large as you like" where a program gets the dumps. Programs with
/// secrets set it to 0, and go no further where they cannot, so they are told that
/// they have. Who asks for the old value in the same call would get none, and is
/// refused.
fn core_limits() -> Result<Rules, seccompiler::BackendError> {
    let mut set = core_limit_is_set()?;
    set.push(Condition::new(3, Length::Qword, Compare::Eq, 0)?);
    Ok(Rules::from([
        #[cfg(target_arch = "x86_64")]
        (
            libc::SYS_setrlimit,
            vec![Rule::new(vec![argument(0, Compare::Eq, CORE)?])?],
        ),
        (libc::SYS_prlimit64, vec![Rule::new(set)?]),
    ]))
}

const CORE: i32 = libc::RLIMIT_CORE.cast_signed();

/// `prlimit64` with a new value for the limit of core dumps.
fn core_limit_is_set() -> Result<Vec<Condition>, seccompiler::BackendError> {
    let is_set = Condition::new(2, Length::Qword, Compare::Ne, 0)?;
    Ok(vec![argument(1, Compare::Eq, CORE)?, is_set])
}

/// Mapping memory in huge pages: as if none were left, which programs that would
/// like some expect.
fn huge_mappings() -> Result<Rules, seccompiler::BackendError> {
    let asks = has_flag(3, libc::MAP_HUGETLB)?;
    Ok(Rules::from([(
        libc::SYS_mmap,
        vec![Rule::new(vec![asks])?],
    )]))
}

/// Where there is no network, nobody misses them: and what the kernel counts and
/// remembers of their use, such as `/proc/net/snmp`, is for the next process in
/// the same place to see.
fn internet_sockets() -> Result<Rules, seccompiler::BackendError> {
    let mut rules = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        rules.push(Rule::new(vec![argument(0, Compare::Eq, family)?])?);
    }
    let calls = [libc::SYS_socket, libc::SYS_socketpair];
    Ok(calls.map(|call| (call, rules.clone())).into())
}

/// A condition on an argument that is an `int`.
fn argument(
    number: u8,
    compare: Compare,
    value: i32,
) -> Result<Condition, seccompiler::BackendError> {
    let value = u64::from(value.cast_unsigned());
    Condition::new(number, Length::Dword, compare, value)
}

/// A condition on an argument that is an `int` of flags: this one is set.
fn has_flag(number: u8, flag: i32) -> Result<Condition, seccompiler::BackendError> {
    let flag = u64::from(flag.cast_unsigned());
    Condition::new(number, Length::Dword, Compare::MaskedEq(flag), flag)
}

type Rules = BTreeMap<i64, Vec<Rule>>;

/// The process id of init, as a command sees it.
const INIT: i32 = 1;

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
    // a filter may have a use for; and of the protocols of each likewise.
    let mut families = Vec::new();
    let mut sockets = Vec::new();
    for (family, protocols) in calls::SOCKETS {
        families.push(argument(0, Compare::Ne, family)?);
        let mut other_protocol = vec![argument(0, Compare::Eq, family)?];
        for protocol in protocols {
            other_protocol.push(argument(2, Compare::Ne, *protocol)?);
        }
        sockets.push(Rule::new(other_protocol)?);
    }
    sockets.push(Rule::new(families)?);
    for call in [libc::SYS_socket, libc::SYS_socketpair] {
        rules.insert(call, sockets.clone());
    }

    // Typing into a terminal, should one ever be reachable.
    let mut terminal = Vec::new();
    for request in [libc::TIOCSTI, libc::TIOCLINUX] {
        let same = Condition::new(1, Length::Dword, Compare::Eq, request)?;
        terminal.push(Rule::new(vec![same])?);
    }
    rules.insert(libc::SYS_ioctl, terminal);

    // A lease on a file of the image holds up whoever else opens it, for as long as
    // fs.lease-break-time: the link's other processes.
    let lease = vec![argument(1, Compare::Eq, libc::F_SETLEASE)?];
    rules.insert(libc::SYS_fcntl, vec![Rule::new(lease)?]);

    for (call, number, flag) in calls::HUGE_PAGES {
        let asks = has_flag(*number, *flag)?;
        rules.insert(*call, vec![Rule::new(vec![asks])?]);
    }

    // Init waits for the next process, which inherits its limits and priorities.
    // Both are the same user, which is all that these calls ask for.
    for call in calls::ON_A_PROCESS {
        let on_init = argument(0, Compare::Eq, INIT)?;
        rules.insert(*call, vec![Rule::new(vec![on_init])?]);
    }
    if let Some(rules) = rules.get_mut(&libc::SYS_prlimit64) {
        let mut set = core_limit_is_set()?;
        set.push(Condition::new(3, Length::Qword, Compare::Ne, 0)?);
        rules.push(Rule::new(set)?);
    }
    for (call, process, user) in calls::PRIORITIES {
        let on_init = [
            argument(0, Compare::Eq, *process)?,
            argument(1, Compare::Eq, INIT)?,
        ];
        let on_all = argument(0, Compare::Eq, *user)?;
        rules.insert(
            *call,
            vec![Rule::new(on_init.into())?, Rule::new(vec![on_all])?],
        );
    }
    Ok(rules)
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
        for call in calls::FORBIDDEN {
            assert!(!calls::ALLOWED.contains(call), "call {call}");
        }
    }
}
