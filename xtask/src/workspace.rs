//! The locations of the repository and its build results.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

/// The repository that this program was built from.
#[derive(Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
    cargo: OsString,
}

impl Workspace {
    pub(crate) fn find() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("the xtask directory has no parent")?
            .to_owned();
        let target = match env::var_os("CARGO_TARGET_DIR").filter(|path| !path.is_empty()) {
            // Relative to the directory that cargo was called in.
            Some(path) => std::path::absolute(path).context("can't resolve CARGO_TARGET_DIR")?,
            None => root.join("target"),
        };
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        Ok(Self {
            root,
            target,
            cargo,
        })
    }

    /// Returns the root of the repository.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the directory of build results.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Returns a `cargo` command in the repository's root, with one target directory for all calls.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.cargo);
        command
            .args(arguments)
            .current_dir(&self.root)
            .env("CARGO_TARGET_DIR", &self.target);
        command
    }
}
