//! Tests what a host asks about files, beyond their content.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use ironclaw_protocol::file::{FileInfo, FileKind, FileOperation, FileRequest};
use ironclaw_protocol::limits::MAX_DEPTH;
use ironclaw_protocol::message::{
    Existing, Failure, FailureKind, GetFile, Outcome, PutFile, Request,
};
use ironclaw_protocol::records::Records;
use rustix::process::geteuid;

use crate::host::{Agent, Finished, Host, text};

/// A uid and a gid without an entry in any table.
const STRANGER: &str = "54321:54322";

fn run(host: &mut Host, operation: FileOperation) -> Finished {
    let user = None;
    host.run(Request::File(FileRequest { user, operation }))
}

fn ask(host: &mut Host, operation: FileOperation) -> Outcome {
    run(host, operation).outcome
}

fn failure(host: &mut Host, operation: FileOperation) -> Failure {
    run(host, operation).failure()
}

fn look(path: &Path, follow: bool) -> FileOperation {
    let path = text(path).into();
    FileOperation::Look { path, follow }
}

fn list(host: &mut Host, path: &Path, depth: u32) -> (Vec<FileInfo>, u64) {
    let path = text(path).into();
    let finished = run(host, FileOperation::List { path, depth });
    let Outcome::Listed { files, unread } = finished.outcome else {
        panic!("{:?}", finished.outcome);
    };
    let mut records = Records::default();
    records.push(&finished.file);
    let mut listed = Vec::new();
    while let Some(info) = records.read::<FileInfo>().unwrap() {
        info.validate().unwrap();
        listed.push(info);
    }
    assert!(records.is_empty() && files == listed.len() as u64);
    (listed, unread)
}

fn names(agent: &Agent, listed: &[FileInfo]) -> Vec<String> {
    let root = text(&agent.path(""));
    let mut names: Vec<_> = listed
        .iter()
        .map(|info| info.path.to_string()[root.len()..].to_owned())
        .filter(|name| name != "socket")
        .collect();
    names.sort();
    names
}

#[test]
fn a_file_is_described_as_it_is() {
    let agent = Agent::start();
    let mut host = agent.host();
    let (file, link) = (agent.path("file"), agent.path("link"));
    fs::write(&file, "12345").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4710)).unwrap();
    symlink("file", &link).unwrap();
    let Outcome::FileInfo(info) = ask(&mut host, look(&file, false)) else {
        panic!("no answer");
    };
    let found = fs::metadata(&file).unwrap();
    assert_eq!(
        (info.kind, info.mode, info.size),
        (FileKind::File, 0o4710, 5)
    );
    assert_eq!((info.uid, info.gid), (found.uid(), found.gid()));
    assert_eq!(info.modified.seconds, found.mtime());
    if found.uid() == 0 {
        assert_eq!((info.owner, info.group), ("root".into(), "root".into()));
    }
    let Outcome::FileInfo(info) = ask(&mut host, look(&link, false)) else {
        panic!("no answer");
    };
    assert_eq!(
        (info.kind, info.target),
        (FileKind::Link, Some("file".into()))
    );
    let Outcome::FileInfo(info) = ask(&mut host, look(&link, true)) else {
        panic!("no answer");
    };
    assert_eq!((info.kind, info.size), (FileKind::File, 5));
    let missing = failure(&mut host, look(&agent.path("missing"), true));
    assert_eq!(missing.kind, FailureKind::NotFound);
    assert!(missing.message.contains("missing"), "{}", missing.message);
}

#[test]
fn a_directory_is_listed_as_deep_as_asked_and_no_link_is_followed() {
    let agent = Agent::start();
    let mut host = agent.host();
    fs::create_dir_all(agent.path("a/b/c")).unwrap();
    fs::write(agent.path("a/b/c/deep"), "").unwrap();
    fs::write(agent.path("a/file"), "").unwrap();
    symlink("/", agent.path("a/b/root")).unwrap();
    let (listed, unread) = list(&mut host, &agent.path(""), 1);
    assert_eq!((names(&agent, &listed), unread), (vec!["a".to_owned()], 0));
    let (listed, _) = list(&mut host, &agent.path(""), 3);
    assert_eq!(
        names(&agent, &listed),
        ["a", "a/b", "a/b/c", "a/b/root", "a/file"]
    );
    let (listed, _) = list(&mut host, &agent.path(""), MAX_DEPTH);
    assert!(names(&agent, &listed).contains(&"a/b/c/deep".to_owned()));
    let path = text(&agent.path("a/file")).into();
    let refused = failure(&mut host, FileOperation::List { path, depth: 1 });
    assert_eq!(refused.kind, FailureKind::NotFound);
}

#[test]
fn a_list_of_more_than_a_window_comes_as_fast_as_it_is_taken_and_others_are_served() {
    let agent = Agent::start();
    let mut host = agent.host();
    fs::create_dir(agent.path("many")).unwrap();
    for number in 0..5000 {
        fs::write(agent.path(&format!("many/{number:0100}")), "").unwrap();
    }
    let path = text(&agent.path("many")).into();
    let user = None;
    let operation = FileOperation::List { path, depth: 1 };
    let id = host.start(Request::File(FileRequest { user, operation }));
    let first = host.output(id);
    assert!(!first.is_empty());
    agent.host().ping();
    let (listed, _) = list(&mut agent.host(), &agent.path("many"), 1);
    assert_eq!(listed.len(), 5000);
}

