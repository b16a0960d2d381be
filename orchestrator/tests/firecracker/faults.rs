//! What breaks under Firecracker, and what is left then.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ironclaw_orchestrator::vm::firecracker::api::{
    ApiError, Client, GetInstance, GetVersion, InstanceState, MemBackend, MemBackendType,
    SnapshotLoad, Vm,
};
use ironclaw_orchestrator::vm::snapshot::Snapshot;
use ironclaw_orchestrator::vm::vmm::VmmError;
use ironclaw_orchestrator::vm::{GuestError, LaunchError, Origin};

use crate::fixture::{Bench, bench, is_alive, kill, open, out};
use crate::pool::pool;

/// What a restore of a snapshot says that was damaged after it was loaded from the store.
async fn refusal(bench: &Bench, damage: impl FnOnce(&Snapshot)) -> String {
    let created = bench.launcher.create_snapshot().await.unwrap();
    damage(&created.snapshot);
    let restored = bench.launcher.restore_vm(&created.snapshot, "bad").await;
    let error = restored.expect_err("a damaged snapshot was restored");
    assert!(bench.homes().is_empty(), "{:?}", bench.homes());
    match error {
        LaunchError::Vmm(VmmError::Refused { operation, message }) => {
            assert_eq!(operation, "restore");
            message
        }
        other => panic!("{other}"),
    }
}

