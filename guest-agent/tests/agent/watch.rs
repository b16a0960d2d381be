//! Tests what a host is told of files that it watches.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ironclaw_protocol::file::{EventKind, FileEvent, FileOperation, FileRequest};
use ironclaw_protocol::limits::{MAX_KEPT_EVENTS, MAX_WATCHES, WINDOW};
use ironclaw_protocol::message::{
    FailureKind, Outcome, Request, RequestId, Stream, ToGuest, ToHost,
};
use ironclaw_protocol::records::Records;
use rustix::process::geteuid;

use crate::host::{Agent, Host, text};

fn request(path: &Path, recursive: bool) -> Request {
    let path = text(path).into();
    let operation = FileOperation::Watch { path, recursive };
    let user = None;
    Request::File(FileRequest { user, operation })
}

/// A watch of an agent's directory.
struct Watch {
    host: Host,
    id: RequestId,
    path: String,
    records: Records,
    end: Option<Outcome>,
}

impl Watch {
    fn open(agent: &Agent, name: &str, recursive: bool) -> Self {
        let mut host = agent.host();
        let path = agent.path(name);
        let id = host.start(request(&path, recursive));
        assert_eq!(host.line.message(), ToHost::Opened { id });
        Self {
            host,
            id,
            path: text(&path),
            records: Records::default(),
            end: None,
        }
    }

    /// Takes a message about the watch; returns whether it is the answer to `last`.
    fn take(&mut self, last: RequestId) -> bool {
        match self.host.line.message() {
            ToHost::Data { id, stream, bytes } if id == self.id => {
                self.host.took(id, stream, bytes.len());
                self.records.push(&bytes);
            }
            ToHost::Done { id, outcome } if id == self.id => self.end = Some(outcome),
            ToHost::Done { id, .. } if id == last => return true,
            other => panic!("{other:?}"),
        }
        false
    }

    /// Returns everything that happened before this, as an agent tells it before it answers.
    fn events(&mut self) -> Vec<FileEvent> {
        // The search of a new directory may take another turn.
        for _ in 0..3 {
            let ping = self.host.start(Request::Ping);
            while !self.take(ping) {}
        }
        let mut events = Vec::new();
        while let Some(event) = self.records.read::<FileEvent>().unwrap() {
            event.validate(&self.path.as_str().into()).unwrap();
            events.push(event);
        }
        assert!(self.records.is_empty());
        events
    }

    /// Returns the same in short, paths without that of the watch.
    fn told(&mut self) -> Vec<String> {
        let path = self.path.clone();
        let short = |of: &dyn ToString| {
            let of = of.to_string();
            let rest = of.strip_prefix(&path).unwrap();
            rest.strip_prefix('/').unwrap_or(rest).to_owned()
        };
        let events = self.events().into_iter();
        let shown = events.map(|event| {
            let from = event
                .from
                .map_or(String::new(), |from| format!("{} ", short(&from)));
            let slash = if event.is_directory { "/" } else { "" };
            format!("{:?} {from}{}{slash}", event.kind, short(&event.path))
        });
        let mut shown: Vec<_> = shown.collect();
        // The kernel joins what an agent has not read yet.
        shown.dedup();
        shown
    }
}

#[test]
fn each_thing_that_happens_in_a_directory_is_told_in_order_and_before_the_next_answer() {
    let agent = Agent::start();
    fs::create_dir_all(agent.path("w/sub")).unwrap();
    let mut watch = Watch::open(&agent, "w", false);
    let file = agent.path("w/a");
    fs::write(&file, "1").unwrap();
    let written = ["Created a", "Modified a", "Written a"];
    assert_eq!(watch.told(), written);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&file, agent.path("w/b")).unwrap();
    fs::remove_file(agent.path("w/b")).unwrap();
    fs::create_dir(agent.path("w/new")).unwrap();
    let told = ["Attributes a", "Renamed a b", "Removed b", "Created new/"];
    assert_eq!(watch.told(), told);
    // Not of what is in other directories.
    fs::write(agent.path("w/sub/deep"), "").unwrap();
    fs::write(agent.path("w/new/deep"), "").unwrap();
    assert_eq!(watch.told(), [""; 0]);
}

#[test]
fn a_file_that_comes_or_goes_is_created_or_removed() {
    let agent = Agent::start();
    fs::create_dir(agent.path("w")).unwrap();
    fs::write(agent.path("outside"), "1").unwrap();
    let mut watch = Watch::open(&agent, "w", true);
    fs::rename(agent.path("outside"), agent.path("w/in")).unwrap();
    assert_eq!(watch.told(), ["Created in"]);
    fs::rename(agent.path("w/in"), agent.path("outside")).unwrap();
    assert_eq!(watch.told(), ["Removed in"]);
    fs::create_dir(agent.path("w/d")).unwrap();
    fs::rename(agent.path("w/d"), agent.path("gone")).unwrap();
    assert_eq!(watch.told(), ["Created d/", "Removed d/"]);
    // It is watched no more.
    fs::write(agent.path("gone/x"), "").unwrap();
    assert_eq!(watch.told(), [""; 0]);
}

