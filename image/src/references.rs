//! What needs a template beside the processes that use it: snapshots, for as long as they exist.
//!
//! Each snapshot has a hard link to an empty file of its template. So the kernel counts them: a
//! snapshot that is deleted, or swept after its maker was killed, takes its link with it, and no record
//! can be stale. A snapshot on another file system is recorded by a symbolic link to it in the template's
//! directory.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use ironclaw_store::file as durable;
use uuid::Uuid;

/// The empty file of a template that snapshots link to.
const COUNTED: &str = "references";
/// The prefix of the symbolic links.
const RECORDED: &str = "reference-";
/// The name of a snapshot's link. It is no file of the snapshot's content.
pub const REFERENCE: &str = "template";

/// Records in the template's directory that the artefact in `staging` needs it, which will be at
/// `published`. The caller keeps the template from being removed until it is there.
pub(crate) fn add(template: &Path, staging: &Path, published: &Path) -> io::Result<()> {
    let counted = template.join(COUNTED);
    let mut options = File::options();
    let created = options.write(true).create_new(true).mode(0o600);
    match created.open(&counted) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    match fs::hard_link(&counted, staging.join(REFERENCE)) {
        // Another file system or mount, or a file of another user.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::CrossesDevices | ErrorKind::PermissionDenied
            ) || error.kind() == ErrorKind::TooManyLinks =>
        {
            record(template, published)
        }
        linked => linked,
    }
}

/// Records what can't have a link.
fn record(template: &Path, published: &Path) -> io::Result<()> {
    let name = format!("{RECORDED}{}", Uuid::now_v7().simple());
    symlink(published, template.join(name))?;
    durable::sync_directory(template)
}

/// Returns whether anything needs the template in this directory.
pub(crate) fn exist(template: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(template.join(COUNTED)) {
        Ok(facts) if facts.nlink() > 1 => return Ok(true),
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    for link in recorded(template)? {
        match fs::metadata(&link) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            // What can't be looked at may be there.
            _ => return Ok(true),
        }
    }
    Ok(false)
}

/// Has the template in `staging` needed by whatever needs the one in `template`, which it replaces.
pub(crate) fn carry_over(template: &Path, staging: &Path) -> io::Result<()> {
    match fs::hard_link(template.join(COUNTED), staging.join(COUNTED)) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    for link in recorded(template)? {
        let Some(name) = link.file_name() else {
            continue;
        };
        symlink(fs::read_link(&link)?, staging.join(name))?;
    }
    Ok(())
}

fn recorded(template: &Path) -> io::Result<Vec<PathBuf>> {
    let mut links = Vec::new();
    for entry in fs::read_dir(template)? {
        let entry = entry?;
        let is_record = |name: &str| name.starts_with(RECORDED);
        if entry.file_name().to_str().is_some_and(is_record) {
            links.push(entry.path());
        }
    }
    Ok(links)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns directories of a template and of a snapshot that is being made.
    fn directories() -> (tempfile::TempDir, [PathBuf; 3]) {
        let root = tempfile::tempdir().unwrap();
        let paths = ["template", "staging", "published"].map(|name| root.path().join(name));
        for path in &paths[..2] {
            fs::create_dir(path).unwrap();
        }
        (root, paths)
    }

    #[test]
    fn a_template_is_needed_from_the_first_snapshot_that_is_made_until_the_last_is_removed() {
        let (_root, [template, staging, published]) = directories();
        assert!(!exist(&template).unwrap());
        add(&template, &staging, &published).unwrap();
        assert!(exist(&template).unwrap());
        fs::rename(&staging, &published).unwrap();
        fs::create_dir(&staging).unwrap();
        add(&template, &staging, &published).unwrap();
        fs::remove_dir_all(&published).unwrap();
        assert!(exist(&template).unwrap());
        // As a sweep does after its maker was killed.
        fs::remove_dir_all(&staging).unwrap();
        assert!(!exist(&template).unwrap());
    }

    #[test]
    fn a_snapshot_on_another_file_system_counts_while_it_is_there() {
        let (_root, [template, _, published]) = directories();
        record(&template, &published).unwrap();
        assert!(!exist(&template).unwrap(), "it is not there yet");
        fs::create_dir(&published).unwrap();
        assert!(exist(&template).unwrap());
        fs::remove_dir(&published).unwrap();
        assert!(!exist(&template).unwrap());
    }

    #[test]
    fn what_needs_a_template_needs_the_one_that_replaces_it() {
        let (root, [template, staging, published]) = directories();
        add(&template, &staging, &published).unwrap();
        symlink(&staging, template.join("reference-1")).unwrap();
        let successor = root.path().join("successor");
        fs::create_dir(&successor).unwrap();
        carry_over(&template, &successor).unwrap();
        fs::remove_dir_all(&template).unwrap();
        assert!(exist(&successor).unwrap());
        fs::remove_file(staging.join(REFERENCE)).unwrap();
        assert!(exist(&successor).unwrap(), "the symbolic link");
        fs::remove_dir(&staging).unwrap();
        assert!(!exist(&successor).unwrap());
    }
}
