//! Tests how our own API sets the size of pools.

use serde_json::{Value, json};

use super::Daemon;
use super::v1::{Answer, ask, create, get, post, refused};
use super::vm::runs;

fn put(daemon: &Daemon, name: &str, body: &Value) -> Answer {
    let call = format!("PUT /v1/pools/{name}");
    ask(daemon, &call, "", body.to_string().as_bytes())
}

/// Returns minimum, maximum, wanted and ready ones.
fn warm(pool: &Value) -> [u64; 4] {
    ["min", "max", "wanted", "ready"].map(|name| pool["warm"][name].as_u64().unwrap())
}

#[test]
fn a_pool_gets_another_number_of_warm_clones_until_the_daemon_ends() {
    if !runs() {
        return;
    }
    let daemon = Daemon::start();
    let grown = put(&daemon, "base", &json!({ "min_warm": 3 }));
    assert_eq!(grown.status, 200, "{}", grown.json());
    assert_eq!(warm(&grown.json())[..3], [3, 3, 3]);
    let warmed = post(&daemon, "/v1/pools/base/warmup", &json!({}));
    assert_eq!((warmed.status, warm(&warmed.json())), (200, [3, 3, 3, 3]));
    // One that is handed out is replaced.
    create(&daemon, &json!({}));
    let warmed = post(&daemon, "/v1/pools/base/warmup", &json!({}));
    assert_eq!(warm(&warmed.json()), [3, 3, 3, 3]);
    assert_eq!(warmed.json()["stats"]["served_warm"], 1);

    for (body, status, kind) in [
        (json!({ "min_warm": 1_000_000 }), 400, "invalid"),
        (json!({ "min_warm": 2, "max_warm": 1 }), 400, "invalid"),
        (json!({ "min_warm": -1 }), 400, "invalid"),
        (json!({}), 400, "invalid"),
        (json!({ "min_warm": 1, "size": 2 }), 400, "invalid"),
    ] {
        refused(&put(&daemon, "base", &body), status, kind);
    }
    refused(
        &put(&daemon, "none", &json!({ "min_warm": 1 })),
        404,
        "not_found",
    );
    refused(
        &post(&daemon, "/v1/pools/none/warmup", &json!({})),
        404,
        "not_found",
    );
    assert_eq!(warm(&get(&daemon, "/v1/pools").json()[0]), [3, 3, 3, 3]);

    let adapts = put(&daemon, "base", &json!({ "min_warm": 0, "max_warm": 2 })).json();
    assert_eq!(warm(&adapts)[..3], [0, 2, 1], "the largest burst was one");
    put(&daemon, "base", &json!({ "min_warm": 0 }));
    let refreshed = post(&daemon, "/v1/pools/base/refresh", &json!({}));
    assert_eq!(
        (refreshed.status, warm(&refreshed.json())),
        (200, [0, 0, 0, 0])
    );
    create(&daemon, &json!({}));

    let (apart, state) = daemon.end();
    let daemon = Daemon::start_in(apart, state);
    assert_eq!(warm(&get(&daemon, "/v1/pools").json()[0])[..2], [1, 1]);
    daemon.end();
}
