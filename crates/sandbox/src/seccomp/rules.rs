//! What the filter asks of the arguments of calls that are allowed. Each function
//! gives the calls, and the arguments with which they are refused.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, SeccompCmpArgLen as Length, SeccompCmpOp as Compare,
    SeccompCondition as Condition, SeccompRule as Rule,
};

use super::calls;
use crate::sys::MountToken;

/// By the number of a call: the combinations of arguments, or none for all.
pub(super) type Rules = BTreeMap<i64, Vec<Rule>>;

/// Setting the limit on core dumps, which must stay as the zygote has set it: with 0, the
/// kernel would send whole dumps to a program (`|` in core_pattern). Programs with
/// secrets set it to 0, and give up if they cannot, so the call seems to succeed. A call
/// that also asks for the old value would not get that; it is refused (in
/// [`forbidden_calls`]).
pub(super) fn core_limits() -> Result<Rules, BackendError> {
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
fn core_limit_is_set() -> Result<Vec<Condition>, BackendError> {
    let is_set = Condition::new(2, Length::Qword, Compare::Ne, 0)?;
    Ok(vec![argument(1, Compare::Eq, CORE)?, is_set])
}

/// Advice that a kernel may ignore. Dropping pages of a file (`POSIX_FADV_DONTNEED`,
/// `MADV_COLD`, `MADV_PAGEOUT`) takes them from the host's page cache, for all processes
/// that use the image: by which pages are cached, a request could leave a message for the
/// next one. Merging equal pages (`MADV_MERGEABLE`) reveals what is in the memory of
/// others.
pub(super) fn ignored_advice() -> Result<Rules, BackendError> {
    let of_files = Rule::new(vec![argument(3, Compare::Eq, libc::POSIX_FADV_DONTNEED)?])?;
    let advice = [libc::MADV_COLD, libc::MADV_PAGEOUT, libc::MADV_MERGEABLE];
    let of_memory = advice.map(|advice| Rule::new(vec![argument(2, Compare::Eq, advice)?]));
    Ok(Rules::from([
        (libc::SYS_fadvise64, vec![of_files]),
        (
            libc::SYS_madvise,
            of_memory.into_iter().collect::<Result<_, _>>()?,
        ),
    ]))
}

/// Mapping memory in huge pages: refused as if none were left, which programs that ask
/// for some expect.
pub(super) fn huge_mappings() -> Result<Rules, BackendError> {
    let asks = has_flag(3, libc::MAP_HUGETLB)?;
    Ok(Rules::from([(
        libc::SYS_mmap,
        vec![Rule::new(vec![asks])?],
    )]))
}

/// Sockets that nobody misses without a network. Messages queued in netlink sockets take
/// memory that no cgroup counts.
pub(super) fn network_sockets() -> Result<Rules, BackendError> {
    let mut rules = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK] {
        rules.push(Rule::new(vec![argument(0, Compare::Eq, family)?])?);
    }
    let calls = [libc::SYS_socket, libc::SYS_socketpair];
    Ok(calls.map(|call| (call, rules.clone())).into())
}

/// Sockets of the internet's, before which is asked: TCP and UDP, over the loopback. All
/// that the kernel counts and remembers of them, such as `/proc/net/snmp`, is for the next
/// process in the same network to see, so the zygote must know who has had one.
pub(super) fn internet_sockets(token: MountToken) -> Result<Rules, BackendError> {
    let of = |family| {
        let unknown = Condition::new(5, Length::Qword, Compare::Ne, token.0)?;
        Rule::new(vec![argument(0, Compare::Eq, family)?, unknown])
    };
    let rules = vec![of(libc::AF_INET)?, of(libc::AF_INET6)?];
    Ok(Rules::from([(libc::SYS_socket, rules)]))
}

/// Of the internet's sockets, the raw ones and all but TCP and UDP. The internet has no
/// pairs of sockets, but makes two before it says so.
pub(super) fn internet_beyond_loopback() -> Result<Rules, BackendError> {
    let (mut sockets, mut pairs) = (Vec::new(), Vec::new());
    for family in [libc::AF_INET, libc::AF_INET6] {
        let family = || argument(0, Compare::Eq, family);
        let mut others = vec![family()?];
        for protocol in [0, libc::IPPROTO_TCP, libc::IPPROTO_UDP] {
            others.push(argument(2, Compare::Ne, protocol)?);
        }
        sockets.push(Rule::new(others)?);
        for kind in calls::BARE_SOCKETS {
            // It lies below the flags.
            let kinds = Compare::MaskedEq(0xf);
            let is_bare = Condition::new(1, Length::Dword, kinds, *kind)?;
            sockets.push(Rule::new(vec![family()?, is_bare])?);
        }
        pairs.push(Rule::new(vec![family()?])?);
    }
    let calls = [(libc::SYS_socket, sockets), (libc::SYS_socketpair, pairs)];
    Ok(calls.into())
}

