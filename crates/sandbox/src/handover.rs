//! Files through which a command gets its input and gives its output.
//!
//! They lie in a private folder of the place. Init makes them before the command is
//! executed, and opens what the command has left when nothing of it runs any more, so
//! that no program can change on the way what a path means.

use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::failure::{Failure, Step};
use crate::mounts::OwnFolders;
use crate::spec::{Input, Output, Spec};
use crate::sys::{Errno, in_our_memory as call};
use crate::user::Identity;

/// What init does for the files of a place.
pub(crate) struct Handover {
    input: Option<MadeInput>,
    /// The folders that lead to the output, outermost first, and the output itself if
    /// that is a folder.
    output_folders: Vec<CString>,
    output: Option<FoundOutput>,
    /// Whose they are.
    owner: (u32, u32),
}

enum MadeInput {
    /// A file without a name, in this folder.
    Unnamed(CString),
    /// A file, in these folders, outermost first.
    File(Vec<CString>, CString),
    /// The last of these folders.
    Folder(Vec<CString>),
}

struct FoundOutput {
    /// The private folder that it lies in.
    folder: CString,
    /// Where it is from there.
    path: CString,
    is_folder: bool,
}

/// What the output of a command is that leaves it in a file or folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// Its output is a pipe.
    Nothing,
    /// It is there.
    There,
    Missing,
    /// Something else is in its place.
    Odd,
}

impl Left {
    pub(crate) const ALL: [Left; 4] = [Left::Nothing, Left::There, Left::Missing, Left::Odd];
}

/// Plans the files of a link's places, whose private folders are known.
pub(crate) fn plan(
    spec: &Spec,
    identity: &Identity,
    own: &OwnFolders,
) -> Result<Handover, Failure> {
    let input = match &spec.input {
        Input::Pipe => None,
        Input::Seekable => {
            let (folder, _) = within("/tmp", own, Step::MakeInput)?;
            Some(MadeInput::Unnamed(c_path(&folder, Step::MakeInput)?))
        }
        Input::File(path) => {
            let (folder, rest) = below(path, own, Step::MakeInput)?;
            let file = c_path(&folder.join(&rest), Step::MakeInput)?;
            let parents = parents(&folder, rest.parent(), Step::MakeInput)?;
            Some(MadeInput::File(parents, file))
        }
        Input::Folder(path) => {
            let (folder, rest) = below(path, own, Step::MakeInput)?;
            let folders = parents(&folder, Some(&rest), Step::MakeInput)?;
            Some(MadeInput::Folder(folders))
        }
    };
    let (mut output, mut output_folders) = (None, Vec::new());
    if let Output::File(path) | Output::Folder(path) = &spec.output {
        let step = Step::MakeOutput;
        let is_folder = matches!(spec.output, Output::Folder(_));
        let (folder, rest) = below(path, own, step)?;
        let made = if is_folder {
            Some(&*rest)
        } else {
            rest.parent()
        };
        output_folders = parents(&folder, made, step)?;
        output = Some(FoundOutput {
            folder: c_path(&folder, step)?,
            path: c_path(&rest, step)?,
            is_folder,
        });
    }
    Ok(Handover {
        input,
        output_folders,
        output,
        owner: (identity.uid, identity.gid),
    })
}

/// The private folder that a path lies in, links resolved, and the path from there, which
/// has nothing but names.
fn below(path: &str, own: &OwnFolders, step: Step) -> Result<(PathBuf, PathBuf), Failure> {
    let (folder, rest) = within(path, own, step)?;
    let is_plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    if rest.as_os_str().is_empty() || !rest.components().all(is_plain) {
        let reason = "it must lie below a private folder, and have no '..' in its path";
        return Err(Failure::because(step, path, reason));
    }
    Ok((folder, rest))
}

fn within(path: &str, own: &OwnFolders, step: Step) -> Result<(PathBuf, PathBuf), Failure> {
    if let Some((folder, rest)) = own.within(Path::new(path)) {
        return Ok((folder.to_owned(), rest.to_owned()));
    }
    let reason =
        "it must lie in /tmp, /var/tmp, /run or /dev/shm, which each process has for itself";
    Err(Failure::because(step, path, reason))
}

