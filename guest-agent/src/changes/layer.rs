//! What differs from the image, as a layer over it: see "Image Layer Filesystem Changeset" of OCI.

use std::io;

use ironclaw_protocol::file::ChangeKind;

use super::search::{Changes, DifferenceKind, Found};
use crate::archive::{Part, Source};

/// A name that begins so says that a lower layer's file is gone.
const WHITEOUT: &[u8] = b".wh.";
/// The name of what says that a directory hides all of a lower layer's.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// The files of the layer.
#[derive(Debug)]
pub(crate) struct Layer(Changes);

impl Layer {
    pub(crate) fn new(changes: Changes) -> Self {
        Self(changes)
    }
}

impl Source for Layer {
    fn next(&mut self) -> Option<Part> {
        let found = match self.0.next()? {
            Found::Same => return Some(Part::Skipped),
            Found::Unread => return Some(Part::Omitted),
            Found::Difference(found) => found,
        };
        Some(match found.kind {
            DifferenceKind::Hidden => Part::Skipped,
            DifferenceKind::Opaque => Part::Marker([&found.path, &b"/"[..], OPAQUE].concat()),
            DifferenceKind::Changed(ChangeKind::Removed) => Part::Marker(whiteout(&found.path)),
            // It would say that another file is gone.
            _ if name(&found.path).starts_with(WHITEOUT) => Part::Omitted,
            _ => match self.0.read(&found.path) {
                Ok(item) => Part::Item(found.path, item.into()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Part::Skipped,
                Err(_) => Part::Omitted,
            },
        })
    }
}

fn name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

fn whiteout(path: &[u8]) -> Vec<u8> {
    let name = name(path);
    let above = &path[..path.len() - name.len()];
    [above, WHITEOUT, name].concat()
}
