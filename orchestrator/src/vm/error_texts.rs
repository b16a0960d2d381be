//! Tests the texts of errors.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use ironclaw_protocol::frame::FrameError;
use ironclaw_protocol::message::{RequestId, ToGuest};
use ironclaw_store::{Artefact as _, StoreError};

use crate::template::{KernelError, TemplateError, TemplateHash};
use crate::vm::checkpoint::CheckpointError;
use crate::vm::config::{Config, ConfigError, POOL_SIZE};
use crate::vm::guest::GuestError;
use crate::vm::identity::VmName;
use crate::vm::instance::VmError;
use crate::vm::launcher::LaunchError;
use crate::vm::lifecycle::Denied;
use crate::vm::pool::{PoolError, SpawnError};
use crate::vm::snapshot::{HostError, SnapshotError};
use crate::vm::vmm::VmmError;

fn denied() -> io::Error {
    rustix::io::Errno::ACCESS.into()
}

fn path() -> PathBuf {
    "/x".into()
}

fn store() -> Vec<StoreError> {
    let of = |errno: rustix::io::Errno| StoreError::Io {
        operation: "open",
        path: path(),
        source: errno.into(),
    };
    vec![
        of(rustix::io::Errno::ACCESS),
        of(rustix::io::Errno::MFILE),
        StoreError::RootUnusable {
            store: TemplateHash::STORE,
            operation: "use",
            path: path(),
            source: denied(),
        },
    ]
}

fn template() -> Vec<TemplateError> {
    let mut all: Vec<TemplateError> = store().into_iter().map(Into::into).collect();
    all.push(TemplateError::Kernel {
        path: path(),
        source: KernelError::NotAKernel,
    });
    all.extend(
        "x".parse::<TemplateHash>()
            .map_err(TemplateError::from)
            .err(),
    );
    all
}

fn snapshot() -> Vec<SnapshotError> {
    let mut all: Vec<SnapshotError> = store().into_iter().map(Into::into).collect();
    let source = denied();
    all.push(
        HostError::Io {
            path: path(),
            source,
        }
        .into(),
    );
    all
}

fn vmm() -> VmmError {
    VmmError::io("open /x")(denied())
}

fn guest() -> Vec<GuestError> {
    let (id, signal) = (RequestId(1), 99);
    let invalid = ToGuest::Signal { id, signal }.validate();
    vec![
        invalid.unwrap_err().into(),
        GuestError::TooLarge(FrameError::Malformed),
    ]
}

fn vm() -> Vec<VmError> {
    let mut all = vec![
        VmError::NoCheckpoint(vmm()),
        vmm().into(),
        Denied::Busy.into(),
    ];
    all.extend(guest().into_iter().map(VmError::from));
    all
}

fn launch() -> Vec<LaunchError> {
    let mut all: Vec<LaunchError> = vec![vmm().into(), LaunchError::Random(denied())];
    all.extend(template().into_iter().map(LaunchError::from));
    all.extend(snapshot().into_iter().map(LaunchError::from));
    all.extend(guest().into_iter().map(LaunchError::from));
    all.extend(VmName::parse("").map_err(LaunchError::from).err());
    all
}

fn config() -> ConfigError {
    let zero = |name: &str| (name == POOL_SIZE.variable()).then(|| "0".into());
    Config::from_vars(zero, true).unwrap_err()
}

fn pool() -> Vec<PoolError> {
    let mut all = vec![config().into()];
    all.extend(launch().into_iter().map(PoolError::from));
    let warmups = launch().into_iter().map(Arc::new);
    all.extend(warmups.map(PoolError::WarmUp));
    all
}

fn all() -> Vec<Box<dyn Error>> {
    let mut all: Vec<Box<dyn Error>> = Vec::new();
    all.extend(
        pool()
            .into_iter()
            .map(|error| SpawnError::from(error).into()),
    );
    all.extend(
        vm().into_iter()
            .map(|error| CheckpointError::from(error).into()),
    );
    all.extend(
        snapshot()
            .into_iter()
            .map(|error| CheckpointError::from(error).into()),
    );
    all
}

/// A front end shows an error with all of its causes: each is told once then, whatever wraps it.
#[test]
fn no_error_repeats_the_words_of_its_cause() {
    let mut causes = 0;
    for error in all() {
        let (mut text, mut next) = (error.to_string(), error.source());
        while let Some(cause) = next {
            let words = cause.to_string();
            assert!(!text.contains(&words), "{text:?} has its cause: {words:?}");
            (text, next) = (words, cause.source());
            causes += 1;
        }
    }
    assert!(causes > 20, "{causes}");
}

/// Whoever shows causes knows them from `source`: what an error has as a field is one of them.
#[test]
fn a_cause_is_told_behind_every_wrapper() {
    let error = SpawnError::from(PoolError::WarmUp(Arc::new(vmm().into())));
    let mut words = vec![error.to_string()];
    let mut next = error.source();
    while let Some(cause) = next {
        words.push(cause.to_string());
        next = cause.source();
    }
    let expected = ["the pool could not be filled", "could not open /x"];
    assert_eq!(words[..2], expected);
    assert_eq!(words[2], denied().to_string());
}
