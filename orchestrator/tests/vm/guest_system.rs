//! Tests a command's environment in the guest, and the cleanup after it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use ironclaw_orchestrator::vm::{
    Command, ExecEvent, ExitStatus, GuestError, TerminalSize, VmHandle,
};

use crate::fixture::{sh, vm};

fn bytes(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_can_open_the_standard_streams_anew() {
    let Some(vm) = vm("streams").await else {
        return;
    };
    let script = "cat /dev/stdin >/dev/stdout; echo err >/dev/stderr; echo fd >/proc/self/fd/1";
    let command = Command::new("su").args(["-s", "/bin/sh", "nobody", "-c", script]);
    let output = vm.exec(command.stdin("in\n")).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"in\nfd\n");
    assert_eq!(output.stderr, b"err\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_of_another_user_has_its_groups_its_home_and_its_permissions() {
    let Some(vm) = vm("users").await else { return };
    let script = "echo 'user:x:1000:1000::/home/user:/bin/sh' >>/etc/passwd; \
         echo 'tools:x:77:other,user' >>/etc/group; \
         mkdir -p /home/user /root; chown 1000:1000 /home/user; chmod 700 /root";
    sh(&vm, script).await;
    let command = |script: &str| Command::new("sh").args(["-c", script]).user("user");
    let script =
        "id -u; id -g; id -G; pwd; echo $HOME $USER $SHELL; touch mine && stat -c %u:%g mine";
    let output = vm.exec(command(script)).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected = "1000\n1000\n1000 77\n/home/user\n/home/user user /bin/sh\n1000:1000\n";
    assert_eq!(text, expected, "{output:?}");
    let refused = vm
        .exec(command("ls /root || touch /etc/mine"))
        .await
        .unwrap();
    assert_eq!(refused.status, ExitStatus::Code(1), "{refused:?}");
    let killed = vm.exec(command("sleep 1000").timeout(Duration::from_millis(300)));
    assert_eq!(killed.await.unwrap().status, ExitStatus::TimedOut);
    let missing = vm.exec(Command::new("id").user("no-such-user")).await;
    let text = missing.unwrap_err().to_string();
    assert!(text.contains("no-such-user"), "{text}");
    assert_eq!(sh(&vm, "id -u; echo $USER $HOME").await, "0\nroot /root\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_its_users_and_has_the_size_asked_for() {
    let Some(vm) = vm("terminal").await else {
        return;
    };
    let size = TerminalSize {
        rows: 33,
        columns: 101,
    };
    let script = "stty size </dev/tty; stat -c %u $(tty); id -u; read line; echo got $line; exit 3";
    let command = Command::new("sh").args(["-c", script]).user("nobody");
    let mut running = vm.start(command.pty(size).stdin_piped()).await.unwrap();
    let mut typing = running.take_stdin().unwrap();
    typing.write_all(b"hello\n").await.unwrap();
    let output = running.output().await.unwrap();
    assert_eq!(output.status, ExitStatus::Code(3));
    let text = String::from_utf8(output.stdout).unwrap();
    // The terminal shows what is typed when that arrives, between any two lines of the script.
    let printed = text.replacen("hello\r\n", "", 1);
    let expected = "33 101\r\n65534\r\n65534\r\ngot hello\r\n";
    assert_eq!(printed, expected, "{text:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guest_answers_to_its_own_name() {
    let Some(vm) = vm("own-name").await else {
        return;
    };
    let hosts = sh(&vm, "cat /etc/hosts").await;
    assert_eq!(hosts.matches("127.0.1.1\town-name\n").count(), 1, "{hosts}");
    for name in ["$(hostname)", "localhost", "127.0.0.1", "ip6-localhost"] {
        sh(&vm, &format!("ping -c1 {name}")).await;
    }
    let debians = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
    assert!(hosts.starts_with(debians), "{hosts}");
    sh(&vm, "cat /etc/resolv.conf /etc/nsswitch.conf /etc/mtab").await;
}

/// A loop that leaves its session and its parent, and runs until it is killed.
const DAEMON: &str = "echo 'echo $$ >/tmp/pid; while :; do date >>/tmp/tick; sleep .1; done' \
     >/tmp/daemon; setsid sh -c 'sh /tmp/daemon & exit' & \
     until [ -s /tmp/tick ]; do sleep .1; done; echo up";

/// Waits until the daemon is gone.
async fn no_daemon_is_left(vm: &VmHandle) {
    sh(vm, "while [ -d /proc/$(cat /tmp/pid) ]; do :; done").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_limit_ends_what_left_its_session_and_its_parent() {
    let Some(vm) = vm("limit").await else { return };
    let script = format!("{DAEMON}; sleep 1000");
    let command = Command::new("sh").args(["-c", &script]);
    let output = vm
        .exec(command.timeout(Duration::from_secs(5)))
        .await
        .unwrap();
    assert_eq!(output.status, ExitStatus::TimedOut);
    assert_eq!(output.stdout, b"up\n");
    no_daemon_is_left(&vm).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_command_ends_what_left_its_session_and_its_parent() {
    let Some(vm) = vm("dropped").await else {
        return;
    };
    let script = format!("{DAEMON}; sleep 1000");
    let mut running = vm.start(["sh", "-c", &script]).await.unwrap();
    running.next().await.unwrap();
    drop(running);
    no_daemon_is_left(&vm).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn background_processes_outlive_their_command() {
    let Some(vm) = vm("background").await else {
        return;
    };
    let output = vm.exec(["sh", "-c", DAEMON]).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    sh(
        &vm,
        "rm /tmp/tick; until [ -s /tmp/tick ]; do sleep .1; done",
    )
    .await;
    // Its control group stays with it, and those of commands that left nothing are removed.
    for _ in 0..5 {
        sh(&vm, "true").await;
    }
    let groups = sh(&vm, "ls -d /sys/fs/cgroup/ironclaw/*/ | wc -l").await;
    assert!(groups.trim().parse::<u32>().unwrap() <= 4, "{groups}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_output_of_a_filter_that_ends_after_the_command_arrives() {
    let Some(vm) = vm("filter").await else { return };
    let script = "mkfifo /tmp/p; sed 's/^/[app] /' </tmp/p & exec >/tmp/p; echo one; seq 1 20000";
    let output = vm.exec(["sh", "-c", script]).await.unwrap();
    assert_eq!(output.status, ExitStatus::Code(0));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("[app] one\n[app] 1\n"), "{text:.100}");
    assert!(text.ends_with("\n[app] 20000\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_takes_all_memory_is_told_from_one_that_was_killed() {
    let Some(vm) = vm("memory").await else { return };
    let eater = "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done";
    let output = vm.exec(["sh", "-c", eater]).await.unwrap();
    assert_eq!(output.status, ExitStatus::Signal(9));
    assert!(output.out_of_memory);
    let child = format!("sh -c '{eater}'; echo survived");
    let output = vm.exec(["sh", "-c", &child]).await.unwrap();
    assert_eq!(output.stdout, b"survived\n");
    assert!(output.out_of_memory && output.status.success());
    let output = vm.exec(["sh", "-c", "kill -9 $$"]).await.unwrap();
    assert_eq!(output.status, ExitStatus::Signal(9));
    assert!(!output.out_of_memory);
    assert_eq!(sh(&vm, "cat /proc/1/oom_score_adj").await, "-1000\n");
    assert_eq!(sh(&vm, "cat /proc/self/oom_score_adj").await, "0\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_file_system_reports_it_and_leaves_memory_for_programs() {
    let Some(vm) = vm("full").await else { return };
    for file in ["/tmp/f", "/dev/shm/f", "/run/f", "/f", "/dev/f"] {
        let script = format!("dd if=/dev/zero of={file} bs=1M");
        let output = vm.exec(["sh", "-c", &script]).await.unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains("No space left on device"), "{file}: {told}");
    }
    assert_eq!(sh(&vm, "seq 1 10000 | sort -n | tail -n1").await, "10000\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_those_of_a_distribution() {
    let Some(vm) = vm("limits").await else { return };
    let limits = sh(&vm, "ulimit -n; ulimit -Hn; ulimit -u").await;
    assert_eq!(limits, "1024\n524288\nunlimited\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_are_as_many_and_as_long_as_linux_takes() {
    let Some(vm) = vm("arguments").await else {
        return;
    };
    let count = Command::new("sh").args(["-c", "echo $#", "x"]);
    for (number, length) in [(5000, 4), (2, 70_000), (1, 131_071), (15, 131_071)] {
        let output = vm
            .exec(count.clone().args(vec!["y".repeat(length); number]))
            .await
            .unwrap();
        assert_eq!(output.stdout, format!("{number}\n").into_bytes());
    }
    let size = Command::new("sh").args(["-c", "echo ${#A}"]);
    let output = vm.exec(size.env("A", "z".repeat(100_000))).await.unwrap();
    assert_eq!(output.stdout, b"100000\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_variables_directories_and_paths_are_bytes() {
    let Some(vm) = vm("bytes").await else { return };
    let latin = bytes(b"/tmp/caf\xe9");
    let output = vm.exec(Command::new("mkdir").arg(latin)).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let command = Command::new("sh")
        .args([
            bytes(b"-c"),
            bytes(b"printf '%s|%s|' \"$1\" \"$A\"; pwd"),
            bytes(b"x"),
        ])
        .arg(bytes(b"\xff\xfe"))
        .env("A", bytes(b"\xe9"))
        .current_dir(latin);
    let output = vm.exec(command).await.unwrap();
    assert_eq!(output.stdout, b"\xff\xfe|\xe9|/tmp/caf\xe9\n");
    let file = bytes(b"/tmp/caf\xe9/\x80");
    vm.put_file(file, 0o600, b"content").await.unwrap();
    assert_eq!(vm.get_file(file, 100).await.unwrap(), b"content");
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_to_one_pipe_come_in_the_order_in_which_they_were_written() {
    let Some(vm) = vm("order").await else { return };
    let script = "for i in $(seq 1 300); do echo out $i; echo err $i >&2; done";
    let command = Command::new("sh").args(["-c", script]).stderr_to_stdout();
    let output = vm.exec(command).await.unwrap();
    let expected: String = (1..=300).map(|i| format!("out {i}\nerr {i}\n")).collect();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    assert!(output.stderr.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_replaced_or_overwritten_with_its_owner_mode_and_links() {
    let Some(vm) = vm("files").await else { return };
    let make = "cd /tmp; rm -f a b c; echo old >a; chmod 604 a; chown nobody a; ln a b; ln -s a c";
    let state = "cd /tmp; cat a b c; stat -c '%a %U' a b; test -L c && echo link";
    sh(&vm, make).await;
    vm.overwrite_file("/tmp/c", 0o600, b"new\n").await.unwrap();
    let expected = "new\nnew\nnew\n604 nobody\n604 nobody\nlink\n";
    assert_eq!(sh(&vm, state).await, expected);
    vm.overwrite_file("/tmp/made", 0o640, b"x").await.unwrap();
    assert_eq!(sh(&vm, "stat -c '%a %U' /tmp/made").await, "640 root\n");

    sh(&vm, make).await;
    vm.put_file("/tmp/a", 0o600, b"new\n").await.unwrap();
    let expected = "new\nold\nnew\n600 root\n604 nobody\nlink\n";
    assert_eq!(sh(&vm, state).await, expected);
    vm.put_file("/tmp/c", 0o600, b"file\n").await.unwrap();
    let parted = "cd /tmp; cat a c; test -L c || echo no link";
    assert_eq!(sh(&vm, parted).await, "new\nfile\nno link\n");
}

/// Programs that create processes as fast as they can: children, orphans, and sessions of their
/// own. The command's own shell forks once, while there is room: one that is refused a process ends.
const FORK_BOMBS: [&str; 4] = [
    "f() { f | f & }; f; while :; do :; done",
    "f() { f | f & }; (while :; do f; done) & while :; do :; done",
    "(while :; do (while :; do sh -c 'sleep 1000' & done) done) & while :; do :; done",
    "(while :; do (while :; do setsid sh -c 'sleep 1000 & sleep 1000' & done) done) & while :; do :; done",
];

/// Ends when no process of an earlier command is left: killed ones free their memory first, one
/// after the other.
const OTHERS_ARE_GONE: &str = "while cat /proc/[0-9]*/cgroup 2>/dev/null \
     | grep /ironclaw/ | sort -u | sed 1d | grep -q .; do :; done";

/// Attempts at a bomb: other tests may have the processors for longer than the second that the host
/// grants a guest to end a command.
const TRIES: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_ends_at_its_limit_with_all_its_processes() {
    let Some(mut vm) = vm("bombs").await else {
        return;
    };
    for bomb in FORK_BOMBS {
        let mut end = bombed(&vm, bomb).await;
        for _ in 1..TRIES {
            if !matches!(end, Err(GuestError::NoAnswer { .. })) {
                break;
            }
            vm = crate::fixture::vm("bombs").await.unwrap();
            end = bombed(&vm, bomb).await;
        }
        assert_eq!(end.unwrap(), ExitStatus::TimedOut, "{bomb}");
        sh(&vm, OTHERS_ARE_GONE).await;
    }
}

async fn bombed(vm: &VmHandle, bomb: &str) -> Result<ExitStatus, GuestError> {
    let command = Command::new("sh").args(["-c", bomb]);
    let mut running = vm.start(command.timeout(Duration::from_secs(6))).await?;
    loop {
        // The error that the shell can't fork.
        if let ExecEvent::Ended(end) = running.next().await? {
            return Ok(end);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_leaves_room_for_other_commands() {
    let Some(vm) = vm("room").await else { return };
    let bomb = "while :; do (while :; do sleep 1000 & done) done 2>/dev/null";
    let running = vm.start(["sh", "-c", bomb]).await.unwrap();
    let full = "until grep -q '^max [1-9]' /sys/fs/cgroup/ironclaw/*/pids.events; do :; done";
    sh(&vm, full).await;
    assert_eq!(sh(&vm, "seq 1 9 | sort -n | tail -n1").await, "9\n");
    drop(running);
    sh(&vm, OTHERS_ARE_GONE).await;
}
