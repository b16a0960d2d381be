//! The contract of every backend.

use std::fs::File;
use std::time::Duration;

use ironclaw_orchestrator::vm::firecracker;
use ironclaw_orchestrator::vm::guest::Guest;
use ironclaw_orchestrator::vm::snapshot::{Description, Snapshot};
use ironclaw_orchestrator::vm::vmm::{MicroVm, Ram, Standby, VmmError};
use ironclaw_orchestrator::vm::{Command, ExitStatus, GuestError, VmHandle};
use ironclaw_protocol::message::FailureKind;
use ironclaw_test_harness::skipped;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::backend::{Backend, Kind, is_alive};
use crate::within::within;

/// Enough for a boot under translation on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Time to wait for an answer that must not come.
const QUIET_TIME: Duration = Duration::from_millis(200);

on_each_vmm!(
    "contract":
    a_boot_comes_up_and_can_be_reached_once,
    a_held_vm_says_nothing_until_it_is_released,
    holding_and_releasing_twice_is_no_error,
    clones_run_at_once_and_share_their_memory_only_as_it_was,
    a_clone_can_be_held_for_later,
    a_process_that_stands_by_becomes_a_clone,
    a_process_that_stands_by_tells_its_end_and_is_gone_when_it_is_dropped,
    a_held_vm_that_is_killed_is_told_at_once_and_leaves_nothing,
    a_held_vm_that_another_lets_go_on_can_be_released_and_held_again,
    a_killed_vm_is_told_to_whoever_waits_and_refuses_the_rest,
    a_dropped_vm_is_gone,
    a_command_gets_its_input_and_one_that_is_not_there_is_told,
    a_command_is_written_and_read_as_streams_and_waited_for,
    clones_differ_in_entropy_and_identity,
    a_vm_killed_in_mid_command_ends_what_waits_for_it,
    a_snapshot_without_memory_is_refused_and_leaves_nothing,
    a_vmm_has_no_descriptor_but_what_it_is_given,
);

pub(crate) async fn on(kind: Kind, behaviour: impl AsyncFnOnce(&Backend)) {
    match kind.start().await {
        Ok(backend) => {
            behaviour(&backend).await;
            assert!(backend.homes().is_empty(), "{:?}", backend.homes());
        }
        Err(missing) => skipped(missing),
    }
}

/// Boots a VM; returns it with its guest when the agent has answered.
async fn booted(backend: &Backend, ram: Ram) -> (Box<dyn MicroVm>, Guest) {
    let spec = backend.launcher.spec(ram);
    let mut vm = backend.vmm.boot(&spec).await.unwrap();
    let guest = reached(&mut *vm).await;
    (vm, guest)
}

/// Connects to the guest of that VM, and waits for its agent.
async fn reached(vm: &mut dyn MicroVm) -> Guest {
    let channel = timeout(TIMEOUT, vm.guest_channel()).await;
    let guest = Guest::open(channel.unwrap().unwrap()).unwrap();
    guest.ping(TIMEOUT).await.unwrap();
    guest
}

pub(crate) async fn gone(vm: Box<dyn MicroVm>) {
    let exited = vm.process().exited();
    drop(vm);
    within("the end of a VM", exited).await;
}

/// Boots a VM and publishes a snapshot of it.
pub(crate) async fn snapshot(backend: &Backend) -> Snapshot {
    let launcher = &backend.launcher;
    let staging = launcher.snapshots().stage(launcher.requirements()).unwrap();
    let (mut vm, guest) = booted(backend, Ram::File(staging.memory())).await;
    vm.snapshot(&staging.files()).await.unwrap();
    drop(guest);
    gone(vm).await;
    let needs = backend.launcher.requirements().clone();
    let description = Description {
        generation: 0,
        template: needs.template,
        vmm: needs.vmm,
        machine: needs.machine,
        host: needs.host,
    };
    staging.publish(description).unwrap().snapshot
}

pub(crate) async fn restored(backend: &Backend, snapshot: &Snapshot) -> (Box<dyn MicroVm>, Guest) {
    let mut vm = backend.vmm.restore(&snapshot.to_restore()).await.unwrap();
    let guest = reached(&mut *vm).await;
    (vm, guest)
}

async fn a_boot_comes_up_and_can_be_reached_once(backend: &Backend) {
    let (mut vm, _guest) = booted(backend, Ram::Private).await;
    assert!(is_alive(vm.process().pid()));
    let error = vm.guest_channel().await.unwrap_err();
    assert!(matches!(error, VmmError::NoChannel), "{error}");
    gone(vm).await;
}

