//! The ports of a sandbox.

use super::vm::runs;
use super::{Daemon, NEWEST, python};

#[test]
fn programs_in_a_sandbox_are_reached_by_host_name_and_by_headers() {
    let Some(python) = runs().then(|| python(NEWEST)).flatten() else {
        return;
    };
    let daemon = Daemon::start();
    let key = daemon.new_key("test");
    let said = daemon.script(&python, "ports.py", &key, &[]);
    assert!(said.ends_with("all ports are reached\n"), "{said}");
    daemon.end();
}
