//! A VM as an object: found by its id, paused, given another deadline, stopped and ended by holders
//! of a reference, with the reason of its end.

use std::time::{Duration, Instant};

use ironclaw_orchestrator::vm::{
    self, Command, ExecEvent, ExitReason, GuestError, Limits, Pool, SpawnOptions, State, Stopped,
    VmError, VmHandle,
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::timeout;

use crate::backend::{Backend, is_alive};
use crate::room::{of_vms, pool};
use crate::within::within;

on_each_vmm!(
    "life":
    a_paused_vm_does_nothing_until_it_is_resumed,
    a_stopped_vm_powers_off_and_its_commands_are_no_failures,
    a_vm_that_is_paused_is_stopped_too,
    a_vm_that_does_not_power_off_in_time_is_killed,
    a_deadline_can_be_set_moved_and_taken_back,
    a_vm_is_found_and_killed_by_its_id_and_its_room_is_free,
    a_pool_that_is_closed_with_its_vms_ends_those_that_are_held,
);

/// Time to wait for an answer of a paused guest, which otherwise takes milliseconds.
const QUIET_TIME: Duration = Duration::from_millis(300);
/// No guest needs this long to power off.
const GRACE: Duration = Duration::from_secs(60);

async fn with_vm(backend: &Backend, test: impl AsyncFnOnce(&Pool, VmHandle)) {
    let pool = pool(&backend.launcher, 0, &of_vms(2)).await;
    let vm = pool.spawn("same-name").await.unwrap();
    assert_eq!(vm.state(), State::Running);
    test(&pool, vm).await;
    assert_eq!(pool.stats().leased, 0);
    pool.close().await;
}

fn reason(error: GuestError) -> ExitReason {
    match error {
        GuestError::Closed { reason, .. } => reason,
        other => panic!("{other:?}"),
    }
}

async fn a_paused_vm_does_nothing_until_it_is_resumed(backend: &Backend) {
    with_vm(backend, async |_, vm| {
        let mut cat = vm.start(Command::new("cat").stdin_piped()).await.unwrap();
        vm.ping(GRACE).await.unwrap();
        vm.pause().await.unwrap();
        assert_eq!(vm.state(), State::Paused);
        vm.pause().await.unwrap();
        let mut stdin = cat.take_stdin().unwrap();
        stdin.write_all(b"waits").await.unwrap();
        drop(stdin);
        assert!(timeout(QUIET_TIME, cat.next()).await.is_err());
        vm.resume().await.unwrap();
        assert_eq!(vm.state(), State::Running);
        let printed = within("a command that went on", cat.next()).await.unwrap();
        assert_eq!(printed, ExecEvent::Stdout(b"waits".to_vec()));
        vm.resume().await.unwrap();
        vm.destroy().await.unwrap();
    })
    .await;
}

async fn a_stopped_vm_powers_off_and_its_commands_are_no_failures(backend: &Backend) {
    with_vm(backend, async |_, vm| {
        let mut running = vm.start(["sleep", "3600000"]).await.unwrap();
        let (pid, client) = (vm.pid(), vm.client());
        let stopped = within("a guest that powers off", vm.stop(GRACE)).await;
        assert_eq!(stopped.unwrap(), Stopped::PoweredOff);
        assert!(!is_alive(pid));
        let end = reason(running.next().await.unwrap_err());
        assert_eq!(end, ExitReason::Stopped);
        assert!(!end.is_failure());
        let end = within("the end", client.wait()).await;
        assert_eq!(end, ExitReason::Stopped);
        let error = client.pause().await.unwrap_err();
        assert!(matches!(error, VmError::Denied(_)), "{error}");
        assert!(error.to_string().contains("stopped"), "{error}");
        let again = client.stop(GRACE).await.unwrap();
        assert_eq!(again, Stopped::PoweredOff);
    })
    .await;
}

async fn a_vm_that_is_paused_is_stopped_too(backend: &Backend) {
    with_vm(backend, async |_, vm| {
        vm.pause().await.unwrap();
        let stopped = within("a guest that powers off", vm.stop(GRACE)).await;
        assert_eq!(stopped.unwrap(), Stopped::PoweredOff);
    })
    .await;
}

async fn a_vm_that_does_not_power_off_in_time_is_killed(backend: &Backend) {
    with_vm(backend, async |_, vm| {
        let pid = vm.pid();
        kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::STOP).unwrap();
        let stopped = within("a VM that is killed", vm.stop(QUIET_TIME)).await;
        assert_eq!(stopped.unwrap(), Stopped::Killed);
        assert!(!is_alive(pid));
        assert_eq!(vm.wait().await, ExitReason::Stopped);
    })
    .await;
}

