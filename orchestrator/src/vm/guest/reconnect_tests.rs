//! Cuts a guest's connections at any byte, and checks that the host continues over the next one.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ironclaw_testguest::guest::{Guest as Inside, Machine};
use ironclaw_testguest::session::Session;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::{sleep, timeout};

use super::*;

const TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Clock(Instant);

impl Machine for Clock {
    fn uptime(&self) -> Duration {
        self.0.elapsed()
    }

    fn spare_mebibytes(&self) -> u32 {
        1
    }

    fn dirty_mebibyte(&mut self, _: u32) {}
}

/// A guest, and its connections.
#[derive(Clone)]
struct World {
    inside: Rc<RefCell<Inside>>,
    /// Chooses where connections are cut.
    dice: Rc<RefCell<u64>>,
}

/// The guest's side of a connection that is cut after so many bytes in either direction.
async fn serve(inside: Rc<RefCell<Inside>>, mut stream: UnixStream, mut left: usize) -> UnixStream {
    let mut session = Session::new();
    let mut chunk = vec![0; 4096];
    loop {
        while session.pump(&mut inside.borrow_mut()) {
            let count = session.output().len().min(left);
            if stream.write_all(&session.output()[..count]).await.is_err() {
                break;
            }
            session.sent(count);
            left -= count;
            if left == 0 {
                session.close(&mut inside.borrow_mut());
                return stream;
            }
        }
        let wakes_at = inside.borrow().wakes_at();
        let now = inside.borrow().machine.uptime();
        let wait = wakes_at.map_or(TIMEOUT, |at| at.saturating_sub(now));
        let most = chunk.len().min(left);
        tokio::select! {
            read = stream.read(&mut chunk[..most]) => match read {
                Ok(count) if count > 0 => {
                    session.receive(&chunk[..count]);
                    left -= count;
                }
                _ => left = 0,
            },
            () = sleep(wait) => {}
        }
        if left == 0 {
            // Data that arrived is still read.
            while session.pump(&mut inside.borrow_mut()) {}
            session.close(&mut inside.borrow_mut());
            return stream;
        }
    }
}

impl World {
    fn new() -> Self {
        let machine = Box::new(Clock(Instant::now()));
        Self {
            inside: Rc::new(RefCell::new(Inside::new(machine, b"seed"))),
            dice: Rc::new(RefCell::new(88_172_645_463_325_252)),
        }
    }

    fn roll(&self, below: u64) -> usize {
        let mut dice = self.dice.borrow_mut();
        *dice ^= *dice << 13;
        *dice ^= *dice >> 7;
        *dice ^= *dice << 17;
        usize::try_from(*dice % below).unwrap()
    }

    fn connect(&self, bytes: usize) -> (UnixStream, JoinHandle<UnixStream>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let served = spawn_local(serve(Rc::clone(&self.inside), theirs, bytes));
        (ours, served)
    }

    /// Runs `work` over connections of at most so many bytes each, and then over one that lasts.
    async fn over_cut_connections<T>(
        &self,
        cuts: u32,
        bytes: u64,
        work: impl AsyncFnOnce(&Guest) -> T,
    ) -> T {
        let (first, mut served) = self.connect(1 + self.roll(bytes));
        let guest = Guest::open(first).unwrap();
        let cutting = async {
            for cut in 1..=cuts {
                // The host does not see the end of its stream.
                let old = (&mut served).await.unwrap();
                if cut % 2 == 0 {
                    guest.suspend();
                }
                let bytes = if cut == cuts {
                    usize::MAX
                } else {
                    1 + self.roll(bytes)
                };
                let (next, serves) = self.connect(bytes);
                served = serves;
                guest.reconnect(next).unwrap();
                drop(old);
            }
            std::future::pending::<()>().await;
        };
        let worked = async {
            tokio::select! {
                result = work(&guest) => result,
                () = cutting => unreachable!(),
            }
        };
        timeout(TIMEOUT, worked).await.unwrap()
    }
}

fn flooded(bytes: &[u8]) -> bool {
    let numbered = bytes.iter().enumerate();
    bytes.len() == 1 << 20
        && numbered
            .into_iter()
            .all(|(at, &byte)| at % 251 == usize::from(byte))
}

