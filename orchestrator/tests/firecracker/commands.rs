//! Commands in a guest under Firecracker.

use std::time::Duration;

use ironclaw_orchestrator::vm::{Command, ExitStatus, GuestError, Origin};

use crate::fixture::{bench, is_alive, out};

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_boot_runs_commands_and_leaves_nothing() {
    let Some(bench) = bench().await else { return };
    let vm = bench.launcher.cold_boot("cold").await.unwrap();
    assert_eq!(vm.origin(), Origin::ColdBooted);
    assert_eq!(out(&vm, &["echo", "hello", "there"]).await, "hello there\n");
    let pid = vm.pid();
    vm.destroy().await.unwrap();
    assert!(!is_alive(pid));
    assert!(bench.homes().is_empty(), "{:?}", bench.homes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_guest_keeps_all_promises_of_exec() {
    let Some(bench) = bench().await else { return };
    let vm = bench.vm("exec").await;
    assert_eq!(vm.origin(), Origin::Restored);

    let output = vm.exec(["fail", "7"]).await.unwrap();
    assert_eq!(output.status, ExitStatus::Code(7));

    let input: Vec<u8> = (0..1 << 20).map(|n: u32| n.to_le_bytes()[1]).collect();
    let output = vm
        .exec(Command::new("cat").stdin(input.clone()))
        .await
        .unwrap();
    assert!(output.stdout == input, "1 MiB through the guest changed");

    let output = vm.exec(["flood", "1"]).await.unwrap();
    let expected: Vec<u8> = (0..=250).cycle().take(1 << 20).collect();
    assert!(output.stdout == expected, "1 MiB from the guest changed");

    let slow = Command::new("sleep")
        .arg("60000")
        .timeout(Duration::from_millis(50));
    assert_eq!(vm.exec(slow).await.unwrap().status, ExitStatus::TimedOut);

    let error = vm.exec(["no-such-command"]).await.unwrap_err();
    assert!(matches!(error, GuestError::Failed { .. }), "{error}");

    let content = vec![0xa5; 100_000];
    vm.put_file("/tmp/file", 0o600, &content).await.unwrap();
    assert!(vm.get_file("/tmp/file", 1 << 20).await.unwrap() == content);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_commands_run_at_a_time() {
    let Some(bench) = bench().await else { return };
    let vm = bench.vm("many").await;
    let (one, two, three) = tokio::join!(
        out(&vm, &["echo", "1"]),
        out(&vm, &["echo", "2"]),
        out(&vm, &["echo", "3"]),
    );
    assert_eq!([one, two, three], ["1\n", "2\n", "3\n"]);
}
