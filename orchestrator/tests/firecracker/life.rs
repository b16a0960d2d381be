//! Tests the end of VMs, requested or not.

use std::time::{Duration, Instant};

use ironclaw_orchestrator::vm::firecracker::{Devices, Firecracker};
use ironclaw_orchestrator::vm::guest::Guest;
use ironclaw_orchestrator::vm::vmm::{Vmm as _, VmmError};
use ironclaw_orchestrator::vm::{ExecEvent, GuestError};

use crate::lab::{Lab, list, run};
use crate::process::{is_alive, kill, living_in};
use crate::within::within;

/// Half of our shortest timeout, and far more than an event takes on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn a_destroyed_vm_leaves_no_process_and_no_directory() {
    let Some(lab) = Lab::open().await else { return };
    let (launcher, vm) = lab.vm("gone").await;
    let pid = vm.pid();
    let homes = lab.homes();
    assert_eq!(homes.len(), 1, "{homes:?}");
    let home = std::fs::canonicalize(&homes[0]).unwrap();
    assert_eq!(living_in(&home), [(pid, home.clone())]);
    vm.destroy().await.unwrap();
    assert!(!is_alive(pid));
    assert!(lab.homes().is_empty());
    drop(launcher);
    let left = list(&lab.config.run_path);
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_handle_kills_its_vm() {
    let Some(lab) = Lab::open().await else { return };
    let (_launcher, vm) = lab.vm("dropped").await;
    let (pid, exited) = (vm.pid(), vm.exited());
    drop(vm);
    let exit = within("the end of a VM", exited).await;
    assert!(exit.status.contains("SIGKILL"), "{exit}");
    assert!(!is_alive(pid));
    assert!(lab.homes().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vmm_killed_in_mid_command_is_reported_at_once() {
    let Some(lab) = Lab::open().await else { return };
    let (_launcher, vm) = lab.vm("victim").await;
    let mut running = vm.start(["sleep", "3600000"]).await.unwrap();
    // The guest handles requests in order: after this answer the command runs.
    assert_eq!(run(&vm, ["echo", "on"]).await, "on\n");
    let start = Instant::now();
    kill(vm.pid());
    let error = within("an error", running.next()).await.unwrap_err();
    assert!(matches!(error, GuestError::Closed { .. }), "{error}");
    let exit = within("the end of a VM", vm.exited()).await;
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    assert!(exit.status.contains("SIGKILL"), "{exit}");
    assert!(lab.homes().is_empty());
    let error = vm.ping(AT_ONCE).await.unwrap_err();
    assert!(matches!(error, GuestError::Closed { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_in_flight_does_not_keep_a_vm_from_its_end() {
    let Some(lab) = Lab::open().await else { return };
    let (_launcher, vm) = lab.vm("busy").await;
    let mut running = vm.start(["flood", "1000"]).await.unwrap();
    assert!(matches!(
        running.next().await.unwrap(),
        ExecEvent::Stdout(_)
    ));
    let pid = vm.pid();
    vm.destroy().await.unwrap();
    assert!(!is_alive(pid));
    let end = loop {
        match running.next().await {
            // Earlier events are still delivered.
            Ok(ExecEvent::Stdout(_)) => {}
            other => break other,
        }
    };
    assert!(matches!(end, Err(GuestError::Closed { .. })), "{end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_vm_does_nothing_and_goes_on_where_it_was() {
    let Some(lab) = Lab::open().await else { return };
    let (_launcher, snapshot) = lab.snapshot().await;
    let (binary, run) = (lab.binary.clone(), &lab.config.run_path);
    let firecracker = Firecracker::new(binary, run, None, Devices::default()).unwrap();
    let mut vm = firecracker.restore(&snapshot.to_restore()).await.unwrap();
    let guest = Guest::open(vm.guest_channel().await.unwrap()).unwrap();
    let error = vm.guest_channel().await.unwrap_err();
    assert!(matches!(error, VmmError::NoChannel), "{error}");
    guest.ping(AT_ONCE).await.unwrap();
    for _ in 0..2 {
        vm.hold().await.unwrap();
    }
    let output = guest.start(["counter"]).await.unwrap();
    let error = guest.ping(Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(error, GuestError::NoAnswer { .. }), "{error}");
    for _ in 0..2 {
        vm.release().await.unwrap();
    }
    assert_eq!(output.output().await.unwrap().stdout, b"1\n");
    guest.ping(AT_ONCE).await.unwrap();
}
