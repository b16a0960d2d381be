//! Tests what clients hear, and what stays, while the daemon's database is locked or damaged, or a disk is full.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use ironclaw_test_harness::skipped;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::Daemon;
use crate::apart::Apart;
use crate::v1::{Answer, ask, create, get, post, read, refused};
use crate::vm::runs;

/// Bytes of a page of SQLite.
const PAGE: usize = 4096;

fn delete(daemon: &Daemon, id: &str) -> Answer {
    ask(daemon, &format!("DELETE /v1/sandboxes/{id}"), "", b"")
}

fn change(daemon: &Daemon, id: &str, change: &str) -> Answer {
    post(daemon, &format!("/v1/sandboxes/{id}/{change}"), &json!({}))
}

fn state(daemon: &Daemon, id: &str) -> Value {
    get(daemon, &format!("/v1/sandboxes/{id}")).json()["state"].clone()
}

/// Runs a script in a sandbox; returns what it printed.
fn exec(daemon: &Daemon, id: &str, script: &str) -> String {
    let argv = json!({ "argv": ["sh", "-c", script] });
    let answer = post(daemon, &format!("/v1/sandboxes/{id}/exec"), &argv);
    assert_eq!(answer.status, 200, "{}", answer.json());
    answer.json()["stdout"].as_str().unwrap().to_owned()
}

/// Makes a sandbox with a file.
fn with_file(daemon: &Daemon) -> String {
    let id = create(daemon, &json!({}));
    exec(daemon, &id, "echo kept > /tmp/file");
    id
}

/// Asserts that a sandbox is what it was, after it was resumed if need be.
fn goes_on(daemon: &Daemon, id: &str) {
    assert_eq!(change(daemon, id, "resume").status, 200);
    assert_eq!(exec(daemon, id, "cat /tmp/file"), "kept\n");
}

/// Asserts that E2B's clients are told of a failure, and nothing of the host.
fn refused_to_e2b(answer: &Answer, status: u16) {
    let json = answer.json();
    assert_eq!((answer.status, &json["code"]), (status, &status.into()));
    let message = json["message"].as_str().unwrap();
    assert!(!message.contains('/') && !message.is_empty(), "{message}");
}

fn snapshots(apart: &Apart) -> usize {
    fs::read_dir(apart.snapshots()).unwrap().count()
}

#[test]
fn while_the_database_is_locked_nothing_is_lost_and_what_needs_none_is_served() {
    if !runs() {
        return;
    }
    let daemon = Daemon::start();
    let key = daemon.new_key("test");
    let (running, paused, other) = (
        with_file(&daemon),
        with_file(&daemon),
        create(&daemon, &json!({})),
    );
    assert_eq!(change(&daemon, &paused, "pause").status, 200);
    let before = snapshots(&daemon.apart);

    let lock = Connection::open(daemon.state.path().join("daemon.db")).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    // All wait at the same time.
    thread::scope(|scope| {
        for (id, what) in [
            (&running, "pause"),
            (&running, "checkpoints"),
            (&paused, "resume"),
        ] {
            let daemon = &daemon;
            scope.spawn(move || refused(&change(daemon, id, what), 503, "database_locked"));
        }
        scope.spawn(|| refused(&delete(&daemon, &paused), 503, "database_locked"));
        scope.spawn(|| {
            let pause = ask(
                &daemon,
                &format!("POST /sandboxes/{running}/pause"),
                "",
                b"{}",
            );
            refused_to_e2b(&pause, 503);
        });
        // Meanwhile, keys are known and sandboxes made, used and ended.
        scope.spawn(|| {
            let mut stream = TcpStream::connect(daemon.address).unwrap();
            write!(
                stream,
                "GET /v1/sandboxes HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nConnection: close\r\n\r\n"
            )
            .unwrap();
            assert_eq!(read(stream).status, 200);
            assert_eq!(exec(&daemon, &other, "echo yes"), "yes\n");
            assert_eq!(delete(&daemon, &other).status, 204);
            let made = create(&daemon, &json!({}));
            assert_eq!(delete(&daemon, &made).status, 204);
        });
    });
    assert_eq!(state(&daemon, &running), "running");
    assert_eq!(exec(&daemon, &running, "cat /tmp/file"), "kept\n");
    assert_eq!(state(&daemon, &paused), "paused");
    assert_eq!(snapshots(&daemon.apart), before, "memory stays on the disk");

    drop(lock);
    assert_eq!(change(&daemon, &running, "pause").status, 200);
    // What was refused has left nothing that the next daemon would find.
    let (apart, state) = daemon.kill();
    let daemon = Daemon::start_in(apart, state);
    for id in [&running, &paused] {
        goes_on(&daemon, id);
        assert_eq!(delete(&daemon, id).status, 204);
    }
    let (apart, _state) = daemon.end();
    apart.assert_nothing_left("a locked database");
}

