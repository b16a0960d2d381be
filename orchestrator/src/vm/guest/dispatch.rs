//! Dispatches a guest's messages to requests. All are checked before they are used.

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
    /// Handles the complete frames; returns their number.
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
                    // Leftovers of an older session may be anything.
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
        // Up to the end: messages of this wire must not come behind those of the next one.
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
            ToHost::Opened { id } => {
                if state.heard(id)?.inbox.open() {
                    Ok(())
                } else {
                    Err("the guest broke the protocol: it opened what it had opened".to_owned())
                }
            }
            ToHost::Eof { id } => {
                if state.heard(id)?.inbox.end_content() {
                    Ok(())
                } else {
                    Err("the guest broke the protocol: it ended what had ended".to_owned())
                }
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
            // Sent with the next message: nobody waits for it.
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

/// Returns whether a command's end is one that the guest keeps until the host acknowledges it.
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
        // A leftover of the session in which a snapshot was taken.
        _ => Ok(()),
    }
}

impl State {
    fn find(&mut self, id: RequestId) -> Result<&mut Open, String> {
        self.open.get_mut(&id).ok_or_else(|| unknown(id))
    }

    /// Returns the request that the guest refers to.
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
