//! Users: from the name that an image gives to the ids that a process has.

use std::io::{Read, Write};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use crate::failure::{Failure, Step};
use crate::spec::{Ids, SHIFTED_IDS_COUNT, Spec};

/// The user and groups of a process, as ids inside the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups, at most [`GROUPS_MAX`].
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

impl Identity {
    /// The user and group of the host that these ids stand for; `None` if they are the
    /// runner's own.
    pub(crate) fn outside(&self, ids: Ids) -> Option<(u32, u32)> {
        match ids {
            Ids::Shifted { base } => Some((
                base.checked_add(in_range(self.uid))?,
                base.checked_add(in_range(self.gid))?,
            )),
            Ids::Own => None,
        }
    }
}

/// The id of nobody. It owns all files of an unpacked image whose owner is above the
/// range. If a link runs as an id above the range, that id takes the place of this one,
/// so that such files are the link's own.
const ABOVE_RANGE: u32 = 65534;

/// The id of the range that an id stands for outside.
fn in_range(id: u32) -> u32 {
    if id < SHIFTED_IDS_COUNT {
        id
    } else {
        ABOVE_RANGE
    }
}

/// The most that is read of a password or group file; the rest is ignored. The file is
/// the image's, and would be in the zygote's memory as a whole. Real files have some KiB.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The most supplementary groups; further ones are left out. The kernel would take
/// 65,536, but no image gives a user so many.
const GROUPS_MAX: usize = 1024;

/// Finds the ids of the spec's user in the root's own `/etc/passwd` and `/etc/group`, as
/// Docker does: an unknown number is taken as it is, an unknown name is an error.
pub(crate) fn resolve(root: &OwnedFd, spec: &Spec) -> Result<Identity, Failure> {
    let passwd = read_inside(root, "etc/passwd")?;
    let group = read_inside(root, "etc/group")?;
    identity(&spec.user, &passwd, &group)
        .and_then(|identity| check_mapped(identity, spec.ids))
        .map_err(|reason| Failure::because(Step::ResolveUser, spec.user.as_str(), reason))
}

/// Refuses the highest number: the kernel takes it for "leave the id as it is", which
/// would be root. Leaves out groups that are not mapped outside, since the kernel refuses
/// to set them.
fn check_mapped(mut identity: Identity, ids: Ids) -> Result<Identity, String> {
    if identity.uid == u32::MAX || identity.gid == u32::MAX {
        return Err(format!(
            "{} is no id: the kernel has another use for that number; set User to a lower one",
            u32::MAX
        ));
    }
    if let Ids::Shifted { .. } = ids {
        let gid = identity.gid;
        let is_taken = |group| gid >= SHIFTED_IDS_COUNT && group == ABOVE_RANGE;
        (identity.groups)
            .retain(|&group| group == gid || (group < SHIFTED_IDS_COUNT && !is_taken(group)));
    }
    Ok(identity)
}

/// Reads a file of the root; links cannot lead out of it. A missing file is empty.
fn read_inside(root: &OwnedFd, path: &str) -> Result<String, Failure> {
    let failure = |error: rustix::io::Errno| {
        Failure::new(Step::ResolveUser, format!("/{path}"), error.raw_os_error())
    };
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // Without NONBLOCK a FIFO in the file's place would hold us up for ever.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match openat2(root.as_fd(), path, flags, Mode::empty(), inside) {
        Ok(file) => {
            let mut bytes = Vec::new();
            std::fs::File::from(file)
                .take(FILE_BYTES_MAX)
                .read_to_end(&mut bytes)
                .map_err(|error| Failure::io(Step::ResolveUser, format!("/{path}"), &error))?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(String::new()),
        Err(error) => Err(failure(error)),
    }
}

fn identity(user: &str, passwd: &str, group: &str) -> Result<Identity, String> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number = user.parse::<u32>().ok();
    let entry = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| {
            fields.len() >= 6
                && match number {
                    Some(number) => fields[2].parse() == Ok(number),
                    None => fields[0] == user,
                }
        });
    let (name, uid, own_gid, home) = match (&entry, number) {
        (Some(fields), _) => {
            let number = |field: &str| {
                field
                    .parse::<u32>()
                    .map_err(|_| {
                        format!(
                            "the image's /etc/passwd has {field:?} where a number must be; correct it there"
                        )
                    })
            };
            (
                Some(fields[0]),
                number(fields[2])?,
                number(fields[3])?,
                fields[5].to_owned(),
            )
        }
        (None, Some(uid)) => (None, uid, 0, String::new()),
        (None, None) => {
            return Err(
                "the image's /etc/passwd does not have it; use a number, or a name that it has"
                    .to_owned(),
            );
        }
    };
    let home = if home.is_empty() {
        if uid == 0 { "/root" } else { "/" }.to_owned()
    } else {
        home
    };
    let Some(wanted) = wanted_group.filter(|group| !group.is_empty()) else {
        return Ok(Identity {
            uid,
            gid: own_gid,
            groups: supplementary(name, group),
            home,
        });
    };
    let gid = match wanted.parse::<u32>() {
        Ok(gid) => gid,
        Err(_) => group
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find(|fields| fields.len() >= 3 && fields[0] == wanted)
            .and_then(|fields| fields[2].parse().ok())
            .ok_or("the image's /etc/group does not have this group; use a number, or a name that it has")?,
    };
    // If the image's `User` names a group, Docker gives that one alone.
    Ok(Identity {
        uid,
        gid,
        groups: Vec::new(),
        home,
    })
}

