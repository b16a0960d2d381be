//! The mark of directories that IronClaw made, and may remove with everything in them.
//!
//! Users choose the state paths and may keep other things there, so a name alone is no reason to
//! remove anything. A directory is ours if it carries this file, which is created first and removed
//! last. Before and after that the directory is empty but for an incomplete mark, and removing it
//! loses nothing. All checks use a descriptor of the directory and follow no link, so that no
//! rename can redirect them (TOCTOU).

use std::ffi::{CStr, OsStr};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

/// The name of the file.
pub const NAME: &str = ".ironclaw";
const NAME_C: &CStr = c".ironclaw";
/// The content of the file: tells people who made the directory, and proves it to us.
const LINE: &[u8] = b"IronClaw made this directory, and removes it with all that is in it.\n";

/// Limit of the bytes read from a manifest.
const MAX_MANIFEST_BYTES: u64 = 64 << 10;

/// The result of looking for the mark in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// The directory is ours, with everything in it.
    Ours,
    /// The directory is empty but for an incomplete mark, if any: its maker was killed before the
    /// mark was complete, or its remover after deleting the mark.
    Bare,
    /// The directory belongs to somebody else.
    Foreign,
}

/// Opens the directory at `path`; fails if that is a link.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(rustix::fs::CWD, path, flags, Mode::empty())?.into())
}

/// Marks a directory that was just created.
pub fn create(directory: impl AsFd) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(&directory, NAME_C, flags, Mode::RUSR | Mode::WUSR)?;
    File::from(file).write_all(LINE).inspect_err(|_| {
        // An incomplete mark proves nothing, and would keep the directory from being marked again.
        let _ = unlinkat(&directory, NAME_C, AtFlags::empty());
    })
}

/// Marks a directory that may have an incomplete mark already.
pub fn replace(directory: &File) -> io::Result<()> {
    match unlinkat(directory, NAME_C, AtFlags::empty()) {
        Err(errno) if errno != Errno::NOENT => Err(errno.into()),
        _ => create(directory),
    }
}

/// Reads the mark of an open directory.
pub fn read(directory: &File) -> io::Result<Mark> {
    // A mark counts only in a directory that this user owns: anybody can write the file.
    if directory.metadata()?.uid() != rustix::process::geteuid().as_raw() {
        return Ok(Mark::Foreign);
    }
    let found = content(directory)?;
    if found.as_deref() == Some(LINE) {
        return Ok(Mark::Ours);
    }
    let is_part = found.as_deref().is_none_or(|part| LINE.starts_with(part));
    let is_bare = is_part && only_the_mark(directory)?;
    Ok(if is_bare { Mark::Bare } else { Mark::Foreign })
}

/// Returns whether a manifest in an open directory gives the directory's name as `name`, in its
/// field `field`. Such a file serves as a mark, too: nobody else writes one, and releases before
/// the mark existed did.
pub fn is_named_in(directory: &File, manifest: &str, field: &str, name: &str) -> io::Result<bool> {
    if directory.metadata()?.uid() != rustix::process::geteuid().as_raw() {
        return Ok(false);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(directory, manifest, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(false),
        Err(errno) => return Err(errno.into()),
    };
    if !file.metadata()?.is_file() {
        return Ok(false);
    }
    let mut json = Vec::new();
    file.take(MAX_MANIFEST_BYTES).read_to_end(&mut json)?;
    let json: Option<serde_json::Value> = serde_json::from_slice(&json).ok();
    let named = json.as_ref().and_then(|json| json.get(field)?.as_str());
    Ok(named == Some(name))
}

/// Reads the mark's file up to one byte more than a mark has; `None` if there is no such file.
fn content(directory: &File) -> io::Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(directory, NAME_C, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        // A link, or a socket.
        Err(Errno::LOOP | Errno::NXIO) => return Ok(Some(b"?".to_vec())),
        Err(errno) => return Err(errno.into()),
    };
    if !file.metadata()?.is_file() {
        return Ok(Some(b"?".to_vec()));
    }
    let mut found = Vec::new();
    file.take(LINE.len() as u64 + 1).read_to_end(&mut found)?;
    Ok(Some(found))
}

