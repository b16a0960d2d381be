//! The digest of what a copy brings, which tells whether later steps have to run again.

use std::os::unix::ffi::OsStrExt as _;

use ironclaw_store::Sha256Digest;
use sha2::{Digest as _, Sha256};

use super::Copy;
use super::context::{Context, ContextError, SelectedKind};

impl Context {
    /// Returns the digest of the files that `copy` brings: their places, permissions and content,
    /// and not their times, which change with each checkout.
    ///
    /// # Errors
    /// [`ContextError`] with the first file that can't be read.
    pub fn digest(&self, copy: &Copy) -> Result<Sha256Digest, ContextError> {
        let mut hasher = Sha256::new();
        let mut field = |bytes: &[u8]| {
            hasher.update((bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        field(copy.to.as_bytes());
        field(copy.owner.as_deref().unwrap_or_default().as_bytes());
        for selected in self.select(copy, true)? {
            field(selected.to.as_os_str().as_bytes());
            field(&selected.mode.to_le_bytes());
            match &selected.kind {
                SelectedKind::Directory => field(b"directory"),
                SelectedKind::Symlink(target) => {
                    field(b"link");
                    field(target.as_os_str().as_bytes());
                }
                SelectedKind::Inline(text) => {
                    field(b"file");
                    field(Sha256Digest::of(text).as_bytes());
                }
                SelectedKind::File { path } => {
                    let content = Sha256Digest::of_reader(self.file(path)?);
                    let content = content.map_err(|source| ContextError::Io {
                        path: self.root().join(path),
                        source,
                    })?;
                    field(b"file");
                    field(content.as_bytes());
                }
            }
        }
        let digest: [u8; 32] = hasher.finalize().into();
        Ok(digest.into())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, Permissions};
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_copy_is_another_one_by_content_place_owner_and_mode_and_not_by_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        fs::write(&path, "text").unwrap();
        let digest = |change: &dyn Fn(&mut Copy)| {
            let mut copy = Copy::new("a".to_owned(), "/to".to_owned());
            change(&mut copy);
            let context = Context::open(directory.path()).unwrap();
            context.digest(&copy).unwrap()
        };
        let before = digest(&|_| {});
        File::open(&path)
            .unwrap()
            .set_modified(SystemTime::UNIX_EPOCH)
            .unwrap();
        assert_eq!(digest(&|_| {}), before);
        assert_ne!(digest(&|copy| copy.to = "/other".to_owned()), before);
        assert_ne!(digest(&|copy| copy.owner = Some("1".to_owned())), before);
        assert_ne!(digest(&|copy| copy.mode = Some(0o600)), before);
        fs::set_permissions(&path, Permissions::from_mode(0o711)).unwrap();
        assert_ne!(digest(&|_| {}), before);
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        fs::write(&path, "Text").unwrap();
        assert_ne!(digest(&|_| {}), before);
    }
}
