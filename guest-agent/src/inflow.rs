//! The credit that the host has for one request's content.

use ironclaw_protocol::limits::WINDOW;
use ironclaw_protocol::message::{RequestId, ToHost};
use ironclaw_protocol::session::{Outgoing, Violation};

/// Credit goes back in portions of at least this size, to save frames. The host still never
/// stalls: it has to have used up all of the window, which is more, before it has to wait.
const PORTION: u32 = WINDOW / 4;

/// How much the host may send, and how much of what it sent is consumed but not yet granted
/// anew. Both in bytes; their sum never exceeds [`WINDOW`].
#[derive(Debug)]
pub(crate) struct Inflow {
    id: RequestId,
    left: u32,
    consumed: u32,
}

impl Inflow {
    pub(crate) fn new(id: RequestId) -> Self {
        Self {
            id,
            left: WINDOW,
            consumed: 0,
        }
    }

    /// `count` bytes arrived.
    pub(crate) fn arrive(&mut self, count: usize) -> Result<(), Violation> {
        let left = u32::try_from(count)
            .ok()
            .and_then(|count| self.left.checked_sub(count));
        self.left = left.ok_or(Violation::OverCredit(self.id))?;
        Ok(())
    }

    /// `count` bytes that had arrived are out of the agent's memory.
    pub(crate) fn consume(&mut self, count: usize, out: &mut Outgoing) {
        // What arrived was counted in a u32, and no byte is consumed twice.
        self.consumed += u32::try_from(count).unwrap_or(0);
        if self.consumed >= PORTION {
            out.push(&ToHost::Credit {
                id: self.id,
                bytes: self.consumed,
            });
            self.left += self.consumed;
            self.consumed = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_may_send_the_window_and_what_was_granted_since_but_not_a_byte_more() {
        let mut out = Outgoing::default();
        let mut inflow = Inflow::new(RequestId(1));
        inflow.arrive(WINDOW as usize).unwrap();
        assert!(inflow.arrive(1).is_err());
        inflow.consume(PORTION as usize - 1, &mut out);
        assert!(inflow.arrive(1).is_err(), "nothing was granted yet");
        inflow.consume(1, &mut out);
        assert!(!out.is_empty());
        inflow.arrive(PORTION as usize).unwrap();
        assert!(inflow.arrive(1).is_err());
    }
}