#[test]
fn at_its_deadline_a_sandbox_that_can_not_be_kept_runs_on_until_it_can() {
    if !runs() {
        return;
    }
    let daemon = Daemon::start();
    let id = create(
        &daemon,
        &json!({ "lifetime_seconds": 1, "on_deadline": "pause" }),
    );
    let lock = Connection::open(daemon.state.path().join("daemon.db")).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    // Longer than its lifetime: it waits for the lock as long as the watch of its deadline does.
    refused(&change(&daemon, &id, "pause"), 503, "database_locked");
    assert_eq!(state(&daemon, &id), "running");
    drop(lock);
    let is_paused = || state(&daemon, &id) == "paused";
    let end = std::time::Instant::now() + crate::vm::TIMEOUT;
    while !is_paused() {
        assert!(std::time::Instant::now() < end, "it is never paused");
        thread::yield_now();
    }
    daemon.end();
}

/// Bytes of a full disk that are free: less than the memory of a guest. On this kind of disk, what a guest
/// reads takes room, too.
const FREE: u64 = 64 << 20;

/// A directory on a small disk that a daemon alone has, and that is gone with it.
struct SmallDisk {
    /// As others see it.
    path: PathBuf,
}

impl SmallDisk {
    fn of(daemon: &Daemon, path: &Path) -> Self {
        let root = PathBuf::from(format!("/proc/{}/root", daemon.child.id()));
        Self {
            path: root.join(path.strip_prefix("/").unwrap()),
        }
    }

    /// Wraps a command so that a disk of this size is mounted at `path` for it.
    fn mounted_for(command: &Command, path: &Path, size: &str) -> Command {
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
        unshare.arg(r#"mount -t tmpfs -o "size=$1,mode=700" none "$2" && shift 2 && exec "$@""#);
        unshare.arg("sh").arg(size).arg(path);
        unshare.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => unshare.env(name, value),
                None => unshare.env_remove(name),
            };
        }
        unshare
    }

    /// Returns whether this machine lets us mount one; ignores the test if not.
    fn can_be_had() -> bool {
        let home = tempfile::tempdir().unwrap();
        let tried = Self::mounted_for(&Command::new("true"), home.path(), "1M")
            .stderr(Stdio::null())
            .status();
        let can = tried.is_ok_and(|status| status.success());
        if !can {
            skipped("no disk can be mounted in a namespace of our own (unshare --user --mount)");
        }
        can
    }

    /// Fills it; returns the file that does.
    fn fill(&self) -> PathBuf {
        let path = self.path.join("fill");
        let mut file = File::create(&path).unwrap();
        // To the last page.
        for size in [1 << 20, PAGE] {
            let piece = vec![1; size];
            let error = loop {
                if let Err(error) = file.write_all(&piece) {
                    break error;
                }
            };
            assert_eq!(error.kind(), ErrorKind::StorageFull);
        }
        path
    }
}

/// Lists the sandboxes that the next daemon would find.
fn paused_in_database(state: &Path) -> Vec<String> {
    // SQLite does not see the disk of another.
    let home = tempfile::tempdir().unwrap();
    for name in ["daemon.db", "daemon.db-wal"] {
        fs::copy(state.join(name), home.path().join(name)).unwrap();
    }
    let database = Connection::open(home.path().join("daemon.db")).unwrap();
    let mut query = database.prepare("SELECT id FROM paused_sandbox").unwrap();
    let rows = query.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

#[test]
fn on_a_full_disk_of_the_database_nothing_is_lost_and_sandboxes_can_be_ended() {
    if !runs() || !SmallDisk::can_be_had() {
        return;
    }
    let state_directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = state_directory.path().to_owned();
    let daemon = Daemon::start_by(Apart::new(), state_directory, |command| {
        SmallDisk::mounted_for(&command, &path, "4M")
    });
    let disk = SmallDisk::of(&daemon, &path);
    symlink(disk.path.join("socket"), path.join("socket")).unwrap();
    let (running, paused) = (with_file(&daemon), with_file(&daemon));
    assert_eq!(change(&daemon, &paused, "pause").status, 200);
    let fill = disk.fill();
    for what in ["pause", "checkpoints"] {
        refused(&change(&daemon, &running, what), 507, "host_full");
    }
    refused(&change(&daemon, &paused, "resume"), 507, "host_full");
    let pause = format!("POST /sandboxes/{running}/pause");
    refused_to_e2b(&ask(&daemon, &pause, "", b"{}"), 507);
    assert_eq!(exec(&daemon, &running, "cat /tmp/file"), "kept\n");
    assert_eq!(state(&daemon, &paused), "paused");
    // New ones need no room there, and whoever wants room can have it.
    let made = create(&daemon, &json!({}));
    assert_eq!(delete(&daemon, &made).status, 204);
    assert_eq!(delete(&daemon, &paused).status, 204);
    assert_eq!(delete(&daemon, &paused).status, 404);

    fs::remove_file(fill).unwrap();
    assert_eq!(change(&daemon, &running, "pause").status, 200);
    assert_eq!(paused_in_database(&disk.path), [running.as_str()]);
    goes_on(&daemon, &running);
    // The log has whole lines alone, and goes on.
    let log = fs::read_to_string(disk.path.join("audit.jsonl")).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str(line).unwrap());
    let lines: Vec<Value> = lines.collect();
    assert_eq!(lines.last().unwrap()["route"], "/v1/sandboxes/{id}/exec");
    assert_eq!(delete(&daemon, &running).status, 204);
    let (apart, _state) = daemon.end();
    apart.assert_nothing_left("a full disk");
}

