//! The transfer of a file.

use alloc::string::String;
use alloc::vec::Vec;

use ironclaw_protocol::limits::{MAX_CHUNK, WINDOW};
use ironclaw_protocol::message::{
    Failure, FailureKind, Outcome, RequestId, Stream, ToHost, bounded_text,
};
use ironclaw_protocol::session::{Outgoing, Violation};

use crate::files::{File, Files};

/// An open request for a file.
#[derive(Debug)]
pub(crate) enum Transfer {
    /// From the host.
    Receive {
        path: String,
        file: File,
        /// Bytes that the host may still send.
        credit: u32,
    },
    /// To the host.
    Send {
        mode: u32,
        content: Vec<u8>,
        sent: usize,
        /// Bytes that the host has taken.
        taken: u64,
    },
}

impl Transfer {
    pub(crate) fn receive(path: String, mode: u32) -> Self {
        let content = Vec::new();
        Self::Receive {
            path,
            file: File { mode, content },
            credit: WINDOW,
        }
    }

    pub(crate) fn send(file: &File) -> Self {
        Self::Send {
            mode: file.mode,
            content: file.content.clone(),
            sent: 0,
            taken: 0,
        }
    }

    /// Adds content from the host; returns the outcome at the end. The outer error is a violation
    /// of the protocol.
    pub(crate) fn content(
        &mut self,
        id: RequestId,
        bytes: &[u8],
        files: &Files,
        out: &mut Outgoing,
    ) -> Result<Option<Outcome>, Violation> {
        let Self::Receive { path, file, credit } = self else {
            return Err(Violation::UnexpectedContent(id));
        };
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        *credit = credit
            .checked_sub(length)
            .ok_or(Violation::OverCredit(id))?;
        file.content.extend_from_slice(bytes);
        if file.content.len() > files.room_for(path) {
            return Ok(Some(failed(FailureKind::NoSpace, path)));
        }
        let bytes = WINDOW - *credit;
        if bytes >= WINDOW / 4 {
            *credit = WINDOW;
            out.push(&ToHost::Credit { id, bytes });
        }
        Ok(None)
    }

    /// Ends the content.
    pub(crate) fn end_of_content(
        self,
        id: RequestId,
        files: &mut Files,
    ) -> Result<Outcome, Violation> {
        let Self::Receive { path, file, .. } = self else {
            return Err(Violation::UnexpectedContent(id));
        };
        let bytes = file.content.len() as u64;
        Ok(match files.put(&path, file) {
            Ok(()) => Outcome::FileWritten { bytes },
            Err(kind) => failed(kind, &path),
        })
    }

    /// Records that the host took everything up to `offset`.
    pub(crate) fn taken(&mut self, id: RequestId, offset: u64) -> Result<(), Violation> {
        match self {
            Self::Send { sent, taken, .. } if offset <= *sent as u64 => *taken = offset.max(*taken),
            Self::Send { .. } => return Err(Violation::TakenTooMuch(id)),
            Self::Receive { .. } => {}
        }
        Ok(())
    }

    /// Returns the next message to send: content, or finally the outcome.
    pub(crate) fn next(&mut self, id: RequestId) -> Option<ToHost> {
        let Self::Send {
            mode,
            content,
            sent,
            taken,
        } = self
        else {
            return None;
        };
        if *sent == content.len() {
            let outcome = Outcome::FileRead {
                mode: *mode,
                bytes: content.len() as u64,
            };
            return Some(ToHost::Done { id, outcome });
        }
        let credit = *taken + u64::from(WINDOW) - *sent as u64;
        let credit = usize::try_from(credit).unwrap_or(usize::MAX);
        let length = (content.len() - *sent).min(MAX_CHUNK).min(credit);
        let bytes = content[*sent..*sent + length].to_vec();
        *sent += length;
        let stream = Stream::File;
        (length > 0).then_some(ToHost::Data { id, stream, bytes })
    }
}

/// Creates the failure of a file.
pub(crate) fn failed(kind: FailureKind, path: &str) -> Outcome {
    let what = match kind {
        FailureKind::NotFound => "does not exist",
        FailureKind::NoSuchDirectory => "is in a directory that does not exist",
        FailureKind::NoSpace => "does not fit into the guest's memory for files",
        _ => "is not a regular file",
    };
    Outcome::Failed(Failure {
        kind,
        message: bounded_text(alloc::format!("{path} {what}")),
    })
}
