//! Tars, also such as nobody would make with good intent.

use tar::{Builder, EntryType, Header};

/// Adds an entry, whatever its names say.
///
/// # Panics
/// A name is longer than 100 bytes.
pub fn entry(tar: &mut Builder<Vec<u8>>, kind: EntryType, path: &str, link: &str, content: &[u8]) {
    let mut header = Header::new_gnu();
    // Set raw, since the crate refuses what hostile tars are made of.
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
    header.set_mtime(1_000_000_000);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    tar.append(&header, content).unwrap();
}

/// A tar of files; a name that ends with a slash is a folder.
///
/// # Panics
/// A name is longer than 100 bytes.
pub fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (path, content) in files {
        let kind = match path.ends_with('/') {
            true => EntryType::Directory,
            false => EntryType::Regular,
        };
        entry(&mut tar, kind, path, "", content);
    }
    tar.into_inner().unwrap()
}
