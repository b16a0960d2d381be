//! The agent in a simulated guest.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use ironclaw_protocol::message::{
    Exec, Failure, FailureKind, Outcome, Request, RequestId, Stream, ToGuest, ToHost,
};
use ironclaw_protocol::session::{Heard, Session};
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
        nonsense: Vec::new(),
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
    /// Bytes sent after its answers that are no frame.
    nonsense: Vec<u8>,
}

impl Agent {
    async fn run(mut self) {
        let mut session = Session::new("simulated");
        let mut chunk = [0; 4096];
        loop {
            while let Some(heard) = session.hear().unwrap() {
                if let Heard::Message(message) = heard
                    && !self.answer(message, &mut session).await
                {
                    return;
                }
            }
            if !self.is_deaf() {
                // If the host is gone, the next read tells.
                let mut said = session.out.unsent().to_vec();
                session.out.sent(said.len());
                said.append(&mut self.nonsense);
                let _ = self.stream.write_all(&said).await;
            }
            match self.stream.read(&mut chunk).await {
                Ok(0) | Err(_) => return,
                Ok(count) => session.receive(&chunk[..count]),
            }
        }
    }

    fn is_deaf(&self) -> bool {
        self.life.upgrade().is_some_and(|life| life.is_deaf())
    }

    /// Handles a message; returns whether the guest continues.
    async fn answer(&mut self, message: ToGuest, session: &mut Session) -> bool {
        if self.is_deaf() {
            return true;
        }
        match message {
            ToGuest::Request { id, request } => return self.request(id, request, session).await,
            ToGuest::Cancel { id } if self.hung.remove(&id) => {
                let failure = Failure {
                    kind: FailureKind::Cancelled,
                    message: String::new(),
                };
                done(id, Outcome::Failed(failure), session);
            }
            _ => {}
        }
        true
    }

    async fn request(&mut self, id: RequestId, request: Request, session: &mut Session) -> bool {
        match request {
            Request::Ping => done(id, Outcome::Pong, session),
            Request::SetIdentity(new) => {
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
                done(id, Outcome::IdentitySet, session);
            }
            Request::Exec(exec) => return self.exec(id, &exec, session),
            _ => done(id, Outcome::ShuttingDown, session),
        }
        true
    }

    fn exec(&mut self, id: RequestId, exec: &Exec, session: &mut Session) -> bool {
        if self.world.strikes(Fault::ExecDied) {
            return self.dies();
        }
        if self.world.strikes(Fault::Nonsense) {
            self.nonsense.extend_from_slice(&u32::MAX.to_le_bytes());
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
                session.out.push(&data);
                done(id, Outcome::Exited(0), session);
            }
            _ => done(id, Outcome::Exited(0), session),
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

fn done(id: RequestId, outcome: Outcome, session: &mut Session) {
    session.out.push(&ToHost::Done { id, outcome });
}
