use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::str::FromStr;

use tempfile::TempDir;

use super::*;

/// An artefact whose name is a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Number(u32);

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "n{}", self.0)
    }
}

impl Artefact for Number {
    const STORE: StoreName = StoreName {
        what: "number",
        setting: "NUMBERS",
    };
    const MANIFEST: &'static str = "manifest.json";
    const NAME_FIELD: &'static str = "number";

    fn parse(directory: &str) -> Option<Self> {
        let number = directory.strip_prefix('n')?;
        u32::from_str(number).ok().map(Self)
    }

    fn in_manifest(&self) -> String {
        self.0.to_string()
    }
}

fn store() -> (TempDir, Store<Number>) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path().join("numbers")).unwrap();
    (directory, store)
}

fn stage(store: &Store<Number>, label: &str) -> Staging<Number> {
    let root = store.lock().unwrap();
    let staging = store.stage(&root, label).unwrap();
    fs::write(staging.path().join("file"), label).unwrap();
    staging
}

fn publish(store: &Store<Number>, number: u32) -> DirLock {
    let label = number.to_string();
    stage(store, &label).publish(Number(number)).unwrap()
}

fn names(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn nothing_goes(_: Number, _: &DirLock) -> Result<Option<String>, StoreError> {
    Ok(None)
}

fn delete(store: &Store<Number>, number: u32) -> Deletion {
    let may_go = |_: &DirLock| Ok::<_, StoreError>(true);
    store.delete(Number(number), may_go).unwrap()
}

#[test]
fn a_published_artefact_is_private_marked_and_pinned_by_its_maker() {
    let (_directory, store) = store();
    assert_eq!(store.root().metadata().unwrap().mode() & 0o777, 0o700);
    let lock = publish(&store, 1);
    let path = Number(1).directory(store.root());
    assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o700);
    assert!(Number(1).is_ours(lock.directory()).unwrap());
    assert_eq!(delete(&store, 1), Deletion::InUse);
    let owners = store.owners(Number(1)).unwrap().unwrap();
    assert_eq!(owners.0[0].pid, std::process::id());
    drop(lock);
    let Pin::Held(pin) = store.pin(Number(1)).unwrap() else {
        panic!("it can't be used");
    };
    assert_eq!(delete(&store, 1), Deletion::InUse);
    drop(pin);
    assert_eq!(delete(&store, 1), Deletion::Done);
    assert_eq!(delete(&store, 1), Deletion::Missing);
    assert!(matches!(store.pin(Number(1)).unwrap(), Pin::Missing));
    assert!(names(store.root()).is_empty());
}

#[test]
fn an_unpublished_artefact_leaves_nothing_and_nobody_can_use_it() {
    let (_directory, store) = store();
    let staging = stage(&store, "1");
    assert!(store.names().unwrap().is_empty());
    assert_eq!(store.sweep(nothing_goes).unwrap().removed.len(), 0);
    drop(staging);
    assert!(names(store.root()).is_empty());
}

#[test]
fn a_name_that_is_taken_is_not_taken_away() {
    let (_directory, store) = store();
    let first = publish(&store, 1);
    let second = stage(&store, "second");
    second.publish(Number(1)).unwrap_err();
    assert!(first.is_at(&Number(1).directory(store.root())).unwrap());
    let content = fs::read(Number(1).directory(store.root()).join("file")).unwrap();
    assert_eq!(content, b"1");
    assert_eq!(names(store.root()), ["n1"]);
}

#[test]
fn a_denied_deletion_leaves_the_artefact() {
    let (_directory, store) = store();
    drop(publish(&store, 1));
    let denied = store.delete(Number(1), |_| Ok::<_, StoreError>(false));
    assert_eq!(denied.unwrap(), Deletion::Denied);
    assert_eq!(store.names().unwrap(), [Number(1)]);
}

#[test]
fn a_sweep_takes_what_has_a_reason_and_is_not_used() {
    let (_directory, store) = store();
    let used = publish(&store, 1);
    drop((publish(&store, 2), publish(&store, 3)));
    let may_go = |number, _: &DirLock| {
        let goes = number != Number(3);
        Ok::<_, StoreError>(goes.then(|| "a test".to_owned()))
    };
    let swept = store.sweep(may_go).unwrap();
    assert_eq!(swept.removed.len(), 1);
    assert!(swept.bytes > 0);
    assert_eq!(store.names().unwrap(), [Number(1), Number(3)]);
    drop(used);
}

