//! The file that gets what differs from the image at the end of a run.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use ironclaw_console::progress;
use ironclaw_orchestrator::vm::{Launcher, VmClient};
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_buf};

/// Bytes that an archive may have beyond its guest's disk: names and properties of its files. A guest
/// must not fill the disk of this host.
const MAX_OVERHEAD: u64 = 256 << 20;

/// A file that has its name when it is complete, and is only this user's.
#[derive(Debug)]
pub(crate) struct ChangesFile {
    path: PathBuf,
    file: NamedTempFile,
    /// Limit of its size in bytes.
    limit: u64,
}

impl ChangesFile {
    /// Checks that there will be something to write, and creates the file.
    pub(crate) fn create(path: &Path, launcher: &Launcher) -> Result<Self> {
        ensure!(
            launcher.template().root_disk().is_some(),
            "--changes needs a template that was made of an image, an archive or a directory \
             (ironclaw template build NAME --from SOURCE): in the one that is used the root is in memory"
        );
        if path.is_dir() {
            bail!("--changes {}: is a directory", path.display());
        }
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let file = NamedTempFile::new_in(directory)
            .with_context(|| format!("create a file in {}", directory.display()))?;
        let path = path.to_owned();
        let disk = launcher.requirements().machine.disk_bytes();
        Ok(Self {
            path,
            file,
            limit: disk.saturating_add(MAX_OVERHEAD),
        })
    }

    /// Writes the archive.
    pub(crate) async fn write(self, vm: &VmClient) -> Result<()> {
        let attempt = || {
            format!(
                "write what differs from the image to {}",
                self.path.display()
            )
        };
        let archive = vm.files().archive_changes().await.with_context(attempt)?;
        let mut archive = tokio::io::BufReader::with_capacity(256 << 10, archive.take(self.limit));
        let file = self.file.reopen().with_context(attempt)?;
        let mut file = tokio::fs::File::from_std(file);
        let written = copy_buf(&mut archive, &mut file).await;
        let written = written.with_context(attempt)?;
        file.flush().await.with_context(attempt)?;
        file.sync_all().await.with_context(attempt)?;
        let archive = archive.into_inner().into_inner();
        let Some(summary) = archive.summary() else {
            bail!(
                "{}: the guest sent more than its disk holds, {written} bytes",
                attempt()
            );
        };
        if summary.omitted > 0 {
            progress::note(&format!(
                "warning: {} lacks {} files: sockets, names that begin with .wh., or what could not be read",
                self.path.display(),
                summary.omitted
            ));
        }
        let persisted = self.file.persist(&self.path);
        persisted.with_context(|| format!("give {} its name", self.path.display()))?;
        Ok(())
    }
}
