//! The settings, their ranges and their sources.
//!
//! [`Config::from_env`] reads them from a file and from the environment, which takes precedence.
//! Nothing else in the crate reads either, except for `PATH`, on which programs are looked for that
//! no setting names. A bad value is an error with its origin, the value and the range; nothing is
//! silently clamped.

mod error;
mod schema;
mod state_paths;

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ironclaw_settings::{Values, find_file};
use serde::Serialize;

use crate::vm::backend::Surroundings;
use crate::vm::backends::{self, Backends};
use crate::vm::vmm::jail::user::DEFAULT_USERS;
use crate::vm::vmm::{Machine, VmmKind};

pub use crate::vm::backend::JailChoice;
pub use error::ConfigError;
pub use schema::{
    BACKEND, GUEST_AGENT, JAIL, JAIL_USERS, MAX_VMS, MAX_WARM, MEMORY_BUDGET_MIB, MEMORY_MIB,
    MIN_WARM, POOL_SIZE, RUN_PATH, SETTINGS, SNAPSHOT_PATH, SNAPSHOT_REFRESH_SECS, STANDBY,
    TEMPLATE_PATH, VCPUS,
};

use state_paths::{resolved, state_path, without_dots};

/// The default of the age at which a snapshot gets a successor.
pub const DEFAULT_REFRESH: Duration = Duration::from_secs(3600);
/// The default number of standby processes.
pub const DEFAULT_STANDBY: usize = 1;

/// All settings, validated.
#[derive(Debug, Clone, Serialize)]
pub struct Config {
    /// Snapshots in the pool, 1 to 20.
    pub pool_size: usize,
    /// Minimum of warm clones, 0 or more.
    pub min_warm: usize,
    /// Maximum of warm clones, `min_warm` or more.
    pub max_warm: usize,
    /// Minimum of standby processes; with 0 there are none.
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
    /// That kind, or an error.
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

    /// Reads the settings of this process, from its environment and from a file.
    ///
    /// # Errors
    /// [`ConfigError`] of the first bad value.
    pub fn from_env() -> Result<Self, ConfigError> {
        let environment = |name: &str| std::env::var_os(name);
        Self::new(&Self::read(&environment)?)
    }

