use std::io::Write as _;
use std::process::{Command, Stdio};

use super::*;
use crate::sys::confine::Confinement;
use crate::sys::program::Program;
use crate::vm::vmm::run_directory::RunPath;

fn shell(script: &str) -> Program {
    let mut program = Program::new("/bin/sh");
    program.args(["-c", script]);
    program
}

fn is_alive(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test]
async fn the_end_is_reported_with_the_last_lines() {
    let process = Process::start(Launch::new(shell("echo out; echo err >&2; exit 3")))
        .await
        .unwrap();
    let exit = process.exited().await;
    assert_eq!(exit.status, "exit status: 3");
    assert!(
        exit.log.contains("out") && exit.words.contains("err"),
        "{exit}"
    );
}

#[tokio::test]
async fn a_dropped_process_is_killed_and_reaped() {
    let script = shell("exec sleep 1000");
    let confined = Launch::confined(script.command(), Confinement::default(), None);
    for launch in [Launch::new(script), confined] {
        let process = Process::start(launch).await.unwrap();
        let (pid, exited) = (process.pid(), process.exited());
        assert!(is_alive(pid));
        drop(process);
        assert!(exited.await.status.contains("SIGKILL"));
        assert!(!is_alive(pid));
    }
}

#[tokio::test]
async fn children_of_a_process_end_with_it() {
    for (end, forks) in [("exit 0", false), ("kill -9 $$", false), ("exit 0", true)] {
        let script = shell(&format!("sleep 1000 >/dev/null 2>&1 & echo $!; {end}"));
        let launch = if forks {
            Launch::confined(script.command(), Confinement::default(), None)
        } else {
            Launch::new(script)
        };
        let process = Process::start(launch).await.unwrap();
        let started = process.exited().await.log.trim().parse().unwrap();
        let gone = async {
            while is_alive(started) {
                tokio::task::yield_now().await;
            }
        };
        timeout(PROCESS_END_TIMEOUT, gone).await.unwrap();
    }
}