fn only_the_mark(directory: &File) -> io::Result<bool> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if ![c".", c"..", NAME_C].contains(&entry.file_name()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns whether a file of this name marks the directory that it is in, and so has to be removed
/// last. A manifest marks a snapshot or a template by the name in it, and an owner's record marks a
/// run directory.
pub fn is_one(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name == NAME.as_bytes()
        || name == b"manifest.json"
        || name == b"template.json"
        || name.starts_with(b".owner-")
}

/// Removes a directory of ours. Deletes its marks last, so that a sweep can finish a removal that
/// was interrupted. Ignores what is gone already.
pub fn remove(path: &Path) -> io::Result<()> {
    let gone_is_fine = |result: io::Result<()>| match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    };
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    let mut marks = Vec::new();
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if is_one(&entry.file_name()) {
            marks.push(path);
        } else if entry.file_type()?.is_dir() {
            gone_is_fine(fs::remove_dir_all(path))?;
        } else {
            gone_is_fine(fs::remove_file(path))?;
        }
    }
    for mark in marks {
        gone_is_fine(fs::remove_file(mark))?;
    }
    gone_is_fine(fs::remove_dir(path))
}

/// Removes a directory that is [`Mark::Bare`], if it still is.
pub fn remove_bare(path: &Path) -> io::Result<()> {
    match fs::remove_file(path.join(NAME)) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn directory() -> (tempfile::TempDir, File) {
        let directory = tempfile::tempdir().unwrap();
        let file = open(directory.path()).unwrap();
        (directory, file)
    }

    #[test]
    fn a_directory_is_ours_from_its_mark_on_whatever_is_in_it() {
        let (path, directory) = directory();
        assert_eq!(read(&directory).unwrap(), Mark::Bare);
        create(&directory).unwrap();
        fs::write(path.path().join("file"), "x").unwrap();
        assert_eq!(read(&directory).unwrap(), Mark::Ours);
        create(&directory).unwrap_err();
        assert_eq!(read(&directory).unwrap(), Mark::Ours, "it stays so");
        remove(path.path()).unwrap();
        assert!(!path.path().exists());
        remove(path.path()).unwrap();
    }

    #[test]
    fn a_part_of_a_mark_is_none_unless_nothing_else_is_there() {
        for part in [&b""[..], &LINE[..10]] {
            let (path, directory) = directory();
            fs::write(path.path().join(NAME), part).unwrap();
            assert_eq!(read(&directory).unwrap(), Mark::Bare);
            fs::write(path.path().join("file"), "somebody's").unwrap();
            assert_eq!(read(&directory).unwrap(), Mark::Foreign);
            fs::remove_file(path.path().join("file")).unwrap();
            remove_bare(path.path()).unwrap();
            assert!(!path.path().exists());
        }
    }

    #[test]
    fn a_file_that_only_resembles_a_mark_is_none() {
        let (path, directory) = directory();
        let mark = path.path().join(NAME);
        let real = path.path().join("real");
        fs::write(&real, LINE).unwrap();
        symlink(&real, &mark).unwrap();
        assert_eq!(read(&directory).unwrap(), Mark::Foreign);
        fs::remove_file(&mark).unwrap();
        fs::create_dir(&mark).unwrap();
        assert_eq!(read(&directory).unwrap(), Mark::Foreign);
        fs::remove_dir(&mark).unwrap();
        fs::write(&mark, [LINE, b"and more"].concat()).unwrap();
        assert_eq!(read(&directory).unwrap(), Mark::Foreign);
        symlink(path.path(), path.path().join("link")).unwrap();
        open(&path.path().join("link")).unwrap_err();
    }

    #[test]
    fn a_removal_that_is_cut_off_leaves_the_mark() {
        let (path, directory) = directory();
        create(&directory).unwrap();
        fs::write(path.path().join("zzz"), "").unwrap();
        // Stands for an entry that can't be removed, like a mount point or an immutable directory.
        let stuck = path.path().join("stuck");
        fs::create_dir(&stuck).unwrap();
        if rustix::process::geteuid().is_root() {
            return;
        }
        use std::os::unix::fs::PermissionsExt as _;
        fs::write(stuck.join("file"), "").unwrap();
        fs::set_permissions(&stuck, fs::Permissions::from_mode(0o500)).unwrap();
        remove(path.path()).unwrap_err();
        assert_eq!(read(&directory).unwrap(), Mark::Ours);
        fs::set_permissions(&stuck, fs::Permissions::from_mode(0o700)).unwrap();
    }
}