#[test]
fn directories_are_made_with_their_parents_and_exactly_the_mode() {
    let agent = Agent::start();
    let mut host = agent.host();
    let make = |path: &Path, parents| FileOperation::MakeDirectory {
        path: text(path).into(),
        mode: 0o1777,
        parents,
    };
    let deep = agent.path("x/y/z");
    let missing = failure(&mut host, make(&deep, false));
    assert_eq!(missing.kind, FailureKind::NoSuchDirectory);
    let changed = |files| Outcome::Changed { files };
    assert_eq!(ask(&mut host, make(&deep, true)), changed(3));
    assert_eq!(ask(&mut host, make(&deep, true)), changed(0));
    assert_eq!(
        failure(&mut host, make(&deep, false)).kind,
        FailureKind::Exists
    );
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&deep), mode(&agent.path("x"))), (0o1777, 0o755));
    fs::write(agent.path("file"), "").unwrap();
    assert_eq!(
        failure(&mut host, make(&agent.path("file"), true)).kind,
        FailureKind::Exists
    );
}

#[test]
fn a_tree_is_removed_whole_and_what_its_links_refer_to_stays() {
    let agent = Agent::start();
    let mut host = agent.host();
    let remove = |path: &Path, recursive| FileOperation::Remove {
        path: text(path).into(),
        recursive,
    };
    let (tree, outside) = (agent.path("tree"), agent.path("outside"));
    fs::create_dir_all(tree.join("a/b")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "").unwrap();
    symlink(&outside, tree.join("a/link")).unwrap();
    for number in 0..700 {
        fs::write(tree.join(format!("a/b/{number}")), "").unwrap();
    }
    assert_eq!(
        failure(&mut host, remove(&tree, false)).kind,
        FailureKind::NotEmpty
    );
    let removed = ask(&mut host, remove(&tree, true));
    assert_eq!(removed, Outcome::Changed { files: 704 });
    assert!(!tree.exists() && outside.join("kept").exists());
    // The link itself, not the directory.
    symlink(&outside, agent.path("link")).unwrap();
    let removed = ask(&mut host, remove(&agent.path("link"), true));
    assert_eq!(removed, Outcome::Changed { files: 1 });
    assert!(outside.join("kept").exists());
    for recursive in [false, true] {
        assert_eq!(
            failure(&mut host, remove(&tree, recursive)).kind,
            FailureKind::NotFound
        );
    }
    assert_eq!(
        ask(&mut host, remove(&outside.join("kept"), false)),
        Outcome::Changed { files: 1 }
    );
    assert_eq!(
        ask(&mut host, remove(&outside, false)),
        Outcome::Changed { files: 1 }
    );
}

#[test]
fn files_are_renamed_linked_and_given_modes() {
    let agent = Agent::start();
    let mut host = agent.host();
    fs::write(agent.path("a"), "content").unwrap();
    let path = |name: &str| text(&agent.path(name)).into();
    let rename = |from: &str, to: &str| FileOperation::Rename {
        from: path(from),
        to: path(to),
    };
    let changed = Outcome::Changed { files: 1 };
    assert_eq!(ask(&mut host, rename("a", "b")), changed);
    assert_eq!(
        failure(&mut host, rename("a", "c")).kind,
        FailureKind::NotFound
    );
    assert_eq!(
        failure(&mut host, rename("b", "no/c")).kind,
        FailureKind::NoSuchDirectory
    );
    let link = |target: &str| FileOperation::MakeLink {
        path: path("link"),
        target: target.into(),
    };
    assert_eq!(ask(&mut host, link("b")), changed);
    assert_eq!(failure(&mut host, link("b")).kind, FailureKind::Exists);
    assert_eq!(fs::read(agent.path("link")).unwrap(), b"content");
    let mode = FileOperation::SetMode {
        path: path("link"),
        mode: 0o4600,
    };
    assert_eq!(ask(&mut host, mode), changed);
    let found = fs::metadata(agent.path("b")).unwrap();
    assert_eq!(found.permissions().mode() & 0o7777, 0o4600);
}

#[test]
fn attributes_are_set_told_and_removed() {
    let agent = Agent::start();
    let mut host = agent.host();
    fs::write(agent.path("a"), "").unwrap();
    let path = || text(&agent.path("a")).into();
    let set = |value: Option<&str>| FileOperation::SetAttribute {
        path: path(),
        name: "user.origin".into(),
        value: value.map(Into::into),
    };
    match ask(&mut host, set(Some("here"))) {
        Outcome::Changed { files: 1 } => {}
        // A file system without attributes says so.
        Outcome::Failed(failure) if failure.kind == FailureKind::Unsupported => return,
        other => panic!("{other:?}"),
    }
    let all = ask(&mut host, FileOperation::Attributes { path: path() });
    let Outcome::Attributes(all) = all else {
        panic!("{all:?}");
    };
    assert!(
        all.contains(&("user.origin".into(), "here".into())),
        "{all:?}"
    );
    assert_eq!(ask(&mut host, set(None)), Outcome::Changed { files: 1 });
    let all = ask(&mut host, FileOperation::Attributes { path: path() });
    assert!(!format!("{all:?}").contains("user.origin"), "{all:?}");
}

