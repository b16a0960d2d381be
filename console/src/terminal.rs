//! The terminal that this program runs on.

use std::io::{self, IsTerminal as _, stderr, stdin, stdout};
use std::os::fd::{AsFd, BorrowedFd};

use ironclaw_orchestrator::vm::TerminalSize;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// The size where there is no terminal, or it does not know.
const DEFAULT_SIZE: TerminalSize = TerminalSize {
    rows: 24,
    columns: 80,
};

/// Returns the size of the terminal that the standard streams are on.
#[must_use]
pub fn size() -> TerminalSize {
    let (stdout, stdin, stderr) = (stdout(), stdin(), stderr());
    let streams: [BorrowedFd<'_>; 3] = [stdout.as_fd(), stdin.as_fd(), stderr.as_fd()];
    let sizes = streams.into_iter().filter_map(|of| tcgetwinsize(of).ok());
    let size = sizes
        .map(|size| TerminalSize {
            rows: size.ws_row,
            columns: size.ws_col,
        })
        .find(|size| size.rows > 0 && size.columns > 0);
    size.unwrap_or(DEFAULT_SIZE)
}

/// A terminal on standard input that passes on each key as it is pressed, and shows none of them;
/// dropping this lets it be as it was.
#[derive(Debug)]
#[must_use = "the terminal is as it was when this is dropped"]
pub struct RawMode(Termios);

impl RawMode {
    /// Changes the terminal; `None` if standard input is none.
    ///
    /// # Errors
    /// The kernel's.
    pub fn enter() -> io::Result<Option<Self>> {
        let stdin = stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(&stdin)?;
        let entered = Self(before.clone());
        let mut raw = before;
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Some(entered))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Waits for nothing: what was shown is on its way. A terminal that has hung up is nobody's.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.0);
    }
}
