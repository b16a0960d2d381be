//! State directories with what is not ours, or not only ours.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use predicates::prelude::*;
use predicates::str::contains;

use crate::state::{
    MARK, QEMU_SAYS, import_a_kernel, ironclaw, program, state, with_a_broken_snapshot,
};

/// Returns everything below a directory, with its content.
fn everything(path: &Path) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let mut all = Vec::new();
    let mut open = vec![path.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path.clone());
                all.push((path, None));
            } else {
                let content = fs::read(&path).unwrap();
                all.push((path, Some(content)));
            }
        }
    }
    all.sort();
    all
}

/// Read-only commands.
const READERS: [&[&str]; 7] = [
    &["doctor"],
    &["pool", "stats"],
    &["pool", "stats", "--format", "prometheus"],
    &["snapshot", "list"],
    &["snapshot", "verify", "--all"],
    &["template", "list"],
    &["template", "verify", "--all"],
];

#[test]
fn a_foreign_entry_in_a_run_path_is_refused_by_name_and_stays() {
    let state = state();
    import_a_kernel(state.path());
    let d = state.path().join("d");
    fs::create_dir_all(d.join("photos")).unwrap();
    fs::set_permissions(&d, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(d.join("photos/a"), "x").unwrap();
    let before = everything(&d);
    let makers: [&[&str]; 4] = [
        &["run", "--", "true"],
        &["pool", "warmup"],
        &["pool", "refresh"],
        &["snapshot", "create"],
    ];
    for words in READERS.iter().chain(&makers) {
        let mut command = ironclaw(state.path());
        command.env("IRONCLAW_RUN_PATH", &d);
        // A hypervisor that starts, on any machine.
        command.env("IRONCLAW_QEMU", program(state.path(), "qemu", QEMU_SAYS));
        command.env("IRONCLAW_BACKEND", "qemu");
        let assert = command.args(*words).assert();
        if makers.contains(words) {
            assert
                .code(121)
                .stderr(contains("photos").and(contains("IRONCLAW_RUN_PATH")));
        } else if words[0] == "doctor" {
            assert
                .code(1)
                .stdout(contains("photos").and(contains("IRONCLAW_RUN_PATH")));
        }
        assert_eq!(everything(&d), before, "{words:?}");
    }
    // Without a template, too.
    fs::remove_dir_all(state.path().join("templates")).unwrap();
    ironclaw(state.path())
        .env("IRONCLAW_RUN_PATH", &d)
        .arg("doctor")
        .assert()
        .code(1)
        .stdout(contains("photos").and(contains("IRONCLAW_RUN_PATH")));
    assert_eq!(everything(&d), before);
}

#[test]
fn state_paths_that_contain_one_another_are_refused_and_nothing_in_them_is_touched() {
    let state = state();
    let srv = state.path().join("ic");
    for path in ["snapshots", "templates", "backup"] {
        fs::create_dir_all(srv.join(path)).unwrap();
        fs::write(srv.join(path).join("file"), "somebody's").unwrap();
    }
    fs::set_permissions(&srv, fs::Permissions::from_mode(0o700)).unwrap();
    let before = everything(&srv);
    let link = state.path().join("link");
    std::os::unix::fs::symlink(&srv, &link).unwrap();
    for run in [
        &srv,
        &link,
        &srv.join("snapshots/run"),
        &srv.join("templates"),
    ] {
        for words in READERS.iter().chain(&[&["run", "--", "true"][..]]) {
            ironclaw(state.path())
                .env("IRONCLAW_RUN_PATH", run)
                .env("IRONCLAW_SNAPSHOT_PATH", srv.join("snapshots"))
                .env("IRONCLAW_TEMPLATE_PATH", srv.join("templates"))
                .args(*words)
                .assert()
                .code(121)
                .stderr(contains("IRONCLAW_RUN_PATH").and(contains("one")));
            assert_eq!(everything(&srv), before, "{words:?}");
        }
    }
}

#[test]
fn read_only_commands_remove_nothing_and_kill_nobody() {
    let state = with_a_broken_snapshot();
    import_a_kernel(state.path());
    // The leftovers of a killed process: an unfinished snapshot and template, and a living VMM.
    let marked = |path: PathBuf| {
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join(MARK.0), MARK.1).unwrap();
        fs::write(path.join("file"), "half").unwrap();
        path
    };
    let id = "0192f0c1-7a2b-7c3d-8e4f-5a6b7c8d9e0e";
    marked(
        state
            .path()
            .join(format!("snapshots/.staging-{id}-0123456789abcdef")),
    );
    marked(state.path().join("templates/.staging-abcdef"));
    let run = state.path().join("run");
    marked(run.join(id.replace('-', "")));
    fs::set_permissions(&run, fs::Permissions::from_mode(0o700)).unwrap();
    let lasting = || {
        let mut all = everything(state.path());
        // Results of probes are new.
        all.retain(|(path, _)| !path.to_string_lossy().contains("-probe-"));
        all
    };
    program(state.path(), "qemu", QEMU_SAYS);
    let before = lasting();
    for words in READERS {
        let mut command = ironclaw(state.path());
        command.env("IRONCLAW_QEMU", state.path().join("qemu"));
        command.env("IRONCLAW_BACKEND", "qemu");
        command.args(words).output().unwrap();
        assert_eq!(lasting(), before, "{words:?}");
    }
}

#[test]
fn a_directory_of_somebodys_with_the_name_of_a_snapshot_or_template_is_left_alone() {
    let state = with_a_broken_snapshot();
    let store = state.path().join("snapshots");
    let broken = store.join("0192f0c1-7a2b-7c3d-8e4f-5a6b7c8d9e0f");
    fs::remove_file(broken.join(MARK.0)).unwrap();
    let template = state.path().join("templates").join("ab".repeat(32));
    fs::create_dir_all(&template).unwrap();
    fs::set_permissions(
        template.parent().unwrap(),
        fs::Permissions::from_mode(0o700),
    )
    .unwrap();
    fs::write(template.join("a"), "x").unwrap();
    for noun in ["snapshot", "template"] {
        for verb in ["verify", "delete"] {
            ironclaw(state.path())
                .args([noun, verb, "--all"])
                .assert()
                .success();
        }
    }
    ironclaw(state.path())
        .args(["snapshot", "delete", "0192f0c1-7a2b-7c3d-8e4f-5a6b7c8d9e0f"])
        .assert()
        .code(125)
        .stdout(contains("by hand"));
    ironclaw(state.path())
        .args(["template", "delete", &"ab".repeat(32)])
        .assert()
        .code(125)
        .stdout(contains("by hand"));
    assert!(broken.join("memory").exists() && template.join("a").exists());
}