#[test]
fn directories_below_are_watched_also_new_ones_with_what_is_in_them_by_then() {
    let agent = Agent::start();
    fs::create_dir_all(agent.path("w/a/b")).unwrap();
    let mut watch = Watch::open(&agent, "w", true);
    fs::write(agent.path("w/a/b/old"), "").unwrap();
    assert_eq!(watch.told(), ["Created a/b/old", "Written a/b/old"]);
    fs::create_dir_all(agent.path("w/n/m")).unwrap();
    fs::write(agent.path("w/n/m/full"), "1").unwrap();
    let mut told = watch.told();
    told.retain(|event| !event.starts_with("Written"));
    let new = [
        "Created n/",
        "Created n/m/",
        "Created n/m/full",
        "Modified n/m/full",
    ];
    assert_eq!(told, new);
    fs::write(agent.path("w/n/m/full"), "2").unwrap();
    let told = watch.told();
    assert!(told.contains(&"Modified n/m/full".to_owned()), "{told:?}");
    // A directory that came from elsewhere is new with all that is in it.
    fs::create_dir_all(agent.path("else/deep")).unwrap();
    fs::write(agent.path("else/deep/x"), "").unwrap();
    fs::rename(agent.path("else"), agent.path("w/else")).unwrap();
    let moved = ["Created else/", "Created else/deep/", "Created else/deep/x"];
    assert_eq!(watch.told(), moved);
}

#[test]
fn what_is_below_a_renamed_directory_is_told_by_its_new_path() {
    let agent = Agent::start();
    fs::create_dir_all(agent.path("w/a/b/c")).unwrap();
    let mut watch = Watch::open(&agent, "w", true);
    fs::rename(agent.path("w/a"), agent.path("w/z")).unwrap();
    fs::write(agent.path("w/z/b/c/file"), "").unwrap();
    let told = ["Renamed a z/", "Created z/b/c/file", "Written z/b/c/file"];
    assert_eq!(watch.told(), told);
    // One that was renamed before it was watched.
    fs::create_dir_all(agent.path("w/n/m")).unwrap();
    fs::rename(agent.path("w/n"), agent.path("w/o")).unwrap();
    watch.told();
    fs::write(agent.path("w/o/m/file"), "").unwrap();
    assert_eq!(watch.told(), ["Created o/m/file", "Written o/m/file"]);
}

#[test]
fn no_link_is_followed_and_no_other_file_system_is_entered() {
    let agent = Agent::start();
    fs::create_dir_all(agent.path("w")).unwrap();
    fs::create_dir_all(agent.path("outside")).unwrap();
    std::os::unix::fs::symlink(agent.path("outside"), agent.path("w/link")).unwrap();
    let mut watch = Watch::open(&agent, "w", true);
    std::os::unix::fs::symlink(agent.path("outside"), agent.path("w/later")).unwrap();
    assert_eq!(watch.told(), ["Created later"]);
    fs::write(agent.path("outside/x"), "").unwrap();
    assert_eq!(watch.told(), [""; 0]);
}

#[test]
fn a_watch_ends_with_what_is_watched() {
    let agent = Agent::start();
    fs::create_dir(agent.path("w")).unwrap();
    fs::write(agent.path("file"), "").unwrap();
    let mut directory = Watch::open(&agent, "w", true);
    let mut file = Watch::open(&agent, "file", false);
    fs::write(agent.path("file"), "1").unwrap();
    assert_eq!(file.told(), ["Modified ", "Written "]);
    fs::remove_dir(agent.path("w")).unwrap();
    assert_eq!(directory.told(), ["Removed /"]);
    assert_eq!(directory.end, Some(Outcome::Unwatched));
    fs::rename(agent.path("file"), agent.path("other")).unwrap();
    assert_eq!(file.told(), ["Removed "]);
    assert_eq!(file.end, Some(Outcome::Unwatched));
    file.host.ping();
}

/// Writes so many files, and returns the kinds of what is told when that much was taken.
fn kinds_of_many(
    agent: &Agent,
    watch: &mut Watch,
    files: usize,
    taken: &mut usize,
) -> Vec<EventKind> {
    let name = "n".repeat(200);
    for number in 0..files {
        fs::write(agent.path(&format!("w/{name}{number}")), "").unwrap();
    }
    let ping = watch.host.start(Request::Ping);
    loop {
        match watch.host.line.message() {
            ToHost::Data { bytes, .. } => {
                *taken += bytes.len();
                watch.records.push(&bytes);
            }
            ToHost::Done { id, .. } if id == ping => break,
            other => panic!("{other:?}"),
        }
    }
    let mut kinds = Vec::new();
    while let Some(event) = watch.records.read::<FileEvent>().unwrap() {
        kinds.push(event.kind);
    }
    kinds
}

