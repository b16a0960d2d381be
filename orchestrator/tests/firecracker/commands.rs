//! Tests a user's commands in a VM, over vsock.

use std::time::{Duration, Instant};

use ironclaw_orchestrator::vm::{Command, ExecEvent, ExitStatus, GuestError, Origin};
use ironclaw_protocol::message::FailureKind;

use crate::lab::{Lab, run};

/// Limit of the bytes that the tests read from a file.
const MAX_FILE_BYTES: u64 = 16 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_template_boots_and_runs_a_command() {
    let Some(lab) = Lab::open().await else { return };
    let launcher = lab.launcher().await;
    let vm = launcher.cold_boot("cold").await.unwrap();
    assert_eq!(vm.origin(), Origin::ColdBooted);
    assert_eq!(run(&vm, ["echo", "hello", "world"]).await, "hello world\n");
    assert!(run(&vm, ["identity"]).await.starts_with("cold\n"));
    vm.destroy().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_and_missing_programs_are_told_apart() {
    let Some(lab) = Lab::open().await else { return };
    let (_launcher, vm) = lab.vm("codes").await;
    for code in [0, 1, 42, 255] {
        let output = vm.exec(["fail", &code.to_string()]).await.unwrap();
        assert_eq!(output.status, ExitStatus::Code(code));
    }
    let error = vm.exec(["no-such-program"]).await.unwrap_err();
    let GuestError::Failed { kind, message } = error else {
        panic!("{error}");
    };
    assert_eq!(kind, FailureKind::NotFound);
    assert!(message.contains("no-such-program"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_over_its_time_limit_is_ended_and_the_vm_serves_on() {
    let Some(lab) = Lab::open().await else { return };
    let (_launcher, vm) = lab.vm("limit").await;
    let sleep = Command::new("sleep")
        .arg("3600000")
        .timeout(Duration::from_millis(100));
    let start = Instant::now();
    assert_eq!(vm.exec(sleep).await.unwrap().status, ExitStatus::TimedOut);
    assert!(start.elapsed() >= Duration::from_millis(100));
    assert_eq!(run(&vm, ["echo", "on"]).await, "on\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn input_and_a_megabyte_of_output_go_through_unchanged() {
    let Some(lab) = Lab::open().await else { return };
    let (_launcher, vm) = lab.vm("stream").await;
    let flood = vm.exec(["flood", "1"]).await.unwrap();
    let expected: Vec<u8> = (0..=250u8).cycle().take(1 << 20).collect();
    assert!(flood.stdout == expected, "{} bytes", flood.stdout.len());
    let cat = Command::new("cat").stdin(expected.clone());
    assert!(vm.exec(cat).await.unwrap().stdout == expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn output_comes_while_the_command_runs() {
    let Some(lab) = Lab::open().await else { return };
    let (_launcher, vm) = lab.vm("live").await;
    let mut running = vm.start(Command::new("cat").stdin_piped()).await.unwrap();
    let mut stdin = running.take_stdin().unwrap();
    for line in ["one\n", "two\n"] {
        stdin.write_all(line.as_bytes()).await.unwrap();
        let event = running.next().await.unwrap();
        assert_eq!(event, ExecEvent::Stdout(line.into()));
    }
    drop(stdin);
    let event = running.next().await.unwrap();
    assert_eq!(event, ExecEvent::Ended(ExitStatus::Code(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_written_and_read_back() {
    let Some(lab) = Lab::open().await else { return };
    let (_launcher, vm) = lab.vm("files").await;
    let content: Vec<u8> = (0..=250u8).cycle().take(300_000).collect();
    vm.put_file("/tmp/there", 0o640, &content).await.unwrap();
    assert!(vm.get_file("/tmp/there", MAX_FILE_BYTES).await.unwrap() == content);
    let failed = |result: Result<(), GuestError>| match result {
        Err(GuestError::Failed { kind, .. }) => kind,
        other => panic!("{other:?}"),
    };
    let missing = vm.get_file("/tmp/nowhere", MAX_FILE_BYTES).await.map(drop);
    assert_eq!(failed(missing), FailureKind::NotFound);
    let misplaced = vm.put_file("/no/dir/file", 0o600, b"x").await;
    assert_eq!(failed(misplaced), FailureKind::NoSuchDirectory);
}
