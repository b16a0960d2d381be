//! Tests a user's commands in a VM.

use std::time::Duration;

use ironclaw_orchestrator::vm::{Command, ExecEvent, ExitStatus, GuestError};
use ironclaw_protocol::message::FailureKind;

use crate::fixture::{sh, vm};

const MAX_FILE_BYTES: u64 = 16 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_on_a_linux_of_its_own() {
    let Some(vm) = vm("own-linux").await else {
        return;
    };
    let own = sh(&vm, "uname -sn; cat /proc/cmdline").await;
    let (name, cmdline) = own.split_once('\n').unwrap();
    assert_eq!(name, "Linux own-linux");
    let host = std::fs::read_to_string("/proc/cmdline").unwrap();
    assert_ne!(cmdline.trim(), host.trim());
    vm.destroy().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_signals_and_time_limits_are_told_apart() {
    let Some(vm) = vm("codes").await else { return };
    for code in [0, 1, 42, 255] {
        let output = vm
            .exec(["sh", "-c", &format!("exit {code}")])
            .await
            .unwrap();
        assert_eq!(output.status, ExitStatus::Code(code));
    }
    let output = vm.exec(["sh", "-c", "kill -9 $$"]).await.unwrap();
    assert_eq!(output.status, ExitStatus::Signal(9));
    let sleep = Command::new("sleep")
        .arg("1000")
        .timeout(Duration::from_millis(100));
    assert_eq!(vm.exec(sleep).await.unwrap().status, ExitStatus::TimedOut);
    assert_eq!(sh(&vm, "pidof sleep || echo none").await, "none\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn environment_directory_and_input_arrive() {
    let Some(vm) = vm("input").await else { return };
    let command = Command::new("sh")
        .args(["-c", "echo $GREETING from $(pwd); cat"])
        .env("GREETING", "hello world")
        .current_dir("/proc")
        .stdin("and its input\n");
    let output = vm.exec(command).await.unwrap();
    assert_eq!(output.stdout, b"hello world from /proc\nand its input\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_may_inherit_nothing_and_have_another_name() {
    let Some(vm) = vm("cleared").await else {
        return;
    };
    let cleared = Command::new("env").env_clear().env("ONLY", "this");
    assert_eq!(vm.exec(cleared).await.unwrap().stdout, b"ONLY=this\n");
    let without = Command::new("env").env_remove("LANG");
    let without = String::from_utf8(vm.exec(without).await.unwrap().stdout).unwrap();
    assert!(
        without.contains("PATH=") && !without.contains("LANG="),
        "{without}"
    );
    // Busybox does what it is called.
    let named = Command::new("busybox").arg0("echo").arg("called");
    assert_eq!(vm.exec(named).await.unwrap().stdout, b"called\n");
    vm.destroy().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_megabyte_goes_through_in_both_directions() {
    let Some(vm) = vm("megabyte").await else {
        return;
    };
    let content: Vec<u8> = (0..1 << 20)
        .map(|n: u32| n.to_le_bytes()[n as usize % 3])
        .collect();
    let output = vm
        .exec(Command::new("cat").stdin(content.clone()))
        .await
        .unwrap();
    assert!(output.stdout == content);
    vm.put_file("/tmp/there", 0o640, &content).await.unwrap();
    assert_eq!(sh(&vm, "stat -c '%a %s' /tmp/there").await, "640 1048576\n");
    assert!(vm.get_file("/tmp/there", MAX_FILE_BYTES).await.unwrap() == content);
    let error = vm.get_file("/tmp/there", 1000).await.unwrap_err();
    assert!(
        matches!(error, GuestError::TooMuchOutput { limit: 1000 }),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_streamed_while_the_command_runs() {
    let Some(vm) = vm("stream").await else { return };
    let script = "echo ready; read line; echo got $line >&2";
    let command = Command::new("sh").args(["-c", script]).stdin_piped();
    let mut running = vm.start(command).await.unwrap();
    assert_eq!(
        running.next().await.unwrap(),
        ExecEvent::Stdout(b"ready\n".to_vec())
    );
    running
        .take_stdin()
        .unwrap()
        .write_all(b"this\n")
        .await
        .unwrap();
    assert_eq!(
        running.next().await.unwrap(),
        ExecEvent::Stderr(b"got this\n".to_vec())
    );
    assert_eq!(
        running.next().await.unwrap(),
        ExecEvent::Ended(ExitStatus::Code(0))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_reaches_a_command_that_handles_it_and_its_code_counts() {
    let Some(vm) = vm("signal").await else { return };
    for signal in [1, 2, 3, 10, 15, 28] {
        let script =
            format!("trap 'exit 5' {signal}; echo ready; while :; do sleep 1000 & wait; done");
        let mut running = vm.start(["sh", "-c", &script]).await.unwrap();
        let ready = running.next().await.unwrap();
        assert_eq!(ready, ExecEvent::Stdout(b"ready\n".to_vec()));
        running.signal(signal).unwrap();
        let end = running.next().await.unwrap();
        assert_eq!(end, ExecEvent::Ended(ExitStatus::Code(5)), "{signal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_command_is_killed_in_the_guest() {
    let Some(vm) = vm("drop").await else { return };
    let mut running = vm
        .start(["sh", "-c", "echo on; exec sleep 1000"])
        .await
        .unwrap();
    assert_eq!(
        running.next().await.unwrap(),
        ExecEvent::Stdout(b"on\n".to_vec())
    );
    drop(running);
    // Requests are handled in order, and this one ends when the other's process is gone.
    let gone = "while pidof sleep >/dev/null; do :; done; echo gone";
    assert_eq!(sh(&vm, gone).await, "gone\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_file_or_program_in_the_guest_has_an_error_of_its_own() {
    let Some(vm) = vm("missing").await else {
        return;
    };
    let failed = |result: Result<_, GuestError>| match result {
        Err(GuestError::Failed { kind, message }) => (kind, message),
        other => panic!("{other:?}"),
    };
    let (kind, message) = failed(vm.exec(["no-such-program"]).await.map(drop));
    assert_eq!(kind, FailureKind::NotFound);
    assert!(message.contains("no-such-program"), "{message}");
    let (kind, message) = failed(
        vm.exec(Command::new("true").current_dir("/no/dir"))
            .await
            .map(drop),
    );
    assert_eq!(kind, FailureKind::NoSuchDirectory);
    assert!(message.contains("/no/dir"), "{message}");
    let (kind, _) = failed(vm.exec(["/etc"]).await.map(drop));
    assert_eq!(kind, FailureKind::PermissionDenied);
    let (kind, _) = failed(vm.put_file("/no/dir/file", 0o600, b"x").await);
    assert_eq!(kind, FailureKind::NoSuchDirectory);
    let (kind, _) = failed(vm.get_file("/no/file", MAX_FILE_BYTES).await.map(drop));
    assert_eq!(kind, FailureKind::NotFound);
    let huge = Command::new("echo").arg("x".repeat(200_000));
    let error = vm.exec(huge).await.unwrap_err();
    assert!(matches!(error, GuestError::Invalid(_)), "{error}");
    assert_eq!(sh(&vm, "echo alive").await, "alive\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_have_random_addresses_and_the_kernel_is_where_it_was_linked() {
    let Some(vm) = vm("addresses").await else {
        return;
    };
    let text = sh(&vm, "grep -m1 ' _text$' /proc/kallsyms").await;
    assert!(text.starts_with("ffffffff81000000 "), "{text}");
    let stack = "grep -F '[stack]' /proc/self/maps";
    assert_ne!(sh(&vm, stack).await, sh(&vm, stack).await);
}
