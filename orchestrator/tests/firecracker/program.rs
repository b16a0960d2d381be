//! Tests unsuitable Firecracker binaries and directories.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use ironclaw_orchestrator::vm::firecracker::MINIMUM_VERSION;
use ironclaw_orchestrator::vm::vmm::VmmError;
use ironclaw_orchestrator::vm::{LaunchError, Launcher};

use crate::lab::{Lab, list, words};
use crate::process::living_in;

/// Returns the error of a launcher with this binary.
async fn refusal(lab: &Lab, binary: PathBuf) -> LaunchError {
    let mut config = lab.config.clone();
    config.backends.firecracker.binary = Some(binary);
    let error = Launcher::open(&config, Arc::new(|_: &_| {})).await;
    let error = error.expect_err("it is no Firecracker of ours");
    assert!(list(&config.run_path).is_empty());
    error
}

/// Creates a program from a shell script.
fn script(lab: &Lab, text: &str) -> PathBuf {
    let path = lab.path().join("firecracker");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binary_that_is_not_there_is_named_with_what_to_do() {
    let Some(lab) = Lab::open().await else { return };
    let path = lab.path().join("nothing");
    let error = refusal(&lab, path.clone()).await;
    assert!(
        matches!(error, LaunchError::Vmm(VmmError::NotInstalled { .. })),
        "{error:?}"
    );
    let text = error.to_string();
    for part in [path.to_str().unwrap(), "`firecracker`", "releases"] {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_can_not_be_run_is_named() {
    let Some(lab) = Lab::open().await else { return };
    let path = lab.path().join("data");
    std::fs::write(&path, "data").unwrap();
    let text = words(&refusal(&lab, path.clone()).await);
    assert!(text.contains(path.to_str().unwrap()), "{text}");
    assert!(text.contains("Permission denied"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_program_is_told_from_firecracker() {
    let Some(lab) = Lab::open().await else { return };
    let path = script(&lab, "echo something else; exit 3");
    let error = refusal(&lab, path.clone()).await;
    assert!(
        matches!(error, LaunchError::Vmm(VmmError::Unusable { .. })),
        "{error:?}"
    );
    let text = error.to_string();
    for part in [path.to_str().unwrap(), "something else", "exit status: 3"] {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_version_is_named_with_the_one_that_is_needed() {
    let Some(lab) = Lab::open().await else { return };
    for (old, why) in [
        ("1.16.0", "#5958"),
        ("1.15.1", "#5882"),
        ("0.25.2", "lacks"),
    ] {
        let path = script(&lab, &format!("echo Firecracker v{old}"));
        let error = refusal(&lab, path).await;
        let text = error.to_string();
        for part in [old, why, MINIMUM_VERSION] {
            assert!(text.contains(part), "{text:?} does not say {part:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_path_that_can_not_be_made_is_named() {
    let Some(lab) = Lab::open().await else { return };
    let blocked = lab.path().join("file");
    std::fs::write(&blocked, "in the way").unwrap();
    let mut config = lab.config.clone();
    config.run_path = blocked.join("run");
    let error = Launcher::open(&config, Arc::new(|_: &_| {})).await;
    let error = error.expect_err("there is a file in the way");
    assert!(
        matches!(error, LaunchError::Vmm(VmmError::Unusable { .. })),
        "{error:?}"
    );
    let text = words(&error);
    assert!(text.contains(config.run_path.to_str().unwrap()), "{text}");
    assert!(text.contains("Not a directory"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_runs_firecracker_as_a_child_is_refused_and_leaves_nothing() {
    let Some(mut lab) = Lab::open().await else {
        return;
    };
    let path = script(&lab, &format!("{} \"$@\"; exit", lab.binary.path.display()));
    lab.config.backends.firecracker.binary = Some(path.clone());
    let launcher = lab.launcher().await;
    let error = words(&launcher.cold_boot("child").await.unwrap_err());
    assert!(
        error.contains(path.to_str().unwrap()) && error.contains("`exec`"),
        "{error}"
    );
    lab.until_no_home();
    let left = living_in(&lab.config.run_path);
    assert!(left.is_empty(), "{left:?}");

    let path = script(&lab, &format!("exec {} \"$@\"", lab.binary.path.display()));
    lab.config.backends.firecracker.binary = Some(path);
    let vm = lab.launcher().await.cold_boot("itself").await.unwrap();
    vm.destroy().await.unwrap();
}
