//! Tests our own API as any program would use it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use crate::Daemon;
use crate::vm::runs;

/// An answer: its status, its head and its body.
pub(super) struct Answer {
    pub(super) status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!(
                "{error}: {} {}",
                self.head,
                String::from_utf8_lossy(&self.body)
            )
        })
    }
}

/// Sends a request over the Unix socket; returns the answer when all of it is there.
pub(super) fn ask(daemon: &Daemon, call: &str, headers: &str, body: &[u8]) -> Answer {
    let mut stream = UnixStream::connect(daemon.state.path().join("socket")).unwrap();
    let length = body.len();
    write!(
        stream,
        "{call} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
    )
    .unwrap();
    stream.write_all(body).unwrap();
    read(stream)
}

pub(super) fn read(mut stream: impl std::io::Read) -> Answer {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap();
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut body = bytes[end + 4..].to_vec();
    if head.to_lowercase().contains("transfer-encoding: chunked") {
        body = unchunked(&body);
    }
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head, body }
}

fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return all;
        }
        all.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 2 + size + 2..];
    }
}

pub(super) fn post(daemon: &Daemon, path: &str, body: &Value) -> Answer {
    ask(
        daemon,
        &format!("POST {path}"),
        "",
        body.to_string().as_bytes(),
    )
}

pub(super) fn get(daemon: &Daemon, path: &str) -> Answer {
    ask(daemon, &format!("GET {path}"), "", b"")
}

pub(super) fn create(daemon: &Daemon, body: &Value) -> String {
    let made = post(daemon, "/v1/sandboxes", body);
    assert_eq!(made.status, 201, "{}", made.json());
    made.json()["id"].as_str().unwrap().to_owned()
}

/// Asserts that a call fails in this way, and tells nothing of the host.
pub(super) fn refused(answer: &Answer, status: u16, kind: &str) {
    let json = answer.json();
    assert_eq!(
        (answer.status, json["kind"].as_str()),
        (status, Some(kind)),
        "{json}"
    );
    let head = answer.head.to_lowercase();
    assert!(
        head.contains("content-type: application/problem+json"),
        "{head}"
    );
    assert_eq!(json["status"], status);
    let text = json.to_string();
    let host = env!("CARGO_MANIFEST_DIR");
    assert!(
        !text.contains(host) && !text.contains("/snapshots"),
        "{text}"
    );
}

