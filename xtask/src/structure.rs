//! Checks the dependencies between modules: the rules of each package, and that there are no
//! circles.

mod arrows;
mod known;
mod modules;
mod rules;

use std::path::Path;

use anyhow::{Result, ensure};

use arrows::arrows;
use modules::Package;

/// The directories of the checked packages, relative to the root of the repository.
const PACKAGES: [&str; 19] = [
    "bench",
    "cli",
    "client",
    "console",
    "daemon",
    "doctor",
    "guest-agent",
    "host",
    "image",
    "inventory",
    "orchestrator",
    "protocol",
    "serve",
    "settings",
    "store",
    "test-harness",
    "test-harness/attribute",
    "testguest",
    "xtask",
];

/// Checks all packages below `root`, and prints violations on standard error.
///
/// # Errors
/// If there are any, or a file can't be read or parsed.
pub(crate) fn check(root: &Path) -> Result<()> {
    let offences = offences(root)?;
    for offence in &offences {
        eprintln!("{offence}");
    }
    let count = offences.len();
    ensure!(count == 0, "{count} offences against the structure");
    Ok(())
}

fn offences(root: &Path) -> Result<Vec<String>> {
    let mut in_circles = Vec::new();
    let mut all = Vec::new();
    for directory in PACKAGES {
        for package in Package::read_all(root, directory)? {
            let arrows = arrows(&package);
            in_circles.extend(rules::circles(&arrows, known::CIRCLES));
            all.extend(arrows);
        }
    }
    let mut found = rules::forbidden(&all, known::RULES, known::FORBIDDEN);
    found.extend(in_circles);
    found.extend(rules::unneeded(
        &all,
        known::RULES,
        known::FORBIDDEN,
        known::CIRCLES,
    ));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packages_of_this_repository_keep_to_the_rules() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let offences = offences(root).unwrap();
        assert!(offences.is_empty(), "{}", offences.join("\n"));
    }

    #[test]
    fn every_package_of_the_workspace_is_looked_at() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let manifest = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
        let members = manifest.split("members = [").nth(1).unwrap();
        let members = members.split(']').next().unwrap();
        for member in members.split(',') {
            let member = member.trim().trim_matches('"');
            assert!(PACKAGES.contains(&member), "{member:?} is not looked at");
        }
    }
}
