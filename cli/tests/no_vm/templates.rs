//! `ironclaw template`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use predicates::prelude::*;
use predicates::str::contains;

use crate::state::{import_a_kernel, ironclaw, state};

#[test]
fn a_file_to_import_that_is_not_there_is_named_and_is_no_fault_of_the_store() {
    let state = state();
    let kernel = state.path().join("kernel");
    fs::write(&kernel, "\x7fELF..").unwrap();
    for (kernel, initramfs) in [(Path::new("/nope"), None), (&kernel, Some("/nope"))] {
        let mut command = ironclaw(state.path());
        command.args(["template", "import", "--kernel"]).arg(kernel);
        if let Some(initramfs) = initramfs {
            command.args(["--initramfs", initramfs]);
        }
        command.assert().code(125).stderr(contains("/nope"));
    }
    let store = state.path().join("store");
    fs::write(&store, "").unwrap();
    ironclaw(state.path())
        .env("IRONCLAW_TEMPLATE_PATH", &store)
        .args(["template", "import", "--kernel"])
        .arg(&kernel)
        .assert()
        .code(119)
        .stderr(contains(store.display().to_string()).and(contains("IRONCLAW_TEMPLATE_PATH")));
}

#[test]
fn a_registry_that_can_not_be_used_is_named_with_what_to_do() {
    let state = state();
    // The headers of a static program: nothing runs it before the image is there.
    let mut program = [0; 64 + 56];
    program[..6].copy_from_slice(b"\x7fELF\x02\x01");
    for (at, value) in [
        (6, 1),
        (16, 2),
        (18, 62),
        (20, 1),
        (32, 64),
        (52, 64),
        (54, 56),
        (56, 1),
    ] {
        program[at] = value;
    }
    let agent = state.path().join("agent");
    fs::write(&agent, program).unwrap();
    let build = |source: &str, more: &[&str]| {
        let mut command = ironclaw(state.path());
        command
            .env("IRONCLAW_GUEST_AGENT", &agent)
            .env("HOME", state.path());
        command.args(["template", "build", "--from", source]);
        command.args(more).assert()
    };
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let source = format!("docker://{address}/app:1");
    let said = format!("{address}/app:1 can't be pulled: {address} can't be reached: ");
    build(&source, &[]).failure().stderr(contains(said.clone()));
    build(&source, &["--plain-http"])
        .failure()
        .stderr(contains(said));
    let none = state.path().join("none.crt");
    build(&source, &["--ca-file", none.to_str().unwrap()])
        .failure()
        .stderr(contains("none.crt can't be used as certificates: "));
    build("docker://Bad", &[])
        .code(2)
        .stderr(contains("\"library/Bad\" is no repository"));
}

#[test]
fn a_bad_kernel_is_not_imported_and_the_default_stays() {
    let state = state();
    let import = |content: &[u8]| {
        let kernel = state.path().join("kernel");
        fs::write(&kernel, content).unwrap();
        let mut command = ironclaw(state.path());
        command.args(["template", "import", "--kernel"]).arg(kernel);
        command.assert()
    };
    let mut bzimage = vec![0; 0x300];
    bzimage[0x202..0x206].copy_from_slice(b"HdrS");
    import(&bzimage).success();
    import(b"\x7fELF").success();
    let list = || {
        let listed = ironclaw(state.path()).args(["template", "list"]).assert();
        listed.success().get_output().stdout.clone()
    };
    let before = list();
    for content in [&b""[..], b"root:x:0:0:root", &bzimage[1..]] {
        import(content).code(125).stderr(contains("ELF"));
    }
    assert_eq!(list(), before);
}