#[test]
fn a_request_that_is_repeated_with_its_key_makes_one_sandbox_also_for_the_next_daemon() {
    if !runs() {
        return;
    }
    let daemon = Daemon::start();
    let key = "Idempotency-Key: once\r\n";
    let body = br#"{"name":"one"}"#;
    let first = ask(&daemon, "POST /v1/sandboxes", key, body);
    assert_eq!(first.status, 201, "{}", first.json());
    let again = ask(&daemon, "POST /v1/sandboxes", key, body);
    assert_eq!(
        (again.status, &again.json()["id"]),
        (201, &first.json()["id"])
    );
    let other = ask(&daemon, "POST /v1/sandboxes", key, br#"{"name":"two"}"#);
    refused(&other, 422, "key_reused");
    let (apart, state) = daemon.end();
    let daemon = Daemon::start_in(apart, state);
    let later = ask(&daemon, "POST /v1/sandboxes", key, body);
    assert_eq!(
        (later.status, &later.json()["id"]),
        (201, &first.json()["id"])
    );
    daemon.end();
}

#[test]
fn sandboxes_are_found_by_what_they_have_and_in_pages() {
    if !runs() {
        return;
    }
    let daemon = Daemon::start();
    let ids: Vec<_> = ["a", "b", "a"]
        .iter()
        .map(|kind| {
            create(
                &daemon,
                &json!({ "metadata": { "kind": kind, "all": "1" } }),
            )
        })
        .collect();
    let listed = |query: &str| {
        let answer = get(&daemon, &format!("/v1/sandboxes?{query}"));
        assert_eq!(answer.status, 200, "{}", answer.json());
        let page = answer.json();
        let all = page["sandboxes"].as_array().unwrap().iter();
        let ids: Vec<_> = all
            .map(|it| it["id"].as_str().unwrap().to_owned())
            .collect();
        (ids, page["next"].as_str().map(str::to_owned))
    };
    assert_eq!(listed("metadata=kind=a,all=1").0, [&ids[2][..], &ids[0]]);
    let (first, next) = listed("limit=2");
    assert_eq!(first, [&ids[2][..], &ids[1]]);
    let (second, end) = listed(&format!("limit=2&after={}", next.unwrap()));
    assert_eq!((second, end), (vec![ids[0].clone()], None));
    let paused = post(
        &daemon,
        &format!("/v1/sandboxes/{}/pause", ids[1]),
        &json!({}),
    );
    assert_eq!(paused.json()["changed"], true);
    assert_eq!(listed("state=paused").0, [&ids[1][..]]);
    refused(&get(&daemon, "/v1/sandboxes?limit=0"), 400, "invalid");
    refused(&get(&daemon, "/v1/sandboxes?nonsense=1"), 400, "invalid");
    daemon.end();
}

#[test]
fn commands_and_files_of_a_sandbox_are_served() {
    if !runs() {
        return;
    }
    let daemon = Daemon::start();
    let id = create(&daemon, &json!({ "env": { "X": "1" } }));
    let at = format!("/v1/sandboxes/{id}");
    let exec = |body: Value| post(&daemon, &format!("{at}/exec"), &body);
    let done =
        exec(json!({ "argv": ["sh", "-c", "cat; printf '\\377' >&2; exit 3"], "stdin": "in" }));
    let done = done.json();
    assert_eq!(
        (&done["stdout"], &done["exit_code"]),
        (&json!("in"), &json!(3))
    );
    assert_eq!(done["stderr_base64"], "/w==");
    refused(&exec(json!({ "argv": [] })), 400, "invalid");
    refused(&exec(json!({ "argv": ["/no/such"] })), 404, "no_file");
    refused(
        &exec(json!({ "argv": ["true"], "user": "nobody-here" })),
        400,
        "invalid",
    );
    refused(
        &exec(json!({ "argv": ["yes"], "max_output_bytes": 1000 })),
        413,
        "too_large",
    );

    // One that is listened to twice, written to and ended.
    let started = post(
        &daemon,
        &format!("{at}/commands?detach=true"),
        &json!({ "argv": ["cat"], "open_stdin": true, "tag": "t" }),
    );
    assert_eq!(started.status, 201);
    let pid = started.json()["pid"].as_u64().unwrap();
    let mut listener = UnixStream::connect(daemon.state.path().join("socket")).unwrap();
    write!(
        listener,
        "GET {at}/commands/{pid} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut listener = BufReader::new(listener);
    let mut head = String::new();
    while !head.contains("\"start\"") {
        assert!(listener.read_line(&mut head).unwrap() > 0, "{head}");
    }
    let known = get(&daemon, &format!("{at}/commands")).json();
    assert_eq!(
        (&known[0]["pid"], &known[0]["tag"]),
        (&json!(pid), &json!("t"))
    );
    let write = ask(
        &daemon,
        &format!("POST {at}/commands/{pid}/stdin?end=true"),
        "",
        b"hello",
    );
    assert_eq!(write.status, 204);
    let mut rest = String::new();
    listener.read_to_string(&mut rest).unwrap();
    assert!(
        rest.contains(r#"{"event":"stdout","text":"hello"}"#),
        "{rest}"
    );
    assert!(rest.contains(r#""exit_code":0"#), "{rest}");
    refused(
        &get(&daemon, &format!("{at}/commands/{pid}")),
        404,
        "not_found",
    );

    let content = vec![7; 300_000];
    let put = ask(
        &daemon,
        &format!("PUT {at}/files/content?path=/tmp/a/b&parents=true&mode=600"),
        "",
        &content,
    );
    assert_eq!(put.json()["bytes"], 300_000);
    assert_eq!(
        get(&daemon, &format!("{at}/files/content?path=/tmp/a/b")).body,
        content
    );
    let listed = get(&daemon, &format!("{at}/files?path=/tmp/a")).json();
    assert_eq!(
        (&listed[0]["path"], &listed[0]["mode"]),
        (&json!("/tmp/a/b"), &json!(0o600))
    );
    let archive = get(&daemon, &format!("{at}/files/archive?path=/tmp/a"));
    assert!(archive.body.len() > content.len() && archive.body.len().is_multiple_of(512));
    refused(
        &get(&daemon, &format!("{at}/files/content?path=/no/such")),
        404,
        "no_file",
    );
    refused(
        &get(&daemon, &format!("{at}/files?path=tmp")),
        400,
        "invalid",
    );
    let removed = ask(
        &daemon,
        &format!("DELETE {at}/files?path=/tmp/a&recursive=true"),
        "",
        b"",
    );
    assert_eq!(removed.status, 204);
    refused(
        &get(&daemon, &format!("{at}/files/info?path=/tmp/a")),
        404,
        "no_file",
    );
    daemon.end();
}

#[test]
fn sandboxes_begin_from_checkpoints_of_others_and_checkpoints_are_deleted() {
    if !runs() {
        return;
    }
    let daemon = Daemon::start();
    let id = create(&daemon, &json!({}));
    let exec = |id: &str, script: &str| {
        let argv = json!({ "argv": ["sh", "-c", script] });
        post(&daemon, &format!("/v1/sandboxes/{id}/exec"), &argv).json()["stdout"].clone()
    };
    exec(&id, "echo then > /tmp/when");
    let at = format!("/v1/sandboxes/{id}");
    let made = post(
        &daemon,
        &format!("{at}/checkpoints"),
        &json!({ "name": "then" }),
    );
    assert_eq!(made.status, 201, "{}", made.json());
    exec(&id, "echo now > /tmp/when");
    let later = create(&daemon, &json!({ "template": "then" }));
    assert_eq!(exec(&later, "cat /tmp/when"), "then\n");
    let copies = post(&daemon, &format!("{at}/fork"), &json!({ "count": 2 })).json();
    let copy = copies[1]["sandbox"]["id"].as_str().unwrap();
    assert_eq!(exec(copy, "cat /tmp/when"), "now\n");
    refused(
        &post(&daemon, &format!("{at}/fork"), &json!({ "count": 21 })),
        400,
        "invalid",
    );
    let listed = get(&daemon, "/v1/checkpoints").json();
    assert_eq!(
        (&listed[0]["name"], &listed[0]["sandbox"]),
        (&json!("then"), &json!(id))
    );
    let deleted = || ask(&daemon, "DELETE /v1/checkpoints/then", "", b"");
    assert_eq!(deleted().status, 204);
    refused(&deleted(), 404, "not_found");
    refused(
        &post(&daemon, "/v1/sandboxes", &json!({ "template": "then" })),
        404,
        "not_found",
    );
    daemon.end();
}

#[test]
fn a_node_tells_what_it_has_and_takes_no_more_when_it_drains() {
    if !runs() {
        return;
    }
    let daemon = Daemon::start();
    let id = create(&daemon, &json!({}));
    let node = get(&daemon, "/v1/node").json();
    assert_eq!(
        (&node["running"], &node["draining"]),
        (&json!(1), &json!(false))
    );
    let pools = get(&daemon, "/v1/pools").json();
    assert_eq!(pools[0]["names"], json!(["base"]));
    assert_eq!(pools[0]["stats"]["leased"], 1);
    assert_eq!(pools[0]["warm"]["wanted"], 1);
    let templates = get(&daemon, "/v1/templates").json();
    let is_default = |it: &Value| it["default"] == true && it["usable"] == true;
    assert!(
        templates.as_array().unwrap().iter().any(is_default),
        "{templates}"
    );
    assert!(
        !get(&daemon, "/v1/snapshots")
            .json()
            .as_array()
            .unwrap()
            .is_empty()
    );

    assert_eq!(post(&daemon, "/v1/node/drain", &json!({})).status, 202);
    refused(&post(&daemon, "/v1/sandboxes", &json!({})), 503, "draining");
    refused(&get(&daemon, "/v1/ready"), 503, "draining");
    assert_eq!(get(&daemon, &format!("/v1/sandboxes/{id}")).status, 200);
    assert_eq!(ask(&daemon, "DELETE /v1/node/drain", "", b"").status, 200);
    create(&daemon, &json!({}));

    // Who has no key learns that it is there, and what it speaks; nothing else.
    let over_tcp = |path: &str| {
        let mut stream = TcpStream::connect(daemon.address).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        read(stream)
    };
    refused(&over_tcp("/v1/sandboxes"), 401, "unauthorized");
    refused(&over_tcp("/v1/nothing"), 404, "no_call");
    for open in ["/v1/health", "/v1/ready", "/v1/version", "/v1/openapi.json"] {
        assert_eq!(over_tcp(open).status, 200, "{open}");
    }
    let spec = over_tcp("/v1/openapi.json").json();
    let committed = include_str!("../../../docs/openapi.json");
    assert_eq!(spec, serde_json::from_str::<Value>(committed).unwrap());
    daemon.end();
}

#[test]
fn who_sends_a_file_that_is_refused_hears_why() {
    if !runs() {
        return;
    }
    let daemon = Daemon::start();
    let id = create(&daemon, &json!({}));
    // More than the sockets hold on their way.
    let body = vec![b'x'; 8 << 20];
    for (path, status, kind) in [
        (
            format!("{id}/files/content?path=/no/such/file"),
            422,
            "no_directory",
        ),
        (
            format!("{id}/files/content?path=/tmp/a&mode=9"),
            400,
            "invalid",
        ),
        (format!("{id}/files/archive?path=/tmp"), 400, "invalid"),
        (
            "none/files/content?path=/tmp/a".to_owned(),
            404,
            "not_found",
        ),
    ] {
        let call = format!("PUT /v1/sandboxes/{path}");
        let answer = ask(&daemon, &call, "", &body);
        let told = answer.json();
        assert_eq!(
            (answer.status, &told["kind"]),
            (status, &json!(kind)),
            "{path}: {told}"
        );
    }
    daemon.end();
}
