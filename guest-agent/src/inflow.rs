//! The credit that the host has for one request's content.

use ironclaw_protocol::limits::WINDOW;
use ironclaw_protocol::message::{RequestId, ToHost};
use ironclaw_protocol::session::{Outgoing, Violation};

/// The minimum grant of credit, to save frames. The host still never stalls: it has to use up the
/// whole window, which is more, before it has to wait.
const MIN_GRANT: u32 = WINDOW / 4;

/// The credit of the host, and the bytes consumed but not granted again yet. Their sum never
/// exceeds [`WINDOW`].
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

    /// Records the arrival of `count` bytes.
    pub(crate) fn arrive(&mut self, count: usize) -> Result<(), Violation> {
        let left = u32::try_from(count)
            .ok()
            .and_then(|count| self.left.checked_sub(count));
        self.left = left.ok_or(Violation::OverCredit(self.id))?;
        Ok(())
    }

    /// Records that `count` bytes that had arrived have left the agent's memory.
    pub(crate) fn consume(&mut self, count: usize, out: &mut Outgoing) {
        // Fits: arrivals were counted in a u32, and no byte is consumed twice.
        self.consumed += u32::try_from(count).unwrap_or(0);
        if self.consumed >= MIN_GRANT {
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
        inflow.consume(MIN_GRANT as usize - 1, &mut out);
        assert!(inflow.arrive(1).is_err(), "nothing was granted yet");
        inflow.consume(1, &mut out);
        assert!(!out.is_empty());
        inflow.arrive(MIN_GRANT as usize).unwrap();
        assert!(inflow.arrive(1).is_err());
    }
}
