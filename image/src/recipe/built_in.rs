//! Recipes that are part of IronClaw, for templates that need no source.

use super::{Action, Base, Planned, Recipe, Step};
use crate::name::TemplateName;
use crate::oci::RootSource;

/// The release of Debian that `base` is made of.
const SUITE: &str = "trixie";
/// Its packages beside the required ones, to which bash, coreutils and apt belong.
const PACKAGES: [&str; 11] = [
    "ca-certificates",
    "curl",
    "git",
    "nodejs",
    "procps",
    "python-is-python3",
    "python3",
    "python3-pip",
    "python3-venv",
    "sqlite3",
    "sudo",
];
/// The user of `base`, with the uid of Debian's first one.
const USER: &str = "user";
const HOME: &str = "/home/user";
/// Makes that user, who may become root. Whatever pip installs goes with the VM, so it need not be kept
/// apart from Debian's own.
const SETUP: &str = "useradd --uid 1000 --user-group --create-home --shell /bin/bash user && \
    echo 'user ALL=(ALL:ALL) NOPASSWD:ALL' > /etc/sudoers.d/user && \
    chmod 440 /etc/sudoers.d/user && \
    printf '[global]\\nbreak-system-packages = true\\n' > /etc/pip.conf";
/// Loads what the first command of a client needs: a login shell, Node, and Python with its most used
/// modules. The shortest runs come last: a translator's cache (QEMU's without KVM) is emptied when it is
/// full, and has what ran last.
const WARM: &str = "node -e 0 && python3 -c 'import json, sqlite3, ssl, subprocess' && \
    node -v && python3 -c 0";

impl Recipe {
    /// Returns the recipe of that name, if IronClaw has one: `base`, a Debian with Python, Node, git and
    /// a user `user` who may become root, as clients of E2B expect it.
    #[must_use]
    pub fn built_in(name: &TemplateName) -> Option<Self> {
        name.is_base().then(base)
    }
}

fn base() -> Recipe {
    let source = RootSource::Debian {
        suite: SUITE.to_owned(),
        packages: PACKAGES.map(str::to_owned).to_vec(),
    };
    let words = |words: [&str; 3]| words.map(str::to_owned).to_vec();
    let steps = [
        (
            "run",
            SETUP,
            Action::Run {
                argv: words(["/bin/sh", "-c", SETUP]),
                env: Vec::new(),
            },
        ),
        ("user", USER, Action::User(USER.to_owned())),
        ("workdir", HOME, Action::Workdir(HOME.to_owned())),
        (
            "warm",
            WARM,
            Action::Warm(words(["/bin/bash", "-lc", WARM])),
        ),
    ];
    let steps = steps.map(|(option, text, action)| Planned {
        step: Step::new(format!("--{option} {text}"), action),
        context: None,
    });
    Recipe {
        steps: steps.into(),
        ..Recipe::new(Base::Source(source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_alone_is_built_in_and_all_of_its_packages_have_names() {
        let recipe = Recipe::built_in(&"base".parse().unwrap()).unwrap();
        let Base::Source(RootSource::Debian { suite, packages }) = recipe.base else {
            panic!("{:?}", recipe.base);
        };
        let parsed = RootSource::parse(format!("debian:{suite}").as_ref()).unwrap();
        parsed.with_packages(packages).unwrap();
        for other in ["minimal", "base2", "code-interpreter-v1"] {
            assert!(Recipe::built_in(&other.parse().unwrap()).is_none());
        }
    }
}