async fn a_deadline_can_be_set_moved_and_taken_back(backend: &Backend) {
    let pool = pool(&backend.launcher, 0, &of_vms(1)).await;
    let limits = Limits::default().with_max_lifetime(Duration::from_secs(3600));
    let options = SpawnOptions::named("limited").with_limits(limits);
    let vm = pool.spawn_with(options).await.unwrap();
    // The deadline also ends a paused VM; idle time counts only while it runs.
    vm.set_idle_limit(Some(QUIET_TIME)).await.unwrap();
    vm.pause().await.unwrap();
    vm.set_deadline(Some(Instant::now() + QUIET_TIME / 2))
        .await
        .unwrap();
    vm.set_deadline(None).await.unwrap();
    assert!(timeout(2 * QUIET_TIME, vm.wait()).await.is_err());
    vm.set_deadline(Some(Instant::now() + QUIET_TIME))
        .await
        .unwrap();
    let end = within("the end of a VM", vm.wait()).await;
    assert!(
        matches!(end, ExitReason::Lifetime(after) if after > 2 * QUIET_TIME),
        "{end:?}"
    );
    assert!(!end.is_failure());
    assert_eq!(reason(vm.exec(["true"]).await.unwrap_err()), end);
    assert_eq!(vm.state(), State::Gone(end));
    assert_eq!(
        pool.stats().leased,
        0,
        "its room is free, although its handle is held"
    );
    drop(vm);
    pool.close().await;
}

async fn a_vm_is_found_and_killed_by_its_id_and_its_room_is_free(backend: &Backend) {
    with_vm(backend, async |pool, vm| {
        let other = pool.spawn("same-name").await.unwrap();
        assert_eq!(vm.name(), other.name());
        assert_ne!(vm.id(), other.id());
        let ids = |vms: Vec<vm::VmClient>| vms.iter().map(|vm| vm.id()).collect::<Vec<_>>();
        assert_eq!(ids(pool.vms()), [vm.id(), other.id()]);
        assert!(ids(vm::list()).contains(&vm.id()));
        let text = vm.id().to_string();
        let found = vm::get(text.parse().unwrap()).unwrap();
        assert_eq!(found.pid(), vm.pid());
        let running = vm.start(["sleep", "3600000"]).await.unwrap();
        found.kill();
        let end = reason(running.output().await.unwrap_err());
        assert_eq!(end, ExitReason::Destroyed);
        assert_eq!(within("the end of a VM", vm.wait()).await, end);
        assert!(vm::get(vm.id()).is_none() && pool.vm(vm.id()).is_none());
        assert_eq!(ids(pool.vms()), [other.id()]);
        assert_eq!(pool.stats().leased, 1);
        // Its handle is still held, but its room is free.
        let next = pool.spawn("next").await.unwrap();
        assert_ne!(next.id(), vm.id());
        next.destroy().await.unwrap();
        other.destroy().await.unwrap();
        assert!(pool.vms().is_empty());
    })
    .await;
}

async fn a_pool_that_is_closed_with_its_vms_ends_those_that_are_held(backend: &Backend) {
    let pool = pool(&backend.launcher, 0, &of_vms(2)).await;
    let vm = pool.spawn("held").await.unwrap();
    let mut running = vm.start(["sleep", "3600000"]).await.unwrap();
    pool.close_with_vms().await;
    assert!(!is_alive(vm.pid()));
    assert_eq!(vm.wait().await, ExitReason::PoolClosed);
    let end = reason(running.next().await.unwrap_err());
    assert_eq!(end, ExitReason::PoolClosed);
    assert!(!end.is_failure());
}
