use super::*;

fn shell(script: &str, limit: Duration) -> Result<String, TemplateError> {
    let directory = tempfile::tempdir().unwrap();
    run(
        "sh",
        Path::new("sh"),
        &["-c".into(), script.into()],
        directory.path(),
        limit,
    )
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn output_is_returned() {
    assert_eq!(shell("echo out; echo err >&2", LONG).unwrap(), "out\n");
}

#[test]
fn a_failure_tells_status_and_complaint() {
    let text = shell("echo first >&2; echo last >&2; exit 3", LONG)
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("exit status: 3") && text.contains("first; last"),
        "{text}"
    );
}

#[test]
fn what_a_program_complains_with_drives_no_terminal() {
    let error = shell("printf '\\033[2Jno\\r' >&2; exit 1", LONG).unwrap_err();
    let text = error.to_string();
    assert!(
        text.ends_with("[2Jno") && !text.contains('\x1b'),
        "{text:?}"
    );
}

#[test]
fn a_long_complaint_is_cut_to_its_end() {
    let error = shell(
        "for i in $(seq 1000); do echo line $i >&2; done; exit 1",
        LONG,
    );
    let text = error.unwrap_err().to_string();
    assert!(
        text.contains("line 1000") && !text.contains("line 900;"),
        "{text}"
    );
}

#[test]
fn a_program_that_hangs_is_stopped() {
    let started = Instant::now();
    let error = shell("exec sleep 1000", Duration::from_millis(50)).unwrap_err();
    assert!(
        matches!(error, TemplateError::ToolTimedOut { .. }),
        "{error}"
    );
    assert!(started.elapsed() < LONG);
}

#[test]
fn a_program_that_is_not_installed_is_named_with_the_alternative() {
    let directory = tempfile::tempdir().unwrap();
    let error = run(
        "apt-get",
        Path::new("no-such-apt-get"),
        &[],
        directory.path(),
        LONG,
    );
    let text = error.unwrap_err().to_string();
    assert!(
        text.contains("apt-get is not installed") && text.contains("ironclaw template import"),
        "{text}"
    );
}
