//! Finds the guest agent's binary.

use std::path::{Path, PathBuf};

use super::LaunchError;
use crate::vm::config::Config;

const NAME: &str = "ironclaw-guest-agent";
/// The place where `cargo xtask setup` installs it, below the directory of programs. Cargo puts a
/// dynamically linked agent beside each program that it builds.
const LIBRARY: &str = "lib/ironclaw";

/// Finds the guest agent: at the configured path; or in `lib/ironclaw` beside this program or in
/// the parent directory (where cargo puts tests and examples); or in these two directories
/// themselves.
///
/// # Errors
/// [`LaunchError::NoGuestAgent`] with the paths that were tried.
pub fn find_guest_agent(config: &Config) -> Result<PathBuf, LaunchError> {
    let looked = match &config.guest_agent {
        Some(path) => vec![path.clone()],
        None => places(&std::env::current_exe().unwrap_or_default()),
    };
    match looked.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(LaunchError::NoGuestAgent { looked }),
    }
}

/// Lists possible paths of the agent of `program`, the best first.
fn places(program: &Path) -> Vec<PathBuf> {
    let directory = program.parent().unwrap_or(Path::new("/"));
    let above = directory.parent().unwrap_or(Path::new("/"));
    vec![
        directory.join(LIBRARY).join(NAME),
        above.join(LIBRARY).join(NAME),
        directory.join(NAME),
        above.join(NAME),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_that_setup_built_is_preferred_to_cargos_own() {
        let release = Path::new("/repository/target/release");
        let setup = release.join("lib/ironclaw/ironclaw-guest-agent");
        let cargo = release.join("ironclaw-guest-agent");
        for program in ["ironclaw", "deps/tests", "examples/quickstart"] {
            let places = places(&release.join(program));
            let of = |path: &Path| places.iter().position(|place| place == path);
            assert!(of(&setup).is_some(), "{program}");
            assert!(of(&setup) < of(&cargo), "{program}");
        }
    }
}
