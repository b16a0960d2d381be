//! Tests how our own API tells what happens to files.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use serde_json::{Value, json};

use super::Daemon;
use super::v1::{ask, create, get, post, refused};
use super::vm::{TIMEOUT, runs};

/// A stream of events.
pub(super) struct Events(BufReader<UnixStream>);

impl Events {
    /// Asks for it, and reads its head; returns the status if it is not had.
    fn ask(daemon: &Daemon, path: &str) -> Result<Self, u16> {
        let mut stream = UnixStream::connect(daemon.state.path().join("socket")).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
        }
        if !head.starts_with("HTTP/1.1 200 ") {
            return Err(head.split(' ').nth(1).unwrap().parse().unwrap());
        }
        assert!(head.contains("application/x-ndjson"), "{head}");
        Ok(Self(reader))
    }

    pub(super) fn open(daemon: &Daemon, path: &str) -> Self {
        Self::ask(daemon, path).unwrap()
    }

    /// Asks until the watches of clients that have gone are gone.
    fn open_in_time(daemon: &Daemon, path: &str) -> Self {
        let until = Instant::now() + TIMEOUT;
        loop {
            match Self::ask(daemon, path) {
                Ok(events) => return events,
                Err(507) => assert!(
                    Instant::now() < until,
                    "watches of clients that are gone stay"
                ),
                Err(status) => panic!("{status}"),
            }
        }
    }

    /// Returns the next event; `None` at the end.
    pub(super) fn next(&mut self) -> Option<Value> {
        loop {
            // Between them are the sizes of chunks.
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "it broke off");
            if line.starts_with('{') {
                return Some(serde_json::from_str(&line).unwrap());
            }
            if line == "0\r\n" {
                return None;
            }
        }
    }

    /// Returns the next event, without its path's directory.
    fn told(&mut self) -> (String, String) {
        let event = self.next().unwrap();
        let path = event["path"].as_str().unwrap_or_default();
        let name = path.strip_prefix("/tmp/w").unwrap_or(path).to_owned();
        (event["event"].as_str().unwrap().to_owned(), name)
    }
}

fn shell(daemon: &Daemon, id: &str, script: &str) {
    let argv = json!({ "argv": ["sh", "-c", script] });
    let done = post(daemon, &format!("/v1/sandboxes/{id}/exec"), &argv).json();
    assert_eq!(done["exit_code"], 0, "{done}");
}

fn pair(event: &str, name: &str) -> (String, String) {
    (event.to_owned(), name.to_owned())
}

#[test]
fn what_happens_to_files_is_told_until_the_sandbox_or_what_is_watched_is_gone() {
    if !runs() {
        return;
    }
    let daemon = Daemon::start();
    let id = create(&daemon, &json!({}));
    let at = format!("/v1/sandboxes/{id}/files/watch");
    shell(&daemon, &id, "mkdir -p /tmp/w/sub");
    let mut flat = Events::open(&daemon, &format!("{at}?path=/tmp/w"));
    assert_eq!(flat.told(), pair("start", ""));
    let mut deep = Events::open(&daemon, &format!("{at}?path=/tmp/w&recursive=true"));
    assert_eq!(deep.told(), pair("start", ""));
    let script = "cd /tmp/w; echo x > sub/x; echo a > a; chmod 600 a; mv a b; rm b; mkdir new";
    shell(&daemon, &id, script);
    for expected in ["created", "modified", "written"] {
        assert_eq!(deep.told(), pair(expected, "/sub/x"));
    }
    for events in [&mut flat, &mut deep] {
        for expected in ["created", "modified", "written", "attributes"] {
            assert_eq!(events.told(), pair(expected, "/a"));
        }
        let renamed = events.next().unwrap();
        assert_eq!(
            renamed,
            json!({ "event": "renamed", "path": "/tmp/w/b", "from": "/tmp/w/a", "is_directory": false })
        );
        assert_eq!(events.told(), pair("removed", "/b"));
        let made = events.next().unwrap();
        assert_eq!(
            made,
            json!({ "event": "created", "path": "/tmp/w/new", "is_directory": true })
        );
    }
    shell(&daemon, &id, "echo y > /tmp/w/new/y");
    assert_eq!(deep.told(), pair("created", "/new/y"));
    shell(&daemon, &id, "rm -r /tmp/w");
    for events in [&mut flat, &mut deep] {
        while events.told() != pair("end", "") {}
        assert_eq!(events.next(), None);
    }

    for (query, status, kind) in [
        ("path=tmp", 400, "invalid"),
        ("path=/tmp/none", 404, "no_file"),
        ("path=/tmp&user=nobody-here", 400, "invalid"),
        ("path=/tmp&depth=2", 400, "invalid"),
        ("path=/root&user=nobody", 403, "forbidden"),
    ] {
        shell(&daemon, &id, "mkdir -p /root; chmod 700 /root");
        refused(&get(&daemon, &format!("{at}?{query}")), status, kind);
    }

    let mut watches: Vec<_> = ["pause", "resume"]
        .iter()
        .map(|call| {
            let mut watch = Events::open(&daemon, &format!("{at}?path=/tmp"));
            assert_eq!(watch.told(), pair("start", ""));
            if *call == "pause" {
                post(&daemon, &format!("/v1/sandboxes/{id}/pause"), &json!({}));
                refused(&get(&daemon, &format!("{at}?path=/tmp")), 409, "paused");
                post(&daemon, &format!("/v1/sandboxes/{id}/resume"), &json!({}));
            }
            watch
        })
        .collect();
    let ended = ask(&daemon, &format!("DELETE /v1/sandboxes/{id}"), "", b"");
    assert_eq!(ended.status, 204);
    for watch in &mut watches {
        let lost = watch.next().unwrap();
        assert_eq!(
            (&lost["event"], &lost["problem"]["kind"]),
            (&json!("lost"), &json!("guest_lost"))
        );
        assert_eq!(watch.next(), None);
    }
    daemon.end();
}

#[test]
fn watches_are_so_many_and_a_slow_client_is_told_that_it_missed_something() {
    if !runs() {
        return;
    }
    let daemon = Daemon::start();
    let id = create(&daemon, &json!({}));
    let path = format!("/v1/sandboxes/{id}/files/watch?path=/tmp");
    let mut slow = Events::open(&daemon, &path);
    shell(
        &daemon,
        &id,
        "cd /tmp; n=0; while [ $n -lt 20000 ]; do echo > a-file-$((n % 100)); n=$((n + 1)); done",
    );
    // What is told after that is told.
    assert_eq!(slow.told(), pair("start", ""));
    while slow.told() != pair("missed", "") {}
    let last = "touch /tmp/last";
    shell(&daemon, &id, last);
    while slow.told() != pair("created", "/tmp/last") {}
    drop(slow);

    let open = || Events::open_in_time(&daemon, &path);
    let all: Vec<_> = std::iter::repeat_with(open).take(64).collect();
    refused(&get(&daemon, &path), 507, "guest_full");
    drop(all);
    open();
    daemon.end();
}
