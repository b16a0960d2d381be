//! Debian suites: finds the one whose packages fit the machine.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The mark of a backported package's version, followed by the number of the older release.
const BACKPORT: &str = "~bpo";
/// APT's main list of sources; more may be in files of their own.
const SOURCES: &str = "/etc/apt/sources.list";

/// A suite to install from; without a name, the machine's own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Suite {
    pub(crate) name: String,
    archive: String,
    lists: Option<PathBuf>,
}

/// An installed package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Installed {
    name: String,
    version: String,
}

impl fmt::Display for Installed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

/// Finds the packages that conflict with an installation in the output of `apt-get -s`: those that
/// APT would remove (`Remv qemu-utils [1:10.0.2+ds-2]`) or, where it gives up instead, those that
/// break (` qemu-utils : Breaks: qemu-system-common (< 1:8.0) but 1:7.2 is to be installed`).
/// `version` returns the version of an installed package.
pub(crate) fn in_the_way(
    simulation: &str,
    version: impl Fn(&str) -> Option<String>,
) -> Vec<Installed> {
    let mut packages: Vec<Installed> = Vec::new();
    for line in simulation.lines() {
        let removal = || {
            let (name, rest) = line.strip_prefix("Remv ")?.split_once(' ')?;
            let version = rest.strip_prefix('[')?.split(']').next()?;
            Some((name, version.to_owned()))
        };
        let conflict = || {
            let (name, relation) = line.trim_start().split_once(" : ")?;
            let hinders = relation.starts_with("Breaks: ") || relation.starts_with("Conflicts: ");
            hinders.then(|| version(name))?.map(|found| (name, found))
        };
        let Some((name, version)) = removal().or_else(conflict) else {
            continue;
        };
        if packages.iter().all(|package| package.name != name) {
            let name = name.to_owned();
            packages.push(Installed { name, version });
        }
    }
    packages
}

/// Lists the suites that have a package, the machine's own first, from the output of `apt-cache
/// madison`: `qemu-system-x86 | 1:7.2 | http://mirror.example/debian bookworm/main amd64 Packages`.
pub(crate) fn known(madison: &str) -> Vec<Suite> {
    let mut suites: Vec<Suite> = Vec::new();
    for line in madison.lines() {
        let Some(source) = line.split('|').nth(2) else {
            continue;
        };
        let mut words = source.split_whitespace();
        let (Some(archive), Some(place)) = (words.next(), words.next()) else {
            continue;
        };
        let name = place.split('/').next().unwrap_or(place);
        if suites.iter().all(|suite| suite.name != name) {
            suites.push(Suite {
                name: name.to_owned(),
                archive: archive.to_owned(),
                lists: None,
            });
        }
    }
    // The name of a release is one word; names of suites derived from it have more.
    suites.sort_by_key(|suite| suite.name.contains('-'));
    suites
}

impl Installed {
    /// Returns the suite that it came from, if that is the backports of the machine's own suite.
    pub(crate) fn backports(&self, own: &Suite) -> Option<Suite> {
        let release = own.name.split('-').next()?;
        self.version.contains(BACKPORT).then(|| Suite {
            name: format!("{release}-backports"),
            archive: own.archive.clone(),
            lists: None,
        })
    }
}

impl Suite {
    /// Returns the same suite with package lists of its own, beside the machine's, which stay
    /// unchanged.
    pub(crate) fn with_lists_in(&self, directory: &Path) -> Result<Self> {
        let made = || -> std::io::Result<()> {
            fs::create_dir_all(directory.join("lists/partial"))?;
            let own = fs::read_to_string(SOURCES).unwrap_or_default();
            let source = format!("{own}\ndeb {} {} main\n", self.archive, self.name);
            fs::write(directory.join("sources.list"), source)
        };
        made().with_context(|| format!("can't write to {}", directory.display()))?;
        Ok(Self {
            lists: Some(directory.to_owned()),
            ..self.clone()
        })
    }