/// Maps the ids of the user namespace of `process` to a range outside, from `base` on.
/// Only a process outside of that namespace has the privilege.
pub(crate) fn map_range(process: i32, base: u32) -> Result<(), Failure> {
    let map = format!("0 {base} {SHIFTED_IDS_COUNT}\n");
    write_map(process, "uid_map", &map)?;
    write_map(process, "gid_map", &map)
}

/// Maps the ids of a link's own user namespace, that of `process`. Only a process outside
/// of that namespace has the privilege.
pub(crate) fn map_ids(process: i32, ids: Ids, identity: &Identity) -> Result<(), Failure> {
    let (uids, gids) = match ids {
        // Those of the namespace around it are shifted already.
        Ids::Shifted { .. } => (map_with(identity.uid), map_with(identity.gid)),
        Ids::Own => {
            // The kernel lets an unprivileged user map groups only after forbidding
            // `setgroups`.
            write_map(process, "setgroups", "deny")?;
            let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
            (
                format!("{} {} 1\n", identity.uid, uid.as_raw()),
                format!("{} {} 1\n", identity.gid, gid.as_raw()),
            )
        }
    };
    write_map(process, "uid_map", &uids)?;
    write_map(process, "gid_map", &gids)
}

/// The map of a link that runs as `id`: each id of the range is itself outside; but an
/// `id` above the range takes the place of [`ABOVE_RANGE`].
fn map_with(id: u32) -> String {
    if id < SHIFTED_IDS_COUNT {
        return format!("0 0 {SHIFTED_IDS_COUNT}\n");
    }
    let behind = ABOVE_RANGE + 1;
    let left = SHIFTED_IDS_COUNT - behind;
    format!("0 0 {ABOVE_RANGE}\n{behind} {behind} {left}\n{id} {ABOVE_RANGE} 1\n")
}

fn write_map(process: i32, file: &str, content: &str) -> Result<(), Failure> {
    let path = format!("/proc/{process}/{file}");
    // In one write: the kernel takes no second one.
    std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut file| file.write_all(content.as_bytes()))
        .map_err(|error| Failure::io(Step::MapIds, path, &error))
}

/// The groups that list `name` as a member.
fn supplementary(name: Option<&str>, group: &str) -> Vec<u32> {
    let Some(name) = name else { return Vec::new() };
    group
        .lines()
        .filter_map(|line| {
            let fields = line.split(':').collect::<Vec<_>>();
            let members = fields.get(3)?;
            let gid = fields.get(2)?.parse().ok()?;
            members
                .split(',')
                .any(|member| member == name)
                .then_some(gid)
        })
        .take(GROUPS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nwww:x:33:34:www:/var/www:/bin/false\nbroken\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\ntape:x:26:www,other\nstaff:x:50:other\n";

    fn find(user: &str) -> Result<(u32, u32, Vec<u32>, String), String> {
        identity(user, PASSWD, GROUP).map(|found| (found.uid, found.gid, found.groups, found.home))
    }

    #[test]
    fn an_empty_user_is_root() {
        assert_eq!(find(""), Ok((0, 0, vec![], "/root".into())));
        assert_eq!(
            identity("", "", "").map(|found| found.home),
            Ok("/root".into())
        );
    }

    #[test]
    fn names_numbers_and_groups_as_docker_takes_them() {
        assert_eq!(find("www"), Ok((33, 34, vec![26], "/var/www".into())));
        assert_eq!(find("33"), Ok((33, 34, vec![26], "/var/www".into())));
        assert_eq!(find("www:staff"), Ok((33, 50, vec![], "/var/www".into())));
        assert_eq!(find("1000:1001"), Ok((1000, 1001, vec![], "/".into())));
        assert_eq!(find("1000"), Ok((1000, 0, vec![], "/".into())));
    }

    #[test]
    fn groups_that_are_not_mapped_are_left_out() {
        let group = "high:x:70000:www\nlow:x:7:www\nnobody:x:65534:www\n";
        let groups = |user: &str, passwd: &str| {
            let found = identity(user, passwd, group).unwrap();
            check_mapped(found, Ids::Shifted { base: 1 })
                .unwrap()
                .groups
        };
        assert_eq!(groups("www", PASSWD), [7, 65534]);
        let high = "www:x:33:70000:www:/var/www:/bin/false\n";
        assert_eq!(groups("www", high), [70000, 7]);
    }

    #[test]
    fn an_id_above_the_range_takes_the_place_of_nobody() {
        let (shifted, outside) = (Ids::Shifted { base: 100_000 }, 165_534);
        for (user, uid, gid) in [
            ("65535", 165_535, 100_000),
            ("65536", outside, 100_000),
            ("1:65536", 100_001, outside),
            ("4294967294:4294967294", outside, outside),
        ] {
            let found = identity(user, PASSWD, GROUP).unwrap();
            let found = check_mapped(found, shifted).unwrap();
            assert_eq!(found.outside(shifted), Some((uid, gid)), "{user}");
        }
        assert_eq!(map_with(65535), "0 0 65536\n");
        assert_eq!(map_with(70000), "0 0 65534\n65535 65535 1\n70000 65534 1\n");
    }

    #[test]
    fn the_highest_number_is_no_id() {
        for ids in [Ids::Own, Ids::Shifted { base: 1 }] {
            for user in ["4294967295", "0:4294967295"] {
                let found = identity(user, PASSWD, GROUP).unwrap();
                assert!(check_mapped(found, ids).is_err(), "{user}");
            }
        }
    }

    #[test]
    fn unknown_names_are_errors() {
        assert!(find("nobody").is_err());
        assert!(find("www:nogroup").is_err());
        assert!(find("-1").is_err());
        assert!(find("4294967296").is_err());
    }
}
