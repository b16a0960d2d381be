//! Runs the examples, as a user would.

use std::process::{Command, Stdio};

use crate::fixture::{config, launcher};
use crate::limit::Limit;

/// Returns its output; `None` without VMs. Cargo builds examples together with a package's tests.
async fn output_of(example: &'static str, arguments: &'static [&str]) -> Option<String> {
    launcher().await?;
    let test = std::env::current_exe().unwrap();
    let build = test.parent().unwrap().parent().unwrap();
    let program = build.join("examples").join(example);
    let config = config();
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let run = move || {
        let started = Command::new(program)
            .args(arguments)
            .env("IRONCLAW_TEMPLATE_PATH", &config.template_path)
            .env("IRONCLAW_SNAPSHOT_PATH", directory.path().join("snapshots"))
            .env("IRONCLAW_RUN_PATH", &config.run_path)
            .env("IRONCLAW_POOL_SIZE", "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let _limit = Limit::new(&started);
        let output = started.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    Some(tokio::task::spawn_blocking(run).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quickstart_prints_the_name_of_its_guest() {
    let Some(printed) = output_of("quickstart", &[]).await else {
        return;
    };
    assert!(printed.starts_with("Linux my-task "), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_of_ones_own_has_room_for_as_many_as_its_budget_says() {
    let Some(printed) = output_of("own_pool", &[]).await else {
        return;
    };
    assert_eq!(
        printed,
        "one\ntwo\nno third one: 2 VMs and 1024 MiB of memory\nthree has room now\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn checkouts_are_served_warm_and_told_by_stage() {
    let Some(printed) = output_of("checkout", &[]).await else {
        return;
    };
    assert!(printed.starts_with("10 of 10 served warm\n"), "{printed}");
    assert!(printed.contains("\nqueue: median "), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_run_in_vms_of_their_own_and_a_cancelled_one_is_not_tried_again() {
    let Some(printed) = output_of("job_runner", &["24", "8"]).await else {
        return;
    };
    assert_eq!(printed, "{\"cancelled\": 1, \"done\": 23}\n");
}
