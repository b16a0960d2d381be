//! Tests archives that are unpacked, most of them hostile.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use ironclaw_protocol::file::{FileOperation, FileRequest, Owners};
use ironclaw_protocol::message::{FailureKind, Outcome, Request};
use rustix::process::geteuid;
use tar::{Builder, EntryType, Header};

use crate::host::{Agent, Finished, Host, text};

const STRANGER: &str = "54321:54322";

fn extract(
    host: &mut Host,
    path: &Path,
    owners: Owners,
    user: Option<&str>,
    tar: &[u8],
) -> Finished {
    let path = text(path).into();
    let operation = FileOperation::Extract { path, owners };
    let user = user.map(Into::into);
    let id = host.start(Request::File(FileRequest { user, operation }));
    host.finish(id, tar)
}

fn unpack(agent: &Agent, name: &str, tar: &[u8]) -> Finished {
    extract(
        &mut agent.host(),
        &agent.path(name),
        Owners::OfUser,
        None,
        tar,
    )
}

fn header(kind: EntryType, path: &str, link: &str, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    let bytes = header.as_mut_bytes();
    bytes[..path.len()].copy_from_slice(path.as_bytes());
    bytes[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header.set_mode(0o4755);
    header.set_uid(1234);
    header.set_gid(1235);
    header.set_mtime(1_000_000_000);
    header.set_size(size as u64);
    header.set_cksum();
    header
}

/// An archive of entries: kind, path, link, content. Its paths are taken as they are.
fn archive(entries: &[(EntryType, &str, &str, &str)]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (kind, path, link, content) in entries {
        tar.extend(header(*kind, path, link, content.len()).as_bytes());
        tar.extend(content.as_bytes());
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

const FILE: EntryType = EntryType::Regular;
const DIRECTORY: EntryType = EntryType::Directory;
const LINK: EntryType = EntryType::Symlink;
const HARD_LINK: EntryType = EntryType::Link;

#[test]
fn what_an_agent_archives_is_there_again_when_it_is_unpacked() {
    let agent = Agent::start();
    fs::create_dir_all(agent.path("from/d/e")).unwrap();
    fs::create_dir(agent.path("to")).unwrap();
    fs::set_permissions(agent.path("to"), fs::Permissions::from_mode(0o1777)).unwrap();
    let long = format!("d/{}", "n".repeat(200));
    fs::write(
        agent.path(&format!("from/{long}")),
        "content".repeat(10_000),
    )
    .unwrap();
    fs::hard_link(
        agent.path(&format!("from/{long}")),
        agent.path("from/d/e/other"),
    )
    .unwrap();
    symlink("../nowhere", agent.path("from/d/link")).unwrap();
    let mut holes = fs::File::create(agent.path("from/holes")).unwrap();
    holes.set_len(1 << 20).unwrap();
    holes.write_all(b"begin").unwrap();
    drop(holes);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        agent.path("from/fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    let has_attributes = rustix::fs::setxattr(
        agent.path("from/holes"),
        "user.origin",
        b"here",
        rustix::fs::XattrFlags::empty(),
    );
    let readonly = fs::Permissions::from_mode(0o555);
    fs::set_permissions(agent.path("from/d/e"), readonly).unwrap();
    let user = None;
    let path = text(&agent.path("from")).into();
    let operation = FileOperation::Archive { path };
    let tar = agent
        .host()
        .run(Request::File(FileRequest { user, operation }))
        .file;
    let unpacked = unpack(&agent, "to", &tar).outcome;
    let (files, omitted) = (7, 0);
    assert_eq!(unpacked, Outcome::Extracted { files, omitted });

    let meta = |name: &str| fs::symlink_metadata(agent.path(name)).unwrap();
    assert_eq!(
        meta("to").mode() & 0o7777,
        0o1777,
        "the directory itself is as it was"
    );
    assert_eq!(
        fs::read(agent.path(&format!("to/{long}"))).unwrap(),
        b"content".repeat(10_000)
    );
    assert_eq!(
        meta(&format!("to/{long}")).ino(),
        meta("to/d/e/other").ino()
    );
    assert_eq!(
        fs::read_link(agent.path("to/d/link")).unwrap(),
        Path::new("../nowhere")
    );
    assert!(meta("to/fifo").file_type().is_fifo());
    let content = fs::read(agent.path("to/holes")).unwrap();
    assert!(content.starts_with(b"begin\0") && content.len() == 1 << 20);
    assert!(meta("to/holes").blocks() * 512 < 1 << 20);
    for name in ["d", "d/e", "holes", "fifo"] {
        let (from, to) = (meta(&format!("from/{name}")), meta(&format!("to/{name}")));
        assert_eq!(
            (from.mode(), from.mtime()),
            (to.mode(), to.mtime()),
            "{name}"
        );
        assert_eq!(from.mtime_nsec(), to.mtime_nsec(), "{name}");
    }
    if has_attributes.is_ok() {
        let mut value = [0; 4];
        rustix::fs::getxattr(agent.path("to/holes"), "user.origin", &mut value).unwrap();
        assert_eq!(&value, b"here");
    }
}

#[test]
fn no_entry_leads_out_of_the_directory() {
    let agent = Agent::start();
    fs::create_dir(agent.path("outside")).unwrap();
    fs::write(agent.path("outside/kept"), "kept").unwrap();
    let outside = text(&agent.path("outside"));
    fs::create_dir(agent.path("in")).unwrap();
    for path in ["../x", "a/../../x", ".."] {
        let refused = unpack(&agent, "in", &archive(&[(FILE, path, "", "1")])).failure();
        assert_eq!(refused.kind, FailureKind::Invalid, "{path}");
        assert!(refused.message.contains("leads out"), "{}", refused.message);
    }
    let refused = archive(&[(HARD_LINK, "stolen", "../outside/kept", "")]);
    assert_eq!(
        unpack(&agent, "in", &refused).failure().kind,
        FailureKind::Invalid
    );
    let absolute = format!("{outside}/kept");
    let stolen = unpack(
        &agent,
        "in",
        &archive(&[(HARD_LINK, "stolen", &absolute, "")]),
    );
    assert!(matches!(stolen.outcome, Outcome::Failed(_)), "{stolen:?}");
    // Links are made, and lead nowhere else while more is unpacked.
    let through = archive(&[
        (LINK, "absolute", &outside, ""),
        (FILE, "absolute/kept", "", "overwritten"),
        (LINK, "up", "../outside", ""),
        (FILE, "up/kept", "", "overwritten"),
        (DIRECTORY, "up", "", ""),
        (HARD_LINK, "stolen", "up/kept", ""),
        (LINK, "file", "../outside/kept", ""),
        (FILE, "file", "", "overwritten"),
    ]);
    let _ = unpack(&agent, "in", &through);
    assert_eq!(fs::read(agent.path("outside/kept")).unwrap(), b"kept");
    assert_eq!(fs::read_dir(agent.path("outside")).unwrap().count(), 1);
    assert_eq!(fs::metadata(agent.path("outside/kept")).unwrap().nlink(), 1);
    // An absolute path begins in the directory.
    let inside = archive(&[(FILE, "/etc/inside", "", "1")]);
    assert!(matches!(
        unpack(&agent, "in", &inside).outcome,
        Outcome::Extracted { files: 1, .. }
    ));
    assert!(agent.path("in/etc/inside").exists());
}

#[test]
fn a_link_to_a_directory_of_the_place_stays_and_leads_to_it() {
    let agent = Agent::start();
    fs::create_dir_all(agent.path("in/usr/bin")).unwrap();
    symlink("usr/bin", agent.path("in/bin")).unwrap();
    symlink("/usr", agent.path("in/absolute")).unwrap();
    let tar = archive(&[
        (DIRECTORY, "bin/", "", ""),
        (FILE, "bin/program", "", "1"),
        (FILE, "absolute/bin/other", "", "2"),
    ]);
    assert!(matches!(
        unpack(&agent, "in", &tar).outcome,
        Outcome::Extracted { files: 3, .. }
    ));
    assert_eq!(fs::read(agent.path("in/usr/bin/program")).unwrap(), b"1");
    assert_eq!(fs::read(agent.path("in/usr/bin/other")).unwrap(), b"2");
    assert!(agent.path("in/bin").is_symlink());
}

#[test]
fn what_has_the_name_of_a_file_is_replaced_unless_it_is_a_directory() {
    let agent = Agent::start();
    fs::create_dir_all(agent.path("in/directory/full")).unwrap();
    fs::write(agent.path("in/file"), "old and longer").unwrap();
    fs::hard_link(agent.path("in/file"), agent.path("in/name")).unwrap();
    let tar = archive(&[
        (FILE, "file", "", "new"),
        (DIRECTORY, "name/", "", ""),
        (DIRECTORY, "directory/", "", ""),
        (FILE, "new/deep/file", "", "1"),
    ]);
    let unpacked = unpack(&agent, "in", &tar);
    assert!(
        matches!(unpacked.outcome, Outcome::Extracted { files: 4, .. }),
        "{unpacked:?}"
    );
    assert_eq!(fs::read(agent.path("in/file")).unwrap(), b"new");
    assert!(agent.path("in/name").is_dir() && agent.path("in/directory/full").is_dir());
    let parent = fs::metadata(agent.path("in/new")).unwrap();
    assert_eq!(parent.mode() & 0o7777, 0o755);
    let refused = unpack(&agent, "in", &archive(&[(FILE, "directory", "", "1")])).failure();
    assert_eq!(refused.kind, FailureKind::Exists);
    let refused = unpack(&agent, "in", &archive(&[(FILE, "file/below", "", "1")])).failure();
    assert!(
        refused.message.contains("file/below"),
        "{}",
        refused.message
    );
}

#[test]
fn what_is_no_archive_is_refused_with_the_reason() {
    let agent = Agent::start();
    fs::create_dir(agent.path("in")).unwrap();
    let whole = archive(&[(FILE, "a", "", "content")]);
    let mut strange = archive(&[(EntryType::new(b'S'), "a", "", "")]);
    let mut long = header(EntryType::XHeader, "x", "", 1 << 20)
        .as_bytes()
        .to_vec();
    long.resize(1024, b'x');
    let mut devices = whole.clone();
    devices[600] = 1;
    for (tar, reason) in [
        (&b"\x1f\x8b\x08 compressed"[..].repeat(100), "compressed"),
        (&b"text".repeat(200), "checksum"),
        (&whole[..700].to_vec(), "middle"),
        (&whole[..515].to_vec(), "middle"),
        (&std::mem::take(&mut strange), "kind"),
        (&long, "longer"),
    ] {
        let refused = unpack(&agent, "in", tar).failure();
        assert_eq!(refused.kind, FailureKind::Invalid);
        assert!(
            refused.message.contains(reason),
            "{reason}: {}",
            refused.message
        );
    }
    let missing = unpack(&agent, "missing", &whole).failure();
    assert_eq!(missing.kind, FailureKind::NotFound);
    // It may have no end, and more behind it.
    let mut endless = whole[..1024].to_vec();
    assert!(matches!(
        unpack(&agent, "in", &endless).outcome,
        Outcome::Extracted { files: 1, .. }
    ));
    endless.resize(20_000, 0);
    assert!(matches!(
        unpack(&agent, "in", &endless).outcome,
        Outcome::Extracted { files: 1, .. }
    ));
    agent.host().ping();
}

#[test]
fn owners_are_those_of_the_archive_for_root_alone_and_of_the_user_otherwise() {
    if !geteuid().is_root() {
        return;
    }
    let agent = Agent::start();
    fs::set_permissions(agent.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["root", "user", "kept"] {
        fs::create_dir(agent.path(name)).unwrap();
        fs::set_permissions(agent.path(name), fs::Permissions::from_mode(0o777)).unwrap();
    }
    let tar = archive(&[
        (DIRECTORY, "d/", "", ""),
        (FILE, "d/file", "", "1"),
        (LINK, "d/link", "file", ""),
    ]);
    let mut host = agent.host();
    let (of_user, of_archive) = (Owners::OfUser, Owners::OfArchive);
    for (name, owners, user, uid, mode) in [
        ("root", of_user, None, 0, 0o755),
        ("user", of_user, Some(STRANGER), 54321, 0o755),
        ("kept", of_archive, None, 1234, 0o4755),
    ] {
        let unpacked = extract(&mut host, &agent.path(name), owners, user, &tar);
        assert!(
            matches!(unpacked.outcome, Outcome::Extracted { files: 3, .. }),
            "{unpacked:?}"
        );
        for file in ["d", "d/file", "d/link"] {
            let found = fs::symlink_metadata(agent.path(&format!("{name}/{file}"))).unwrap();
            assert_eq!(found.uid(), uid, "{name}/{file}");
            if !found.is_symlink() {
                assert_eq!(found.mode() & 0o7777, mode, "{name}/{file}");
            }
        }
    }
    let refused = extract(
        &mut host,
        &agent.path("user"),
        of_archive,
        Some(STRANGER),
        &tar,
    );
    assert_eq!(refused.failure().kind, FailureKind::PermissionDenied);
    // Devices are for whoever keeps owners.
    let device = archive(&[(EntryType::Char, "null", "", "")]);
    let left_out = extract(
        &mut host,
        &agent.path("user"),
        of_user,
        Some(STRANGER),
        &device,
    );
    let (files, omitted) = (0, 1);
    assert_eq!(left_out.outcome, Outcome::Extracted { files, omitted });
}

#[test]
fn what_other_programs_write_is_read() {
    let agent = Agent::start();
    fs::create_dir(agent.path("in")).unwrap();
    let mut tar = Builder::new(Vec::new());
    let long = format!("{}/{}", "d".repeat(150), "f".repeat(150));
    let mut header = header(FILE, "", "", 3);
    tar.append_data(&mut header, &long, &b"abc"[..]).unwrap();
    let tar = tar.into_inner().unwrap();
    assert!(matches!(
        unpack(&agent, "in", &tar).outcome,
        Outcome::Extracted { files: 1, .. }
    ));
    assert_eq!(fs::read(agent.path(&format!("in/{long}"))).unwrap(), b"abc");
    fs::create_dir_all(agent.path("from/sub")).unwrap();
    fs::write(agent.path("from/sub/file"), "1").unwrap();
    let script = "for format in gnu ustar pax v7 oldgnu; do \
         tar -c --format=$format -C from . > $format.tar || exit 7; done";
    if agent.host().shell(script).outcome != Outcome::Exited(0) {
        return;
    }
    for format in ["gnu", "ustar", "pax", "v7", "oldgnu"] {
        let tar = fs::read(agent.path(&format!("{format}.tar"))).unwrap();
        let to = format!("in/{format}");
        fs::create_dir(agent.path(&to)).unwrap();
        let unpacked = unpack(&agent, &to, &tar);
        assert!(
            matches!(unpacked.outcome, Outcome::Extracted { files: 2, .. }),
            "{unpacked:?}"
        );
        assert_eq!(
            fs::read(agent.path(&format!("{to}/sub/file"))).unwrap(),
            b"1"
        );
    }
}

#[test]
fn an_archive_of_more_than_a_window_comes_in_and_others_are_served() {
    let agent = Agent::start();
    fs::create_dir(agent.path("in")).unwrap();
    let content = "x".repeat(3_000_000);
    let names: Vec<_> = (0..2000).map(|number| format!("many/{number}")).collect();
    let mut entries = vec![(FILE, "large", "", content.as_str())];
    entries.extend(names.iter().map(|name| (FILE, name.as_str(), "", "")));
    let unpacked = unpack(&agent, "in", &archive(&entries));
    assert!(matches!(
        unpacked.outcome,
        Outcome::Extracted { files: 2001, .. }
    ));
    assert_eq!(
        fs::metadata(agent.path("in/large")).unwrap().len(),
        3_000_000
    );
    assert_eq!(fs::read_dir(agent.path("in/many")).unwrap().count(), 2000);
}
