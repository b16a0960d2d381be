//! Recipes of arbitrary bytes.

use std::collections::BTreeMap;
use std::path::Path;

use super::Dockerfile;
use super::ignore::Ignore;

/// Reads a Dockerfile and its steps, and the same bytes as `.dockerignore`.
pub fn fuzz(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(ignore) = Ignore::parse(&text) {
        let _ = ignore.excludes(Path::new("some/file.txt"));
    }
    let args = BTreeMap::from([("A".to_owned(), "a value".to_owned())]);
    let env = [("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
    let Ok(dockerfile) = Dockerfile::parse(&text, &args) else {
        return;
    };
    if let Ok(steps) = dockerfile.steps(&env, "/") {
        let lines = text.lines().count();
        assert!(steps.iter().all(|step| step.line <= Some(lines)));
    }
}
