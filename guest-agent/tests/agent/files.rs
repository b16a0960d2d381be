//! Tests files in both directions.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use ironclaw_protocol::message::{
    Existing, FailureKind, GetFile, Outcome, PutFile, Request, ToGuest,
};

use crate::host::{Agent, Host, text};

fn put(path: &Path, mode: u32) -> Request {
    Request::PutFile(PutFile {
        path: text(path).into(),
        mode,
        existing: Existing::Replaced,
        user: None,
        parents: false,
    })
}

fn get(path: &Path) -> Request {
    Request::GetFile(GetFile {
        path: text(path).into(),
        from: 0,
        length: None,
        user: None,
    })
}

fn names(agent: &Agent) -> Vec<String> {
    let entries = fs::read_dir(agent.path("")).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.retain(|name| name != "socket");
    names.sort();
    names
}

/// Sends a small file at once.
fn write(host: &mut Host, path: &Path, content: &[u8]) -> Outcome {
    let id = host.start(put(path, 0o640));
    host.finish(id, content).outcome
}

#[test]
fn a_file_comes_back_as_it_was_sent_with_its_mode() {
    let agent = Agent::start();
    let mut host = agent.host();
    for (name, mode, size) in [("a", 0o600, 3_000_000), ("b", 0o4755, 1)] {
        let content: Vec<u8> = (0..size).map(|at: u32| at.to_le_bytes()[1]).collect();
        let id = host.start(put(&agent.path(name), mode));
        let written = host.finish(id, &content).outcome;
        assert_eq!(written, Outcome::FileWritten { bytes: size.into() });
        let read = host.run(get(&agent.path(name)));
        assert_eq!(
            read.outcome,
            Outcome::FileRead {
                mode,
                bytes: size.into()
            }
        );
        assert!(read.file == content);
    }
}

#[test]
fn an_empty_file_is_a_file() {
    let agent = Agent::start();
    let mut host = agent.host();
    let id = host.start(put(&agent.path("empty"), 0o644));
    host.line.send(&ToGuest::Eof { id });
    assert_eq!(
        host.finish(id, &[]).outcome,
        Outcome::FileWritten { bytes: 0 }
    );
    let read = host.run(get(&agent.path("empty")));
    assert_eq!(
        read.outcome,
        Outcome::FileRead {
            mode: 0o644,
            bytes: 0
        }
    );
}

#[test]
fn a_file_takes_its_name_only_when_it_is_complete() {
    let agent = Agent::start();
    let mut host = agent.host();
    let path = agent.path("file");
    fs::write(&path, "old").unwrap();
    let id = host.start(put(&path, 0o600));
    host.line.send(&ToGuest::Data {
        id,
        bytes: b"new".to_vec(),
    });
    host.ping();
    assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    assert_eq!(
        names(&agent).len(),
        2,
        "the half-written one has another name"
    );
    host.line.send(&ToGuest::Eof { id });
    assert_eq!(
        host.finish(id, &[]).outcome,
        Outcome::FileWritten { bytes: 3 }
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    assert_eq!(names(&agent), ["file"]);
}

#[test]
fn a_cancelled_upload_leaves_nothing() {
    let agent = Agent::start();
    let mut host = agent.host();
    let id = host.start(put(&agent.path("file"), 0o600));
    host.line.send(&ToGuest::Data {
        id,
        bytes: vec![1; 1000],
    });
    host.line.send(&ToGuest::Cancel { id });
    assert_eq!(host.finish(id, &[]).failure().kind, FailureKind::Cancelled);
    assert!(names(&agent).is_empty(), "{:?}", names(&agent));
}

#[test]
fn a_session_that_ends_takes_its_half_written_files_along() {
    let agent = Agent::start();
    let mut host = agent.host();
    let id = host.start(put(&agent.path("file"), 0o600));
    host.line.send(&ToGuest::Data {
        id,
        bytes: vec![1; 1000],
    });
    host.ping();
    assert_eq!(names(&agent).len(), 1);
    host.line.open(2);
    assert!(names(&agent).is_empty(), "{:?}", names(&agent));
}

#[test]
fn an_upload_into_nowhere_fails_and_what_was_under_way_is_ignored() {
    let agent = Agent::start();
    let mut host = agent.host();
    let id = host.start(put(&agent.path("no/file"), 0o600));
    for _ in 0..20 {
        host.line.send(&ToGuest::Data {
            id,
            bytes: vec![0; 32 * 1024],
        });
    }
    host.line.send(&ToGuest::Eof { id });
    let failure = host.finish(id, &[]).failure();
    assert_eq!(failure.kind, FailureKind::NoSuchDirectory);
    assert!(
        failure.message.contains(&text(&agent.path("no"))),
        "{}",
        failure.message
    );
    host.ping();
}

#[test]
fn only_a_regular_file_can_be_replaced() {
    let agent = Agent::start();
    let mut host = agent.host();
    for path in ["/dev/null", "/usr", "/", "/tmp/..", "/tmp/name/"] {
        let failure = host.run(put(Path::new(path), 0o600)).failure();
        assert_eq!(
            failure.kind,
            FailureKind::Invalid,
            "{path}: {}",
            failure.message
        );
    }
    let failure = host.run(put(Path::new("/proc/self/file"), 0o600)).failure();
    assert!(
        failure.message.contains("/proc/self"),
        "{}",
        failure.message
    );
}

#[test]
fn a_file_that_can_not_be_written_is_named_with_the_reason() {
    let agent = Agent::start();
    let mut host = agent.host();
    fs::write(agent.path("file"), "old").unwrap();
    symlink("loop", agent.path("loop")).unwrap();
    let name_too_long = agent.path(&"n".repeat(256));
    let below_a_file = agent.path("file/below");
    // No file can be created beside it.
    let in_procfs = Path::new("/proc/self/comm");
    let mut failures = Vec::new();
    for (path, kind, reason) in [
        (&name_too_long, FailureKind::Invalid, "too long"),
        (
            &below_a_file,
            FailureKind::NoSuchDirectory,
            "Not a directory",
        ),
        (
            &agent.path("no/file"),
            FailureKind::NoSuchDirectory,
            "No such",
        ),
        (
            &in_procfs.to_owned(),
            FailureKind::PermissionDenied,
            "not in place",
        ),
    ] {
        let id = host.start(put(path, 0o600));
        let failure = host.finish(id, b"new").failure();
        failures.push((failure, kind, path.clone(), reason));
    }
    let read = [
        (agent.path("loop"), FailureKind::Io, "symbolic links"),
        (name_too_long, FailureKind::Invalid, "too long"),
        (below_a_file, FailureKind::NotFound, "Not a directory"),
    ];
    for (path, kind, reason) in read {
        failures.push((host.run(get(&path)).failure(), kind, path, reason));
    }
    for (failure, kind, path, reason) in failures {
        assert_eq!(failure.kind, kind, "{}", failure.message);
        let message = failure.message;
        assert!(
            message.contains(reason)
                && message.contains(&text(&path)[..100.min(text(&path).len())]),
            "{message}"
        );
    }
    assert_eq!(names(&agent), ["file", "loop"]);
    // Without following it, a dangling link is a name like any other.
    let written = write(&mut host, &agent.path("loop"), b"new");
    assert_eq!(written, Outcome::FileWritten { bytes: 3 });
}

#[test]
fn a_sparse_file_is_read_with_its_holes() {
    let agent = Agent::start();
    let mut host = agent.host();
    let file = fs::File::create(agent.path("sparse")).unwrap();
    file.set_len(300_000).unwrap();
    assert_eq!(host.run(get(&agent.path("sparse"))).file, vec![0; 300_000]);
}

#[test]
fn a_symbolic_link_is_replaced_and_not_followed_by_an_upload() {
    let agent = Agent::start();
    let mut host = agent.host();
    fs::write(agent.path("target"), "kept").unwrap();
    symlink(agent.path("target"), agent.path("link")).unwrap();
    assert_eq!(host.run(get(&agent.path("link"))).file, b"kept");
    let written = write(&mut host, &agent.path("link"), b"fresh");
    assert_eq!(written, Outcome::FileWritten { bytes: 5 });
    assert_eq!(fs::read(agent.path("target")).unwrap(), b"kept");
    assert!(agent.path("link").symlink_metadata().unwrap().is_file());
    let mode = agent.path("link").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o640);
}

