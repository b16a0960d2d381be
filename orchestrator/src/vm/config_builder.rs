//! Settings of a program that does not read them from its environment.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ironclaw_settings::{BadValue, Setting, UnknownSetting, Values};

use crate::template::TemplateChoice;
use crate::vm::backend::Backend;
use crate::vm::config::{
    BACKEND, BOOT_TIMEOUT_SECS, BackendChoice, Config, ConfigError, DISK_MIB, GUEST_AGENT, JAIL,
    JAIL_USERS, JailChoice, MAX_VMS, MAX_WARM, MEMORY_BUDGET_MIB, MEMORY_MIB, MIN_WARM, POOL_SIZE,
    ROOT_DISK_MIB, RUN_PATH, SETTINGS, SNAPSHOT_PATH, SNAPSHOT_REFRESH_SECS, STANDBY,
    TEMPLATE_PATH, VCPUS,
};

/// Builds a [`Config`]: what is not set has its default, and neither a file nor a variable sets it.
/// (Only the default of the directories is the user's: `$XDG_STATE_HOME`, or below `$HOME`.)
///
/// ```
/// use std::time::Duration;
///
/// use ironclaw_orchestrator::vm::Config;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = Config::builder()
///     .state_path("/srv/jobs/ironclaw")
///     .pool_size(2)
///     .memory_mib(256)
///     .boot_timeout(Duration::from_secs(180))
///     .build()?;
/// assert_eq!(config.min_warm, 2);
///
/// let error = Config::builder().pool_size(0).build().unwrap_err();
/// assert_eq!(error.key(), Some("pool_size"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct ConfigBuilder {
    set: BTreeMap<String, OsString>,
    /// As exact as they were given.
    refresh: Option<Duration>,
    boot_timeout: Option<Duration>,
    backends: Vec<Arc<dyn Backend>>,
    template: Option<TemplateChoice>,
}

impl ConfigBuilder {
    /// Sets any setting by its key, as a file would: those of a backend, or one whose name the
    /// program was told.
    pub fn set(mut self, key: impl Into<String>, value: impl Into<OsString>) -> Self {
        self.set.insert(key.into(), value.into());
        self
    }

    fn with(self, setting: &Setting, value: impl Into<OsString>) -> Self {
        self.set(setting.key, value)
    }

    fn number(self, setting: &Setting, number: impl ToString) -> Self {
        self.with(setting, number.to_string())
    }

    fn path(self, setting: &Setting, path: impl AsRef<Path>) -> Self {
        self.with(setting, path.as_ref())
    }

    /// Sets the number of snapshots in the pool, 1 to 20; 5 by default.
    pub fn pool_size(self, snapshots: usize) -> Self {
        self.number(&POOL_SIZE, snapshots)
    }

    /// Sets the minimum of warm clones; one for each snapshot by default.
    pub fn min_warm(self, clones: usize) -> Self {
        self.number(&MIN_WARM, clones)
    }

    /// Sets the maximum of warm clones; the minimum by default.
    pub fn max_warm(self, clones: usize) -> Self {
        self.number(&MAX_WARM, clones)
    }

    /// Sets the minimum of standby processes; 1 by default.
    pub fn standby(self, processes: usize) -> Self {
        self.number(&STANDBY, processes)
    }

    /// Sets the limit of VMs at a time, 1 or more; as many as fit into the memory budget by default.
    pub fn max_vms(self, vms: usize) -> Self {
        self.number(&MAX_VMS, vms)
    }

    /// Sets the memory budget of all VMs in MiB, 128 or more; three quarters of what the process may
    /// use by default.
    pub fn memory_budget_mib(self, mib: u64) -> Self {
        self.number(&MEMORY_BUDGET_MIB, mib)
    }

    /// Sets the age at which a snapshot gets a successor, 60 s or more; an hour by default.
    pub fn snapshot_refresh(mut self, age: Duration) -> Self {
        self.refresh = Some(age);
        self.number(&SNAPSHOT_REFRESH_SECS, age.as_secs())
    }

    /// Sets the time that a guest has to boot, 1 s to 3600 s; 60 s by default.
    pub fn boot_timeout(mut self, limit: Duration) -> Self {
        self.boot_timeout = Some(limit);
        self.number(&BOOT_TIMEOUT_SECS, limit.as_secs_f64().ceil())
    }

    /// Sets the three directories of state: `snapshots`, `templates` and `run` in this one.
    pub fn state_path(self, directory: impl AsRef<Path>) -> Self {
        let directory = directory.as_ref();
        self.snapshot_path(directory.join("snapshots"))
            .template_path(directory.join("templates"))
            .run_path(directory.join("run"))
    }

    /// Sets the directory of snapshots, absolute and in UTF-8.
    pub fn snapshot_path(self, directory: impl AsRef<Path>) -> Self {
        self.path(&SNAPSHOT_PATH, directory)
    }

