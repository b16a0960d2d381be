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
            vcpus: 1,
            disk_mib: Some(4096),
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
        let lookup = |name: &str| (name == home).then(|| OsString::from_vec(b"/x\xff".to_vec()));
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
