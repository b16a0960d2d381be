//! Where state is kept: the directories that were set, or those of the user.

use std::path::{Component, Path, PathBuf};

use ironclaw_settings::{Setting, Values};

use super::error::ConfigError;

/// The directory that `setting` names, or `leaf` in that of this user's state.
pub(super) fn state_path(
    values: &Values<'_>,
    setting: &Setting,
    leaf: &str,
    is_root: bool,
) -> Result<PathBuf, ConfigError> {
    if let Some(path) = values.path(setting) {
        // VMMs are told of paths in JSON.
        return if path.is_absolute() && path.to_str().is_some() {
            Ok(path)
        } else {
            Err(values.bad(setting).into())
        };
    }
    if is_root {
        return Ok(PathBuf::from("/var/lib/ironclaw").join(leaf));
    }
    // XDG base directory specification: a relative path in it is to be ignored.
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
        // VMMs are told of paths in JSON.
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

/// A path without `.` and, as if there were no links, without `..`.
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

/// Where a path leads, as far as it is there.
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