/// Netlink's sockets of routes, as on a kernel without them: programs that want to list
/// network interfaces go on without. What waits in such a socket is memory that no cgroup
/// counts.
pub(super) fn route_sockets() -> Result<Rules, BackendError> {
    let netlink = argument(0, Compare::Eq, libc::AF_NETLINK)?;
    let route = argument(2, Compare::Eq, libc::NETLINK_ROUTE)?;
    let rules = vec![Rule::new(vec![netlink, route])?];
    let calls = [libc::SYS_socket, libc::SYS_socketpair];
    Ok(calls.map(|call| (call, rules.clone())).into())
}

/// Options of sockets that take memory which no cgroup counts, take of what the host has
/// so much of, or load a part of the kernel.
pub(super) fn options_beyond_loopback() -> Result<Rules, BackendError> {
    let mut rules = Vec::new();
    for (level, options) in calls::OPTIONS_BEYOND_LOOPBACK {
        for (first, last) in *options {
            let option =
                |compare, value: u32| Condition::new(2, Length::Dword, compare, u64::from(value));
            rules.push(Rule::new(vec![
                argument(1, Compare::Eq, *level)?,
                option(Compare::Ge, *first)?,
                option(Compare::Le, *last)?,
            ])?);
        }
    }
    Ok(Rules::from([(libc::SYS_setsockopt, rules)]))
}

/// Protocols that are not on the list, of families that are: as of a kernel that has them
/// not.
pub(super) fn unknown_protocols() -> Result<Rules, BackendError> {
    let mut sockets = Vec::new();
    for (family, protocols) in calls::SOCKETS {
        let mut others = vec![argument(0, Compare::Eq, family)?];
        for protocol in protocols {
            others.push(argument(2, Compare::Ne, *protocol)?);
        }
        sockets.push(Rule::new(others)?);
    }
    let calls = [libc::SYS_socket, libc::SYS_socketpair];
    Ok(calls.map(|call| (call, sockets.clone())).into())
}

/// Changes of owners to others than root, where root has no other ids: they seem to
/// succeed, so that `tar`, `cp -a` and `install` go on, as under `fakeroot`.
pub(super) fn ignored_owners() -> Result<Rules, BackendError> {
    const AS_IT_IS: i32 = -1;
    let with = |first| -> Result<Vec<Rule>, BackendError> {
        let is_other = |number| {
            let is_not = |id| argument(number, Compare::Ne, id);
            Rule::new(vec![is_not(0)?, is_not(AS_IT_IS)?])
        };
        // The user, and behind it the group.
        Ok(vec![is_other(first)?, is_other(first + 1)?])
    };
    Ok(Rules::from([
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_chown, with(1)?),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_lchown, with(1)?),
        (libc::SYS_fchown, with(1)?),
        (libc::SYS_fchownat, with(2)?),
    ]))
}

/// Commands of `fcntl` that are not on the list, and other values that a kernel that
/// does not know them answers with "invalid argument".
pub(super) fn unknown_values() -> Result<Rules, BackendError> {
    // Pages of a file that are collapsed into a huge one stay so, for all processes that
    // map the file.
    let collapse = argument(2, Compare::Eq, MADV_COLLAPSE)?;
    let mut rules = Rules::from([
        (libc::SYS_fcntl, outside(1, calls::FILE_COMMANDS)?),
        (libc::SYS_madvise, vec![Rule::new(vec![collapse])?]),
    ]);
    // Init's processor time shows what earlier processes in its place made it spend. The
    // number of a process's clock is the complement of the process id, and behind that
    // three bits that say which of its clocks.
    let of_init = u64::from((!INIT << 3).cast_unsigned());
    let which = Compare::MaskedEq(u64::from(u32::MAX << 3));
    for call in calls::OF_A_CLOCK {
        let clock = Condition::new(0, Length::Dword, which.clone(), of_init)?;
        rules.insert(*call, vec![Rule::new(vec![clock])?]);
    }
    Ok(rules)
}

/// From linux/mman.h.
const MADV_COLLAPSE: i32 = 25;

/// Setting extended attributes: refused as by a file system that has none. Each
/// attribute, access control lists among them, takes up to 64 KiB of kernel memory that
/// no cgroup counts.
pub(super) fn attributes() -> Rules {
    let calls = [libc::SYS_setxattr, libc::SYS_lsetxattr, libc::SYS_fsetxattr];
    calls.map(|call| (call, Vec::new())).into()
}

/// Requests of `ioctl` that are not on the list: refused as for a file that has none.
pub(super) fn unknown_requests() -> Result<Rules, BackendError> {
    let outside = outside(1, calls::REQUESTS)?;
    Ok(Rules::from([(libc::SYS_ioctl, outside)]))
}

