//! The settings, their sources and their ranges.
//!
//! [`Config::from_env`] reads them from the environment. Nothing else in the crate reads it, except
//! for `PATH`, on which programs are looked for that no setting names. A bad value is an error that
//! names the variable, the value and the range; nothing is silently clamped.

use std::ffi::OsString;
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;
use thiserror::Error;

use crate::vm::backend::Surroundings;
use crate::vm::backends::{self, Backends};
use crate::vm::variables::{BadValue, Variable, Variables};
use crate::vm::vmm::jail::user::DEFAULT_USERS;
use crate::vm::vmm::{Machine, VmmKind};

pub use crate::vm::backend::JailChoice;

/// Snapshots in the pool: 1 to 20.
pub const POOL_SIZE: &str = "IRONCLAW_POOL_SIZE";
/// Minimum of warm clones: 0 to 100.
pub const MIN_WARM: &str = "IRONCLAW_MIN_WARM";
/// Maximum of warm clones: 0 to 100.
pub const MAX_WARM: &str = "IRONCLAW_MAX_WARM";
/// Standby processes: 0 to 20.
pub const STANDBY: &str = "IRONCLAW_STANDBY";
/// Limit of VMs at a time.
pub const MAX_VMS: &str = "IRONCLAW_MAX_VMS";
/// Memory budget of all VMs together.
pub const MEMORY_BUDGET_MIB: &str = "IRONCLAW_MEMORY_BUDGET_MIB";
/// Age in seconds at which a snapshot gets a successor: at least 60.
pub const SNAPSHOT_REFRESH_SECS: &str = "IRONCLAW_SNAPSHOT_REFRESH_SECS";
/// The directory of snapshots.
pub const SNAPSHOT_PATH: &str = "IRONCLAW_SNAPSHOT_PATH";
/// The directory of templates.
pub const TEMPLATE_PATH: &str = "IRONCLAW_TEMPLATE_PATH";
/// The choice of the backend.
pub const BACKEND: &str = "IRONCLAW_BACKEND";
/// Memory of a guest in MiB.
pub const MEMORY_MIB: &str = "IRONCLAW_MEMORY_MIB";
/// Number of a guest's vCPUs.
pub const VCPUS: &str = "IRONCLAW_VCPUS";
/// Whether VMMs are jailed.
pub const JAIL: &str = "IRONCLAW_JAIL";
/// The range of user ids of jailed VMs.
pub const JAIL_USERS: &str = "IRONCLAW_JAIL_USERS";
/// The directory for running VMs.
pub const RUN_PATH: &str = "IRONCLAW_RUN_PATH";
/// The path of the guest agent's binary for templates.
pub const GUEST_AGENT: &str = "IRONCLAW_GUEST_AGENT";

/// The default of the age at which a snapshot gets a successor.
pub const DEFAULT_REFRESH: Duration = Duration::from_secs(3600);
/// The default number of standby processes.
pub const DEFAULT_STANDBY: usize = 1;
/// Limit of warm clones in the pool of one process.
const MOST_WARM: usize = 100;

