//! The TOML file of settings.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use ironclaw_host::regular_file;
use thiserror::Error;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::set_by::SetBy;
use crate::setting::Setting;

/// The variable that names the file.
pub const CONFIG: &str = "IRONCLAW_CONFIG";
/// The host's file, for all users.
const OF_THE_HOST: &str = "/etc/ironclaw/config.toml";
/// Limit of a file's bytes; all settings take one thousand.
const MAX_FILE: u64 = 64 << 10;

/// The error of a file of settings.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FileError {
    /// It can't be read, or others could change it.
    #[error("the settings in {} can't be read: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// It is not TOML.
    #[error("{}:{line}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// It sets an unknown setting.
    #[error("{}:{line}: there is no setting {key:?}{}", path.display(), did_you_mean(*.nearest))]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The key.
        key: String,
        /// The setting with the most similar name.
        nearest: Option<&'static str>,
    },
}

pub(crate) fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |nearest| format!("; is it {nearest:?}?"))
}

/// Finds the file of settings: the one that [`CONFIG`] names, else the user's, else the host's.
pub fn find(environment: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name: &str| environment(name).filter(|value| !value.is_empty());
    if let Some(named) = set(CONFIG) {
        return Some(named.into());
    }
    let directory = set("XDG_CONFIG_HOME").map(PathBuf::from);
    let home = || set("HOME").map(|home| PathBuf::from(home).join(".config"));
    // XDG base directory specification: ignore a relative path.
    let directory = directory.filter(|path| path.is_absolute()).or_else(home);
    let of_user = directory.map(|directory| directory.join("ironclaw/config.toml"));
    let all = of_user.into_iter().chain([OF_THE_HOST.into()]);
    all.into_iter()
        .find(|path| path.is_absolute() && path.symlink_metadata().is_ok())
}

/// Reads what the file at `path` sets, by the keys of `settings`.
pub(crate) fn read(
    path: &Path,
    settings: &[Setting],
) -> Result<Vec<(&'static str, OsString, SetBy)>, FileError> {
    let text = text(path).map_err(|error| FileError::Unreadable {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    let line_of = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
    let malformed = |at, reason: String| FileError::Malformed {
        path: path.to_owned(),
        line: line_of(at),
        reason,
    };
    let table = DeTable::parse(&text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        malformed(at, error.message().to_owned())
    })?;
    let mut found = Vec::new();
    for (key, value) in table.get_ref() {
        let at = key.span().start;
        let name = key.get_ref();
        let Some(setting) = settings.iter().find(|setting| setting.key == *name) else {
            return Err(FileError::Unknown {
                path: path.to_owned(),
                line: line_of(at),
                key: name.to_string(),
                nearest: nearest(name, settings),
            });
        };
        let value = plain(value).ok_or_else(|| {
            let reason = format!("{name} takes a text, a number, or texts in a list");
            malformed(value.span().start, reason)
        })?;
        let set_by = SetBy::File {
            path: path.to_owned(),
            line: line_of(at),
        };
        found.push((setting.key, value.into(), set_by));
    }
    Ok(found)
}

fn text(path: &Path) -> io::Result<String> {
    let file = regular_file::open(path)?;
    ensure_ours(&file)?;
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        let words = format!("it has more than {MAX_FILE} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, words));
    }
    Ok(text)
}

/// Checks its permissions: it names programs to execute, so whoever can change it has the rights of
/// this user.
fn ensure_ours(file: &File) -> io::Result<()> {
    let facts = file.metadata()?;
    let us = rustix::process::geteuid().as_raw();
    let reason = if facts.uid() != 0 && facts.uid() != us {
        "it belongs to another user"
    } else if facts.mode() & 0o022 != 0 {
        "others may write to it (chmod go-w)"
    } else {
        return Ok(());
    };
    Err(io::Error::new(io::ErrorKind::PermissionDenied, reason))
}

/// Returns a value as a variable would have it.
fn plain(value: &Spanned<DeValue<'_>>) -> Option<String> {
    match value.get_ref() {
        DeValue::String(text) => Some(text.to_string()),
        // As written, except for `1_000`.
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().replace('_', "")),
        DeValue::Array(values) => {
            let texts: Option<Vec<_>> = values
                .iter()
                .map(|value| match value.get_ref() {
                    DeValue::String(text) => Some(text.to_string()),
                    _ => None,
                })
                .collect();
            texts.map(|texts| texts.join(","))
        }
        _ => None,
    }
}

