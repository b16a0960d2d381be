//! Entry points of the fuzz targets in `fuzz/`, not part of the API: one function for each kind of
//! untrusted bytes. None of them may panic, hang, or use more memory than its input allows.
//!
//! `cargo xtask fuzz` lets libFuzzer search for inputs; the tests here feed each function its
//! committed corpus and random bytes, on any toolchain.

#![allow(clippy::panic, reason = "a target fails by panicking")]

#[cfg(test)]
mod seeds;

use std::cell::RefCell;
use std::time::Duration;

use ironclaw_protocol::VERSION;
use ironclaw_protocol::frame::{Decoder, Event, MAGIC, decode, encode};
use ironclaw_protocol::fuzzing;
use ironclaw_protocol::message::{Identity, SetIdentity, ToGuest, ToHost, UnixTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};

use crate::vm::firecracker::api::{Action, ApiError, Client, GetInstance, GetVersion, Vm};
use crate::vm::guest::{Command, ExecEvent, Guest, GuestError, Owners};
use crate::{state_path, template, untrusted, vm};

/// Limit of an input; a longer one would fill the socket and block its writer.
const MAX_INPUT: usize = 64 << 10;
/// Nothing here waits for anything but the input.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A target, named like its file in `fuzz/fuzz_targets`.
pub type Target = (&'static str, fn(&[u8]));

/// All targets of this package.
pub const TARGETS: [Target; 10] = [
    ("guest_to_host", guest_to_host),
    ("qmp", qmp),
    ("firecracker_answers", firecracker_answers),
    ("manifests", manifests),
    ("texts", texts),
    ("elf", elf),
    ("kernel_image", kernel_image),
    ("layers", layers),
    ("image_config", image_config),
    ("recipes", recipes),
];

/// Sends a guest's messages to a host with open requests. The first byte decides what is open, and
/// whether the rest is a raw stream or frames: lengths in two bytes, and payloads.
pub fn guest_to_host(bytes: &[u8]) {
    let Some((&first, rest)) = bytes.split_first() else {
        return;
    };
    let rest = rest.get(..MAX_INPUT).unwrap_or(rest);
    let stream = if first & 0x80 == 0 {
        fuzzing::framed(rest)
    } else {
        rest.to_vec()
    };
    block_on(async {
        let Ok((ours, theirs)) = UnixStream::pair() else {
            return;
        };
        let Ok(guest) = Guest::open(ours) else {
            return;
        };
        let on = |bit: u8| first & (1 << bit) != 0;
        let exec = async {
            if on(0) {
                told(guest.exec(Command::new("cat").stdin(vec![7; 3000])).await);
            }
        };
        let streamed = async {
            if !on(1) {
                return;
            }
            let Ok(mut running) = guest.start(Command::new("cat").stdin_piped()).await else {
                return;
            };
            let mut stdin = running.take_stdin();
            if let Some(stdin) = &mut stdin {
                told(stdin.wanted().await);
            }
            while let Some(event) = told(running.next().await) {
                if let ExecEvent::Ended(_) = event {
                    break;
                }
            }
            let _ = running.out_of_memory();
        };
        let get = async {
            if on(2) {
                told(guest.get_file("/tmp/a", 10_000).await);
            }
        };
        let put = async {
            if on(3) {
                told(guest.put_file("/tmp/b", 0o644, &[9; 2000]).await);
            }
        };
        let ping = async {
            if on(4) {
                told(guest.ping(REQUEST_TIMEOUT).await);
            }
        };
        let identity = async {
            if on(5) {
                told(guest.set_identity(identity(), REQUEST_TIMEOUT).await);
            }
        };
        let known = async {
            if !on(6) {
                return;
            }
            told(guest.list().await);
            let Ok(id) = "0000000000000007".parse() else {
                return;
            };
            if let Some(running) = told(guest.attach(id).await) {
                let _ = running.missed();
                told(running.output().await);
            }
        };
        let files = async {
            if !on(2) {
                return;
            }
            let files = guest.files().as_user("user");
            told(files.metadata("/tmp/a").await);
            told(files.attributes("/tmp/a").await);
            told(files.list_deep("/tmp", 3).await);
            told(files.remove_all("/tmp/a").await);
            if let Some(mut reader) = told(files.reader("/tmp/a", 1, Some(9)).await) {
                let _ = reader.read_to_end(&mut Vec::new()).await;
            }
            let files = guest.files();
            told(files.changes().await);
            if let Some(mut archive) = told(files.archive_changes().await) {
                let _ = archive.read_to_end(&mut Vec::new()).await;
                let _ = archive.summary();
            }
            if let Some(mut stream) = told(guest.connect(80).await) {
                let _ = stream.write_all(&[9; 2000]).await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
            if let Some(mut watch) = told(files.watch_recursive("/tmp").await) {
                while let Some(Some(_)) = told(watch.next().await) {}
            }
            if let Some(mut archive) = told(files.extract("/tmp", Owners::OfUser).await) {
                let _ = archive.write_all(&[0; 1024]).await;
                told(archive.finish().await);
            }
        };
        // Polled in this order, so that their ids are always the same.
        tokio::join!(
            exec,
            streamed,
            get,
            put,
            ping,
            identity,
            known,
            files,
            answer(theirs, &stream)
        );
    });
}

/// Answers the host's hello, sends `stream`, and hangs up.
async fn answer(mut socket: UnixStream, stream: &[u8]) {
    let mut host = Decoder::of_requests();
    let mut chunk = vec![0; 4096];
    let session = loop {
        match host.next() {
            Ok(Some(Event::Frame(payload))) => match decode(payload) {
                Ok(ToGuest::Hello { session, .. }) => break session,
                other => panic!("the host begins with {other:?}"),
            },
            Ok(Some(Event::Opened)) => {}
            Ok(None) => match socket.read(&mut chunk).await {
                Ok(count) if count > 0 => host.push(&chunk[..count]),
                _ => return,
            },
            Err(error) => panic!("the host breaks the protocol: {error}"),
        }
    };
    let mut said = MAGIC.to_vec();
    let hello = ToHost::Hello {
        version: VERSION,
        session,
        agent: "fuzz".to_owned(),
    };
    if encode(&hello, &mut said).is_err() {
        return;
    }
    said.extend_from_slice(stream);
    // The host may have closed the connection before it has everything.
    let _ = socket.write_all(&said).await;
    let _ = socket.shutdown().await;
    while let Ok(1..) = socket.read(&mut chunk).await {}
}

fn identity() -> SetIdentity {
    SetIdentity {
        entropy: [1; ironclaw_protocol::limits::ENTROPY],
        unix_time: UnixTime {
            seconds: 1,
            nanos: 2,
        },
        identity: Identity {
            machine_id: [3; 16],
            boot_id: [4; 16],
            hostname: "fuzz".to_owned(),
        },
    }
}

/// Checks that no text of a guest passes for ours.
fn told<T>(result: Result<T, GuestError>) -> Option<T> {
    result
        .map_err(|error| {
            let error = error.to_string();
            assert_eq!(error, untrusted::line(&error));
        })
        .ok()
}

/// Sends messages of a QEMU, perhaps compromised, on its monitor.
pub fn qmp(bytes: &[u8]) {
    block_on(async {
        if let Some(stream) = peer_that_says(bytes).await {
            vm::qemu::fuzz::qmp(stream).await;
        }
    });
}

/// Sends answers of a Firecracker, perhaps compromised.
pub fn firecracker_answers(bytes: &[u8]) {
    fn told<T>(result: &Result<T, ApiError>) -> bool {
        if let Err(error) = result {
            let error = error.to_string();
            assert_eq!(error, untrusted::line(&error));
        }
        matches!(result, Ok(_) | Err(ApiError::Refused { .. }))
    }
    block_on(async {
        // No bytes may follow an answer, so each one has a connection of its own.
        for which in 0..4 {
            let Some(stream) = peer_that_says(bytes).await else {
                return;
            };
            let mut client = Client::from_stream(stream);
            let goes_on = match which {
                0 => told(&client.call(&GetVersion).await),
                1 => told(&client.call(&GetInstance).await),
                2 => told(&client.call(&Vm::Resumed).await),
                _ => told(&client.call(&Action::InstanceStart).await),
            };
            if goes_on {
                told(&client.call(&Vm::Paused).await);
            }
        }
    });
}

/// Returns the other end of a socket whose peer has sent `bytes`, and no more; it reads what it is
/// sent.
async fn peer_that_says(bytes: &[u8]) -> Option<UnixStream> {
    let (ours, mut theirs) = UnixStream::pair().ok()?;
    let bytes = bytes.get(..MAX_INPUT).unwrap_or(bytes);
    theirs.write_all(bytes).await.ok()?;
    theirs.shutdown().await.ok()?;
    // It must read: a failed write would come before the answer.
    tokio::spawn(async move {
        let mut chunk = [0; 1024];
        while let Ok(1..) = theirs.read(&mut chunk).await {}
    });
    Some(ours)
}

/// Parses manifests of snapshots and templates.
pub fn manifests(bytes: &[u8]) {
    vm::snapshot::fuzz::manifest(bytes);
    template::fuzz::manifest(bytes);
}

/// Parses output of programs and texts of `/proc`.
pub fn texts(bytes: &[u8]) {
    let text = &*String::from_utf8_lossy(bytes);
    vm::fuzz::process(bytes, text);
    vm::qemu::fuzz::version(text);
    vm::firecracker::fuzz::version(text);
    vm::firecracker::fuzz::mounts(text);
    vm::snapshot::fuzz::cpuinfo(text);
    template::fuzz::package(text);
    template::fuzz::applets(text);
    let (groups, users) = text.split_once("\n\n").unwrap_or((text, text));
    state_path::fuzz(groups, users);
}

/// Parses executables, kernels and modules.
pub fn elf(bytes: &[u8]) {
    template::fuzz::elf(bytes);
}

/// Parses images of kernels, compressed or not.
pub fn kernel_image(bytes: &[u8]) {
    template::fuzz::kernel(bytes);
}

/// Reads Dockerfiles, their variables, and what `.dockerignore` says.
pub fn recipes(bytes: &[u8]) {
    template::fuzz::recipes(bytes);
}

/// Merges layers of container images, and writes what they make.
pub fn layers(bytes: &[u8]) {
    template::fuzz::layers(bytes);
}

/// Parses what container images say of themselves.
pub fn image_config(bytes: &[u8]) {
    template::fuzz::image_config(bytes);
}

/// Runs `work` in a runtime that this thread keeps: creating one takes longer than most inputs.
fn block_on(work: impl Future<Output = ()>) {
    thread_local! {
        static RUNTIME: RefCell<Option<Runtime>> = const { RefCell::new(None) };
    }
    RUNTIME.with_borrow_mut(|kept| {
        if kept.is_none() {
            *kept = Builder::new_current_thread().enable_all().build().ok();
        }
        if let Some(runtime) = kept {
            runtime.block_on(work);
        }
    });
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    use proptest::prelude::*;

    use super::*;

    fn fuzz() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .unwrap()
            .join("fuzz")
    }

    fn all() -> impl Iterator<Item = Target> {
        let guest: Target = ("host_to_guest", ironclaw_testguest::fuzzing::host_to_guest);
        TARGETS.into_iter().chain([guest])
    }

    /// The seeds, and inputs that once broke a target.
    fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
        let entries = fs::read_dir(fuzz().join("corpus").join(target)).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect()
    }

    #[test]
    fn each_target_takes_its_corpus_and_every_part_of_it() {
        for (target, run) in all() {
            let corpus = corpus(target);
            assert!(!corpus.is_empty(), "{target} has no corpus");
            for (path, bytes) in corpus {
                eprintln!("{}", path.display());
                run(&bytes);
                for end in (0..bytes.len()).step_by(bytes.len() / 64 + 1) {
                    run(&bytes[..end]);
                }
            }
        }
    }

    #[test]
    fn each_target_has_its_program_and_each_program_its_target() {
        let programs = fs::read_dir(fuzz().join("fuzz_targets")).unwrap();
        let programs: BTreeSet<_> = programs
            .map(|entry| entry.unwrap().path())
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        let targets: BTreeSet<_> = all().map(|(target, _)| target.to_owned()).collect();
        assert_eq!(programs, targets);
        let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
        for target in targets {
            assert!(
                manifest.contains(&format!("name = \"{target}\"")),
                "{target}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn no_target_panics_or_hangs_at_bytes_of_chance(
            noise in prop::collection::vec(any::<u8>(), 0..600),
        ) {
            for (_, run) in all() {
                run(&noise);
            }
        }

        /// Most random bytes fail at the first check: so valid inputs are modified a little.
        #[test]
        fn no_target_panics_or_hangs_at_a_damaged_seed(
            pick in any::<prop::sample::Index>(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        ) {
            for (target, run) in all() {
                let (_, mut bytes) = pick.get(&corpus(target)).clone();
                if !bytes.is_empty() {
                    for (at, byte) in &changes {
                        let at = at.index(bytes.len());
                        bytes[at] = *byte;
                    }
                }
                run(&bytes);
            }
        }
    }
}
