use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;

use ironclaw_store::StoreError;

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
fn a_full_disk_is_told_as_such_whoever_noticed_it() {
    let error = shell("echo tar: x: No space left on device >&2; exit 2", LONG);
    let error = error.unwrap_err();
    assert!(
        matches!(error, TemplateError::Store(StoreError::NoSpace { .. })),
        "{error}"
    );
    let told = TemplateError::io("write", Path::new("/x"))(ErrorKind::StorageFull.into());
    let text = told.to_string();
    assert!(
        text.contains("/x") && text.contains("`template_path`"),
        "{text}"
    );
}

#[test]
fn a_failed_program_s_stderr_has_no_terminal_escapes() {
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

#[test]
fn a_tool_has_no_descriptor_of_ours() {
    let stray = tempfile::NamedTempFile::new().unwrap();
    let open = rustix::io::dup(stray.as_file()).unwrap();
    let listed = shell("ls -l /proc/self/fd", LONG).unwrap();
    drop(open);
    let name = stray.path().to_str().unwrap();
    assert!(
        listed.contains(" 2 -> ") && !listed.contains(name),
        "{listed}"
    );
}

#[test]
fn a_program_in_memory_runs_under_its_name() {
    let program = fs::read(which::which("busybox").unwrap_or("/bin/sh".into())).unwrap();
    let loaded = Loaded::new("sh", &program).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["-c".into(), "echo \"$0\"".into()];
    let said = run("sh", &loaded.path(), &arguments, directory.path(), LONG);
    assert_eq!(said.unwrap(), "sh\n");
}

/// Set where the last test of this file runs for another: where a tool writes to. It does nothing
/// otherwise.
const HOLD: &str = "IRONCLAW_TEST_HOLD_TOOL";

#[test]
fn a_tool_ends_with_its_owner_although_that_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    let mut options = File::options();
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let heard = options.read(true).custom_flags(nonblocking);
    let heard = heard.open(&fifo).unwrap();
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "debian::tool::tests::holds_a_tool"])
        .env(HOLD, &fifo)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let happens = || {
        let limit = Timespec::try_from(Duration::from_secs(10)).unwrap();
        poll(&mut [PollFd::new(&heard, PollFlags::IN)], Some(&limit)) == Ok(1)
    };
    assert!(happens(), "no tool was started");
    assert_eq!((&heard).read(&mut [0; 8]).unwrap(), 3);
    owner.kill().unwrap();
    owner.wait().unwrap();
    assert!(happens(), "the tool goes on");
}

#[test]
fn holds_a_tool() {
    if let Some(fifo) = std::env::var_os(HOLD) {
        let script = format!("exec >{}; echo up; exec sleep 1000", fifo.display());
        shell(&script, LONG).unwrap();
    }
}