#[tokio::test]
async fn the_output_of_a_command_comes_once_and_whole() {
    let test = async {
        let world = World::new();
        let bytes = 60_000;
        let output = world
            .over_cut_connections(40, bytes, async |guest| guest.exec(["flood", "1"]).await)
            .await
            .unwrap();
        assert_eq!(output.status, ExitStatus::Code(0));
        assert!(flooded(&output.stdout));
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn output_goes_on_however_much_of_others_waits_to_be_taken() {
    let test = async {
        let world = World::new();
        let (first, _served) = world.connect(usize::MAX);
        let guest = Guest::open(first).unwrap();
        let mut untaken = Vec::new();
        for _ in 0..10 {
            untaken.push(guest.start(["flood", "1"]).await.unwrap());
        }
        // Until the guest keeps all that it may of them.
        let mut taken = guest.exec(["flood", "1"]).await.unwrap();
        assert!(flooded(&taken.stdout));
        taken = guest.exec(["flood", "1"]).await.unwrap();
        assert!(flooded(&taken.stdout));
        for running in untaken {
            assert!(flooded(&running.output().await.unwrap().stdout));
        }
    };
    timeout(TIMEOUT, LocalSet::new().run_until(test))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_command_is_run_once_however_often_its_request_is_lost() {
    let test = async {
        let world = World::new();
        for _ in 0..50 {
            let output = world
                .over_cut_connections(6, 120, async |guest| guest.exec(["counter"]).await)
                .await;
            assert_eq!(output.unwrap().status, ExitStatus::Code(0));
        }
        assert_eq!(world.inside.borrow().counter, 50);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn standard_input_arrives_once_and_whole() {
    let test = async {
        let world = World::new();
        let input: Vec<u8> = (0..900_000_u32).map(|at| (at % 249) as u8).collect();
        let output = world
            .over_cut_connections(60, 30_000, async |guest| {
                guest.exec(Command::new("cat").stdin(input.clone())).await
            })
            .await
            .unwrap();
        assert_eq!(output.status, ExitStatus::Code(0));
        assert!(output.stdout == input, "{} bytes", output.stdout.len());
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn files_are_written_and_read_whole() {
    let test = async {
        let world = World::new();
        let content: Vec<u8> = (0..300_000_u32).map(|at| (at % 247) as u8).collect();
        let read = world
            .over_cut_connections(9, 100_000, async |guest| {
                guest.put_file("/tmp/a", 0o600, &content).await.unwrap();
                guest.get_file("/tmp/a", 1 << 20).await
            })
            .await
            .unwrap();
        assert!(read == content);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn what_is_asked_while_the_connection_is_away_waits_for_the_next_one() {
    let test = async {
        let world = World::new();
        let (first, _served) = world.connect(usize::MAX);
        let guest = Guest::open(first).unwrap();
        let mut sleeping = guest.start(["sleep", "1000000"]).await.unwrap();
        guest.ping(TIMEOUT).await.unwrap();
        guest.suspend();
        sleeping.signal(15).unwrap();
        let mut cancelled = guest.start(["sleep", "1000000"]).await.unwrap();
        assert!(
            timeout(Duration::from_millis(50), cancelled.next())
                .await
                .is_err()
        );
        drop(cancelled);
        let (next, _serves) = world.connect(usize::MAX);
        let (echo, reconnected) = tokio::join!(guest.exec(["echo", "waited"]), async {
            guest.reconnect(next)
        });
        reconnected.unwrap();
        assert_eq!(echo.unwrap().stdout, b"waited\n");
        let end = sleeping.next().await.unwrap();
        assert_eq!(end, ExecEvent::Ended(ExitStatus::Signal(15)));
        guest.ping(TIMEOUT).await.unwrap();
        assert_eq!(guest.list().await.unwrap(), [], "nothing is left of either");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn commands_are_found_listened_to_signalled_and_killed_by_another_host() {
    let test = async {
        let world = World::new();
        let (first, _served) = world.connect(usize::MAX);
        let owner = Guest::open(first).unwrap();
        let mut counting = owner
            .start(Command::new("count").arg("1").keep())
            .await
            .unwrap();
        let mut seen = Vec::new();
        while seen.len() < 20 {
            if let ExecEvent::Stdout(bytes) = counting.next().await.unwrap() {
                seen.extend(bytes);
            }
        }
        let (id, position) = (counting.id(), counting.position());
        assert_eq!(position.stdout, seen.len() as u64);
        let (second, _served) = world.connect(usize::MAX);
        let other = Guest::open(second).unwrap();
        let list = other.list().await.unwrap();
        assert_eq!(list.len(), 1);
        assert!(list[0].id == id && list[0].keep && list[0].attached && list[0].end.is_none());
        assert_eq!(list[0].program, "count");

        let mut there = other.attach_from(id, position).await.unwrap();
        assert_eq!(there.missed(), Position::default());
        let lost = loop {
            match counting.next().await {
                Ok(ExecEvent::Stdout(_)) => {}
                other => break other,
            }
        };
        assert!(matches!(lost, Err(GuestError::TakenOver)), "{lost:?}");
        while seen.len() < 100 {
            match there.next().await.unwrap() {
                ExecEvent::Stdout(bytes) => seen.extend(bytes),
                other => panic!("{other:?}"),
            }
        }
        let text = String::from_utf8(seen).unwrap();
        let lines = text.lines().take(text.lines().count() - 1);
        for (line, number) in lines.zip(1..) {
            assert_eq!(line, number.to_string());
        }
        assert_eq!(there.detach(), id);
        other.signal(id, 17).await.unwrap();
        assert!(owner.list().await.unwrap()[0].end.is_none());
        owner.kill(id).await.unwrap();
        let output = other.attach(id).await.unwrap().output().await.unwrap();
        assert_eq!(output.status, ExitStatus::Signal(9));
        let none = other.attach("0123456789abcdef".parse().unwrap()).await;
        let kind = ironclaw_protocol::message::FailureKind::NotFound;
        assert!(matches!(none, Err(GuestError::Failed { kind: k, .. }) if k == kind));
    };
    LocalSet::new().run_until(test).await;
}