    /// Reads the variables of `environment`, and the file that it leads to: for callers that set
    /// more.
    ///
    /// # Errors
    /// [`ConfigError::File`].
    pub fn read(environment: &dyn Fn(&str) -> Option<OsString>) -> Result<Values<'_>, ConfigError> {
        let values = Values::of_variables(SETTINGS, environment);
        Ok(match find_file(environment) {
            Some(path) => values.over_file(&path)?,
            None => values,
        })
    }

    /// Validates the settings in `values`, for this user.
    ///
    /// # Errors
    /// [`ConfigError`] of the first bad value.
    pub fn new(values: &Values<'_>) -> Result<Self, ConfigError> {
        let config = Self::of(values, rustix::process::geteuid().is_root())?;
        // Checks again with links resolved, which may lead from one to the other.
        config.ensure_apart(resolved)?;
        Ok(config)
    }

    /// Refuses state directories of which one contains another, after `find` was applied to each.
    fn ensure_apart(&self, find: impl Fn(&Path) -> PathBuf) -> Result<(), ConfigError> {
        let settings = [
            (&SNAPSHOT_PATH, &self.snapshot_path),
            (&TEMPLATE_PATH, &self.template_path),
            (&RUN_PATH, &self.run_path),
        ];
        for (inner, inner_path) in settings {
            for (outer, outer_path) in settings {
                if inner.key != outer.key && find(inner_path).starts_with(find(outer_path)) {
                    return Err(ConfigError::Overlap {
                        inner: inner.variable(),
                        inner_path: inner_path.clone(),
                        outer: outer.variable(),
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
        Self::of(&Values::of_variables(SETTINGS, &var), is_root)
    }

    fn of(values: &Values<'_>, is_root: bool) -> Result<Self, ConfigError> {
        // Settings without a value have a default that is described.
        let number = |setting| {
            values
                .number::<usize>(setting)
                .map(Option::unwrap_or_default)
        };
        let pool_size = number(&POOL_SIZE)?;
        let min_warm = values.number(&MIN_WARM)?.unwrap_or(pool_size);
        let max_warm = values.number(&MAX_WARM)?.unwrap_or(min_warm);
        if max_warm < min_warm {
            return Err(values.bad(&MAX_WARM).into());
        }
        let config = Self {
            pool_size,
            min_warm,
            max_warm,
            standby: number(&STANDBY)?,
            max_vms: values.number(&MAX_VMS)?,
            memory_budget_mib: values.number(&MEMORY_BUDGET_MIB)?,
            snapshot_refresh: values
                .number(&SNAPSHOT_REFRESH_SECS)?
                .map_or(DEFAULT_REFRESH, Duration::from_secs),
            snapshot_path: state_path(values, &SNAPSHOT_PATH, "snapshots", is_root)?,
            template_path: state_path(values, &TEMPLATE_PATH, "templates", is_root)?,
            run_path: state_path(values, &RUN_PATH, "run", is_root)?,
            backend: values.parse(&BACKEND)?.unwrap_or_default(),
            machine: Machine {
                memory_mib: values.number(&MEMORY_MIB)?.unwrap_or_default(),
                vcpus: values.number(&VCPUS)?.unwrap_or_default(),
            },
            jail: values.parse(&JAIL)?.unwrap_or_default(),
            jail_users: values.parse(&JAIL_USERS)?.unwrap_or_default(),
            backends: Backends::new(values)?,
            guest_agent: values.path(&GUEST_AGENT),
        };
        config.ensure_apart(without_dots)?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ironclaw_settings::Setting;
    use proptest::prelude::*;

    fn config(vars: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let lookup = |name: &str| {
            vars.iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| OsString::from(value))
        };
        Config::from_vars(lookup, true)
    }

    /// Returns the configuration of these settings, set as variables.
    fn set(settings: &[(&Setting, &str)]) -> Result<Config, ConfigError> {
        let vars: Vec<_> = settings
            .iter()
            .map(|(setting, value)| (setting.variable(), *value))
            .collect();
        let vars: Vec<_> = vars
            .iter()
            .map(|(name, value)| (name.as_str(), *value))
            .collect();
        config(&vars)
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
        let variable = SNAPSHOT_PATH.variable();
        for part in ["HOME=\"home/u\"", "relative", "absolute", &variable] {
            assert!(error.contains(part), "{error:?} does not say {part:?}");
        }
    }

    #[test]
    fn a_bad_value_is_an_error_that_names_variable_value_and_range() {
        for (key, value) in [
            ("pool_size", "0"),
            ("pool_size", "21"),
            ("pool_size", "five"),
            ("pool_size", "-1"),
            ("min_warm", "-1"),
            ("max_warm", "4"),
            ("max_vms", "0"),
            ("memory_budget_mib", "127"),
            ("snapshot_refresh_secs", "59"),
            ("snapshot_path", "relative/path"),
            ("backend", "xen"),
            ("memory_mib", "95"),
            ("vcpus", "33"),
            ("jail", "yes"),
            ("jail_users", "70000"),
            ("jail_users", "0-10"),
            ("jail_users", "9-8"),
            ("taps", "tap0,"),
            ("taps", "netns:tap0"),
            ("qemu_accel", "hvf"),
        ] {
            let setting = SETTINGS.iter().find(|it| it.key == key).unwrap();
            let message = set(&[(setting, value)]).unwrap_err().to_string();
            for part in [&setting.variable(), value, &setting.expected()] {
                assert!(message.contains(part), "{message:?} does not say {part:?}");
            }
        }
    }

    #[test]
    fn defaults_that_are_declared_are_those_of_the_types() {
        let config = config(&[]).unwrap();
        assert_eq!(config.standby, DEFAULT_STANDBY);
        assert_eq!(config.snapshot_refresh, DEFAULT_REFRESH);
        assert_eq!((config.min_warm, config.max_warm), (5, 5));
        assert_eq!(config.jail, JailChoice::default());
        assert_eq!(config.jail_users, Users::default());
        assert_eq!(config.backends.qemu.accel, Default::default());
    }

    #[test]
    fn a_directory_that_json_can_not_name_is_refused() {
        use std::os::unix::ffi::OsStringExt as _;
        for variable in [SNAPSHOT_PATH, TEMPLATE_PATH, RUN_PATH].map(|it| it.variable()) {
            let lookup =
                |name: &str| (name == variable).then(|| OsString::from_vec(b"/x\xff".to_vec()));
            let error = Config::from_vars(lookup, true).unwrap_err();
            assert!(error.to_string().contains(&variable), "{error}");
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
                error.contains(home) && error.contains(&SNAPSHOT_PATH.variable()),
                "{error}"
            );
            Config::from_vars(lookup, true).unwrap();
        }
    }

    #[test]
    fn state_directories_that_contain_one_another_are_refused_with_both_settings() {
        let variables = [&SNAPSHOT_PATH, &TEMPLATE_PATH, &RUN_PATH];
        for outer in variables {
            for inner in variables.into_iter().filter(|inner| *inner != outer) {
                for (outer_path, inner_path) in [
                    ("/srv/ic", "/srv/ic"),
                    ("/srv/ic", "/srv/ic/x"),
                    ("/srv/ic/", "/srv/./ic/x/y"),
                    ("/srv/ic", "/srv/other/../ic/x"),
                ] {
                    let error = set(&[(outer, outer_path), (inner, inner_path)]).unwrap_err();
                    let error = error.to_string();
                    for part in [outer, inner].map(Setting::variable) {
                        assert!(error.contains(&part), "{error:?} does not say {part:?}");
                    }
                }
            }
        }
        // A default counts, too.
        set(&[(&SNAPSHOT_PATH, "/var/lib/ironclaw")]).unwrap_err();
        set(&[(&SNAPSHOT_PATH, "/srv/ic"), (&RUN_PATH, "/srv/ic-run")]).unwrap();
    }

    #[test]
    fn links_do_not_hide_that_one_directory_is_in_another() {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().join("real");
        std::fs::create_dir(&real).unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        let config = set(&[
            (&SNAPSHOT_PATH, &path(&real)),
            (&RUN_PATH, &path(&link.join("not/yet"))),
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

    proptest! {
        #[test]
        fn every_pool_size_is_taken_as_it_is_or_refused(size in any::<i64>()) {
            let text = size.to_string();
            match set(&[(&POOL_SIZE, &text)]) {
                Ok(config) => prop_assert_eq!(i64::try_from(config.pool_size).unwrap(), size),
                Err(_) => prop_assert!(!(1..=20).contains(&size)),
            }
        }
    }
}
