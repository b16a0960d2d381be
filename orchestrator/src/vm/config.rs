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

use ironclaw_settings::find_file;
use serde::Serialize;

use crate::template::{TemplateChoice, TemplateName};
use crate::vm::backend::Surroundings;
use crate::vm::backends::{self, Backends};
use crate::vm::vmm::rundown::Rundown;
use crate::vm::vmm::{Machine, VmmKind};

pub use crate::vm::backend::JailChoice;
pub use crate::vm::vmm::jail::user::DEFAULT_USERS;
pub use error::ConfigError;
pub use ironclaw_settings::{BadValue, FileError, Setting, UnknownSetting, Values};
pub use schema::{
    BACKEND, BOOT_TIMEOUT_SECS, DAEMON_CA_FILE, DISK_MIB, GUEST_AGENT, JAIL, JAIL_USERS, MAX_VMS,
    MAX_WARM, MEMORY_BUDGET_MIB, MEMORY_MIB, MIN_WARM, POOL_SIZE, REGISTRY_CA_FILE,
    REGISTRY_PLAIN_HTTP, ROOT_DISK_MIB, RUN_PATH, SETTINGS, SNAPSHOT_PATH, SNAPSHOT_REFRESH_SECS,
    STANDBY, TEMPLATE, TEMPLATE_PATH, VCPUS,
};

use state_paths::{resolved, state_path, without_dots};

/// The default of the age at which a snapshot gets a successor.
pub const DEFAULT_REFRESH: Duration = Duration::from_secs(3600);
/// The default number of standby processes.
pub const DEFAULT_STANDBY: usize = 1;

/// All settings, validated.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
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
    /// The template that VMs boot from.
    pub template: TemplateChoice,
    /// The choice of the backend.
    pub backend: BackendChoice,
    /// The size of a guest.
    pub machine: Machine,
    /// The limit of the root disk of a template, and of the layers that it is built from, in MiB.
    pub root_disk_mib: u32,
    /// The time that a guest has from the start of its vCPUs until its agent answers, 1 s to 3600 s.
    /// A boot that takes longer is tried again, twice.
    pub boot_timeout: Duration,
    /// Whether VMMs are jailed.
    pub jail: JailChoice,
    /// The range of user ids of jailed VMs.
    pub jail_users: Users,
    /// The backends with their own settings.
    pub backends: Backends,
    /// The path of the guest agent's binary, if not the one beside the program.
    pub guest_agent: Option<PathBuf>,
    /// A file with certificates of authorities of registries, beside the system's.
    pub registry_ca_file: Option<PathBuf>,
    /// The registries on other machines that are asked in plain HTTP.
    pub registry_plain_http: Vec<String>,
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
    /// Returns how registries are reached: as these settings say, and as docker and podman do for this
    /// process's user.
    #[cfg(feature = "oci")]
    #[must_use]
    pub fn registry_access(&self) -> crate::template::oci::RegistryAccess {
        crate::template::oci::RegistryAccess::of_user()
            .with_ca_file(self.registry_ca_file.clone())
            .with_plain_http(self.registry_plain_http.iter().cloned())
    }

    /// Returns the settings shared by VMs of all backends, which end in `rundown`.
    pub(crate) fn surroundings(&self, rundown: Rundown) -> Surroundings {
        Surroundings {
            run_path: self.run_path.clone(),
            read_paths: vec![self.snapshot_path.clone(), self.template_path.clone()],
            jail: self.jail,
            jail_users: self.jail_users.0.clone(),
            rundown,
        }
    }

    /// Returns the limit of a template's root disk in bytes.
    #[must_use]
    pub fn max_root_bytes(&self) -> u64 {
        u64::from(self.root_disk_mib) << 20
    }

    /// Returns these settings for guests of another size; without a limit of its disk, that of these
    /// settings holds.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] if no guest can have it.
    pub fn with_machine(self, machine: Machine) -> Result<Self, ConfigError> {
        let Machine {
            memory_mib,
            vcpus,
            disk_mib,
        } = machine;
        let disk = disk_mib.map(|disk_mib| (&DISK_MIB, u64::from(disk_mib)));
        let numbers = [
            (&MEMORY_MIB, u64::from(memory_mib)),
            (&VCPUS, u64::from(vcpus)),
        ];
        for (setting, number) in numbers.into_iter().chain(disk) {
            if !setting.takes.allows(number) {
                let bad = BadValue {
                    key: setting.key,
                    set: setting.key.to_owned(),
                    value: number.to_string(),
                    expected: setting.expected(),
                };
                return Err(bad.into());
            }
        }
        let machine = Machine {
            disk_mib: disk_mib.or(self.machine.disk_mib),
            ..machine
        };
        Ok(Self { machine, ..self })
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
            template: values
                .parse::<TemplateName>(&TEMPLATE)?
                .map(TemplateChoice::from)
                .unwrap_or_default(),
            backend: values.parse(&BACKEND)?.unwrap_or_default(),
            machine: Machine {
                memory_mib: values.number(&MEMORY_MIB)?.unwrap_or_default(),
                vcpus: values.number(&VCPUS)?.unwrap_or_default(),
                disk_mib: values.number(&DISK_MIB)?,
            },
            root_disk_mib: values.number(&ROOT_DISK_MIB)?.unwrap_or_default(),
            boot_timeout: Duration::from_secs(
                values.number(&BOOT_TIMEOUT_SECS)?.unwrap_or_default(),
            ),
            jail: values.parse(&JAIL)?.unwrap_or_default(),
            jail_users: values.parse(&JAIL_USERS)?.unwrap_or_default(),
            backends: Backends::new(values)?,
            guest_agent: values.path(&GUEST_AGENT),
            registry_ca_file: values.path(&REGISTRY_CA_FILE),
            registry_plain_http: values
                .parse::<String>(&REGISTRY_PLAIN_HTTP)?
                .map_or_else(Vec::new, |list| hosts(&list)),
        };
        config.ensure_apart(without_dots)?;
        Ok(config)
    }
}

/// The hosts in a list with commas between them.
fn hosts(list: &str) -> Vec<String> {
    let hosts = list.split(',').map(str::trim);
    hosts
        .filter(|it| !it.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
#[cfg(all(feature = "firecracker", feature = "qemu"))]
mod tests;
