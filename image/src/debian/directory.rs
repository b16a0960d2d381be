//! Directories that a build works in.

use std::fs::{self, DirBuilder, DirEntry};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use crate::error::TemplateError;

/// Creates a directory, mode 0700; its parent must exist.
pub(crate) fn create(path: &Path) -> Result<(), TemplateError> {
    DirBuilder::new()
        .mode(0o700)
        .create(path)
        .map_err(TemplateError::io("create directory", path))
}

/// Lists a directory.
pub(crate) fn entries(directory: &Path) -> Result<Vec<DirEntry>, TemplateError> {
    fs::read_dir(directory)
        .and_then(Iterator::collect)
        .map_err(TemplateError::io("list", directory))
}
