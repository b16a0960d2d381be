//! The list of what differs from the image.

use ironclaw_protocol::file::{ChangeKind, FileChange};
use ironclaw_protocol::limits::MAX_CHUNK;
use ironclaw_protocol::message::{Outcome, RequestId};
use ironclaw_protocol::records;
use ironclaw_protocol::session::Outgoing;

use super::search::{Changes, DifferenceKind, Found};
use crate::outflow::Outflow;
use crate::transfer::Transfer;

/// Names that are looked at in one step, before others are served.
const MAX_AT_A_TIME: usize = 128;

/// A list on its way.
#[derive(Debug)]
pub(crate) struct ChangeList {
    changes: Changes,
    /// Records that are not sent.
    records: Vec<u8>,
    is_complete: bool,
    files: u64,
    unread: u64,
    flow: Outflow,
}

impl ChangeList {
    pub(crate) fn new(id: RequestId, changes: Changes) -> Self {
        Self {
            changes,
            records: Vec::new(),
            is_complete: false,
            files: 0,
            unread: 0,
            flow: Outflow::new(id),
        }
    }

    fn further(&mut self) {
        for _ in 0..MAX_AT_A_TIME {
            if self.records.len() >= MAX_CHUNK {
                return;
            }
            match self.changes.next() {
                None => {
                    self.is_complete = true;
                    return;
                }
                Some(Found::Same) => {}
                Some(Found::Unread) => self.unread += 1,
                Some(Found::Difference(found)) => {
                    let kind = match found.kind {
                        DifferenceKind::Changed(kind) => kind,
                        DifferenceKind::Hidden => ChangeKind::Removed,
                        DifferenceKind::Parent | DifferenceKind::Opaque => continue,
                    };
                    let path = [b"/", &found.path[..]].concat().into();
                    let file = found.file;
                    let change = FileChange { path, kind, file };
                    if records::append(&change, &mut self.records).is_ok() {
                        self.files += 1;
                    }
                }
            }
        }
    }
}

impl Transfer for ChangeList {
    fn taken(&mut self, offset: u64) -> bool {
        self.flow.taken(offset)
    }

    fn is_ready(&self) -> bool {
        self.flow.room() > 0
    }

    fn step(&mut self, _: &mut [u8], out: &mut Outgoing) -> Option<Outcome> {
        if !self.is_complete {
            self.further();
        }
        let count = self.records.len().min(self.flow.room());
        if count > 0 {
            self.flow.send(self.records.drain(..count).collect(), out);
        } else if self.is_complete {
            return Some(Outcome::Listed {
                files: self.files,
                unread: self.unread,
            });
        }
        None
    }
}