#[test]
fn a_template_is_verified_and_deleted() {
    let state = state();
    let kernel = state.path().join("kernel");
    fs::write(&kernel, "\x7fELF..").unwrap();
    let json = |words: &[&str], code: i32| -> serde_json::Value {
        let done = ironclaw(state.path())
            .arg("--json")
            .arg("template")
            .args(words)
            .assert()
            .code(code);
        serde_json::from_slice(&done.get_output().stdout).unwrap()
    };
    json(&["import", "--kernel", kernel.to_str().unwrap()], 0);
    let listed = json(&["list"], 0)[0].clone();
    assert_eq!(listed["created"], listed["manifest"]["created"]);
    let hash = listed["hash"].clone();
    let word = hash.as_str().unwrap();
    let intact = serde_json::json!([
        {"hash": hash, "ok": true, "error": null, "hashed_bytes": 6}
    ]);
    assert_eq!(json(&["verify", "--all"], 0), intact);

    let there = state.path().join("templates").join(word).join("vmlinux");
    fs::remove_file(&there).unwrap();
    fs::write(&there, "\x7fELF!!").unwrap();
    let changed = json(&["verify", word], 1);
    assert_eq!(changed[0]["ok"], false);
    let error = changed[0]["error"].as_str().unwrap();
    assert!(error.contains("damaged"), "{error}");

    assert_eq!(json(&["delete", word], 0)[0]["ok"], true);
    assert_eq!(json(&["list"], 0), serde_json::json!([]));
    ironclaw(state.path())
        .args(["template", "delete", word])
        .assert()
        .code(125)
        .stdout(contains("there is no template"))
        .stderr(contains("1 of 1 templates"));
}

/// Lets everybody read `path` and everything below it.
fn show_to_all(path: &Path) {
    let is_directory = path.is_dir();
    let mode = if is_directory { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    if is_directory {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if !path.is_symlink() {
                show_to_all(&path);
            }
        }
    }
}

#[test]
fn templates_of_root_serve_another_user_who_may_read_them_and_those_of_a_third_do_not() {
    use std::os::unix::fs::{chown, lchown};
    use std::os::unix::process::CommandExt as _;
    const NOBODY: u32 = 65534;
    const SOMEBODY: u32 = 12345;
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let state = state();
    import_a_kernel(state.path());
    let templates = state.path().join("templates");
    show_to_all(state.path());
    let program = state.path().join("ironclaw");
    fs::copy(assert_cmd::cargo::cargo_bin!("ironclaw"), &program).unwrap();
    let as_nobody = |words: &[&str]| {
        let mut command = std::process::Command::new(&program);
        command.env_clear().args(words).uid(NOBODY).gid(NOBODY);
        command.env("HOME", "/nonexistent");
        command.env("IRONCLAW_TEMPLATE_PATH", &templates);
        command.output().unwrap()
    };
    for words in [&["template", "list"][..], &["template", "verify", "--all"]] {
        let output = as_nobody(words);
        assert!(output.status.success(), "{output:?}");
        assert!(!output.stdout.is_empty());
    }
    let output = as_nobody(&["template", "delete", "--all"]);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let output = as_nobody(&["template", "list", "--json"]);
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(listed[0]["default"], true);

    for (path, of) in [
        (&templates, "templates"),
        (&state.path().to_owned(), "above"),
    ] {
        chown(path, Some(SOMEBODY), None).unwrap();
        let output = as_nobody(&["template", "list"]);
        assert_eq!(output.status.code(), Some(119), "{of}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            said.contains("12345") && said.contains("IRONCLAW_TEMPLATE_PATH"),
            "{said}"
        );
        chown(path, Some(0), None).unwrap();
    }
    let link = state.path().join("link");
    std::os::unix::fs::symlink(&templates, &link).unwrap();
    lchown(&link, Some(SOMEBODY), None).unwrap();
    ironclaw(state.path())
        .env("IRONCLAW_TEMPLATE_PATH", &link)
        .args(["template", "list"])
        .assert()
        .code(119)
        .stderr(contains("a link of another user"));
}