#[tokio::test]
async fn a_drop_can_be_waited_for_together_with_what_belonged_to_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let root = tempfile::tempdir().unwrap();
    let run = RunPath::open(root.path()).unwrap();
    let launch = Launch::new(shell("exec sleep 1000")).recorded_in(run.directory().unwrap());
    let process = Process::start(launch.with(directory)).await.unwrap();
    let pid = process.pid();
    drop(process);
    run.rundown().ended().await;
    assert!(!is_alive(pid));
    assert!(!path.exists());
    // Also if nobody waited for its start.
    let launch = Launch::new(shell("exec sleep 1000")).recorded_in(run.directory().unwrap());
    let mut start = Box::pin(Process::start(launch));
    let now = std::future::poll_fn(|cx| std::task::Poll::Ready(start.as_mut().poll(cx)));
    assert!(now.await.is_pending());
    drop(start);
    run.rundown().ended().await;
    let run = run.directory().unwrap();
    assert_eq!(orphan::marked(run.name()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_death_is_told_before_what_belonged_to_the_process_is_gone() {
    struct Belonging(std::sync::mpsc::Receiver<()>);
    impl Drop for Belonging {
        fn drop(&mut self) {
            let _ = self.0.recv();
        }
    }
    let (go, belonging) = std::sync::mpsc::channel();
    let launch = Launch::new(shell("exit 3")).with(Belonging(belonging));
    let process = Process::start(launch).await.unwrap();
    let exit = timeout(PROCESS_END_TIMEOUT, process.handle().died())
        .await
        .unwrap();
    assert_eq!(exit.status, "exit status: 3");
    let mut exited = std::pin::pin!(process.exited());
    let now = std::future::poll_fn(|cx| std::task::Poll::Ready(exited.as_mut().poll(cx)));
    assert!(now.await.is_pending());
    drop(go);
    assert_eq!(timeout(PROCESS_END_TIMEOUT, exited).await.unwrap(), exit);
}

/// Returns the process's state in /proc: `T` is stopped, `S` sleeps.
fn state(pid: u32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
}

#[tokio::test]
async fn a_frozen_process_has_stopped_until_it_is_thawed_or_killed() {
    let process = Process::start(Launch::new(shell("exec sleep 1000"))).await;
    let process = process.unwrap();
    for _ in 0..2 {
        process.freeze().await.unwrap();
        assert_eq!(state(process.pid()), 'T');
    }
    // Pending until the process continues; then it ends, and its supervisor learns of it.
    pidfd_send_signal(&process.handle.pidfd, Signal::TERM).unwrap();
    assert_eq!(state(process.pid()), 'T');
    process.thaw().await.unwrap();
    let exit = timeout(PROCESS_END_TIMEOUT, process.exited())
        .await
        .unwrap();
    assert!(exit.status.contains("SIGTERM"), "{exit}");

    let process = Process::start(Launch::new(shell("exec sleep 1000"))).await;
    let process = process.unwrap();
    process.freeze().await.unwrap();
    process.kill();
    let exit = timeout(PROCESS_END_TIMEOUT, process.handle().died())
        .await
        .unwrap();
    assert!(exit.status.contains("SIGKILL"), "{exit}");
}

#[tokio::test]
async fn a_process_that_has_ended_can_neither_be_frozen_nor_thawed() {
    let process = Process::start(Launch::new(shell("exit 3"))).await.unwrap();
    process.exited().await;
    for refused in [process.freeze().await, process.thaw().await] {
        let Err(VmmError::Died { exit, .. }) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(exit.status, "exit status: 3");
    }
}

#[tokio::test]
async fn a_death_while_a_process_is_being_frozen_ends_the_wait() {
    let process = Process::start(Launch::new(shell("exec sleep 1000"))).await;
    let process = process.unwrap();
    // Either may come first.
    let both = async { tokio::join!(process.freeze(), async { process.kill() }).0 };
    let frozen = timeout(STOP_TIMEOUT, both).await.unwrap();
    assert!(
        matches!(frozen, Ok(()) | Err(VmmError::Died { .. })),
        "{frozen:?}"
    );
    let exit = timeout(PROCESS_END_TIMEOUT, process.handle().died())
        .await
        .unwrap();
    assert!(exit.status.contains("SIGKILL"), "{exit}");
}

/// Set for the child process that the test kills; names its directory.
const KILLED: &str = "IRONCLAW_TEST_KILLED";

#[tokio::test]
async fn children_of_a_wrapper_script_die_with_us_and_hidden_ones_with_the_next_sweep() {
    if let Some(root) = std::env::var_os(KILLED) {
        let path = RunPath::open(root.as_ref()).unwrap();
        let script = "sleep 1000 & setsid sleep 1001 & echo $!; wait";
        let launch = Launch::new(shell(script)).recorded_in(path.directory().unwrap());
        let _process = Process::start(launch).await.unwrap();
        std::future::pending::<()>().await;
    }
    let root = tempfile::tempdir().unwrap();
    let name = std::thread::current().name().unwrap().to_owned();
    let mut killed = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name])
        .env(KILLED, root.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let up = async {
        loop {
            let owner = owner_in(root.path());
            if let Some(owner) = owner.filter(|owner| sleeping(owner) == 2) {
                return owner;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let owner = timeout(PROCESS_END_TIMEOUT, up).await.unwrap();
    killed.kill().unwrap();
    killed.wait().unwrap();
    let dead = async {
        while sleeping(&owner) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PROCESS_END_TIMEOUT, dead).await.unwrap();
    RunPath::open(root.path()).unwrap().prepare().unwrap();
    assert_eq!(sleeping(&owner), 0);
}

fn owner_in(root: &std::path::Path) -> Option<String> {
    let entry = std::fs::read_dir(root).unwrap().next()?.unwrap();
    Some(entry.file_name().into_string().unwrap())
}

/// Counts the sleeping processes with a mark of `owner`.
fn sleeping(owner: &str) -> usize {
    let marked = orphan::marked(owner).unwrap();
    let called = marked.filter_map(|(process, _)| process.program().ok());
    called.filter(|program| program == "sleep").count()
}

#[tokio::test]
async fn children_that_left_a_script_s_session_end_with_it_unless_it_is_a_known_vmm() {
    let root = tempfile::tempdir().unwrap();
    let path = RunPath::open(root.path()).unwrap();
    let run = path.directory().unwrap();
    let start = async || {
        let launch = Launch::new(shell("setsid sleep 1000 & echo; wait"));
        let process = Process::start(launch.recorded_in(Arc::clone(&run)));
        let process = process.await.unwrap();
        let up = async {
            while sleeping(run.name()) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PROCESS_END_TIMEOUT, up).await.unwrap();
        process
    };
    start().await.end().await;
    assert_eq!(sleeping(run.name()), 0);
    let another = start().await;
    assert!(!another.speaks_itself(0).await);
    assert_eq!(sleeping(run.name()), 0);
    // Searching takes time, which the end of a known VMM must not cost.
    let known = start().await;
    assert!(
        known
            .speaks_itself(i32::try_from(known.pid()).unwrap())
            .await
    );
    known.end().await;
    assert_eq!(sleeping(run.name()), 1);
    orphan::end_marked(run.name(), Instant::now()).unwrap();
    assert_eq!(sleeping(run.name()), 0);
}

#[tokio::test]
async fn a_missing_program_is_an_error() {
    let error = Process::start(Launch::new(Program::new("/no/such/vmm")))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

#[tokio::test]
async fn process_output_is_bounded_and_has_no_escapes() {
    let script = "printf '\\033[2Jstart'; head -c 100000 /dev/zero | tr '\\0' x; printf end";
    let exit = Process::start(Launch::new(shell(script)))
        .await
        .unwrap()
        .exited()
        .await;
    assert!(exit.log.len() <= log::CONSOLE_BYTES && exit.log.ends_with("end"));
    let exit = Process::start(Launch::new(shell("printf '\\033[2Jx'")))
        .await
        .unwrap();
    assert_eq!(exit.exited().await.log, "[2Jx");
}

#[tokio::test]
async fn a_noisy_guest_does_not_push_out_what_its_vmm_says() {
    let (log, mut writer) = io::pipe().unwrap();
    writer.write_all(b"the log\n").unwrap();
    drop(writer);
    let script = "echo the panic >&2; head -c 300000 /dev/zero | tr '\\0' x; exit 1";
    let launch = Launch::new(shell(script)).logging_to(log.into());
    let exit = Process::start(launch).await.unwrap().exited().await;
    let words = exit.words;
    assert_eq!(exit.log.len(), log::CONSOLE_BYTES);
    assert!(
        words.contains("the log") && words.contains("the panic"),
        "{words}"
    );
}

#[tokio::test]
async fn the_end_is_seen_although_a_child_holds_the_output_open() {
    // In another session, or it would be killed with the process.
    let up = tempfile::NamedTempFile::new().unwrap();
    let up = up.path().display();
    let child = format!("setsid sh -c 'echo $$; echo >{up}; exec sleep 1000' &");
    let script = format!("{child} until [ -s {up} ]; do :; done; exit 3");
    let process = Process::start(Launch::new(shell(&script)));
    let process = process.await.unwrap();
    let exit = timeout(PROCESS_END_TIMEOUT, process.exited())
        .await
        .unwrap();
    let child = sys::pid(exit.log.trim().parse().unwrap()).unwrap();
    kill_process(child, Signal::KILL).unwrap();
    assert_eq!(exit.status, "exit status: 3");
}

#[tokio::test]
async fn an_inherited_descriptor_is_open_under_its_number() {
    use std::os::fd::AsRawFd;
    use tokio::io::AsyncReadExt;
    let (mut ours, theirs) = socket_pair().unwrap();
    // Not /bin/sh: dash treats a redirection to a descriptor of two digits as a syntax error.
    let mut program = Program::new("/bin/bash");
    program.args(["-c", &format!("echo hello >&{}", theirs.as_raw_fd())]);
    let _process = Process::start(Launch::new(program).inherit(vec![theirs]))
        .await
        .unwrap();
    let mut heard = String::new();
    ours.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "hello\n");
}