/// Rules that match if an argument of 32 bits lies in none of these ranges, which are in
/// ascending order.
fn outside(number: u8, ranges: &[(u32, u32)]) -> Result<Vec<Rule>, BackendError> {
    let condition =
        |compare, value: u32| Condition::new(number, Length::Dword, compare, u64::from(value));
    let mut gaps = Vec::new();
    let mut above = None;
    for (first, last) in ranges {
        let mut gap = Vec::new();
        if let Some(above) = above {
            gap.push(condition(Compare::Gt, above)?);
        }
        gap.push(condition(Compare::Lt, *first)?);
        gaps.push(Rule::new(gap)?);
        above = Some(*last);
    }
    if let Some(above) = above {
        gaps.push(Rule::new(vec![condition(Compare::Gt, above)?])?);
    }
    Ok(gaps)
}

/// A condition on an argument that is an `int`.
fn argument(number: u8, compare: Compare, value: i32) -> Result<Condition, BackendError> {
    let value = u64::from(value.cast_unsigned());
    Condition::new(number, Length::Dword, compare, value)
}

/// A condition on an argument that is an `int` of flags: this one is set.
fn has_flag(number: u8, flag: i32) -> Result<Condition, BackendError> {
    let flag = u64::from(flag.cast_unsigned());
    Condition::new(number, Length::Dword, Compare::MaskedEq(flag), flag)
}

/// The process id of init, as a command sees it.
const INIT: i32 = 1;

/// Calls that are forbidden, always or with dangerous arguments.
pub(super) fn forbidden_calls(token: MountToken) -> Result<Rules, BackendError> {
    let mut rules = Rules::new();
    for call in calls::FORBIDDEN {
        rules.insert(*call, Vec::new());
    }
    let without_token = || Condition::new(5, Length::Qword, Compare::Ne, token.0);
    for (_, call) in calls::PRIVILEGED {
        rules.insert(*call, vec![Rule::new(vec![without_token()?])?]);
    }
    // A descriptor of init shows its process id on the host, and more with every new
    // kernel.
    let of_init = vec![argument(0, Compare::Eq, INIT)?, without_token()?];
    rules.insert(libc::SYS_pidfd_open, vec![Rule::new(of_init)?]);
    let mut clone = Vec::new();
    for flag in calls::NAMESPACE_FLAGS {
        let flag = u64::from(flag.cast_unsigned());
        let asks = Condition::new(0, Length::Qword, Compare::MaskedEq(flag), flag)?;
        clone.push(Rule::new(vec![asks, without_token()?])?);
    }
    rules.insert(libc::SYS_clone, clone);

    // Only the personalities of Docker's list: those that change how the kernel reports
    // its version and its architecture, and nothing else.
    let personality = calls::PERSONALITIES
        .iter()
        .map(|allowed| Condition::new(0, Length::Dword, Compare::Ne, *allowed))
        .collect::<Result<Vec<_>, _>>()?;
    rules.insert(libc::SYS_personality, vec![Rule::new(personality)?]);

    // Of some forty families of sockets, many of them old and full of bugs, only those
    // that a command may have a use for.
    let families = calls::SOCKETS.iter();
    let families = families.map(|(family, _)| argument(0, Compare::Ne, *family));
    let others = Rule::new(families.collect::<Result<_, _>>()?)?;
    for call in [libc::SYS_socket, libc::SYS_socketpair] {
        rules.insert(call, vec![others.clone()]);
    }

    // A socket's filter takes kernel memory that no cgroup counts, of which all programs
    // of the host together have a fixed amount.
    let mut filters = Vec::new();
    for option in calls::SOCKET_FILTERS {
        let level = argument(1, Compare::Eq, libc::SOL_SOCKET)?;
        filters.push(Rule::new(vec![level, argument(2, Compare::Eq, *option)?])?);
    }
    rules.insert(libc::SYS_setsockopt, filters);

    // Typing into a terminal; and its line discipline, of which the kernel has many old
    // ones, and loads each on any program's request.
    let mut terminal = Vec::new();
    for request in [libc::TIOCSTI, libc::TIOCLINUX, libc::TIOCSETD] {
        let same = Condition::new(1, Length::Dword, Compare::Eq, request)?;
        terminal.push(Rule::new(vec![same])?);
    }
    rules.insert(libc::SYS_ioctl, terminal);

    rules.insert(libc::SYS_ptrace, outside(0, calls::TRACES)?);

    // A lease on a file of the image delays the link's other processes that open the
    // file, for up to fs.lease-break-time.
    let lease = vec![argument(1, Compare::Eq, libc::F_SETLEASE)?];
    rules.insert(libc::SYS_fcntl, vec![Rule::new(lease)?]);

    for (call, number, flag) in calls::HUGE_PAGES {
        let asks = has_flag(*number, *flag)?;
        rules.insert(*call, vec![Rule::new(vec![asks])?]);
    }

    // Init and the command are the same user, which is all that these calls check. But
    // the next process in the place inherits init's limits and priorities.
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
