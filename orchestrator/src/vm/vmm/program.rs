//! Finds the program of a VMM.

use std::path::{Path, PathBuf, absolute};

use super::VmmError;

/// Returns the absolute path of the program at `configured`, or else of `program` on PATH.
///
/// # Errors
/// [`VmmError::NotInstalled`], with `hint` as what to do about it.
pub(in crate::vm) fn find_program(
    program: &'static str,
    configured: Option<&Path>,
    hint: &'static str,
) -> Result<PathBuf, VmmError> {
    let found = match configured {
        Some(path) => path.is_file().then(|| path.to_owned()),
        None => which::which(program).ok(),
    };
    // A VM's process starts in a directory of its own, where a relative path leads elsewhere.
    let found = found.and_then(|path| absolute(path).ok());
    found.ok_or_else(|| VmmError::NotInstalled {
        program,
        path: configured.map(Path::to_owned),
        hint,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configured_program_is_taken_by_its_absolute_path() {
        let here = tempfile::tempdir_in(".").unwrap();
        let relative = here.path().join("program");
        std::fs::write(&relative, "").unwrap();
        let relative = Path::new(".").join(relative.strip_prefix(absolute(".").unwrap()).unwrap());
        let found = find_program("program", Some(&relative), "").unwrap();
        assert_eq!(found, absolute(&relative).unwrap());
        assert!(found.is_absolute());
    }

    #[test]
    fn a_missing_program_is_reported_with_its_path_and_the_hint() {
        for configured in [None, Some(Path::new("/nonexistent/program"))] {
            let error = find_program("ironclaw-no-such-program", configured, "install it");
            let Err(VmmError::NotInstalled { path, hint, .. }) = error else {
                panic!("{error:?}");
            };
            assert_eq!((path.as_deref(), hint), (configured, "install it"));
        }
    }
}