/// The settings that are not of a backend.
const OF_ALL_BACKENDS: &[Variable] = &[
    (POOL_SIZE, "5", "number of snapshots in the pool, 1-20"),
    (
        MIN_WARM,
        "one for each snapshot",
        "number of warm clones that are always there, 0-100",
    ),
    (
        MAX_WARM,
        "IRONCLAW_MIN_WARM",
        "most warm clones, IRONCLAW_MIN_WARM-100; as many as the bursts of the last hours needed",
    ),
    (
        STANDBY,
        "1",
        "VMM processes that stand by for spawns that find no warm clone, 0-20 (Firecracker)",
    ),
    (
        MAX_VMS,
        "as many as fit into the memory budget",
        "most VMs at a time, warm clones included, 1 or more",
    ),
    (
        MEMORY_BUDGET_MIB,
        "three quarters of the memory that the process may use",
        "memory of all VMs together in MiB: each guest's own and 32 MiB, 128 or more",
    ),
    (
        SNAPSHOT_REFRESH_SECS,
        "3600",
        "seconds until a snapshot is replaced by a fresh one, 60 or more",
    ),
    (
        SNAPSHOT_PATH,
        "/var/lib/ironclaw/snapshots as root, $XDG_STATE_HOME/ironclaw/snapshots otherwise",
        "absolute path of the snapshots' directory, in UTF-8",
    ),
    (
        TEMPLATE_PATH,
        "/var/lib/ironclaw/templates as root, $XDG_STATE_HOME/ironclaw/templates otherwise",
        "absolute path of the templates' directory, in UTF-8",
    ),
    (
        RUN_PATH,
        "/var/lib/ironclaw/run as root, $XDG_STATE_HOME/ironclaw/run otherwise",
        "absolute path of the directory for the sockets of running VMs, in UTF-8",
    ),
    (BACKEND, "auto", "auto, firecracker or qemu"),
    (MEMORY_MIB, "128", "memory of a guest in MiB, 96-16384"),
    (VCPUS, "1", "processors of a guest, 1-32"),
    (
        JAIL,
        "auto",
        "auto (the strongest that can be had; Firecracker as root: on), on (jailed or an error) or off",
    ),
    (
        JAIL_USERS,
        "70000-70999",
        "unused user ids for jailed VMMs, FIRST-LAST, both from 1 to 4294967294",
    ),
    (
        GUEST_AGENT,
        "beside the ironclaw binary",
        "path of the guest agent's binary",
    ),
];

/// All variables with their defaults and ranges, for help texts and documentation.
pub const VARIABLES: &[Variable] = &ALL;

/// The common table, then that of each backend.
const TABLES: [&[Variable]; backends::VARIABLES.len() + 1] = {
    let mut tables = [OF_ALL_BACKENDS; backends::VARIABLES.len() + 1];
    let mut at = 0;
    while at < backends::VARIABLES.len() {
        tables[at + 1] = backends::VARIABLES[at];
        at += 1;
    }
    tables
};

const COUNT: usize = {
    let (mut count, mut table) = (0, 0);
    while table < TABLES.len() {
        count += TABLES[table].len();
        table += 1;
    }
    count
};

const ALL: [Variable; COUNT] = {
    let mut all = [("", "", ""); COUNT];
    let (mut at, mut table) = (0, 0);
    while table < TABLES.len() {
        let mut row = 0;
        while row < TABLES[table].len() {
            all[at] = TABLES[table][row];
            at += 1;
            row += 1;
        }
        table += 1;
    }
    all
};

/// All settings, validated.
#[derive(Debug, Clone, Serialize)]
pub struct Config {
    /// Snapshots in the pool, 1 to 20.
    pub pool_size: usize,
    /// Minimum of warm clones, 0 to 100.
    pub min_warm: usize,
    /// Maximum of warm clones, `min_warm` to 100.
    pub max_warm: usize,
    /// Standby processes, 0 to 20.
    pub standby: usize,
    /// Limit of VMs at a time, if not by memory.
    pub max_vms: Option<usize>,
    /// Memory budget of all VMs in MiB, if not three quarters of what the process may use: of the
    /// host's memory, or of the limit of its control groups.
    pub memory_budget_mib: Option<u64>,
    /// Age at which a snapshot gets a successor, at least 60 s.
    pub snapshot_refresh: Duration,
    /// The directory of snapshots, absolute.
    pub snapshot_path: PathBuf,
    /// The directory of templates, absolute.
    pub template_path: PathBuf,
    /// The directory for running VMs, absolute.
    pub run_path: PathBuf,
    /// The choice of the backend.
    pub backend: BackendChoice,
    /// The size of a guest.
    pub machine: Machine,
    /// Whether VMMs are jailed.
    pub jail: JailChoice,
    /// The range of user ids of jailed VMs.
    pub jail_users: Users,
    /// The backends with their own settings.
    pub backends: Backends,
    /// The path of the guest agent's binary, if not the one beside the program.
    pub guest_agent: Option<PathBuf>,
}