    /// Sets the directory of templates, absolute and in UTF-8.
    pub fn template_path(self, directory: impl AsRef<Path>) -> Self {
        self.path(&TEMPLATE_PATH, directory)
    }

    /// Sets the directory for running VMs, absolute and in UTF-8.
    pub fn run_path(self, directory: impl AsRef<Path>) -> Self {
        self.path(&RUN_PATH, directory)
    }

    /// Chooses the template that VMs boot from; the default one of the directory by default.
    pub fn template(mut self, choice: impl Into<TemplateChoice>) -> Self {
        self.template = Some(choice.into());
        self
    }

    /// Chooses the backend; the first that runs the guest by default.
    pub fn backend(self, choice: BackendChoice) -> Self {
        self.with(&BACKEND, String::from(choice))
    }

    /// Adds a backend of the program itself, which serves if none of the others does, or if chosen by
    /// name.
    pub fn own_backend(mut self, backend: Arc<dyn Backend>) -> Self {
        self.backends.push(backend);
        self
    }

    /// Sets the memory of a guest in MiB, 96 to 16384; 128 by default.
    pub fn memory_mib(self, mib: u32) -> Self {
        self.number(&MEMORY_MIB, mib)
    }

    /// Sets the number of a guest's vCPUs, 1 to 32; 1 by default.
    pub fn vcpus(self, vcpus: u8) -> Self {
        self.number(&VCPUS, vcpus)
    }

    /// Sets the size of the disk that a guest writes to in MiB, where its template has a root disk.
    pub fn disk_mib(self, mib: u32) -> Self {
        self.number(&DISK_MIB, mib)
    }

    /// Sets the limit of the root disk of a template, and of the layers that it is built from, in MiB;
    /// 32768 by default.
    pub fn root_disk_mib(self, mib: u32) -> Self {
        self.number(&ROOT_DISK_MIB, mib)
    }

    /// Sets whether VMMs are jailed; as far as possible by default.
    pub fn jail(self, choice: JailChoice) -> Self {
        self.with(&JAIL, choice.name())
    }

    /// Sets the range of user ids of jailed VMs; 70000 to 99999 by default.
    pub fn jail_users(self, users: RangeInclusive<u32>) -> Self {
        self.with(&JAIL_USERS, format!("{}-{}", users.start(), users.end()))
    }

    /// Sets the path of the guest agent's binary, of which a template is built; the one beside the
    /// program by default.
    pub fn guest_agent(self, path: impl Into<PathBuf>) -> Self {
        self.with(&GUEST_AGENT, path.into())
    }

    /// Checks all settings.
    ///
    /// # Errors
    /// [`ConfigError`] of the first bad one, which [`ConfigError::key`] names: its range is that of the
    /// same setting in a file.
    pub fn build(self) -> Result<Config, ConfigError> {
        let home = |name: &str| {
            let is_home = ["HOME", "XDG_STATE_HOME"].contains(&name);
            std::env::var_os(name).filter(|_| is_home)
        };
        let mut values = Values::of_variables(SETTINGS, &home);
        for (key, value) in &self.set {
            if value.is_empty() {
                return Err(empty(key));
            }
            values = values.under_flag("", key, value.clone())?;
        }
        // An own backend is known by its name here alone.
        let by_name = self.own(&values);
        if by_name.is_some() {
            values = values.under_flag("", BACKEND.key, OsString::from("auto"))?;
        }
        let mut config = Config::new(&values).map_err(ConfigError::of_program)?;
        config.snapshot_refresh = self.refresh.unwrap_or(config.snapshot_refresh);
        config.boot_timeout = self.boot_timeout.unwrap_or(config.boot_timeout);
        config.backend = by_name.unwrap_or(config.backend);
        config.template = self.template.unwrap_or(config.template);
        config.backends.others = self.backends;
        Ok(config)
    }

    /// Returns the choice of a backend of the program itself, if that is chosen.
    fn own(&self, values: &Values<'_>) -> Option<BackendChoice> {
        let chosen = values.set(&BACKEND)?.text.to_str()?.to_owned();
        let kinds = self.backends.iter().map(|backend| backend.kind());
        let mut own = kinds.filter(|kind| kind.name() == chosen);
        own.next().map(BackendChoice::Only)
    }
}

/// Returns the error of a setting that is set to nothing, which other sources take for unset.
fn empty(key: &str) -> ConfigError {
    match SETTINGS.iter().find(|setting| setting.key == key) {
        Some(setting) => ConfigError::Invalid(BadValue {
            key: setting.key,
            set: format!("`{key}`"),
            value: String::new(),
            expected: setting.expected(),
        }),
        None => ConfigError::Unknown(UnknownSetting {
            key: key.to_owned(),
            nearest: None,
        }),
    }
}

