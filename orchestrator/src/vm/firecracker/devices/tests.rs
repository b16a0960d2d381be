use super::*;

fn tap(text: &str) -> Tap {
    text.parse().unwrap()
}

#[test]
fn a_tap_device_is_named_with_or_without_its_namespace() {
    assert_eq!(tap("tap0").namespace, None);
    let jailed = tap("/run/netns/vm0:tap0");
    assert_eq!(jailed.namespace, Some("/run/netns/vm0".into()));
    assert_eq!(jailed.device, "tap0");
    let long = "a".repeat(16);
    for bad in [
        "", ":", "/run/x:", "vm0:tap0", "tap/0", "..", "tap 0", &long,
    ] {
        assert!(bad.parse::<Tap>().is_err(), "{bad:?}");
    }
}

#[test]
fn tap_devices_that_vms_can_not_reach_are_refused_when_it_is_set_up() {
    for (text, jailed, said) in [
        ("tap0", true, "tap0"),
        ("/run/netns/vm0:tap0", false, "tap0"),
        ("/nonexistent/vm0:tap0", true, "/nonexistent/vm0"),
    ] {
        let error = Devices::new(None, vec![tap(text)], jailed).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
    // Any existing file will do.
    Devices::new(None, vec![tap("/proc/self/ns/net:tap0")], true).unwrap();
}

#[test]
fn each_vm_gets_a_tap_device_of_its_own_until_there_is_none() {
    let run = tempfile::tempdir().unwrap();
    let devices = Devices::new(None, vec![tap("tap0"), tap("tap1")], false).unwrap();
    let first = devices.interface(run.path()).unwrap().unwrap();
    let second = devices.interface(run.path()).unwrap().unwrap();
    assert_eq!((first.tap(), second.tap()), (&tap("tap0"), &tap("tap1")));
    let error = devices.interface(run.path()).unwrap_err();
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert!(why.contains("`taps`"), "{why}");
    drop(first);
    let again = devices.interface(run.path()).unwrap().unwrap();
    assert_eq!(again.tap(), &tap("tap0"));
}

#[test]
fn another_cpu_template_and_an_interface_are_other_devices() {
    let directory = tempfile::tempdir().unwrap();
    let template = directory.path().join("t");
    fs::write(&template, "{}").unwrap();
    let digest = |template, taps| {
        let devices = Devices::new(template, taps, false).unwrap();
        devices.digest()
    };
    assert_eq!(digest(None, Vec::new()), None);
    let tap = || vec![tap("tap0")];
    let mut digests = vec![
        digest(Some(&template), Vec::new()),
        digest(None, tap()),
        digest(Some(&template), tap()),
    ];
    assert_eq!(digest(Some(&template), Vec::new()), digests[0]);
    fs::write(&template, r#"{"msr_modifiers": []}"#).unwrap();
    digests.push(digest(Some(&template), Vec::new()));
    let different: std::collections::HashSet<_> = digests
        .iter()
        .map(|digest| digest.unwrap().to_string())
        .collect();
    assert_eq!(different.len(), digests.len());
}

#[test]
fn a_missing_or_malformed_cpu_template_is_an_error_that_names_the_file() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().to_owned();
    let (missing, text) = (directory.join("none"), directory.join("text"));
    fs::write(&text, "not JSON").unwrap();
    for template in [&missing, &directory, &text] {
        let error = Devices::new(Some(template), Vec::new(), false).unwrap_err();
        let (said, path) = (error.to_string(), template.display().to_string());
        assert!(
            said.contains(&path) && said.contains("`cpu_template`"),
            "{error}"
        );
    }
}