#[test]
fn on_a_full_disk_of_snapshots_a_sandbox_that_can_not_be_paused_runs_on() {
    if !runs() || !SmallDisk::can_be_had() {
        return;
    }
    let apart = Apart::new();
    let path = apart.snapshots();
    fs::create_dir(&path).unwrap();
    let state_directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let daemon = Daemon::start_by(apart, state_directory, |command| {
        SmallDisk::mounted_for(&command, &path, "2G")
    });
    let disk = SmallDisk::of(&daemon, &path);
    let count = || fs::read_dir(&disk.path).unwrap().count();
    let id = with_file(&daemon);
    let before = count();
    let fill = disk.path.join("fill");
    let free = rustix::fs::statvfs(&disk.path).unwrap();
    let room = free.f_bavail * free.f_frsize - FREE;
    let file = File::create(&fill).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, room).unwrap();
    drop(file);
    for what in ["pause", "checkpoints", "fork"] {
        refused(&change(&daemon, &id, what), 507, "host_full");
    }
    assert_eq!(exec(&daemon, &id, "cat /tmp/file"), "kept\n");
    fs::remove_file(fill).unwrap();
    assert_eq!(count(), before, "a part of a snapshot stays on the disk");
    assert_eq!(change(&daemon, &id, "pause").status, 200);
    goes_on(&daemon, &id);
    daemon.end();
}

#[test]
fn a_damaged_database_is_told_and_serves_again_when_it_is_mended() {
    if !runs() {
        return;
    }
    let daemon = Daemon::start();
    let key = daemon.new_key("test");
    let id = with_file(&daemon);
    assert_eq!(change(&daemon, &id, "pause").status, 200);
    let (apart, state_directory) = daemon.end();
    let path = state_directory.path().join("daemon.db");
    let sound = fs::read(&path).unwrap();

    // None starts on one that is none, and what is there stays.
    fs::write(&path, "this is not a database").unwrap();
    let mut serve = apart.ironclaw(&["serve", "--listen", "127.0.0.1:0", "--state"]);
    let refused_start = serve.arg(state_directory.path()).output().unwrap();
    assert!(!refused_start.status.success());
    let said = String::from_utf8_lossy(&refused_start.stderr).into_owned();
    assert!(
        said.contains("daemon.db") && said.contains("not a database"),
        "{said}"
    );
    assert_eq!(fs::read(&path).unwrap(), b"this is not a database");

    fs::write(&path, &sound).unwrap();
    let daemon = Daemon::start_in(apart, state_directory);
    let by_key = |path: &str| {
        let mut stream = TcpStream::connect(daemon.address).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        read(stream)
    };
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    // All but the page with the schema.
    let damage = vec![0xff; sound.len() - PAGE];
    file.write_all_at(&damage, PAGE as u64).unwrap();
    refused(&by_key("/v1/sandboxes"), 500, "database_damaged");
    refused_to_e2b(&by_key("/v2/sandboxes"), 500);
    // Whoever needs no key is served on.
    assert_eq!(state(&daemon, &id), "paused");
    file.write_all_at(&sound, 0).unwrap();
    assert_eq!(by_key("/v1/sandboxes").status, 200);
    goes_on(&daemon, &id);
    daemon.end();
}