#[test]
fn foreign_entries_are_left_alone_whatever_their_name() {
    let (_directory, store) = store();
    let all = [".staging-photos", ".trash-photos", ".trash-7", "n7"];
    for name in all {
        let path = store.root().join(name);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("file"), "somebody's").unwrap();
        fs::write(path.join("manifest.json"), r#"{"number":"8"}"#).unwrap();
        fs::write(store.root().join(format!("{name}-file")), "x").unwrap();
    }
    let before = names(store.root());
    let may_go = |_, _: &DirLock| Ok::<_, StoreError>(None);
    assert!(store.sweep(may_go).unwrap().removed.is_empty());
    assert_eq!(delete(&store, 7), Deletion::NotOurs);
    assert_eq!(names(store.root()), before);
    for name in all {
        assert!(store.root().join(name).join("file").exists(), "{name}");
    }
}

#[test]
fn artefacts_of_a_release_before_the_mark_are_ours_by_their_manifest() {
    let (_directory, store) = store();
    for name in ["n7", ".trash-8"] {
        let path = store.root().join(name);
        fs::create_dir(&path).unwrap();
        let number = name.trim_start_matches(|c: char| !c.is_ascii_digit());
        let json = format!(r#"{{"number":"{number}"}}"#);
        fs::write(path.join("manifest.json"), json).unwrap();
    }
    assert_eq!(store.sweep(nothing_goes).unwrap().removed.len(), 1);
    assert_eq!(delete(&store, 7), Deletion::Done);
    assert!(names(store.root()).is_empty());
}

/// Set in the child process of the test below, which dies.
const ROOT: &str = "IRONCLAW_TEST_STORE_ROOT";

#[test]
fn staging_is_swept_once_its_maker_is_dead() {
    const NAME: &str = "tests::staging_is_swept_once_its_maker_is_dead";
    if let Some(root) = std::env::var_os(ROOT) {
        let store = Store::open(root).unwrap();
        let _staging = stage(&store, "half");
        writeln!(std::io::stdout(), "\nstaged").unwrap();
        std::io::stdin().read_line(&mut String::new()).unwrap();
        panic!("it should have been killed");
    }
    let (_directory, store) = store();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(ROOT, store.root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "staged"));
    store.sweep(nothing_goes).unwrap();
    assert_eq!(names(store.root()).len(), 1, "its maker lives");
    child.kill().unwrap();
    child.wait().unwrap();
    store.sweep(nothing_goes).unwrap();
    assert!(names(store.root()).is_empty());
}

#[test]
fn staging_survives_a_race_with_sweeps() {
    let (_directory, store) = store();
    std::thread::scope(|scope| {
        let makers: Vec<_> = (0..2_u32)
            .map(|maker| {
                let store = store.clone();
                scope.spawn(move || {
                    for at in 0..50 {
                        drop(publish(&store, maker * 1000 + at));
                    }
                })
            })
            .collect();
        while !makers
            .iter()
            .all(std::thread::ScopedJoinHandle::is_finished)
        {
            assert!(store.sweep(nothing_goes).unwrap().removed.is_empty());
        }
    });
    assert_eq!(store.names().unwrap().len(), 100);
}

#[test]
fn a_root_that_others_may_write_to_is_refused_by_its_name_and_setting() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("numbers");
    fs::create_dir(&root).unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o777)).unwrap();
    let error = Store::<Number>::open(&root).unwrap_err().to_string();
    for word in ["the number store", "0777", "NUMBERS"] {
        assert!(error.contains(word), "{error}");
    }
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = Store::<Number>::open(path).unwrap_err();
        assert!(
            matches!(error, StoreError::RootNotDirectory { .. }),
            "{error}"
        );
    }
}

#[test]
fn a_root_that_was_removed_is_made_anew() {
    let (_directory, store) = store();
    fs::remove_dir(store.root()).unwrap();
    store.make_anew().unwrap();
    drop(publish(&store, 1));
}

#[test]
fn room_that_there_is_not_is_told_before_it_is_missed() {
    let (_directory, store) = store();
    store.ensure_room("write to", 1).unwrap();
    let error = store.ensure_room("write to", u64::MAX).unwrap_err();
    assert!(matches!(error, StoreError::NoSpace { .. }), "{error}");
}
