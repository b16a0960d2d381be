//! Checks that libraries name no setting's variable: they know settings by their keys, and front
//! ends translate these for people.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

/// The prefix of variables.
const PREFIX: &str = concat!("IRONCLAW", "_");

/// The checked libraries.
const LIBRARIES: [&str; 5] = [
    "host/src",
    "protocol/src",
    "store/src",
    "image/src",
    "orchestrator/src",
];

/// An exception with that prefix: the mark of a VMM's process.
const ALLOWED: [(&str, &str); 1] = [("orchestrator/src/vm/vmm/orphan.rs", "IRONCLAW_VMM")];

/// Checks the libraries below `root`, and prints violations on standard error.
///
/// # Errors
/// If there are any, or a file can't be read.
pub(crate) fn check(root: &Path) -> Result<()> {
    let offences = offences(root)?;
    for offence in &offences {
        eprintln!("{offence}");
    }
    let count = offences.len();
    ensure!(count == 0, "{count} names of variables in libraries");
    Ok(())
}

fn offences(root: &Path) -> Result<Vec<String>> {
    let mut offences = Vec::new();
    for library in LIBRARIES {
        for file in sources(&root.join(library))? {
            let name = file.strip_prefix(root).unwrap_or(&file);
            let text = fs::read_to_string(&file)
                .with_context(|| format!("can't read {}", file.display()))?;
            for (number, line) in named(name, &text) {
                offences.push(format!(
                    "{}:{number}: a library names a variable, in place of its key: {}",
                    name.display(),
                    line.trim()
                ));
            }
        }
    }
    Ok(offences)
}

/// Returns the lines that name a variable, without tests at the end.
fn named<'a>(file: &'a Path, text: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    let code = text.lines().take_while(|line| *line != "#[cfg(test)]");
    let is_allowed = move |line: &str| {
        ALLOWED
            .iter()
            .any(|(allowed, name)| file == Path::new(allowed) && line.contains(name))
    };
    code.enumerate()
        .map(|(at, line)| (at + 1, line))
        .filter(move |(_, line)| line.contains(PREFIX) && !is_allowed(line))
}

/// Lists all sources below `directory`, without tests.
fn sources(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    let entries = fs::read_dir(directory);
    for entry in entries.with_context(|| format!("can't list {}", directory.display()))? {
        let path = entry?.path();
        if path.file_stem().is_some_and(|name| name == "tests") {
            continue;
        }
        if path.is_dir() {
            all.extend(sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push(path);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_library_of_this_repository_names_a_variable() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let offences = offences(root).unwrap();
        assert!(offences.is_empty(), "{}", offences.join("\n"));
    }

    #[test]
    fn a_variable_is_found_outside_of_tests_and_what_is_none_is_allowed() {
        let text = format!("one\nset {PREFIX}JAIL\n#[cfg(test)]\n{PREFIX}QEMU\n");
        let lines: Vec<_> = named(Path::new("a.rs"), &text)
            .map(|(line, _)| line)
            .collect();
        assert_eq!(lines, [2]);
        let (file, name) = ALLOWED[0];
        assert_eq!(named(Path::new(file), name).count(), 0);
        assert_eq!(named(Path::new("a.rs"), name).count(), 1);
    }
}
