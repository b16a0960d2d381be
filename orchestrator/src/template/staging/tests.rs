use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::*;

/// In the environment of the test below when it plays the process that dies.
const ROOT: &str = "IRONCLAW_TEST_STAGING_ROOT";
const NAME: &str = "template::staging::tests::the_staging_directory_of_a_dead_process_is_swept";

fn count(root: &Path) -> usize {
    fs::read_dir(root).unwrap().count()
}

#[test]
fn the_staging_directory_of_a_dead_process_is_swept() {
    if let Some(root) = std::env::var_os(ROOT) {
        let staging = Staging::create(root.as_ref()).unwrap();
        fs::create_dir(staging.path().join("half")).unwrap();
        writeln!(io::stdout(), "\nstaged").unwrap();
        io::stdin().read_line(&mut String::new()).unwrap();
        panic!("it should have been killed");
    }
    let root = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(ROOT, root.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "staged"));

    sweep(root.path()).unwrap();
    assert_eq!(
        count(root.path()),
        1,
        "a living process keeps its directory"
    );
    child.kill().unwrap();
    child.wait().unwrap();
    sweep(root.path()).unwrap();
    assert_eq!(count(root.path()), 0);
}

#[test]
fn a_staging_directory_is_private_and_goes_with_its_owner() {
    let root = tempfile::tempdir().unwrap();
    let staging = Staging::create(root.path()).unwrap();
    assert_eq!(staging.path().metadata().unwrap().mode() & 0o777, 0o700);
    fs::write(staging.path().join("file"), "x").unwrap();
    drop(staging);
    assert_eq!(count(root.path()), 0);
}

#[test]
fn directories_survive_a_race_with_sweeps() {
    let root = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        let creators: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let staging = Staging::create(root.path()).unwrap();
                        fs::write(staging.path().join("file"), "x").unwrap();
                    }
                })
            })
            .collect();
        while !creators
            .iter()
            .all(std::thread::ScopedJoinHandle::is_finished)
        {
            sweep(root.path()).unwrap();
        }
    });
    assert_eq!(count(root.path()), 0);
}

#[test]
fn an_unmarked_directory_named_like_staging_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let (directory, file) = (
        root.path().join(".staging-photos"),
        root.path().join(".staging-x"),
    );
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("a"), "x").unwrap();
    fs::write(&file, "x").unwrap();
    sweep(root.path()).unwrap();
    assert!(directory.join("a").exists() && file.exists());
}
