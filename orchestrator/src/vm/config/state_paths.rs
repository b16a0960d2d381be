//! The directories of state: those that were set, or the user's.

use std::path::{Component, Path, PathBuf};

use ironclaw_settings::{Setting, Values};

use super::error::ConfigError;

/// Returns the directory that `setting` names, or `leaf` in this user's state directory.
pub(super) fn state_path(
    values: &Values<'_>,
    setting: &Setting,
    leaf: &str,
    is_root: bool,
) -> Result<PathBuf, ConfigError> {
    if let Some(path) = values.path(setting) {
        // VMMs get paths in JSON.
        return if path.is_absolute() && path.to_str().is_some() {
            Ok(path)
        } else {
            Err(values.bad(setting).into())
        };
    }
    if is_root {
        return Ok(PathBuf::from("/var/lib/ironclaw").join(leaf));
    }
    // XDG base directory specification: ignore a relative path.
    let state = values
        .environment("XDG_STATE_HOME")
        .map(|state| ("XDG_STATE_HOME", state.clone(), PathBuf::from(state)))
        .filter(|(_, _, path)| path.is_absolute());
    let home = || {
        let home = values.environment("HOME")?;
        let state = Path::new(&home).join(".local/state");
        Some(("HOME", home, state))
    };
    let (home, value, state) =
        state
            .or_else(home)
            .ok_or_else(|| ConfigError::NoStateDirectory {
                variable: setting.variable(),
            })?;
    let reason = match state.to_str() {
        // VMMs get paths in JSON.
        None => Some("not in UTF-8"),
        Some(_) if state.is_relative() => Some("a relative path"),
        Some(_) => None,
    };
    if let Some(reason) = reason {
        return Err(ConfigError::UnusableHome {
            home,
            value: value.to_string_lossy().into_owned(),
            reason,
            variable: setting.variable(),
        });
    }
    Ok(state.join("ironclaw").join(leaf))
}

/// Removes `.` from a path and, as if there were no links, `..`.
pub(super) fn without_dots(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

/// Resolves a path, as far as it exists.
pub(super) fn resolved(path: &Path) -> PathBuf {
    let mut rest = PathBuf::new();
    for known in path.ancestors() {
        if let Ok(real) = known.canonicalize() {
            return without_dots(&real.join(rest));
        }
        let name = known.components().next_back();
        rest = name.map_or_else(PathBuf::new, |name| Path::new(&name).join(rest));
    }
    without_dots(path)
}