#[test]
fn parts_of_a_file_are_read_and_written() {
    let agent = Agent::start();
    let mut host = agent.host();
    let path = text(&agent.path("new/dir/a"));
    let mut put = |existing, content: &[u8], parents| {
        let id = host.start(Request::PutFile(PutFile {
            path: path.as_str().into(),
            mode: 0o600,
            existing,
            user: None,
            parents,
        }));
        host.finish(id, content).outcome
    };
    let missing = put(Existing::Appended, b"x", false);
    assert!(matches!(missing, Outcome::Failed(of) if of.kind == FailureKind::NoSuchDirectory));
    let written = |bytes| Outcome::FileWritten { bytes };
    assert_eq!(put(Existing::Replaced, b"0123456789", true), written(10));
    assert_eq!(put(Existing::WrittenAt(3), b"xyz", false), written(3));
    assert_eq!(put(Existing::Appended, b"end", false), written(3));
    assert_eq!(fs::read(&path).unwrap(), b"012xyz6789end");
    let mut get = |from, length| {
        let read = host.run(Request::GetFile(GetFile {
            path: path.as_str().into(),
            from,
            length,
            user: None,
        }));
        assert!(matches!(read.outcome, Outcome::FileRead { .. }), "{read:?}");
        String::from_utf8(read.file).unwrap()
    };
    assert_eq!(get(3, Some(3)), "xyz");
    assert_eq!(get(10, None), "end");
    assert_eq!(get(12, Some(100)), "d");
    assert_eq!(get(100, None), "");
    assert_eq!(get(0, Some(0)), "");
}

#[test]
fn another_users_permissions_decide_about_files_and_its_files_are_its_own() {
    if !geteuid().is_root() {
        return;
    }
    let agent = Agent::start();
    let mut host = agent.host();
    fs::set_permissions(agent.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir_all(agent.path("private/x")).unwrap();
    fs::set_permissions(agent.path("private"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::create_dir(agent.path("open")).unwrap();
    fs::set_permissions(agent.path("open"), fs::Permissions::from_mode(0o777)).unwrap();
    let path = |name: &str| text(&agent.path(name)).into();
    let mut ask = |operation| {
        let user = Some(STRANGER.into());
        host.run(Request::File(FileRequest { user, operation }))
    };
    for operation in [
        FileOperation::Look {
            path: path("private/x"),
            follow: true,
        },
        FileOperation::List {
            path: path("private"),
            depth: 1,
        },
        FileOperation::Remove {
            path: path("private"),
            recursive: true,
        },
        FileOperation::MakeDirectory {
            path: path("mine"),
            mode: 0o755,
            parents: true,
        },
        FileOperation::SetMode {
            path: path("open"),
            mode: 0o700,
        },
        FileOperation::SetOwner {
            path: path("open"),
            owner: STRANGER.into(),
        },
    ] {
        let refused = ask(operation.clone()).failure();
        assert_eq!(refused.kind, FailureKind::PermissionDenied, "{operation:?}");
    }
    let make = FileOperation::MakeDirectory {
        path: path("open/mine"),
        mode: 0o700,
        parents: true,
    };
    assert_eq!(ask(make).outcome, Outcome::Changed { files: 1 });
    let list = FileOperation::List {
        path: path(""),
        depth: 2,
    };
    let listed = ask(list).outcome;
    assert!(
        matches!(listed, Outcome::Listed { unread: 1, .. }),
        "{listed:?}"
    );
    let id = host.start(Request::PutFile(PutFile {
        path: path("open/mine/deeper/file"),
        mode: 0o4755,
        existing: Existing::Replaced,
        user: Some(STRANGER.into()),
        parents: true,
    }));
    let written = host.finish(id, b"x").outcome;
    assert_eq!(written, Outcome::FileWritten { bytes: 1 });
    for name in ["open/mine", "open/mine/deeper", "open/mine/deeper/file"] {
        let found = fs::metadata(agent.path(name)).unwrap();
        assert_eq!((found.uid(), found.gid()), (54321, 54322), "{name}");
    }
    let get = Request::GetFile(GetFile {
        path: path("private/x"),
        from: 0,
        length: None,
        user: Some(STRANGER.into()),
    });
    assert_eq!(host.run(get).failure().kind, FailureKind::PermissionDenied);
    let chown = Request::File(FileRequest {
        user: None,
        operation: FileOperation::SetOwner {
            path: path("open/mine"),
            owner: "0:0".into(),
        },
    });
    assert_eq!(host.run(chown).outcome, Outcome::Changed { files: 1 });
    assert_eq!(fs::metadata(agent.path("open/mine")).unwrap().uid(), 0);
}