async fn a_held_vm_says_nothing_until_it_is_released(backend: &Backend) {
    let (mut vm, guest) = booted(backend, Ram::Private).await;
    vm.hold().await.unwrap();
    let mut answer = Box::pin(guest.ping(TIMEOUT));
    assert!(timeout(QUIET_TIME, &mut answer).await.is_err());
    vm.release().await.unwrap();
    answer.await.unwrap();
    gone(vm).await;
}

async fn holding_and_releasing_twice_is_no_error(backend: &Backend) {
    let (mut vm, guest) = booted(backend, Ram::Private).await;
    vm.release().await.unwrap();
    vm.hold().await.unwrap();
    vm.hold().await.unwrap();
    vm.release().await.unwrap();
    guest.ping(TIMEOUT).await.unwrap();
    gone(vm).await;
}

async fn clones_run_at_once_and_share_their_memory_only_as_it_was(backend: &Backend) {
    let snapshot = snapshot(backend).await;
    let (one, first) = restored(backend, &snapshot).await;
    let (two, second) = restored(backend, &snapshot).await;
    first.put_file("/tmp/mine", 0o600, b"first").await.unwrap();
    let error = second.get_file("/tmp/mine", 64).await.unwrap_err();
    let GuestError::Failed { kind, message } = error else {
        panic!("{error:?}");
    };
    assert_eq!(kind, FailureKind::NotFound, "{message}");
    assert_eq!(first.get_file("/tmp/mine", 64).await.unwrap(), b"first");
    let verified = backend.launcher.snapshots().verify(snapshot.id());
    assert!(verified.is_ok(), "a clone wrote to its snapshot");
    gone(one).await;
    gone(two).await;
}

async fn a_clone_can_be_held_for_later(backend: &Backend) {
    let snapshot = snapshot(backend).await;
    let (mut vm, guest) = restored(backend, &snapshot).await;
    vm.hold().await.unwrap();
    let mut answer = Box::pin(guest.ping(TIMEOUT));
    assert!(timeout(QUIET_TIME, &mut answer).await.is_err());
    vm.release().await.unwrap();
    answer.await.unwrap();
    gone(vm).await;
}

async fn a_held_vm_that_is_killed_is_told_at_once_and_leaves_nothing(backend: &Backend) {
    let (mut vm, _guest) = booted(backend, Ram::Private).await;
    vm.hold().await.unwrap();
    let exited = vm.process().exited();
    signal(vm.process().pid(), Signal::KILL);
    let exit = within("the end of a VM", exited).await;
    assert!(exit.status.contains("SIGKILL"), "{exit}");
    assert!(!is_alive(vm.process().pid()));
    for error in [
        vm.hold().await.unwrap_err(),
        vm.release().await.unwrap_err(),
    ] {
        assert!(matches!(error, VmmError::Died { .. }), "{error}");
    }
    let (mut dropped, _guest) = booted(backend, Ram::Private).await;
    dropped.hold().await.unwrap();
    let pid = dropped.process().pid();
    gone(dropped).await;
    assert!(!is_alive(pid));
}