fn truncate(path: &Path, bytes: u64) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_len(bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_is_refused_in_firecracker_s_words_and_leaves_nothing() {
    let Some(bench) = bench().await else { return };
    let missing = refusal(&bench, |s| fs::remove_file(s.memory()).unwrap()).await;
    assert!(missing.contains("No such file"), "{missing}");
    let short = refusal(&bench, |s| truncate(s.memory(), 1 << 20)).await;
    assert!(short.contains("memory"), "{short}");
    let state = refusal(&bench, |s| {
        let file = File::options().write(true).open(s.vmstate()).unwrap();
        file.write_all_at(&[0xff; 64], 2000).unwrap();
    })
    .await;
    assert!(
        state.contains("CRC") || state.contains("snapshot"),
        "{state}"
    );
    let empty = refusal(&bench, |s| truncate(s.vmstate(), 0)).await;
    assert!(empty.contains("snapshot"), "{empty}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_boots_instead_of_a_bad_snapshot_and_heals() {
    let Some(bench) = bench().await else { return };
    let created = bench.launcher.create_snapshot().await.unwrap();
    let pool = pool(&bench.launcher, 1).await;
    pool.warmup().await.unwrap();
    truncate(created.snapshot.memory(), 4096);
    drop(created);
    // The warm clone's memory is gone with its file: it can't serve, and somebody else does.
    let vm = pool.spawn("served").await.unwrap();
    assert_ne!(vm.origin(), Origin::Warm);
    assert_eq!(out(&vm, &["echo", "served"]).await, "served\n");
    while pool.stats().warm == 0 {
        let _ = pool.warmup().await;
    }
    let vm = pool.spawn("healed").await.unwrap();
    assert_eq!(vm.origin(), Origin::Warm);
    drop(vm);
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vmm_killed_in_mid_command_is_reported_at_once() {
    let Some(bench) = bench().await else { return };
    let vm = bench.vm("victim").await;
    let mut running = vm.start(["sleep", "60000"]).await.unwrap();
    kill(vm.pid());
    let error = running.next().await.unwrap_err();
    assert!(matches!(error, GuestError::Closed { .. }), "{error}");
    let exit = vm.exited().await;
    assert!(exit.status.contains("SIGKILL"), "{exit}");
    assert!(bench.homes().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_clone_that_dies_is_replaced() {
    let Some(bench) = bench().await else { return };
    let pool = pool(&bench.launcher, 1).await;
    pool.warmup().await.unwrap();
    let dead = pool.warm_pids();
    kill(dead[0]);
    let vm = pool.spawn("after").await.unwrap();
    assert!(!dead.contains(&vm.pid()));
    assert_eq!(out(&vm, &["echo", "on"]).await, "on\n");
    drop(vm);
    pool.close().await;
    assert!(!is_alive(dead[0]));
}

/// A Firecracker of the test's own, driven by nothing but the client.
struct Bare {
    process: std::process::Child,
    directory: tempfile::TempDir,
}

impl Bare {
    async fn start(bench: &Bench) -> (Self, Client) {
        let directory = tempfile::tempdir().unwrap();
        let config = &bench.config;
        let binary = ironclaw_orchestrator::vm::firecracker::FirecrackerBinary::find(
            config.firecracker.as_deref(),
        );
        let process = Command::new(binary.await.unwrap().path)
            .args(["--api-sock", "api.sock", "--level", "Error"])
            .current_dir(directory.path())
            .spawn()
            .unwrap();
        let path = directory.path().join("api.sock");
        let client = loop {
            match Client::connect(&path).await {
                Ok(client) => break client,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        (Self { process, directory }, client)
    }

    /// The exit code, if it ends by itself.
    async fn exit_code(mut self) -> Option<i32> {
        let ended = tokio::task::spawn_blocking(move || self.process.wait().unwrap().code());
        let ended = tokio::time::timeout(Duration::from_secs(10), ended).await;
        ended.expect("it lives on").unwrap()
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn load(snapshot: &Snapshot, backend_type: MemBackendType, path: &Path) -> SnapshotLoad {
    SnapshotLoad {
        snapshot_path: snapshot.vmstate().to_owned(),
        mem_backend: MemBackend {
            backend_type,
            backend_path: path.to_owned(),
        },
        resume_vm: false,
        network_overrides: Vec::new(),
        vsock_override: None,
        clock_realtime: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_speaks_the_api_and_keeps_the_fault_s_message() {
    let Some(bench) = bench().await else { return };
    let created = bench.launcher.create_snapshot().await.unwrap();
    let (bare, mut client) = Bare::start(&bench).await;
    let version = client.call(&GetVersion).await.unwrap().firecracker_version;
    assert_eq!(version, bench.launcher.vmm().version);
    let state = client.call(&GetInstance).await.unwrap().state;
    assert_eq!(state, InstanceState::NotStarted);
    let memory = created.snapshot.memory();
    let load = load(&created.snapshot, MemBackendType::File, memory);
    client.call(&load).await.unwrap();
    let state = client.call(&GetInstance).await.unwrap().state;
    assert_eq!(state, InstanceState::Paused);
    // Twice the same is no error, and one connection serves all requests.
    client.call(&Vm::Resumed).await.unwrap();
    client.call(&Vm::Resumed).await.unwrap();
    let error = client.call(&load).await.unwrap_err();
    let ApiError::Refused {
        status, message, ..
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!(status, 400);
    assert!(!message.is_empty());
    drop(bare);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_load_ends_the_process() {
    let Some(bench) = bench().await else { return };
    let created = bench.launcher.create_snapshot().await.unwrap();
    let (bare, mut client) = Bare::start(&bench).await;
    let missing = bare.directory.path().join("uffd.sock");
    let load = load(&created.snapshot, MemBackendType::Uffd, &missing);
    let error = client.call(&load).await.unwrap_err();
    assert!(matches!(error, ApiError::Refused { .. }), "{error}");
    assert_eq!(bare.exit_code().await, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_owner_left_is_swept_by_the_next_and_nothing_else() {
    let Some(bench) = bench().await else { return };
    let vm = bench.vm("living").await;
    // A directory that nobody locks is what a dead owner leaves.
    let dead = bench.config.run_path.join("dead");
    fs::create_dir_all(dead.join("0")).unwrap();
    fs::write(dead.join("0/api.sock"), "").unwrap();
    let second = open(&bench.config).await;
    assert!(!dead.exists());
    assert_eq!(out(&vm, &["echo", "alive"]).await, "alive\n");
    drop((vm, second));
    assert!(bench.path().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_directory_that_can_not_be_made_is_named() {
    let Some(bench) = bench().await else { return };
    let mut config = bench.config.clone();
    config.run_path = config.template_path.join("default/vmlinux/run");
    let opened =
        ironclaw_orchestrator::vm::Launcher::open(&config, std::sync::Arc::new(|_: &_| {})).await;
    let error = opened.unwrap_err().to_string();
    assert!(error.contains("vmlinux/run"), "{error}");
}