/// The folders from `folder`, which is there, to `rest`, outermost first.
fn parents(folder: &Path, rest: Option<&Path>, step: Step) -> Result<Vec<CString>, Failure> {
    let mut path = folder.to_owned();
    let mut parents = Vec::new();
    for part in rest.into_iter().flat_map(Path::components) {
        path.push(part);
        parents.push(c_path(&path, step)?);
    }
    Ok(parents)
}

fn c_path(path: &Path, step: Step) -> Result<CString, Failure> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| {
        let reason = "there is a NUL byte in it";
        Failure::because(step, path.display().to_string(), reason)
    })
}

/// For who packs and unpacks.
impl Handover {
    /// The folder that is the input.
    pub(crate) fn input_folder(&self) -> Option<&Path> {
        match &self.input {
            Some(MadeInput::Folder(folders)) => folders.last().map(|path| as_path(path)),
            _ => None,
        }
    }

    /// The folder that is the output.
    pub(crate) fn output_folder(&self) -> Option<&Path> {
        let output = self.output.as_ref().filter(|output| output.is_folder);
        output.and_then(|_| self.output_folders.last().map(|path| as_path(path)))
    }
}

fn as_path(path: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(path.to_bytes()))
}

/// For init, by the rules of `sys.rs`.
impl Handover {
    /// Makes what the command is to find. Returns a descriptor for writing its input, if
    /// that is a file.
    pub(crate) fn make(&self) -> Result<Option<i32>, (Step, Errno)> {
        let input = self
            .make_input()
            .map_err(|errno| (Step::MakeInput, errno))?;
        self.make_folders(&self.output_folders)
            .map_err(|errno| (Step::MakeOutput, errno))?;
        Ok(input)
    }

    fn make_input(&self) -> Result<Option<i32>, Errno> {
        let file = match &self.input {
            None => return Ok(None),
            Some(MadeInput::Folder(folders)) => {
                self.make_folders(folders)?;
                return Ok(None);
            }
            Some(MadeInput::Unnamed(folder)) => call::make_unnamed_file(folder)?,
            Some(MadeInput::File(folders, path)) => {
                self.make_folders(folders)?;
                call::make_file(path)?
            }
        };
        let (user, group) = self.owner;
        call::change_owner_of(file, user, group)?;
        Ok(Some(file))
    }

    fn make_folders(&self, folders: &[CString]) -> Result<(), Errno> {
        let (user, group) = self.owner;
        for folder in folders {
            match call::make_folder(folder, 0o755) {
                Ok(()) => call::change_owner(folder, user, group)?,
                Err(libc::EEXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Whether the command leaves its output in a file or folder.
    pub(crate) fn leaves_output(&self) -> bool {
        self.output.is_some()
    }

    /// Whether that is a folder, which is still to be packed.
    pub(crate) fn leaves_folder(&self) -> bool {
        self.output.as_ref().is_some_and(|output| output.is_folder)
    }

    /// Whether one of the two is a folder, in whose place there is a tar outside.
    pub(crate) fn has_folders(&self) -> bool {
        self.leaves_folder() || matches!(self.input, Some(MadeInput::Folder(_)))
    }

    /// What the command has left, and a descriptor for reading it if it is a file. Call
    /// this only when nothing of the command runs any more.
    pub(crate) fn find_output(&self) -> (Left, Option<i32>) {
        let Some(output) = &self.output else {
            return (Left::Nothing, None);
        };
        match output.open() {
            Ok(file) => (Left::There, file),
            Err(libc::ENOENT | libc::ENOTDIR) => (Left::Missing, None),
            Err(_) => (Left::Odd, None),
        }
    }
}

impl FoundOutput {
    /// Follows no link, on no part of the way.
    fn open(&self) -> Result<Option<i32>, Errno> {
        let folder = call::open_path(&self.folder)?;
        // A FIFO must not be waited for.
        let found = call::open_beneath(folder, &self.path);
        call::close(folder)?;
        let found = found?;
        let is_wanted = match call::file_status(found, c"")?.kind() {
            libc::S_IFDIR => self.is_folder,
            libc::S_IFREG => !self.is_folder,
            _ => false,
        };
        if is_wanted && !self.is_folder {
            return Ok(Some(found));
        }
        call::close(found)?;
        if is_wanted {
            Ok(None)
        } else {
            Err(libc::EINVAL)
        }
    }
}
