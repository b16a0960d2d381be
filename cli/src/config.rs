//! The command `ironclaw config`: shows the settings and their origins.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;
use ironclaw_console::{for_users, output};
use ironclaw_orchestrator::vm::Config;
use ironclaw_orchestrator::vm::config::{
    ConfigError, DAEMON_CA_FILE, MAX_WARM, MIN_WARM, RUN_PATH, SETTINGS, SNAPSHOT_PATH,
    TEMPLATE_PATH,
};
use ironclaw_settings::{DefaultValue, SetBy, Setting, Values, find_file};
use serde::Serialize;

/// The option that sets a setting.
const FLAG: &str = "--set";

/// Reads the settings of this process, including those of its command line.
pub(crate) fn read(set: &[(String, OsString)]) -> Result<Config, ConfigError> {
    Config::new(&of_process(set)?)
}

/// Returns the settings of this process with what set each.
pub(crate) fn of_process(set: &[(String, OsString)]) -> Result<Values<'static>, ConfigError> {
    values(set, &environment)
}

/// Returns the file with authorities of daemons, if one is set.
pub(crate) fn daemon_ca_file(set: &[(String, OsString)]) -> Result<Option<PathBuf>, ConfigError> {
    Ok(of_process(set)?.path(&DAEMON_CA_FILE))
}

fn environment(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

fn values<'a>(
    set: &[(String, OsString)],
    environment: &'a dyn Fn(&str) -> Option<OsString>,
) -> Result<Values<'a>, ConfigError> {
    let mut values = Config::read(environment)?;
    for (key, value) in set {
        values = values.under_flag(FLAG, key, value.clone())?;
    }
    Ok(values)
}

#[derive(Debug, Serialize)]
struct Settings {
    /// The file that was read.
    file: Option<PathBuf>,
    settings: BTreeMap<&'static str, Shown>,
}

/// A JSON value.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Plain {
    Number(u64),
    Text(String),
}

impl Plain {
    fn new(text: String) -> Self {
        text.parse().map_or_else(|_| Self::Text(text), Self::Number)
    }
}

/// The current value of a setting.
#[derive(Debug, Serialize)]
struct Shown {
    /// `None` for a default that is only described.
    value: Option<Plain>,
    default: String,
    takes: String,
    variable: String,
    /// `default`, `file`, `variable` or `flag`.
    from: &'static str,
    /// The line in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip)]
    origin: String,
}

pub(crate) fn show(set: &[(String, OsString)], json: bool) -> Result<u8> {
    let values = values(set, &environment)?;
    let config = Config::new(&values)?;
    let shown = Settings {
        file: find_file(&environment),
        settings: SETTINGS
            .iter()
            .map(|setting| (setting.key, shown(setting, &values, &config)))
            .collect(),
    };
    if json {
        output::json(&shown)?;
        return Ok(0);
    }
    let mut rows = Vec::new();
    for setting in SETTINGS {
        let Some(it) = shown.settings.get(setting.key) else {
            continue;
        };
        let value = match &it.value {
            Some(Plain::Text(text)) => text.clone(),
            Some(Plain::Number(number)) => number.to_string(),
            None => it.default.clone(),
        };
        rows.push([setting.key.to_owned(), value, it.origin.clone()]);
    }
    output::table(["SETTING", "VALUE", "FROM"], rows)?;
    Ok(0)
}

fn shown(setting: &Setting, values: &Values<'_>, config: &Config) -> Shown {
    let set = values.set(setting);
    let text = match (set, setting.default) {
        (Some(value), _) => Some(value.text.to_string_lossy().into_owned()),
        (None, DefaultValue::Is(text)) => Some(text.to_owned()),
        (None, DefaultValue::Described(_)) => found(setting, config),
    };
    let (from, line) = match set.map(|value| &value.set_by) {
        None => ("default", None),
        Some(SetBy::File { line, .. }) => ("file", Some(*line)),
        Some(SetBy::Variable(_)) => ("variable", None),
        Some(SetBy::Flag(_)) => ("flag", None),
    };
    Shown {
        value: text.map(Plain::new),
        default: for_users(&setting.default.to_string()),
        takes: for_users(&setting.expected()),
        variable: setting.variable(),
        from,
        line,
        origin: set.map_or_else(|| from.to_owned(), |value| value.set_by.to_string()),
    }
}

/// Returns the current value of a default that depends on others.
fn found(setting: &Setting, config: &Config) -> Option<String> {
    let path = |path: &PathBuf| path.display().to_string();
    let all = [
        (&SNAPSHOT_PATH, path(&config.snapshot_path)),
        (&TEMPLATE_PATH, path(&config.template_path)),
        (&RUN_PATH, path(&config.run_path)),
        (&MIN_WARM, config.min_warm.to_string()),
        (&MAX_WARM, config.max_warm.to_string()),
    ];
    all.into_iter()
        .find(|(known, _)| *known == setting)
        .map(|(_, value)| value)
}