async fn a_held_vm_that_another_lets_go_on_can_be_released_and_held_again(backend: &Backend) {
    let (mut vm, guest) = booted(backend, Ram::Private).await;
    for others in [Signal::CONT, Signal::STOP] {
        vm.hold().await.unwrap();
        signal(vm.process().pid(), others);
        vm.release().await.unwrap();
        guest.ping(TIMEOUT).await.unwrap();
    }
    signal(vm.process().pid(), Signal::STOP);
    if backend.launcher.vmm().kind == firecracker::KIND {
        vm.hold().await.unwrap();
    }
    let mut answer = Box::pin(guest.ping(TIMEOUT));
    assert!(timeout(QUIET_TIME, &mut answer).await.is_err());
    signal(vm.process().pid(), Signal::CONT);
    answer.await.unwrap();
    gone(vm).await;
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

/// Starts a standby process, if the backend supports that.
async fn standby(backend: &Backend) -> Option<Box<dyn Standby>> {
    let standby = backend.vmm.stand_by(backend.config.machine).await.unwrap();
    let has_them = backend.launcher.vmm().kind == firecracker::KIND;
    assert_eq!(standby.is_some(), has_them);
    standby
}

async fn a_process_that_stands_by_becomes_a_clone(backend: &Backend) {
    let Some(standby) = standby(backend).await else {
        return;
    };
    let snapshot = snapshot(backend).await;
    let pid = standby.pid();
    let mut vm = standby.restore(&snapshot.to_restore()).await.unwrap();
    assert_eq!((vm.process().pid(), vm.started_in()), (pid, Duration::ZERO));
    let guest = reached(&mut *vm).await;
    let (other, _) = restored(backend, &snapshot).await;
    vm.hold().await.unwrap();
    vm.release().await.unwrap();
    guest.ping(TIMEOUT).await.unwrap();
    gone(vm).await;
    gone(other).await;
}

async fn a_process_that_stands_by_tells_its_end_and_is_gone_when_it_is_dropped(backend: &Backend) {
    let (Some(dropped), Some(killed)) = (standby(backend).await, standby(backend).await) else {
        return;
    };
    let (pid, exited) = (dropped.pid(), dropped.exited());
    drop(dropped);
    within("the end of a process", exited).await;
    assert!(!is_alive(pid));
    let snapshot = snapshot(backend).await;
    signal(killed.pid(), Signal::KILL);
    let exit = within("the end of a process", killed.exited()).await;
    assert!(exit.status.contains("SIGKILL"), "{exit}");
    let error = killed.restore(&snapshot.to_restore()).await.unwrap_err();
    assert!(matches!(error, VmmError::Died { .. }), "{error}");
}

async fn a_killed_vm_is_told_to_whoever_waits_and_refuses_the_rest(backend: &Backend) {
    let (mut vm, guest) = booted(backend, Ram::Private).await;
    let exited = vm.process().exited();
    vm.process().kill();
    let exit = within("the end of a VM", exited).await;
    assert!(exit.status.contains("SIGKILL"), "{exit}");
    assert!(!is_alive(vm.process().pid()));
    let error = guest.ping(TIMEOUT).await.unwrap_err();
    assert!(matches!(error, GuestError::Closed { .. }), "{error}");
    let error = vm.hold().await.unwrap_err();
    assert!(matches!(error, VmmError::Died { .. }), "{error}");
    gone(vm).await;
}

async fn a_dropped_vm_is_gone(backend: &Backend) {
    let (vm, _guest) = booted(backend, Ram::Private).await;
    let pid = vm.process().pid();
    gone(vm).await;
    assert!(!is_alive(pid));
}

async fn a_snapshot_without_memory_is_refused_and_leaves_nothing(backend: &Backend) {
    let snapshot = snapshot(backend).await;
    std::fs::remove_file(snapshot.memory()).unwrap();
    let error = backend
        .vmm
        .restore(&snapshot.to_restore())
        .await
        .unwrap_err();
    // Each VMM has its own message; the causes are included.
    let text = format!("{error:?}");
    for part in ["memory", "No such file or directory"] {
        assert!(text.contains(part), "{text} does not say {part:?}");
    }
    assert!(!snapshot.memory().exists(), "it was made anew");
}

async fn a_command_gets_its_input_and_one_that_is_not_there_is_told(backend: &Backend) {
    let (vm, guest) = booted(backend, Ram::Private).await;
    let output = guest.exec(["echo", "hello", "world"]).await.unwrap();
    assert_eq!(output.status, ExitStatus::Code(0));
    assert_eq!(output.stdout, b"hello world\n");
    let input: Vec<u8> = (0..=250u8).cycle().take(300_000).collect();
    let cat = Command::new("cat").stdin(input.clone());
    assert!(guest.exec(cat).await.unwrap().stdout == input);
    let error = guest.exec(["no-such-program"]).await.unwrap_err();
    let GuestError::Failed { kind, message } = error else {
        panic!("{error:?}");
    };
    assert_eq!(kind, FailureKind::NotFound, "{message}");
    gone(vm).await;
}

async fn a_command_is_written_and_read_as_streams_and_waited_for(backend: &Backend) {
    let (vm, guest) = booted(backend, Ram::Private).await;
    let cat = || Command::new("cat").stdin_piped();
    let mut streams = guest.start(cat()).await.unwrap().into_streams();
    let mut stdin = streams.stdin.take().unwrap();
    // More than the streams hold, so that each side waits for the other.
    let input: Vec<u8> = (0..=250u8).cycle().take(300_000).collect();
    let written = async {
        stdin.write_all(&input).await.unwrap();
        drop(stdin);
    };
    let mut output = Vec::new();
    let read = streams.stdout.read_to_end(&mut output);
    let both = async { tokio::join!(written, read).1.unwrap() };
    within("a command that copies", both).await;
    assert!(output == input);
    for _ in 0..2 {
        let end = within("the end of a command", streams.wait()).await;
        assert_eq!(end.unwrap().code(), Some(0));
    }
    let mut errors = String::new();
    streams.stderr.read_to_string(&mut errors).await.unwrap();
    assert_eq!(errors, "");

    // Dropped, it is killed; waited for, what it prints is nobody's.
    drop(
        guest
            .start(["sleep", "3600000"])
            .await
            .unwrap()
            .into_streams(),
    );
    let waited = guest.start(["echo", "unread"]).await.unwrap().wait().await;
    assert_eq!(waited.unwrap(), ExitStatus::Code(0));
    let short = Command::new("echo").arg("more than four").max_output(4);
    let error = guest.exec(short).await.unwrap_err();
    assert!(
        matches!(error, GuestError::TooMuchOutput { limit: 4 }),
        "{error}"
    );
    gone(vm).await;
}

/// Returns commands whose output must differ between clones. The test guest has them built in.
pub(crate) fn unique(backend: &Backend) -> &'static [&'static [&'static str]] {
    if backend.launcher.vmm().kind == firecracker::KIND {
        &[&["identity"], &["entropy"]]
    } else {
        &[
            &["hostname"],
            &["cat", "/etc/machine-id"],
            &["head", "-c", "32", "/dev/urandom"],
        ]
    }
}

async fn clones_differ_in_entropy_and_identity(backend: &Backend) {
    let snapshot = snapshot(backend).await;
    let launcher = &backend.launcher;
    let one = launcher.restore_vm(&snapshot, "clone-one").await.unwrap();
    let two = launcher.restore_vm(&snapshot, "clone-two").await.unwrap();
    let lines = async |vm: &VmHandle, command: &[&str]| {
        let argv: Vec<String> = command.iter().map(ToString::to_string).collect();
        let output = vm.exec(argv).await.unwrap();
        assert!(output.status.success(), "{command:?}: {output:?}");
        let lines = output.stdout.split(|byte| *byte == b'\n');
        lines.map(<[u8]>::to_vec).collect::<Vec<_>>()
    };
    for command in unique(backend) {
        let (first, second) = (lines(&one, command).await, lines(&two, command).await);
        assert!(!first[0].is_empty(), "{command:?}");
        for (a, b) in first.iter().zip(&second).filter(|(a, _)| !a.is_empty()) {
            assert_ne!(a, b, "{command:?}");
        }
    }
    // The first of them prints the name.
    let name = lines(&one, unique(backend)[0]).await.remove(0);
    assert_eq!(name, b"clone-one");
    one.destroy().await.unwrap();
    two.destroy().await.unwrap();
}

async fn a_vm_killed_in_mid_command_ends_what_waits_for_it(backend: &Backend) {
    let (vm, guest) = booted(backend, Ram::Private).await;
    // Milliseconds for one guest, seconds for the other, and too many for both.
    let mut running = guest.start(["sleep", "3600000"]).await.unwrap();
    // The guest handles requests in order: after this answer the command runs.
    guest.ping(TIMEOUT).await.unwrap();
    assert!(timeout(QUIET_TIME, running.next()).await.is_err());
    vm.process().kill();
    let end = timeout(TIMEOUT, running.next()).await.unwrap();
    assert!(matches!(end, Err(GuestError::Closed { .. })), "{end:?}");
    let exit = within("the end of a VM", vm.process().exited()).await;
    assert!(exit.status.contains("SIGKILL"), "{exit}");
    gone(vm).await;
}

async fn a_vmm_has_no_descriptor_but_what_it_is_given(backend: &Backend) {
    let stray = backend.config.run_path.with_file_name("stray");
    // Without `O_CLOEXEC`, as a shell leaves it open: `exec 9<>file`.
    let open = rustix::io::dup(File::create(&stray).unwrap()).unwrap();
    let (vm, guest) = booted(backend, Ram::Private).await;
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", vm.process().pid())).unwrap();
    let files: Vec<_> = descriptors
        .filter_map(|descriptor| std::fs::read_link(descriptor.unwrap().path()).ok())
        .collect();
    assert!(files.len() > 2 && !files.contains(&stray), "{files:?}");
    drop((open, guest));
    gone(vm).await;
}