/// Returns the setting with the name most similar to `name`, if there is a similar one.
pub(crate) fn nearest(name: &str, settings: &[Setting]) -> Option<&'static str> {
    const ALIKE: f64 = 0.75;
    let alike = |setting: &Setting| (strsim::jaro_winkler(name, setting.key), setting.key);
    let all = settings.iter().map(alike);
    let best = all.max_by(|(one, _), (other, _)| one.total_cmp(other));
    best.filter(|(likeness, _)| *likeness >= ALIKE)
        .map(|(_, key)| key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setting::DefaultValue;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    const SETTINGS: [Setting; 3] = [
        Setting::number("pool_size", DefaultValue::Is("5"), 1, Some(20), "snapshots"),
        Setting::text("jail", DefaultValue::Is("auto"), "auto, on or off"),
        Setting::text("taps", DefaultValue::Described("none"), "devices"),
    ];

    fn of(text: &str) -> Result<Vec<(&'static str, OsString, SetBy)>, FileError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        read(&path, &SETTINGS)
    }

    #[test]
    fn texts_numbers_and_lists_are_read_with_their_lines() {
        let text = "# ours\npool_size = 1_0\n\njail = \"off\"\ntaps = [\"tap0\",\n  \"tap1\"]\n";
        let mut found = of(text).unwrap();
        found.sort_by_key(|(.., set_by)| match set_by {
            SetBy::File { line, .. } => *line,
            _ => 0,
        });
        let plain = |(key, value, set_by): &(&'static str, OsString, SetBy)| {
            let SetBy::File { line, .. } = set_by else {
                panic!("{set_by}")
            };
            (*key, value.to_str().unwrap().to_owned(), *line)
        };
        let found: Vec<_> = found.iter().map(plain).collect();
        let expected = [
            ("pool_size", "10", 2),
            ("jail", "off", 4),
            ("taps", "tap0,tap1", 5),
        ];
        let expected = expected.map(|(key, value, line)| (key, value.to_owned(), line));
        assert_eq!(found, expected);
        assert!(of("").unwrap().is_empty());
    }

    #[test]
    fn errors_name_the_line_and_the_nearest_name() {
        for (text, parts) in [
            (
                "\npool_sise = 3\n",
                &["config.toml:2:", "pool_sise", "\"pool_size\"?"][..],
            ),
            ("xyz = 1\n", &["config.toml:1:", "no setting \"xyz\""]),
            ("jail = \n", &["config.toml:1:"]),
            (
                "jail = \"on\"\njail = \"off\"\n",
                &["config.toml:2:", "duplicate"],
            ),
            (
                "[pool]\nsize = 3\n",
                &["config.toml:1:", "no setting \"pool\""],
            ),
            ("jail = true\n", &["config.toml:1:", "jail takes"]),
            ("pool_size = 1.5\n", &["config.toml:1:", "pool_size takes"]),
            ("taps = [1]\n", &["config.toml:1:", "taps takes"]),
        ] {
            let error = of(text).unwrap_err().to_string();
            for part in parts {
                assert!(error.contains(part), "{text:?}: {error}");
            }
        }
    }

    #[test]
    fn a_file_that_others_can_change_or_that_is_none_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        let refused = || read(&path, &SETTINGS).unwrap_err().to_string();
        assert!(refused().contains("No such file"));
        fs::write(&path, "jail = \"on\"\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(refused().contains("chmod go-w"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, " ".repeat(1 << 17)).unwrap();
        assert!(refused().contains("more than"));
        fs::write(&path, b"jail = \"\xff\"\n").unwrap();
        assert!(refused().contains("UTF-8"));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(refused().contains("a directory"));
    }

    #[test]
    fn the_named_file_comes_before_the_users_and_that_before_the_hosts() {
        let home = tempfile::tempdir().unwrap();
        let config = home.path().join(".config/ironclaw");
        fs::create_dir_all(&config).unwrap();
        let of_user = config.join("config.toml");
        let find_with = |set: &[(&str, &Path)]| {
            let set: Vec<_> = set
                .iter()
                .map(|(name, path)| (*name, path.as_os_str()))
                .collect();
            find(&|name| {
                let found = set.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        let of_home = [("HOME", home.path())];
        let of_host = Some(PathBuf::from(OF_THE_HOST)).filter(|path| path.exists());
        assert_eq!(find_with(&of_home), of_host);
        fs::write(&of_user, "").unwrap();
        assert_eq!(find_with(&of_home), Some(of_user.clone()));
        let xdg = home.path().join(".config");
        assert_eq!(find_with(&[("XDG_CONFIG_HOME", &xdg)]), Some(of_user));
        let named = Path::new("/no/such/file");
        let both = [of_home[0], (CONFIG, named)];
        assert_eq!(find_with(&both), Some(named.to_owned()));
        assert_eq!(find_with(&[("XDG_CONFIG_HOME", Path::new("x"))]), of_host);
    }
}
