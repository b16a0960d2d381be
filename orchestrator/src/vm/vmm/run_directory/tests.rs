use super::*;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

/// Creates a directory like that of a killed process.
fn dead(root: &Path) -> PathBuf {
    let dead = root.join(Uuid::now_v7().simple().to_string());
    fs::create_dir(&dead).unwrap();
    mark::create(mark::open(&dead).unwrap()).unwrap();
    dead
}

/// Does what the next process does at its start.
fn next(root: &Path) -> Arc<RunDirectory> {
    let path = RunPath::open(root).unwrap();
    path.prepare().unwrap();
    path.directory().unwrap()
}

#[test]
fn only_what_a_dead_process_left_is_swept() {
    let root = tempfile::tempdir().unwrap();
    let living = RunDirectory::create(root.path(), Rundown::default()).unwrap();
    let dead = dead(root.path());
    fs::create_dir_all(dead.join("0")).unwrap();
    fs::write(dead.join("0/api.sock"), "").unwrap();
    let _next = next(root.path());
    assert!(!dead.exists());
    assert!(living.path.exists());
}

#[test]
fn a_foreign_entry_in_a_run_path_is_refused_by_name_and_stays() {
    type Make = fn(&Path);
    let makes: [Make; 5] = [
        |path| fs::create_dir(path).unwrap(),
        |path| fs::write(path, "").unwrap(),
        |path| std::os::unix::fs::symlink("/", path).unwrap(),
        |path| {
            fs::create_dir(path).unwrap();
            fs::write(path.join("a"), "x").unwrap();
        },
        |path| {
            fs::create_dir(path).unwrap();
            fs::write(path.join(".ironclaw"), "").unwrap();
            fs::write(path.join("a"), "x").unwrap();
        },
    ];
    let like_ours = Uuid::now_v7().simple().to_string();
    for name in [
        "photos",
        ".git",
        &Uuid::new_v4().simple().to_string(),
        &like_ours,
    ] {
        for (kind, make) in makes.iter().enumerate() {
            let root = tempfile::tempdir().unwrap();
            let path = root.path().join(name);
            make(&path);
            let opened = RunPath::open(root.path());
            if name == like_ours && kind == 0 {
                opened.unwrap();
                continue;
            }
            let created = RunDirectory::create(root.path(), Rundown::default()).map(drop);
            for refused in [opened.map(drop), created, sweep(root.path())] {
                let why = refused.unwrap_err().to_string();
                assert!(why.contains(name) && why.contains("`run_path`"), "{why}");
            }
            assert!(path.symlink_metadata().is_ok(), "{name} {kind}");
            assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
        }
    }
}

#[test]
fn inspecting_a_run_path_creates_and_sweeps_nothing() {
    let root = tempfile::tempdir().unwrap();
    let dead = dead(root.path());
    let missing = root.path().join("missing");
    drop(RunPath::open(&missing).unwrap());
    assert!(!missing.exists());
    let looks = RunPath::open(root.path()).unwrap();
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    // Creates one VM, as a probe does.
    let _own = looks.directory().unwrap();
    assert!(dead.exists());
}

#[test]
fn half_made_directories_and_those_of_the_last_release_are_swept() {
    let root = tempfile::tempdir().unwrap();
    let name = || root.path().join(Uuid::now_v7().simple().to_string());
    let (bare, half, former) = (name(), name(), name());
    for path in [&bare, &half, &former] {
        fs::create_dir(path).unwrap();
    }
    fs::write(half.join(mark::NAME), "IronClaw").unwrap();
    let mut ended = Command::new("/bin/true")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    orphan::record_owner(&former, ended.id()).unwrap();
    ended.wait().unwrap();
    fs::create_dir_all(former.join("firecracker/x/root")).unwrap();
    let of_the_root = [root.path().join(CLAIMS), root.path().join("lost+found")];
    for path in &of_the_root {
        fs::create_dir(path).unwrap();
    }
    let _next = next(root.path());
    for path in [&bare, &half, &former] {
        assert!(!path.exists(), "{path:?}");
    }
    assert!(of_the_root.iter().all(|path| path.exists()));
}

#[test]
fn a_directory_that_others_can_change_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let root = tempfile::tempdir().unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    let error = RunDirectory::create(root.path(), Rundown::default()).unwrap_err();
    let why = error.to_string();
    assert!(why.contains("1777") && why.contains("`run_path`"), "{why}");
}

#[test]
fn a_directory_that_can_not_be_made_is_named_with_its_setting() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = RunDirectory::create(file.path(), Rundown::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&file.path().display().to_string()) && error.contains("`run_path`"),
        "{error}"
    );
}

#[test]
fn a_dead_owners_directory_that_another_sweeps_is_left_to_it_without_waiting() {
    let root = tempfile::tempdir().unwrap();
    let dead = dead(root.path());
    let swept = dead_owners(root.path()).unwrap();
    let _next = next(root.path());
    assert!(dead.exists());
    swept.into_iter().for_each(DeadOwner::remove);
    assert!(!dead.exists());
}

#[test]
fn a_lock_that_a_dead_owners_child_has_for_a_moment_is_waited_for() {
    let root = tempfile::tempdir().unwrap();
    let path = RunDirectory::create(root.path(), Rundown::default())
        .unwrap()
        .path
        .clone();
    let mut owner = Command::new("/bin/cat");
    let mut owner = owner.stdin(Stdio::piped()).spawn().unwrap();
    fs::create_dir(&path).unwrap();
    mark::create(mark::open(&path).unwrap()).unwrap();
    orphan::record_owner(&path, owner.id()).unwrap();
    let inherited = File::open(&path).unwrap();
    assert!(try_lock(&inherited, Kind::Exclusive).unwrap());

    let living = next(root.path());
    assert!(path.exists(), "its owner lives");
    owner.kill().unwrap();
    owner.wait().unwrap();
    std::thread::scope(|scope| {
        let next = scope.spawn(|| next(root.path()));
        std::thread::sleep(Duration::from_millis(20));
        drop(inherited);
        drop(next.join().unwrap());
    });
    assert!(!path.exists());
    assert!(living.path.exists());
}

#[test]
fn vmms_of_a_dead_owner_are_ended_and_those_of_a_living_one_go_on() {
    let root = tempfile::tempdir().unwrap();
    let vmm = || {
        let mut command = Command::new("/bin/cat");
        command.stdin(Stdio::piped()).spawn().unwrap()
    };
    let living = RunDirectory::create(root.path(), Rundown::default()).unwrap();
    let (mut goes_on, mut orphan) = (vmm(), vmm());
    let _recorded = Arc::clone(&living).record(goes_on.id()).unwrap();
    let dead = dead(root.path());
    let left = Record::create(&dead, None, orphan.id()).unwrap();

    let _next = next(root.path());
    assert_eq!(orphan.wait().unwrap().signal(), Some(9));
    assert!(!dead.exists());
    drop(left);
    drop(goes_on.stdin.take());
    assert!(goes_on.wait().unwrap().success());
}
