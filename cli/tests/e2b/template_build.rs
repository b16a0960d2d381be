//! Templates that the SDK has built.

use std::fs;

use super::vm::runs;
use super::{Daemon, NEWEST, python};

#[test]
fn a_template_is_built_by_steps_of_the_sdk_and_its_files_go() {
    let Some(python) = runs().then(|| python(NEWEST)).flatten() else {
        return;
    };
    let daemon = Daemon::start();
    let key = daemon.new_key("test");
    let said = daemon.script(&python, "template_build.py", &key, &[]);
    assert!(said.ends_with("all calls are served\n"), "{said}");
    let uploads = daemon.state.path().join("uploads");
    let left = fs::read_dir(uploads)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect::<Vec<_>>();
    assert_eq!(
        left,
        [".ironclaw"],
        "the mark of the daemon's directory alone"
    );
    daemon.end();
}
