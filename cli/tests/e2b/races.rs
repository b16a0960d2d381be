//! Tests one sandbox of which many want different things at the same time.

use std::thread;

use serde_json::{Value, json};

use crate::Daemon;
use crate::v1::{ask, create, get, post, refused};
use crate::vm::runs;

/// Clients at the same time.
const CLIENTS: usize = 8;

#[test]
fn whatever_is_asked_of_a_sandbox_at_once_it_is_in_one_state_afterwards() {
    if !runs() {
        return;
    }
    let daemon = Daemon::start();
    let id = create(
        &daemon,
        &json!({ "lifetime_seconds": 600, "on_deadline": "pause" }),
    );
    let at = format!("/v1/sandboxes/{id}");
    let call = |what: &str, body: &Value| post(&daemon, &format!("{at}/{what}"), body);
    let exec = |script: &str| call("exec", &json!({ "argv": ["sh", "-c", script] }));
    let begun = "echo kept > /tmp/file; sleep 1000000 > /tmp/null 2>&1 & echo $! > /tmp/pid";
    assert_eq!(exec(begun).status, 200);

    // The deadline is past in the middle of it, again and again.
    let all: [(&str, Value); 6] = [
        ("pause", json!({})),
        ("resume", json!({ "lifetime_seconds": 600 })),
        ("extend", json!({ "lifetime_seconds": 1 })),
        (
            "extend",
            json!({ "lifetime_seconds": 600, "later_only": true }),
        ),
        ("exec", json!({ "argv": ["cat", "/tmp/file"] })),
        ("checkpoints", json!({ "name": "race" })),
    ];
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (all, call) = (&all, &call);
            scope.spawn(move || {
                for turn in 0..all.len() {
                    let (what, body) = &all[(turn * 5 + client) % all.len()];
                    let answer = call(what, body);
                    // It was what it had to be, or in the other state, or its guest just went.
                    let told = answer.json();
                    match answer.status {
                        200 | 201 => {}
                        409 => assert_eq!(told["kind"], "paused", "{what}: {told}"),
                        502 => assert_eq!((*what, &told["kind"]), ("exec", &json!("guest_lost"))),
                        _ => panic!("{what}: {told}"),
                    }
                }
            });
        }
    });
    // What is told of it is so: it is resumed once, by one of many.
    call("pause", &json!({}));
    assert_eq!(get(&daemon, &at).json()["state"], "paused");
    let changed = concurrently(|| {
        let resumed = call("resume", &json!({ "lifetime_seconds": 600 }));
        assert_eq!(resumed.status, 200, "{}", resumed.json());
        resumed.json()["changed"] == true
    });
    assert_eq!(changed, 1);
    assert_eq!(get(&daemon, &at).json()["state"], "running");
    let same = exec("cat /tmp/file && kill -0 $(cat /tmp/pid)");
    assert_eq!(
        (&same.json()["stdout"], &same.json()["exit_code"]),
        (&json!("kept\n"), &json!(0))
    );

    // It is paused once, and ended once, though it is being paused.
    let paused = concurrently(|| call("pause", &json!({})).json()["changed"] == true);
    assert_eq!(paused, 1);
    call("resume", &json!({}));
    let ended = thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| call("pause", &json!({})));
        }
        concurrently(|| ask(&daemon, &format!("DELETE {at}"), "", b"").status == 204)
    });
    assert_eq!(ended, 1);
    refused(&get(&daemon, &at), 404, "not_found");
    for checkpoint in get(&daemon, "/v1/checkpoints").json().as_array().unwrap() {
        let id = checkpoint["id"].as_str().unwrap();
        let deleted = ask(&daemon, &format!("DELETE /v1/checkpoints/{id}"), "", b"");
        assert_eq!(deleted.status, 204);
    }
    let (apart, state) = daemon.kill();
    let daemon = Daemon::start_in(apart, state);
    refused(&get(&daemon, &at), 404, "not_found");
    let (apart, _state) = daemon.end();
    apart.assert_nothing_left("many requests at once");
}

/// Returns how many of many clients that do the same are told yes.
fn concurrently(does: impl Fn() -> bool + Sync) -> usize {
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(&does)).collect();
        let told = clients.into_iter().map(|client| client.join().unwrap());
        told.filter(|yes| *yes).count()
    })
}
