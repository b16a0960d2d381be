//! What instructions see of those before them.

use std::collections::BTreeMap;

use parse_dockerfile::Command;

use super::text::Text;

/// What instructions see of those before them.
pub(super) struct Scope {
    pub(super) env: BTreeMap<String, String>,
    pub(super) args: BTreeMap<String, String>,
    pub(super) workdir: String,
    pub(super) shell: Vec<String>,
}

impl Scope {
    /// Returns a variable's value; one of the environment hides a build argument.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        self.env.get(name).or(self.args.get(name)).cloned()
    }

    pub(super) fn in_shell(&self, script: String) -> Vec<String> {
        let mut argv = self.shell.clone();
        argv.push(script);
        argv
    }

    /// Returns the words of a command; a script is its shell's.
    pub(super) fn argv(&self, text: &Text<'_>, command: &Command<'_>) -> Vec<String> {
        match command {
            Command::Exec(words) => {
                let words = words.value.iter().map(|word| word.value.to_string());
                words.collect()
            }
            Command::Shell(script) => self.in_shell(text.joined(script)),
            // The enum may grow; the crate's version is pinned by the lock file.
            _ => Vec::new(),
        }
    }
}
