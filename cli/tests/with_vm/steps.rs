//! `ironclaw template build` with steps that run in VMs.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::apart::{Apart, ended, watch};
use crate::command::{ironclaw, text};
use crate::vm::{children, runs, state};

/// State of its own, with templates, beside the packages that a kernel is made of.
struct Kitchen(Apart);

impl Kitchen {
    /// `None` where there can be no VM, which it has said then.
    fn open() -> Option<Self> {
        if !runs() {
            return None;
        }
        // Downloads the packages, once for all tests.
        let built = ironclaw(&["template", "build", "minimal"])
            .output()
            .unwrap();
        assert!(built.status.success(), "{built:?}");
        let kitchen = Self(Apart::new());
        let cache = kitchen.templates().join(".cache");
        let mut private = fs::DirBuilder::new();
        private.mode(0o700).recursive(true).create(&cache).unwrap();
        for package in fs::read_dir(state().join("templates/.cache")).unwrap() {
            let package = package.unwrap();
            fs::copy(package.path(), cache.join(package.file_name())).unwrap();
        }
        Some(kitchen)
    }

    fn templates(&self) -> PathBuf {
        self.0.path().join("templates")
    }

    fn ironclaw(&self, arguments: &[&str]) -> Command {
        let mut command = self.0.ironclaw(arguments);
        command.env("IRONCLAW_TEMPLATE_PATH", self.templates());
        command
    }

    fn build(&self, name: &str, steps: &[&str]) -> Output {
        let words = ["template", "build", name, "--from", "minimal"];
        self.ironclaw(&[&words, steps].concat()).output().unwrap()
    }

    /// Runs a command that must succeed in a VM of a template; returns its output and what else was said.
    fn run(&self, template: &str, command: &[&str]) -> (String, String) {
        let words = ["run", "-v", "--template", template, "--"];
        let output = self.ironclaw(&[&words, command].concat()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let [out, err] = [output.stdout, output.stderr];
        (text(&out).to_owned(), text(&err).to_owned())
    }

    fn list(&self) -> serde_json::Value {
        let list = self.ironclaw(&["template", "list", "--json"]).output();
        serde_json::from_slice(&list.unwrap().stdout).unwrap()
    }

    /// Returns the files of the store but for those of templates: layers, results of steps, builds under way.
    fn kept(&self) -> BTreeSet<PathBuf> {
        let hidden = fs::read_dir(self.templates()).unwrap().filter_map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            (name.starts_with('.') && name != ".cache").then_some(path)
        });
        let mut kept = BTreeSet::new();
        for path in hidden {
            if path.is_dir() {
                let below = fs::read_dir(&path).unwrap();
                kept.extend(below.map(|entry| entry.unwrap().path()));
            }
            kept.insert(path);
        }
        kept
    }

    fn is_building(&self) -> bool {
        self.kept().iter().any(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with(".staging-")
        })
    }

    fn assert_nothing_left(&self, after: &str) {
        self.0.assert_nothing_left(after);
        assert!(!self.is_building(), "left after {after}: {:?}", self.kept());
    }
}

const MAKE: &str = "echo says $WORD; id -u > who; echo $WORD > file; rm /usr/bin/env";

#[test]
fn a_step_runs_in_a_vm_once_and_one_that_fails_is_named_and_leaves_nothing() {
    let Some(kitchen) = Kitchen::open() else {
        return;
    };
    let good = [
        "--env",
        "WORD=aloud",
        "--workdir",
        "/srv/app",
        "--run",
        MAKE,
    ];
    let built = kitchen.build("app", &good);
    assert!(built.status.success(), "{built:?}");
    let told = text(&built.stderr);
    assert!(told.contains("says aloud"), "{told}");
    let script = "cat file who; ls /usr/bin/env 2>&1 | grep -c 'No such'";
    let (made, _) = kitchen.run("app", &["sh", "-c", script]);
    assert_eq!(made, "aloud\n0\n1\n");

    let again = kitchen.build("again", &good);
    assert!(again.status.success(), "{again:?}");
    let told = text(&again.stderr);
    assert!(
        told.contains("step 3 of 3: --run") && told.contains("(cached)"),
        "{told}"
    );
    assert!(!told.contains("says aloud"), "{told}");
    let before = (kitchen.list(), kitchen.kept());

    let fails = ["--run", "touch /half; echo why it fails >&2; exit 7"];
    let failed = kitchen.build("app", &[&good[..], &fails].concat());
    assert_eq!(failed.status.code(), Some(125), "{failed:?}");
    let told = text(&failed.stderr);
    for part in [
        "(cached)",
        "why it fails",
        "--run touch /half",
        "exit code 7",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert_eq!((kitchen.list(), kitchen.kept()), before);
    kitchen.assert_nothing_left("a step that failed");
}

#[test]
fn a_build_that_is_killed_in_a_step_leaves_no_process_and_the_next_one_no_file() {
    let Some(kitchen) = Kitchen::open() else {
        return;
    };
    let words = ["template", "build", "app", "--from", "minimal", "--run"];
    let mut building = kitchen
        .ironclaw(&[&words[..], &["echo it runs; exec sleep 1000"]].concat())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(building.stderr.take().unwrap()).lines();
    // The step itself is shown before it runs.
    assert!(lines.any(|line| line.unwrap().trim() == "it runs"));
    let vmms = children(building.id());
    let [vmm] = vmms[..] else { panic!("{vmms:?}") };
    let vmm = watch(vmm);
    building.kill().unwrap();
    building.wait().unwrap();
    ended(&vmm);
    assert!(kitchen.is_building(), "{:?}", kitchen.kept());

    let built = kitchen.build("app", &["--run", "echo done > /file"]);
    assert!(built.status.success(), "{built:?}");
    kitchen.assert_nothing_left("a build after SIGKILL");
}

#[test]
fn a_warm_up_runs_as_the_images_user_before_the_snapshot_and_its_memory_is_listed() {
    let Some(kitchen) = Kitchen::open() else {
        return;
    };
    // In memory, since no scratch disk is.
    let warm = "echo warms $(id -u) in $PWD with $WORD; echo once >> /tmp/warmed; \
                head -c 6000000 /dev/zero > /dev/shm/loaded";
    let steps = [
        "--env",
        "WORD=aloud",
        "--workdir",
        "/srv/app",
        "--user",
        "1000",
        "--warm",
        warm,
    ];
    let built = kitchen.build("app", &steps);
    assert!(built.status.success(), "{built:?}");
    let said = "warms 1000 in /srv/app with aloud";
    let told = text(&built.stderr);
    assert!(told.contains(said), "the build tries it: {told}");
    let listed = kitchen.list();
    let memory = listed[0]["manifest"]["warm"]["memory"].as_u64();
    assert!(
        (6_000_000..60_000_000).contains(&memory.unwrap()),
        "{listed}"
    );

    let (made, told) = kitchen.run("app", &["cat", "/tmp/warmed"]);
    assert_eq!(made, "once\n", "of the snapshot, not of the build");
    assert!(told.contains(said), "{told}");

    let fails = [&steps[..], &["--warm", "echo too cold; exit 3"]].concat();
    let failed = kitchen.build("other", &fails);
    assert_eq!(failed.status.code(), Some(125), "{failed:?}");
    let told = text(&failed.stderr);
    for part in ["echo too cold", "exit code 3"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert_eq!(kitchen.list(), listed);
    kitchen.assert_nothing_left("a warm-up that failed");
}