/// A choice of the backend.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(into = "String")]
pub enum BackendChoice {
    /// The first of [`Config::backends`] that runs the guest here.
    #[default]
    Auto,
    /// That one, or an error.
    Only(VmmKind),
}

impl BackendChoice {
    /// Returns the chosen kind, if it is a single one.
    #[must_use]
    pub fn kind(&self) -> Option<&VmmKind> {
        match self {
            Self::Auto => None,
            Self::Only(kind) => Some(kind),
        }
    }

    /// Returns the valid names: `auto` and the built-in backends.
    #[must_use]
    pub fn names() -> Vec<String> {
        let kinds = backends::kinds().iter().map(VmmKind::name);
        std::iter::once(Self::Auto.into()).chain(kinds).collect()
    }
}

impl From<BackendChoice> for String {
    fn from(choice: BackendChoice) -> Self {
        choice
            .kind()
            .map_or_else(|| "auto".to_owned(), VmmKind::name)
    }
}

impl FromStr for BackendChoice {
    type Err = ();

    /// Parses one of the [names](Self::names).
    ///
    /// # Errors
    /// It is none of these; [`ConfigError::Invalid`] reports that with the variable and its range.
    fn from_str(text: &str) -> Result<Self, ()> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let mut kinds = backends::kinds().iter();
        let kind = kinds.find(|kind| kind.name() == text);
        kind.cloned().map(Self::Only).ok_or(())
    }
}

/// A range of user ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Users(pub std::ops::RangeInclusive<u32>);

impl Default for Users {
    fn default() -> Self {
        Self(DEFAULT_USERS)
    }
}

impl fmt::Display for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0.start(), self.0.end())
    }
}

impl FromStr for Users {
    type Err = ();

    /// Parses `FIRST-LAST`, from 1 to 4294967294, the first not above the last.
    ///
    /// # Errors
    /// It is anything else; [`ConfigError::Invalid`] reports that with the variable and its range.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (first, last) = text.split_once('-').ok_or(())?;
        let id = |text: &str| text.parse::<u32>().map_err(|_| ());
        let (first, last) = (id(first)?, id(last)?);
        // Root can't be jailed, and the maximum means "no change" to the kernel.
        if first == 0 || last == u32::MAX || first > last {
            return Err(());
        }
        Ok(Self(first..=last))
    }
}

/// The error of a setting.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// A variable's value is out of range.
    #[error("{variable}={value:?} can't be used: it takes {expected}")]
    Invalid {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// Its range.
        expected: &'static str,
    },
    /// There is no home directory for state.
    #[error("no place for state: set HOME, XDG_STATE_HOME or {variable}")]
    NoStateDirectory {
        /// The variable that could name the directory instead.
        variable: &'static str,
    },
    /// The home directory can't be used for state.
    #[error(
        "{home}={value:?} can't be used as a place for state: it is {reason}; set it, or {variable}, \
         to an absolute path in UTF-8"
    )]
    UnusableHome {
        /// The variable with the home directory.
        home: &'static str,
        /// Its value.
        value: String,
        /// The reason.
        reason: &'static str,
        /// The variable that could name the directory instead.
        variable: &'static str,
    },
    /// A state directory is in another, or the same.
    #[error(
        "{inner}={} is in {outer}={}: what comes and goes in one must not be in another; set them \
         to directories of which none contains another",
        inner_path.display(), outer_path.display()
    )]
    Overlap {
        /// The variable of the inner one.
        inner: &'static str,
        /// The inner directory.
        inner_path: PathBuf,
        /// The variable of the outer one.
        outer: &'static str,
        /// The outer directory.
        outer_path: PathBuf,
    },
}

impl Config {
    /// Returns the settings shared by VMs of all backends.
    pub(crate) fn surroundings(&self) -> Surroundings {
        Surroundings {
            run_path: self.run_path.clone(),
            read_paths: vec![self.snapshot_path.clone(), self.template_path.clone()],
            jail: self.jail,
            jail_users: self.jail_users.0.clone(),
        }
    }

