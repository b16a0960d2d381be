//! Where the guest agent's binary is.

use std::path::{Path, PathBuf};

use super::LaunchError;
use crate::vm::config::Config;

const NAME: &str = "ironclaw-guest-agent";

/// Finds the guest agent: the configured path, or beside this program, in the directory above
/// (where cargo puts tests and examples), or in `../lib/ironclaw`.
///
/// # Errors
/// [`LaunchError::NoGuestAgent`] with the places that were looked at.
pub fn find_guest_agent(config: &Config) -> Result<PathBuf, LaunchError> {
    let looked = match &config.guest_agent {
        Some(path) => vec![path.clone()],
        None => {
            let program = std::env::current_exe().unwrap_or_default();
            let directory = program.parent().unwrap_or(Path::new("/"));
            let above = directory.parent().unwrap_or(Path::new("/"));
            vec![
                directory.join(NAME),
                above.join(NAME),
                above.join("lib/ironclaw").join(NAME),
            ]
        }
    };
    match looked.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(LaunchError::NoGuestAgent { looked }),
    }
}