#[test]
fn a_host_that_takes_nothing_is_told_of_an_overflow_and_then_of_what_comes() {
    let agent = Agent::start();
    fs::create_dir(agent.path("w")).unwrap();
    let mut watch = Watch::open(&agent, "w", false);
    let mut taken = 0;
    let mut kinds = Vec::new();
    while taken < WINDOW as usize {
        kinds.extend(kinds_of_many(&agent, &mut watch, 50, &mut taken));
    }
    assert!(!kinds.contains(&EventKind::Overflow));
    for _ in 0..2 * MAX_KEPT_EVENTS / 200 / 50 {
        assert_eq!(kinds_of_many(&agent, &mut watch, 50, &mut taken), []);
    }
    while !kinds.contains(&EventKind::Overflow) {
        watch
            .host
            .took(watch.id, Stream::File, std::mem::take(&mut taken));
        kinds.extend(kinds_of_many(&agent, &mut watch, 0, &mut taken));
    }
    assert_eq!(
        kinds
            .iter()
            .filter(|kind| **kind == EventKind::Overflow)
            .count(),
        1
    );
    assert_eq!(kinds.last(), Some(&EventKind::Overflow));
    watch.host.took(watch.id, Stream::File, taken);
    fs::write(agent.path("w/later"), "").unwrap();
    assert_eq!(watch.told(), ["Created later", "Written later"]);
}

#[test]
fn directories_are_watched_also_after_the_kernel_has_lost_events() {
    let agent = Agent::start();
    fs::create_dir_all(agent.path("w/a/b")).unwrap();
    let mut watch = Watch::open(&agent, "w", true);
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    let pid = rustix::process::Pid::from_child(&agent.process);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    for number in 0..=limit / 2 {
        fs::write(agent.path(&format!("w/{}", number % 2)), "").unwrap();
    }
    fs::rename(agent.path("w/a"), agent.path("w/z")).unwrap();
    fs::create_dir(agent.path("w/z/b/c")).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    let mut rounds = 0;
    while !watch.told().contains(&"Overflow /".to_owned()) {
        rounds += 1;
        assert!(rounds < limit, "no overflow is told");
    }
    watch.told();
    fs::write(agent.path("w/z/b/c/file"), "").unwrap();
    assert_eq!(watch.told(), ["Created z/b/c/file", "Written z/b/c/file"]);
}

#[test]
fn watches_are_bounded_and_end_when_they_are_cancelled() {
    let agent = Agent::start();
    let mut host = agent.host();
    let watch = request(&agent.path(""), false);
    for _ in 0..MAX_WATCHES {
        let id = host.start(watch.clone());
        assert_eq!(host.line.message(), ToHost::Opened { id });
    }
    let refused = host.run(watch.clone()).failure();
    assert_eq!(refused.kind, FailureKind::TooMany);
    assert!(
        refused.message.contains("64 watches"),
        "{}",
        refused.message
    );
    host.line.send(&ToGuest::Cancel { id: RequestId(1) });
    let ToHost::Done { id, outcome } = host.line.message() else {
        panic!("not the end");
    };
    assert!(id == RequestId(1) && matches!(outcome, Outcome::Failed(_)));
    let id = host.start(watch);
    assert_eq!(host.line.message(), ToHost::Opened { id });
}

#[test]
fn what_is_not_there_or_not_for_a_user_to_read_is_not_watched() {
    let agent = Agent::start();
    let mut host = agent.host();
    let missing = host.run(request(&agent.path("missing"), true)).failure();
    assert_eq!(missing.kind, FailureKind::NotFound);
    if !geteuid().is_root() {
        return;
    }
    fs::set_permissions(agent.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir_all(agent.path("w/private")).unwrap();
    fs::set_permissions(agent.path("w/private"), fs::Permissions::from_mode(0o700)).unwrap();
    let as_stranger = |host: &mut Host, name: &str| {
        let path = text(&agent.path(name)).into();
        let recursive = true;
        let operation = FileOperation::Watch { path, recursive };
        let user = Some("54321:54322".into());
        host.start(Request::File(FileRequest { user, operation }))
    };
    let id = as_stranger(&mut host, "w/private");
    let refused = host.finish(id, &[]).failure();
    assert_eq!(refused.kind, FailureKind::PermissionDenied);
    // The rest of a tree is watched.
    let id = as_stranger(&mut host, "w");
    assert_eq!(host.line.message(), ToHost::Opened { id });
    fs::write(agent.path("w/private/secret"), "").unwrap();
    host.ping();
}