impl Config {
    /// Returns a builder, in which everything has its default.
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder::default()
    }
}

impl ConfigError {
    /// Returns the key of the setting that is wrong, if it is one.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        let of_variable = |variable: &String| {
            let mut all = SETTINGS.iter();
            let found = all.find(|setting| {
                setting.variable() == *variable || format!("`{}`", setting.key) == *variable
            });
            found.map(|setting| setting.key)
        };
        match self {
            Self::Invalid(bad) => Some(bad.key),
            Self::Unknown(unknown) => Some(&unknown.key),
            Self::NoStateDirectory { variable } | Self::UnusableHome { variable, .. } => {
                of_variable(variable)
            }
            Self::Overlap { inner, .. } => of_variable(inner),
            Self::File(_) => None,
        }
    }

    /// Names settings by their keys, as the program that set them knows them.
    fn of_program(self) -> Self {
        let key = |variable: String| {
            let mut all = SETTINGS.iter();
            let found = all.find(|setting| setting.variable() == variable);
            found.map_or(variable, |setting| format!("`{}`", setting.key))
        };
        match self {
            Self::Invalid(bad) => Self::Invalid(BadValue {
                set: format!("`{}`", bad.key),
                ..bad
            }),
            Self::NoStateDirectory { variable } => Self::NoStateDirectory {
                variable: key(variable),
            },
            Self::UnusableHome {
                home,
                value,
                reason,
                variable,
            } => Self::UnusableHome {
                home,
                value,
                reason,
                variable: key(variable),
            },
            Self::Overlap {
                inner,
                inner_path,
                outer,
                outer_path,
            } => Self::Overlap {
                inner: key(inner),
                inner_path,
                outer: key(outer),
                outer_path,
            },
            other @ (Self::File(_) | Self::Unknown(_)) => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builder() -> ConfigBuilder {
        Config::builder().state_path("/srv/embed")
    }

    #[test]
    fn what_is_not_set_has_its_default_and_what_is_set_counts() {
        let config = builder()
            .pool_size(3)
            .max_warm(7)
            .jail(JailChoice::Off)
            .jail_users(5..=9)
            .snapshot_refresh(Duration::from_millis(90_500))
            .boot_timeout(Duration::from_millis(1500))
            .set("root_drive_of_nobody", "x");
        let error = config.clone().build().unwrap_err();
        assert_eq!(error.key(), Some("root_drive_of_nobody"), "{error}");
        let mut config = config;
        config.set.remove("root_drive_of_nobody");
        let config = config.build().unwrap();
        assert_eq!(
            (config.pool_size, config.min_warm, config.max_warm),
            (3, 3, 7)
        );
        assert_eq!(config.snapshot_path, Path::new("/srv/embed/snapshots"));
        assert_eq!(config.run_path, Path::new("/srv/embed/run"));
        assert_eq!(config.jail, JailChoice::Off);
        assert_eq!(config.jail_users.0, 5..=9);
        assert_eq!(config.snapshot_refresh, Duration::from_millis(90_500));
        assert_eq!(config.boot_timeout, Duration::from_millis(1500));
        assert_eq!((config.standby, config.machine.vcpus), (1, 1));
    }

    #[test]
    fn each_bad_value_is_an_error_that_names_its_field_and_no_variable() {
        let b = builder;
        for (builder, key) in [
            (b().pool_size(0), "pool_size"),
            (b().pool_size(21), "pool_size"),
            (b().min_warm(3).max_warm(2), "max_warm"),
            (b().max_vms(0), "max_vms"),
            (b().memory_budget_mib(1), "memory_budget_mib"),
            (
                b().snapshot_refresh(Duration::from_secs(59)),
                "snapshot_refresh_secs",
            ),
            (b().boot_timeout(Duration::ZERO), "boot_timeout_secs"),
            (b().boot_timeout(Duration::MAX), "boot_timeout_secs"),
            (b().snapshot_path("relative"), "snapshot_path"),
            (b().template_path(""), "template_path"),
            (b().run_path("/srv/embed/snapshots/run"), "run_path"),
            (b().memory_mib(95), "memory_mib"),
            (b().vcpus(33), "vcpus"),
            (b().disk_mib(15), "disk_mib"),
            (b().root_disk_mib(15), "root_disk_mib"),
            (b().jail_users(0..=9), "jail_users"),
            (b().guest_agent(""), "guest_agent"),
            (b().set("backend", "xen"), "backend"),
        ] {
            let error = builder.build().unwrap_err();
            assert_eq!(error.key(), Some(key), "{error}");
            let text = error.to_string();
            assert!(text.contains(&format!("`{key}`")), "{text}");
            assert!(!text.contains(ironclaw_settings::PREFIX), "{text}");
        }
    }
}