    /// Reads the settings from this process's environment.
    ///
    /// # Errors
    /// [`ConfigError`] of the first bad value.
    pub fn from_env() -> Result<Self, ConfigError> {
        let config = Self::from_vars(
            |name| std::env::var_os(name),
            rustix::process::geteuid().is_root(),
        )?;
        // Checks again with links resolved, which may lead from one to the other.
        config.ensure_apart(resolved)?;
        Ok(config)
    }

    /// Refuses state directories of which one contains another, after `find` was applied to each.
    fn ensure_apart(&self, find: impl Fn(&Path) -> PathBuf) -> Result<(), ConfigError> {
        let settings = [
            (SNAPSHOT_PATH, &self.snapshot_path),
            (TEMPLATE_PATH, &self.template_path),
            (RUN_PATH, &self.run_path),
        ];
        for (inner, inner_path) in settings {
            for (outer, outer_path) in settings {
                if inner != outer && find(inner_path).starts_with(find(outer_path)) {
                    return Err(ConfigError::Overlap {
                        inner,
                        inner_path: inner_path.clone(),
                        outer,
                        outer_path: outer_path.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Reads the settings from an environment given by `var`, for a user that is root or not. An
    /// empty variable counts as unset.
    ///
    /// # Errors
    /// [`ConfigError`] of the first bad value.
    pub fn from_vars(
        var: impl Fn(&str) -> Option<OsString>,
        is_root: bool,
    ) -> Result<Self, ConfigError> {
        let vars = &Variables::new(&var, VARIABLES);
        let pool_size = vars.number(POOL_SIZE, 5, 1..=20)?;
        let min_warm = vars.number(MIN_WARM, pool_size, 0..=MOST_WARM)?;
        let max_warm = vars.number(MAX_WARM, min_warm, min_warm..=MOST_WARM)?;
        let config = Self {
            pool_size,
            min_warm,
            max_warm,
            standby: vars.number(STANDBY, DEFAULT_STANDBY, 0..=20)?,
            max_vms: vars.optional_number(MAX_VMS, 1..=usize::MAX)?,
            memory_budget_mib: vars.optional_number(MEMORY_BUDGET_MIB, 128..=u64::MAX)?,
            snapshot_refresh: Duration::from_secs(vars.number(
                SNAPSHOT_REFRESH_SECS,
                DEFAULT_REFRESH.as_secs(),
                60..=u64::MAX,
            )?),
            snapshot_path: state_path(vars, SNAPSHOT_PATH, "snapshots", is_root)?,
            template_path: state_path(vars, TEMPLATE_PATH, "templates", is_root)?,
            run_path: state_path(vars, RUN_PATH, "run", is_root)?,
            backend: vars.parse(BACKEND)?.unwrap_or_default(),
            machine: Machine {
                memory_mib: vars.number(MEMORY_MIB, 128, 96..=16384)?,
                vcpus: vars.number(VCPUS, 1, 1..=32)?,
            },
            jail: vars.parse(JAIL)?.unwrap_or_default(),
            jail_users: vars.parse(JAIL_USERS)?.unwrap_or_default(),
            backends: Backends::from_vars(vars)?,
            guest_agent: vars.path(GUEST_AGENT),
        };
        config.ensure_apart(without_dots)?;
        Ok(config)
    }
}

fn state_path(
    vars: &Variables<'_>,
    variable: &'static str,
    leaf: &str,
    is_root: bool,
) -> Result<PathBuf, ConfigError> {
    if let Some(path) = vars.path(variable) {
        // VMMs get paths in JSON.
        return if path.is_absolute() && path.to_str().is_some() {
            Ok(path)
        } else {
            Err(vars.bad(variable, path.as_os_str()).into())
        };
    }
    if is_root {
        return Ok(PathBuf::from("/var/lib/ironclaw").join(leaf));
    }
    // XDG base directory specification: ignore a relative path.
    let state = vars
        .value("XDG_STATE_HOME")
        .map(|state| ("XDG_STATE_HOME", state.clone(), PathBuf::from(state)))
        .filter(|(_, _, path)| path.is_absolute());
    let home = || {
        let home = vars.value("HOME")?;
        let state = Path::new(&home).join(".local/state");
        Some(("HOME", home, state))
    };
    let (home, value, state) = state
        .or_else(home)
        .ok_or(ConfigError::NoStateDirectory { variable })?;
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
            variable,
        });
    }
    Ok(state.join("ironclaw").join(leaf))
}

/// Removes `.` from a path and, as if there were no links, `..`.
fn without_dots(path: &Path) -> PathBuf {
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
fn resolved(path: &Path) -> PathBuf {
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

impl From<BadValue> for ConfigError {
    fn from(bad: BadValue) -> Self {
        let BadValue {
            variable,
            value,
            expected,
        } = bad;
        Self::Invalid {
            variable,
            value,
            expected,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::pool::VMM_MIB;
    use proptest::prelude::*;

    fn config(vars: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let lookup = |name: &str| {
            vars.iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| OsString::from(value))
        };
        Config::from_vars(lookup, true)
    }

    #[test]
    fn defaults_are_those_of_the_documentation() {
        let config = config(&[]).unwrap();
        assert_eq!(config.pool_size, 5);
        assert_eq!(config.snapshot_refresh, Duration::from_secs(3600));
        assert_eq!(
            config.snapshot_path,
            PathBuf::from("/var/lib/ironclaw/snapshots")
        );
        assert_eq!(config.backend, BackendChoice::Auto);
        assert_eq!(
            config.machine,
            Machine {
                memory_mib: 128,
                vcpus: 1
            }
        );
    }

    #[test]
    fn an_unprivileged_user_gets_the_xdg_state_directory() {
        let with = |vars: &'static [(&str, &str)]| {
            let lookup = move |name: &str| {
                vars.iter()
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| OsString::from(value))
            };
            Config::from_vars(lookup, false).map(|config| config.snapshot_path)
        };
        assert_eq!(
            with(&[("XDG_STATE_HOME", "/x"), ("HOME", "/home/u")]).unwrap(),
            PathBuf::from("/x/ironclaw/snapshots")
        );
        assert_eq!(
            with(&[("XDG_STATE_HOME", "relative"), ("HOME", "/home/u")]).unwrap(),
            PathBuf::from("/home/u/.local/state/ironclaw/snapshots")
        );
        for nowhere in [&[][..], &[("HOME", "")]] {
            assert!(matches!(
                with(nowhere),
                Err(ConfigError::NoStateDirectory { .. })
            ));
        }
    }

    #[test]
    fn a_relative_home_is_named_with_its_value_and_what_to_set() {
        let lookup = |name: &str| (name == "HOME").then(|| OsString::from("home/u"));
        let error = Config::from_vars(lookup, false).unwrap_err().to_string();
        for part in ["HOME=\"home/u\"", "relative", "absolute", SNAPSHOT_PATH] {
            assert!(error.contains(part), "{error:?} does not say {part:?}");
        }
    }

    #[test]
    fn a_bad_value_is_an_error_that_names_variable_value_and_range() {
        for (variable, value) in [
            (POOL_SIZE, "0"),
            (POOL_SIZE, "21"),
            (POOL_SIZE, "five"),
            (POOL_SIZE, "-1"),
            (MIN_WARM, "101"),
            (MAX_WARM, "4"),
            (MAX_VMS, "0"),
            (MEMORY_BUDGET_MIB, "127"),
            (SNAPSHOT_REFRESH_SECS, "59"),
            (SNAPSHOT_PATH, "relative/path"),
            (BACKEND, "xen"),
            (MEMORY_MIB, "95"),
            (VCPUS, "33"),
            (JAIL, "yes"),
            (JAIL_USERS, "70000"),
            (JAIL_USERS, "0-10"),
            (JAIL_USERS, "9-8"),
            ("IRONCLAW_TAPS", "tap0,"),
            ("IRONCLAW_TAPS", "netns:tap0"),
            ("IRONCLAW_QEMU_ACCEL", "hvf"),
        ] {
            let message = config(&[(variable, value)]).unwrap_err().to_string();
            let (.., range) = VARIABLES
                .iter()
                .find(|(name, ..)| *name == variable)
                .unwrap();
            for part in [variable, value, range] {
                assert!(message.contains(part), "{message:?} does not say {part:?}");
            }
        }
    }

    #[test]
    fn a_directory_that_json_can_not_name_is_refused() {
        use std::os::unix::ffi::OsStringExt as _;
        for variable in [SNAPSHOT_PATH, TEMPLATE_PATH, RUN_PATH] {
            let lookup =
                |name: &str| (name == variable).then(|| OsString::from_vec(b"/x\xff".to_vec()));
            let error = Config::from_vars(lookup, true).unwrap_err();
            assert!(error.to_string().contains(variable), "{error}");
        }
    }

    #[test]
    fn a_home_that_json_can_not_name_is_refused_as_the_variables_are() {
        use std::os::unix::ffi::OsStringExt as _;
        for home in ["HOME", "XDG_STATE_HOME"] {
            let lookup =
                |name: &str| (name == home).then(|| OsString::from_vec(b"/x\xff".to_vec()));
            let error = Config::from_vars(lookup, false).unwrap_err().to_string();
            assert!(
                error.contains(home) && error.contains(SNAPSHOT_PATH),
                "{error}"
            );
            Config::from_vars(lookup, true).unwrap();
        }
    }

    #[test]
    fn state_directories_that_contain_one_another_are_refused_with_both_settings() {
        let variables = [SNAPSHOT_PATH, TEMPLATE_PATH, RUN_PATH];
        for outer in variables {
            for inner in variables.into_iter().filter(|inner| *inner != outer) {
                for (outer_path, inner_path) in [
                    ("/srv/ic", "/srv/ic"),
                    ("/srv/ic", "/srv/ic/x"),
                    ("/srv/ic/", "/srv/./ic/x/y"),
                    ("/srv/ic", "/srv/other/../ic/x"),
                ] {
                    let error = config(&[(outer, outer_path), (inner, inner_path)]).unwrap_err();
                    let error = error.to_string();
                    for part in [outer, inner] {
                        assert!(error.contains(part), "{error:?} does not say {part:?}");
                    }
                }
            }
        }
        // A default counts, too.
        config(&[(SNAPSHOT_PATH, "/var/lib/ironclaw")]).unwrap_err();
        config(&[(SNAPSHOT_PATH, "/srv/ic"), (RUN_PATH, "/srv/ic-run")]).unwrap();
    }

    #[test]
    fn links_do_not_hide_that_one_directory_is_in_another() {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().join("real");
        std::fs::create_dir(&real).unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        let config = config(&[
            (SNAPSHOT_PATH, &path(&real)),
            (RUN_PATH, &path(&link.join("not/yet"))),
        ]);
        config.unwrap().ensure_apart(resolved).unwrap_err();
        assert_eq!(
            resolved(&link.join("a/b")),
            real.canonicalize().unwrap().join("a/b")
        );
        assert_eq!(
            resolved(Path::new("/nonexistent/a")),
            Path::new("/nonexistent/a")
        );
    }

    #[test]
    fn memory_overhead_of_a_vm_is_documented_as_it_is_counted() {
        let (.., meaning) = VARIABLES
            .iter()
            .find(|(name, ..)| *name == MEMORY_BUDGET_MIB)
            .unwrap();
        let counted = format!("{VMM_MIB} MiB");
        assert!(meaning.contains(&counted), "{meaning:?}: {counted}");
    }

    proptest! {
        #[test]
        fn every_pool_size_is_taken_as_it_is_or_refused(size in any::<i64>()) {
            let text = size.to_string();
            match config(&[(POOL_SIZE, &text)]) {
                Ok(config) => prop_assert_eq!(i64::try_from(config.pool_size).unwrap(), size),
                Err(_) => prop_assert!(!(1..=20).contains(&size)),
            }
        }
    }
}
