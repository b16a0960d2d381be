//! Reads the content of files.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use super::content::Content;
use super::file_tree::FileTree;
use super::id::SourceId;

/// Reads content of a tree's files. Keeps the last file of the host open.
#[derive(Debug)]
pub struct Reader<'a> {
    tree: &'a FileTree,
    open: Option<(SourceId, Arc<File>)>,
}

impl<'a> Reader<'a> {
    /// Creates a reader.
    #[must_use]
    pub fn new(tree: &'a FileTree) -> Self {
        Self { tree, open: None }
    }

    /// Fills `buffer` by what a file has from `offset` on; holes, and what is behind its end, are
    /// zeros.
    ///
    /// # Errors
    /// As for `open(2)` and `pread(2)`; if a file on the host is shorter than it was, or changed.
    pub fn read_at(&mut self, content: &Content, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        buffer.fill(0);
        let length = buffer.len() as u64;
        for extent in content.overlapping(offset, length) {
            let begin = extent.offset.max(offset);
            let end = extent.end().min(offset.saturating_add(length));
            let range = index(begin - offset)?..index(end - offset)?;
            let position = extent.position + (begin - extent.offset);
            let file = self.file(extent.source)?;
            file.read_exact_at(&mut buffer[range], position)?;
        }
        Ok(())
    }

    fn file(&mut self, id: SourceId) -> io::Result<Arc<File>> {
        if let Some((open, file)) = &self.open
            && *open == id
        {
            return Ok(Arc::clone(file));
        }
        let source = self.tree.source(id).ok_or(io::ErrorKind::NotFound)?;
        let file = source.open()?;
        self.open = Some((id, Arc::clone(&file)));
        Ok(file)
    }
}

/// Positions within a buffer fit.
fn index(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}
