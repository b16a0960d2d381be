//! What a guest says, and whom it concerns. All of it is checked before it is used.

use std::sync::Arc;

use ironclaw_protocol::VERSION;
use ironclaw_protocol::frame::{self, Decoder, Event};
use ironclaw_protocol::limits::WINDOW;
use ironclaw_protocol::message::{FailureKind, Outcome, RequestId, ToGuest, ToHost};

use super::inbox::Position;
use super::line::{Line, State};
use super::open::{Kind, Mismatch, Open};
use super::wire::Wire;
use crate::untrusted;

impl Line {
    /// Takes in what is complete, and says how many frames that were.
    pub(super) fn dispatch_all(
        &self,
        wire: &Arc<Wire>,
        decoder: &mut Decoder,
    ) -> Result<u32, String> {
        let mut frames = 0;
        loop {
            frames += 1;
            match decoder
                .next()
                .map_err(|error| format!("the guest broke the protocol: {error}"))?
            {
                None => return Ok(frames - 1),
                Some(Event::Opened) if wire.is_greeted() => {
                    return Err("the guest started another session".to_owned());
                }
                Some(Event::Opened) => {}
                Some(Event::Frame(payload)) => match frame::decode::<ToHost>(payload) {
                    Ok(message) => {
                        message
                            .validate()
                            .map_err(|error| format!("the guest broke the protocol: {error}"))?;
                        self.dispatch(wire, message)?;
                    }
                    // What an older session left on the line may be anything.
                    Err(_) if !wire.is_greeted() => {}
                    Err(error) => return Err(format!("the guest broke the protocol: {error}")),
                },
            }
        }
    }

    fn dispatch(&self, wire: &Arc<Wire>, message: ToHost) -> Result<(), String> {
        if !wire.is_greeted() {
            return greeting(wire, &message);
        }
        // To the end: what goes on over another wire must not have this one's words behind it.
        let mut state = self.state();
        if state.is_over(wire) {
            return Ok(());
        }
        match message {
            ToHost::Hello { .. } => Err("the guest broke the protocol: a second hello".to_owned()),
            ToHost::Fault { reason } => {
                Err(format!("the agent ended it: {}", untrusted::line(&reason)))
            }
            ToHost::Data { id, stream, bytes } => {
                let open = state.heard(id)?;
                if open.known && open.inbox.push(stream, &bytes) {
                    Ok(())
                } else {
                    Err("the guest broke the protocol: it sent more than it may".to_owned())
                }
            }
            ToHost::Credit { id, bytes } => {
                let open = state.heard(id)?;
                if open.credit.available_permits() + bytes as usize > WINDOW as usize {
                    return Err("the guest broke the protocol: more credit than a window".into());
                }
                open.consumed(bytes).map_err(mismatch)
            }
            ToHost::OutOfMemory { id } => {
                state.heard(id)?.inbox.set_out_of_memory();
                Ok(())
            }
            ToHost::ReaderWaits { id } => {
                state.heard(id)?.reader_waits();
                Ok(())
            }
            ToHost::Attached {
                id,
                stdout,
                stderr,
                stdin,
                keep: _,
            } => {
                let at = Position { stdout, stderr };
                let messages = state.find(id)?.attached(id, at, stdin).map_err(mismatch)?;
                for message in &messages {
                    state.queue(message).map_err(|error| error.to_string())?;
                }
                self.write_out(&mut state)
                    .map_err(|error| error.to_string())
            }
            ToHost::Done { id, outcome } => self.done(&mut state, id, outcome),
        }
    }

    fn done(&self, state: &mut State, id: RequestId, outcome: Outcome) -> Result<(), String> {
        let open = state.find(id)?;
        if let Outcome::Failed(failure) = &outcome
            && failure.kind == FailureKind::NotFound
            && !open.known
            && open.may_be_unknown()
        {
            // The session was lost before the guest had the request.
            let sent = state.queue_request(id);
            sent.map_err(|error| error.to_string())?;
            return self.write_out(state).map_err(|error| error.to_string());
        }
        if let Kind::Command(exec) = open.kind
            && is_end(&outcome)
        {
            // It goes out with what is sent next: nobody waits for it.
            let acknowledged = state.queue(&ToGuest::Acknowledge { exec });
            acknowledged.map_err(|error| error.to_string())?;
        }
        if let Some(mut open) = state.open.remove(&id) {
            open.end_input();
            open.inbox.end(Ok(outcome));
        }
        self.wake_writers();
        Ok(())
    }
}

/// Whether a command ended so that the guest keeps it until the host has that.
fn is_end(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Exited(_) | Outcome::Signaled(_) | Outcome::TimedOut => true,
        Outcome::Failed(failure) => failure.kind == FailureKind::Cancelled,
        _ => false,
    }
}

fn greeting(wire: &Wire, message: &ToHost) -> Result<(), String> {
    match message {
        ToHost::Hello {
            version, session, ..
        } if *session == wire.session => {
            if *version != VERSION {
                return Err(format!(
                    "its agent speaks version {version} of the protocol, this program \
                     speaks {VERSION}: build the template again (ironclaw template build)"
                ));
            }
            wire.greeted();
            Ok(())
        }
        // Left on the line by the session that a snapshot was taken in.
        _ => Ok(()),
    }
}

impl State {
    fn find(&mut self, id: RequestId) -> Result<&mut Open, String> {
        self.open.get_mut(&id).ok_or_else(|| unknown(id))
    }

    /// The request that the guest says something of.
    fn heard(&mut self, id: RequestId) -> Result<&mut Open, String> {
        let open = self.find(id)?;
        open.heard();
        Ok(open)
    }
}

fn mismatch(_: Mismatch) -> String {
    "the guest broke the protocol: it has what was not sent, or lacks what it had".to_owned()
}

fn unknown(id: RequestId) -> String {
    format!("the guest broke the protocol: request {} is not open", id.0)
}