#[test]
fn a_template_is_found_by_its_names_until_the_last_one_is_deleted() {
    let state = state();
    let run = |words: &[&str], code: i32| {
        let mut command = ironclaw(state.path());
        let done = command.args(["--json", "template"]).args(words);
        let done = done.assert().code(code);
        serde_json::from_slice::<serde_json::Value>(&done.get_output().stdout).unwrap()
    };
    let import = |name: &str, content: &str| {
        let kernel = state.path().join("kernel");
        fs::write(&kernel, content).unwrap();
        run(&["import", name, "--kernel", kernel.to_str().unwrap()], 0)["hash"].clone()
    };
    let none = serde_json::json!({"name": null, "hash": null});
    let one = import("one", "\x7fELF1");
    assert_eq!(run(&["default"], 0), none, "a name alone is no default");
    let set = run(&["default", "one"], 0);
    assert_eq!(set, serde_json::json!({"name": "one", "hash": one}));

    let two = import("one", "\x7fELF2");
    assert_ne!(one, two);
    let shown = run(&["show"], 0);
    assert_eq!((&shown["hash"], &shown["default"]), (&two, &true.into()));
    assert_eq!(run(&["show", one.as_str().unwrap()], 0)["hash"], one);

    run(&["name", "one", "another"], 0);
    assert_eq!(
        run(&["show", "another"], 0)["names"],
        serde_json::json!(["another", "one"])
    );
    assert_eq!(
        run(&["rm", "one"], 0),
        serde_json::json!([
            {"name": "one", "ok": true, "error": null, "hashed_bytes": null}
        ])
    );
    assert_eq!(run(&["default"], 0), none);
    let hashes = || -> Vec<_> {
        let listed = run(&["list"], 0);
        listed
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["hash"].clone())
            .collect()
    };
    assert!(hashes().contains(&two));
    run(&["verify", "another"], 0);
    run(&["rm", "another"], 0);
    assert_eq!(hashes(), [one]);
}

#[test]
fn a_name_that_no_template_has_is_an_error_that_lists_those_that_there_are() {
    let state = state();
    import_a_kernel(state.path());
    let words = ["template", "import", "known", "--kernel"];
    let kernel = state.path().join("kernel");
    fs::write(&kernel, "\x7fELF..").unwrap();
    ironclaw(state.path())
        .args(words)
        .arg(&kernel)
        .assert()
        .success();
    for words in [
        &["run", "--template", "unknown", "--", "true"][..],
        &["pool", "warmup", "--template", "unknown"],
        &["snapshot", "create", "--template", "unknown"],
        &["template", "show", "unknown"],
        &["template", "default", "unknown"],
        &["template", "rm", "unknown"],
        &["--set", "template=unknown", "run", "true"],
    ] {
        let done = ironclaw(state.path()).args(words).assert().code(125);
        let output = done.get_output();
        let said = [&*output.stdout, &*output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(
            said.contains("unknown") && said.contains("known)"),
            "{words:?}: {said}"
        );
    }
    for name in ["a/b", ".x", ""] {
        let words = ["template", "build", name, "--from", "tar:/x"];
        ironclaw(state.path()).args(words).assert().code(2);
    }
    ironclaw(state.path())
        .args(["--set", "template=a/b", "run", "true"])
        .assert()
        .code(121)
        .stderr(contains("IRONCLAW_TEMPLATE").or(contains("--set template")));
    ironclaw(state.path())
        .args(["template", "build", "app"])
        .assert()
        .code(2)
        .stderr(contains("--from SOURCE"));
    ironclaw(state.path())
        .args(["run", "--template", "base", "--", "true"])
        .assert()
        .code(125)
        .stderr(contains("`ironclaw template build base`"));
}

#[test]
fn packages_where_nothing_installs_them_are_a_wrong_command_line() {
    let state = state();
    import_a_kernel(state.path());
    let dockerfile = state.path().join("Dockerfile");
    fs::write(&dockerfile, "FROM scratch\n").unwrap();
    let dockerfile = dockerfile.to_str().unwrap();
    let build = |words: &[&str]| {
        let mut command = ironclaw(state.path());
        command.env("IRONCLAW_GUEST_AGENT", "/nonexistent");
        command.args(["template", "build"]).args(words);
        command.arg("--include=git").assert()
    };
    for words in [
        &["app", "--from", "tar:x.tar"][..],
        &["app", "--from", "oci:x", "--run", "true"],
        &["app", "--from", "minimal"],
        &["app", "--from", "unknown"],
        &["app", "--run", "true"],
        &["app", "--file", dockerfile],
        &["base", "--from", "scratch"],
        &["base", "--file", dockerfile],
        &["minimal"],
        &[],
    ] {
        build(words).code(2).stderr(contains("--include"));
    }
    for words in [&["app", "--from", "debian:bookworm"][..], &["base"]] {
        build(words).code(121).stderr(contains("/nonexistent"));
        build(&[words, &["--include=a b"]].concat())
            .code(2)
            .stderr(contains("\"a b\""));
    }
}