#[test]
fn only_a_regular_file_can_be_read() {
    let agent = Agent::start();
    let mut host = agent.host();
    assert_eq!(
        host.shell(&format!("mkfifo {}", text(&agent.path("fifo"))))
            .outcome,
        Outcome::Exited(0)
    );
    for path in [
        Path::new("/usr"),
        Path::new("/dev/zero"),
        &agent.path("fifo"),
    ] {
        let failure = host.run(get(path)).failure();
        assert_eq!(failure.kind, FailureKind::Invalid, "{}", failure.message);
    }
    let failure = host.run(get(Path::new("/no/such/file"))).failure();
    assert_eq!(failure.kind, FailureKind::NotFound);
    assert!(
        failure.message.contains("/no/such/file"),
        "{}",
        failure.message
    );
}

#[test]
fn a_download_can_be_cancelled_in_the_middle() {
    let agent = Agent::start();
    let mut host = agent.host();
    fs::write(agent.path("file"), vec![0; 1024 * 1024]).unwrap();
    let id = host.start(get(&agent.path("file")));
    host.output(id);
    host.line.send(&ToGuest::Cancel { id });
    assert_eq!(host.finish(id, &[]).failure().kind, FailureKind::Cancelled);
    host.ping();
}

#[test]
fn a_file_that_is_overwritten_stays_the_same_with_its_mode_and_links() {
    let agent = Agent::start();
    let mut host = agent.host();
    let (file, other, link) = (agent.path("file"), agent.path("other"), agent.path("link"));
    fs::write(&file, "old and longer").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o604)).unwrap();
    fs::hard_link(&file, &other).unwrap();
    symlink(&file, &link).unwrap();
    let overwrite = |path: &Path| {
        Request::PutFile(PutFile {
            path: text(path).into(),
            mode: 0o640,
            existing: Existing::Overwritten,
            user: None,
            parents: false,
        })
    };
    let id = host.start(overwrite(&link));
    assert_eq!(
        host.finish(id, b"new").outcome,
        Outcome::FileWritten { bytes: 3 }
    );
    assert!(link.is_symlink());
    assert_eq!(fs::read(&other).unwrap(), b"new");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&file), 0o604);

    let id = host.start(overwrite(&agent.path("made")));
    host.finish(id, b"x");
    assert_eq!(mode(&agent.path("made")), 0o640);
    for path in [agent.path(""), "/dev/null".into(), agent.path("no/dir")] {
        let id = host.start(overwrite(&path));
        host.finish(id, &[]).failure();
    }
}