    /// Returns the options that make `apt-get` use it.
    pub(crate) fn options(&self) -> Vec<String> {
        let mut options = Vec::new();
        if let Some(directory) = &self.lists {
            for (setting, name) in [
                ("Dir::Etc::sourcelist", "sources.list"),
                ("Dir::State::lists", "lists"),
            ] {
                let path = directory.join(name);
                options.extend(["-o".to_owned(), format!("{setting}={}", path.display())]);
            }
            // APT's own user may not enter the directory.
            options.extend(["-o".to_owned(), "APT::Sandbox::User=root".to_owned()]);
        }
        if !self.name.is_empty() {
            options.extend(["-t".to_owned(), self.name.clone()]);
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIMULATION: &str = "\
The following packages will be REMOVED:
  qemu-utils
Remv qemu-utils [1:10.0.2+ds-2+deb13u1~bpo12+1]
Inst qemu-system-x86 (1:7.2+dfsg-7+deb12u18+b3 Debian:12.15/oldstable [amd64])
";
    const MADISON: &str = "\
qemu-system-x86 | 1:10.0.2+ds-2+deb13u1~bpo12+1 | http://mirror.example/debian bookworm-backports/main amd64 Packages
qemu-system-x86 | 1:7.2+dfsg-7+deb12u18+b3 | http://mirror.example/debian bookworm/main amd64 Packages
qemu-system-x86 | 1:7.2+dfsg-7+deb12u15 | http://mirror.example/debian-security bookworm-security/main amd64 Packages
";

    /// The output of APT on Debian 12 with both suites among its sources.
    const UNRESOLVED: &str = "\
Reading package lists...
The following packages have unmet dependencies:
 qemu-system-x86 : Depends: qemu-system-data (> 1:7.2) but it is not installable
 qemu-utils : Breaks: qemu-system-common (< 1:8.0+dfsg-5~) but 1:7.2+dfsg-7+deb12u18+b3 is to be installed
              Breaks: qemu-block-extra (< 1:8.0+dfsg-5~)
";

    fn installed(name: &str) -> Option<String> {
        (name == "qemu-utils").then(|| "1:10.0.2+ds-2+deb13u1~bpo12+1".to_owned())
    }

    #[test]
    fn conflicting_packages_are_detected_before_removal() {
        for said in [SIMULATION, UNRESOLVED] {
            let found = in_the_way(said, installed);
            let [package] = &found[..] else {
                panic!("{found:?}");
            };
            assert_eq!(
                package.to_string(),
                "qemu-utils 1:10.0.2+ds-2+deb13u1~bpo12+1"
            );
        }
        assert!(in_the_way("Inst gcc (12 Debian [amd64])", installed).is_empty());
        assert!(in_the_way(UNRESOLVED, |_| None).is_empty());
    }

    #[test]
    fn the_suites_of_a_package_are_known_with_the_machines_own_first() {
        let known = known(MADISON);
        let names: Vec<_> = known.iter().map(|suite| &*suite.name).collect();
        assert_eq!(
            names,
            ["bookworm", "bookworm-backports", "bookworm-security"]
        );
        assert_eq!(known[1].options(), ["-t", "bookworm-backports"]);
        assert!(Suite::default().options().is_empty());
    }

    #[test]
    fn backports_are_found_by_what_came_from_there_and_have_lists_of_their_own() {
        let own = &known(MADISON)[0];
        let found = in_the_way(SIMULATION, installed);
        let suite = found[0].backports(own).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let private = suite.with_lists_in(directory.path()).unwrap();
        let sources = fs::read_to_string(directory.path().join("sources.list")).unwrap();
        let line = "deb http://mirror.example/debian bookworm-backports main";
        assert!(sources.lines().any(|there| there == line), "{sources}");
        let options = private.options().join(" ");
        assert!(options.ends_with("-t bookworm-backports"), "{options}");
        let of_the_release = Installed {
            name: "qemu-utils".to_owned(),
            version: "1:7.2".to_owned(),
        };
        assert_eq!(of_the_release.backports(own), None);
    }
}
