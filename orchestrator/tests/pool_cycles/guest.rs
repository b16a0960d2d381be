//! The agent in a simulated guest.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use ironclaw_protocol::VERSION;
use ironclaw_protocol::frame::{Decoder, Event, MAGIC, decode, encode};
use ironclaw_protocol::message::{
    Exec, Failure, FailureKind, Outcome, Request, RequestId, Stream, ToGuest, ToHost,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::sleep;

use crate::fault::Fault;
use crate::vm::Life;
use crate::world::World;

/// The delay of slow operations.
const SLOW_DELAY: Duration = Duration::from_millis(5);

/// Answers the host until it disconnects, or a fault ends the VM.
pub(crate) async fn serve(stream: UnixStream, world: Arc<World>, life: Weak<Life>) {
    let agent = Agent {
        stream,
        world,
        life,
        served: false,
        hung: HashSet::new(),
    };
    agent.run().await;
}

struct Agent {
    stream: UnixStream,
    world: Arc<World>,
    life: Weak<Life>,
    /// Whether this guest was handed out.
    served: bool,
    /// Commands that do not end by themselves.
    hung: HashSet<RequestId>,
}

impl Agent {
    async fn run(mut self) {
        let mut decoder = Decoder::new();
        let mut chunk = [0; 4096];
        loop {
            let mut messages = Vec::new();
            while let Some(event) = decoder.next().unwrap() {
                if let Event::Frame(payload) = event {
                    messages.push(decode(payload).unwrap());
                }
            }
            let mut answers = Vec::new();
            for message in messages {
                if !self.answer(message, &mut answers).await {
                    return;
                }
            }
            // If the host is gone, the next read tells.
            let _ = self.stream.write_all(&answers).await;
            match self.stream.read(&mut chunk).await {
                Ok(0) | Err(_) => return,
                Ok(count) => decoder.push(&chunk[..count]),
            }
        }
    }

    /// Handles a message; returns whether the guest continues.
    async fn answer(&mut self, message: ToGuest, answers: &mut Vec<u8>) -> bool {
        if self.life.upgrade().is_some_and(|life| life.is_deaf()) {
            return true;
        }
        match message {
            ToGuest::Hello { session, .. } => {
                answers.extend_from_slice(&MAGIC);
                let hello = ToHost::Hello {
                    version: VERSION,
                    session,
                    agent: "simulated".to_owned(),
                };
                encode(&hello, answers).unwrap();
            }
            ToGuest::Request { id, request } => return self.request(id, request, answers).await,
            ToGuest::Cancel { id } if self.hung.remove(&id) => {
                let failure = Failure {
                    kind: FailureKind::Cancelled,
                    message: String::new(),
                };
                done(id, Outcome::Failed(failure), answers);
            }
            _ => {}
        }
        true
    }

    async fn request(&mut self, id: RequestId, request: Request, answers: &mut Vec<u8>) -> bool {
        match request {
            Request::Ping => done(id, Outcome::Pong, answers),
            Request::Restored(new) => {
                if self.world.strikes(Fault::HelloDied) {
                    return self.dies();
                }
                if self.world.strikes(Fault::HelloSlow) {
                    sleep(SLOW_DELAY).await;
                }
                let for_a_spawn = new.identity.hostname.starts_with("cycle-");
                if for_a_spawn && std::mem::replace(&mut self.served, true) {
                    self.world.serves_again();
                }
                done(id, Outcome::Restored, answers);
            }
            Request::Exec(exec) => return self.exec(id, &exec, answers),
            _ => done(id, Outcome::ShuttingDown, answers),
        }
        true
    }

    fn exec(&mut self, id: RequestId, exec: &Exec, answers: &mut Vec<u8>) -> bool {
        if self.world.strikes(Fault::ExecDied) {
            return self.dies();
        }
        if self.world.strikes(Fault::Nonsense) {
            answers.extend_from_slice(&u32::MAX.to_le_bytes());
            return true;
        }
        // Not while it is primed: that has a timeout of half a minute.
        let hangs = self.served && self.world.strikes(Fault::ExecHangs);
        match exec.argv[0].to_str().unwrap() {
            _ if hangs => drop(self.hung.insert(id)),
            "forever" => drop(self.hung.insert(id)),
            "echo" => {
                let data = ToHost::Data {
                    id,
                    stream: Stream::Stdout,
                    bytes: exec.argv[1].as_bytes().to_vec(),
                };
                encode(&data, answers).unwrap();
                done(id, Outcome::Exited(0), answers);
            }
            _ => done(id, Outcome::Exited(0), answers),
        }
        true
    }

    fn dies(&self) -> bool {
        if let Some(life) = self.life.upgrade() {
            life.end("exit status: 1");
        }
        false
    }
}

fn done(id: RequestId, outcome: Outcome, answers: &mut Vec<u8>) {
    encode(&ToHost::Done { id, outcome }, answers).unwrap();
}
