//! Which binaries are taken for Firecracker. These need neither KVM nor Firecracker.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use ironclaw_orchestrator::vm::firecracker::FirecrackerBinary;
use ironclaw_orchestrator::vm::vmm::VmmError;

fn script(directory: &Path, text: &str) -> PathBuf {
    let path = directory.join("firecracker");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    path
}

#[tokio::test]
async fn an_older_version_is_refused_with_both_versions() {
    let directory = tempfile::tempdir().unwrap();
    let path = script(directory.path(), "echo 'Firecracker v1.16.0'");
    let error = FirecrackerBinary::find(Some(&path)).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, VmmError::Unusable { .. }), "{text}");
    assert!(text.contains("1.16.0") && text.contains("1.16.1"), "{text}");
}

#[tokio::test]
async fn another_program_and_a_missing_one_are_refused_by_path() {
    let directory = tempfile::tempdir().unwrap();
    let path = script(directory.path(), "echo something else");
    let error = FirecrackerBinary::find(Some(&path)).await.unwrap_err();
    assert!(error.to_string().contains("something else"), "{error}");
    let missing = directory.path().join("missing");
    let error = FirecrackerBinary::find(Some(&missing)).await.unwrap_err();
    assert!(matches!(error, VmmError::NotInstalled { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("missing") && text.contains("IRONCLAW_FIRECRACKER"));
}
