//! Tests the API client with a Firecracker process that the backend has not started.

use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use ironclaw_orchestrator::vm::firecracker::api::{
    ApiError, Client, GetInstance, GetVersion, InstanceState, MemBackend, MemBackendType,
    SnapshotLoad, Vm, Vsock, VsockOverride,
};
use ironclaw_orchestrator::vm::snapshot::Snapshot;
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use tokio::time::sleep;

use crate::faults::overwrite_memory;
use crate::lab::Lab;
use crate::limit::Limit;
use crate::process::readable_within;
use crate::within::within;

/// Timeout of a process's socket, which takes milliseconds.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// A process with an API socket, in a directory of its own.
pub(crate) struct Raw {
    child: Child,
    _limit: Limit,
    socket: PathBuf,
}

impl Raw {
    pub(crate) fn start(lab: &Lab) -> Self {
        let home = lab.path().join("raw");
        std::fs::create_dir(&home).unwrap();
        let watch = init(CreateFlags::CLOEXEC).unwrap();
        add_watch(&watch, &home, WatchFlags::CREATE).unwrap();
        let child = Command::new(&lab.binary.path)
            .args(["--api-sock", "api.sock", "--level", "Error"])
            .current_dir(&home)
            // As in the backend: avoids reading the time zone under active filters.
            .env("TZ", "UTC0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let raw = Self {
            _limit: Limit::new(&child),
            child,
            socket: home.join("api.sock"),
        };
        // The socket is the only file that it creates.
        assert!(
            readable_within(&watch, START_TIMEOUT),
            "there is no API socket"
        );
        raw
    }

    /// Connects once the socket listens: a moment after it appears, without any event.
    pub(crate) async fn client(&self) -> Client {
        let connected = async {
            loop {
                match Client::connect(&self.socket).await {
                    Ok(client) => return client,
                    Err(error) => assert!(error.to_string().contains("refused"), "{error}"),
                }
                sleep(Duration::from_millis(1)).await;
            }
        };
        within("an API that listens", connected).await
    }

    /// Waits for its end; returns the status.
    fn end(&mut self) -> ExitStatus {
        let status = self.child.wait().unwrap();
        assert_ne!(status.signal(), Some(9), "it went on until it was killed");
        status
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // May have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn load(snapshot: &Snapshot) -> SnapshotLoad {
    SnapshotLoad {
        snapshot_path: snapshot.vmstate().to_owned(),
        mem_backend: MemBackend {
            backend_type: MemBackendType::File,
            backend_path: snapshot.memory().to_owned(),
        },
        resume_vm: false,
        track_dirty_pages: None,
        network_overrides: Vec::new(),
        vsock_override: Some(VsockOverride {
            uds_path: "vsock.sock".into(),
        }),
        clock_realtime: Some(true),
    }
}

fn refusal<T: std::fmt::Debug>(result: Result<T, ApiError>) -> String {
    match result {
        Err(ApiError::Refused {
            status: 400,
            message,
            ..
        }) => message,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_says_its_version_and_what_it_does() {
    let Some(lab) = Lab::open().await else { return };
    let (_launcher, snapshot) = lab.snapshot().await;
    let raw = Raw::start(&lab);
    let mut client = raw.client().await;
    let version = client.call(&GetVersion).await.unwrap().firecracker_version;
    assert_eq!(version, lab.binary.version);
    let mut states = Vec::new();
    states.push(client.call(&GetInstance).await.unwrap().state);
    client.call(&load(&snapshot)).await.unwrap();
    for vm in [Vm::Paused, Vm::Resumed, Vm::Resumed, Vm::Paused, Vm::Paused] {
        states.push(client.call(&GetInstance).await.unwrap().state);
        client.call(&vm).await.unwrap();
    }
    use InstanceState::{NotStarted, Paused, Running};
    assert_eq!(
        states,
        [NotStarted, Paused, Paused, Running, Running, Paused]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_load_is_refused_in_firecrackers_own_words() {
    let Some(lab) = Lab::open().await else { return };
    let (_launcher, snapshot) = lab.snapshot().await;
    let raw = Raw::start(&lab);
    let mut client = raw.client().await;
    client.call(&load(&snapshot)).await.unwrap();
    let message = refusal(client.call(&load(&snapshot)).await);
    assert!(
        message.contains("not supported after starting the microVM"),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_after_any_configuration_is_refused() {
    let Some(lab) = Lab::open().await else { return };
    let (_launcher, snapshot) = lab.snapshot().await;
    let raw = Raw::start(&lab);
    let mut client = raw.client().await;
    let vsock = Vsock {
        guest_cid: 3,
        uds_path: "vsock.sock".into(),
    };
    client.call(&vsock).await.unwrap();
    let message = refusal(client.call(&load(&snapshot)).await);
    assert!(
        message.contains("not allowed after configuring boot-specific resources"),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_fault_handler_that_is_not_there_is_named() {
    let Some(lab) = Lab::open().await else { return };
    let (_launcher, snapshot) = lab.snapshot().await;
    let mut raw = Raw::start(&lab);
    let mut client = raw.client().await;
    let mut load = load(&snapshot);
    load.mem_backend = MemBackend {
        backend_type: MemBackendType::Uffd,
        backend_path: lab.path().join("nobody.sock"),
    };
    let message = refusal(client.call(&load).await);
    assert!(
        message.contains("Failed to connect to UDS Unix stream: No such file"),
        "{message}"
    );
    // A failed load ends the process.
    assert_eq!(raw.end().code(), Some(1));
    let error = client.call(&GetInstance).await.unwrap_err();
    assert!(matches!(error, ApiError::Closed(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_is_overwritten_after_the_load_ends_the_vm_at_its_resume() {
    let Some(lab) = Lab::open().await else { return };
    let (_launcher, snapshot) = lab.snapshot().await;
    let mut raw = Raw::start(&lab);
    let mut client = raw.client().await;
    client.call(&load(&snapshot)).await.unwrap();
    overwrite_memory(&snapshot);
    // The guest crashes while the answer is on its way: it is mostly 204, sometimes missing.
    match client.call(&Vm::Resumed).await {
        Ok(()) | Err(ApiError::Closed(_)) => {}
        other => panic!("{other:?}"),
    }
    raw.end();
    let error = client.call(&Vm::Paused).await.unwrap_err();
    assert!(matches!(error, ApiError::Closed(_)), "{error}");
}
