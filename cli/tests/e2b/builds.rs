//! Tests how our own API builds templates.

use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::process::Command;

use serde_json::{Value, json};

use super::Daemon;
use super::v1::{Answer, ask, create, get, post, refused};
use super::vm::runs;
use super::watch::Events;

/// Sends files for a build; returns their id.
fn upload(daemon: &Daemon, files: &[(&str, &str)]) -> String {
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(directory.path().join(name), content).unwrap();
    }
    let mut tar = Command::new("tar");
    tar.args(["-czC"]).arg(directory.path()).arg(".");
    let archive = tar.output().unwrap();
    assert!(archive.status.success(), "{archive:?}");
    let sent = ask(daemon, "POST /v1/uploads", "", &archive.stdout);
    assert_eq!(sent.status, 201, "{}", sent.json());
    let sent = sent.json();
    assert_eq!(sent["bytes"], archive.stdout.len());
    sent["id"].as_str().unwrap().to_owned()
}

fn build(daemon: &Daemon, body: &Value) -> Answer {
    post(daemon, "/v1/builds", body)
}

/// Begins a build; returns its path.
fn begun(daemon: &Daemon, body: &Value) -> String {
    let begun = build(daemon, body);
    assert_eq!(begun.status, 202, "{}", begun.json());
    format!("/v1/builds/{}", begun.json()["id"].as_str().unwrap())
}

/// Follows a build to its end; returns the lines of its log, and what it is then.
fn end(daemon: &Daemon, path: &str) -> (Vec<String>, Value) {
    let mut events = Events::open(daemon, &format!("{path}/log?follow=true"));
    let mut lines = Vec::new();
    loop {
        let event = events.next().unwrap();
        match event["event"].as_str().unwrap() {
            "line" => lines.push(event["text"].as_str().unwrap().to_owned()),
            "end" => {
                assert_eq!(events.next(), None);
                return (lines, event["build"].clone());
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_template_is_built_by_steps_and_by_a_dockerfile_and_its_log_is_followed() {
    if !runs() {
        return;
    }
    let daemon = Daemon::start();
    // Others of the store have not done the same before.
    let unique = daemon.state.path().file_name().unwrap().to_str().unwrap();
    let content = format!("from the context of {unique}\n");
    let files = [("a", content.as_str()), ("b", "#!/bin/sh\necho a script\n")];
    let context = upload(&daemon, &files);
    let steps = json!([
        { "copy": { "from": "a", "to": "/srv/" } },
        { "copy": { "from": "b", "to": "/bin/b", "mode": "755" } },
        { "env": { "WHAT": "a variable" } },
        { "workdir": "/srv" },
        { "run": "cat a; b; echo \"$WHAT\" > made; echo user:x:1000:1000::/:/bin/sh >> /etc/passwd" },
        { "user": "user" },
    ]);
    let body = json!({ "name": "app", "from": "minimal", "context": context, "steps": steps });
    let path = begun(&daemon, &body);
    let (lines, built) = end(&daemon, &path);
    assert_eq!(
        (&built["state"], &built["failure"]),
        (&json!("ready"), &Value::Null),
        "{lines:?}"
    );
    for line in [content.trim(), "a script", "step 4 of 6: workdir /srv"] {
        assert!(lines.iter().any(|it| it == line), "{line}: {lines:?}");
    }
    assert_eq!(get(&daemon, &path).json(), built);
    let rest = get(&daemon, &format!("{path}/log?offset={}", lines.len() - 1));
    assert_eq!(rest.status, 200);
    let listed = get(&daemon, "/v1/templates").json();
    let named = |it: &&Value| it["names"] == json!(["app"]);
    let listed = listed
        .as_array()
        .unwrap()
        .iter()
        .find(named)
        .unwrap()
        .clone();
    assert_eq!(listed["hash"], built["template_hash"]);
    let id = create(&daemon, &json!({ "template": "app" }));
    let exec = |id: &str, script: &str| {
        let argv = json!({ "argv": ["sh", "-c", script] });
        post(&daemon, &format!("/v1/sandboxes/{id}/exec"), &argv).json()["stdout"].clone()
    };
    assert_eq!(
        exec(&id, "cat made; id -un; pwd; echo $WHAT"),
        "a variable\nuser\n/srv\na variable\n"
    );

    // An upload is used up; a Dockerfile goes on from a template of that name.
    let again = build(&daemon, &body);
    refused(&again, 404, "not_found");
    let mut again = body;
    again["context"] = upload(&daemon, &files).into();
    let (lines, built) = end(&daemon, &begun(&daemon, &again));
    assert_eq!(built["state"], "ready", "{lines:?}");
    assert!(lines.iter().any(|it| it.contains("(cached)")), "{lines:?}");
    let context = upload(&daemon, &files);
    let dockerfile =
        "ARG OF=app\nFROM $OF\nARG X\nUSER root\nCOPY a /c\nRUN cat /c > /d; echo $X >> /d\n";
    let body = json!({
        "name": "top", "dockerfile": dockerfile, "build_args": { "X": "x" }, "context": context,
        "steps": [{ "run": "echo more >> /d" }],
    });
    let (lines, built) = end(&daemon, &begun(&daemon, &body));
    assert_eq!(built["state"], "ready", "{lines:?}");
    let id = create(&daemon, &json!({ "template": "top" }));
    // As its image says, though it has the user that E2B's images have.
    let expected = format!("{content}x\nmore\nroot\nuser\n");
    assert_eq!(exec(&id, "cat /d; id -un; id -un user"), expected);

    // What fails says which step it was, and leaves no template.
    let body =
        json!({ "name": "fails", "steps": [{ "run": "true" }, { "run": "echo why; exit 3" }] });
    let (lines, built) = end(&daemon, &begun(&daemon, &body));
    assert_eq!(
        (&built["state"], &built["failure"]["step"]),
        (&json!("failed"), &json!(2))
    );
    let message = built["failure"]["message"].as_str().unwrap();
    assert!(
        message.contains("step 2 of 2: run echo why") && message.contains('3'),
        "{message}"
    );
    assert_eq!(&lines[lines.len() - 2..], ["why", message]);
    refused(
        &post(&daemon, "/v1/sandboxes", &json!({ "template": "fails" })),
        404,
        "not_found",
    );
    let body = json!({ "name": "fails", "dockerfile": "FROM minimal\nCOPY none /x\n" });
    let (_, built) = end(&daemon, &begun(&daemon, &body));
    let message = built["failure"]["message"].as_str().unwrap();
    assert!(
        message.contains("line 2") && message.contains("no none among"),
        "{message}"
    );

    let left = fs::read_dir(daemon.state.path().join("uploads")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(
        left,
        [".ironclaw"],
        "the mark of the daemon's directory alone"
    );
    let (apart, state) = daemon.end();
    let daemon = Daemon::start_in(apart, state);
    refused(&get(&daemon, &path), 404, "not_found");
    create(&daemon, &json!({ "template": "app" }));
    daemon.end();
}

#[test]
fn builds_that_are_cancelled_end_whether_they_run_or_wait() {
    if !runs() {
        return;
    }
    let daemon = Daemon::start();
    let endless = json!([{ "run": "echo it runs; sleep 100000" }]);
    let first = begun(&daemon, &json!({ "name": "one", "steps": endless }));
    let mut events = Events::open(&daemon, &format!("{first}/log?follow=true"));
    while events.next().unwrap()["text"] != "it runs" {}
    let second = begun(&daemon, &json!({ "name": "two", "steps": endless }));
    assert_eq!(get(&daemon, &second).json()["state"], "waiting");
    let listed = get(&daemon, "/v1/builds").json();
    assert_eq!(
        (&listed[0]["name"], &listed[1]["name"]),
        (&json!("two"), &json!("one"))
    );
    let cancel = |path: &str| post(&daemon, &format!("{path}/cancel"), &json!({}));
    assert_eq!(cancel(&second).status, 202);
    assert_eq!(end(&daemon, &second).1["state"], "cancelled");
    assert_eq!(get(&daemon, &first).json()["state"], "building");
    assert_eq!(cancel(&first).status, 202);
    assert_eq!(end(&daemon, &first).1["state"], "cancelled");
    refused(&cancel(&first), 409, "conflict");
    refused(&cancel("/v1/builds/bnone"), 404, "not_found");
    // The next one has its turn.
    let third = begun(
        &daemon,
        &json!({ "name": "three", "steps": [{ "run": "true" }] }),
    );
    assert_eq!(end(&daemon, &third).1["state"], "ready");
    daemon.end();
}

#[test]
fn a_client_builds_of_nothing_that_is_the_hosts() {
    if !runs() {
        return;
    }
    let daemon = Daemon::start();
    for from in [
        "rootfs:/etc",
        "tar:/etc/passwd",
        "oci:/tmp",
        "oci-archive:/tmp/a.tar",
        "docker-archive:/tmp/a.tar",
        "debian:trixie",
    ] {
        let body = json!({ "name": "x", "from": from });
        refused(&build(&daemon, &body), 403, "forbidden");
        if !from.starts_with("debian") {
            let dockerfile = format!("FROM {from}\nRUN true\n");
            let body = json!({ "name": "x", "dockerfile": dockerfile });
            refused(&build(&daemon, &body), 403, "forbidden");
        }
    }
    for (body, word) in [
        (
            json!({ "name": "x", "from": "no-such-template" }),
            "no-such-template",
        ),
        (json!({ "name": "minimal" }), "minimal"),
        (json!({ "name": "base" }), "ironclaw template build base"),
        (json!({ "name": "../x" }), ""),
        (
            json!({ "name": "x", "from": "minimal", "dockerfile": "FROM minimal" }),
            "both",
        ),
        (
            json!({ "name": "x", "dockerfile": "RUN true" }),
            "Dockerfile, line 1",
        ),
        (
            json!({ "name": "x", "dockerfile": "FROM minimal\nVOLUME /x", "build_args": { "A": "b" } }),
            "",
        ),
        (
            json!({ "name": "x", "build_args": { "A": "b" } }),
            "build_args",
        ),
        (
            json!({ "name": "x", "steps": [{ "run": "" }] }),
            "step 1 of 1",
        ),
        (
            json!({ "name": "x", "steps": [{ "env": { "A=": "b" } }] }),
            "A=",
        ),
        (
            json!({ "name": "x", "steps": [{ "copy": { "from": "a", "to": "b", "mode": "9" } }] }),
            "octal",
        ),
        (json!({ "name": "x", "steps": [{ "sleep": "1" }] }), "sleep"),
        (
            json!({ "name": "x", "steps": vec![json!({ "run": "true" }); 1001] }),
            "1000",
        ),
    ] {
        let answer = build(&daemon, &body);
        if answer.status == 202 {
            // Known when what it begins with is.
            let id = answer.json()["id"].as_str().unwrap().to_owned();
            let (_, built) = end(&daemon, &format!("/v1/builds/{id}"));
            assert_eq!(built["state"], "failed", "{body}");
            continue;
        }
        let detail = answer.json()["detail"].clone();
        refused(&answer, 400, "invalid");
        assert!(detail.as_str().unwrap().contains(word), "{body}: {detail}");
    }
    let body = json!({ "name": "x", "context": "0".repeat(64) });
    refused(&build(&daemon, &body), 404, "not_found");
    let sent = ask(&daemon, "POST /v1/uploads", "", b"no archive").json();
    let body = json!({ "name": "x", "context": sent["id"] });
    refused(&build(&daemon, &body), 400, "invalid");

    // Nor does a service of its machine hear of it.
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    service.set_nonblocking(true).unwrap();
    let address = service.local_addr().unwrap();
    let port = address.port();
    for host in [
        format!("127.0.0.1:{port}"),
        format!("localhost:{port}"),
        format!("0.0.0.0:{port}"),
    ] {
        let body = json!({ "name": "x", "from": format!("docker://{host}/a") });
        let (_, built) = end(&daemon, &begun(&daemon, &body));
        assert_eq!(built["state"], "failed");
        let message = built["failure"]["message"].as_str().unwrap();
        assert!(message.contains("registry_plain_http"), "{message}");
    }
    let heard = service.accept().map(|_| ()).unwrap_err();
    assert_eq!(heard.kind(), ErrorKind::WouldBlock);
    daemon.end();
}
