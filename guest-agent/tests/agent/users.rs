//! Tests commands of other users. Only an agent of root may have any.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use ironclaw_protocol::message::{Exec, FailureKind, Outcome, Request};
use rustix::process::geteuid;

use crate::host::{Agent, Host, exec, shell, text};

/// A uid and a gid without an entry in any table.
const STRANGER: &str = "54321:54322";

fn as_user(user: &str, mut command: Exec) -> Request {
    command.user = Some(user.into());
    Request::Exec(command)
}

/// Returns whether the agent may run commands of others; checks that it says so otherwise.
fn may_change_user(host: &mut Host) -> bool {
    if geteuid().is_root() {
        return true;
    }
    let failure = host.run(as_user(STRANGER, shell("true"))).failure();
    assert_eq!(failure.kind, FailureKind::PermissionDenied);
    false
}

#[test]
fn a_command_of_another_user_has_its_ids_and_no_others() {
    let agent = Agent::start();
    let mut host = agent.host();
    if !may_change_user(&mut host) {
        return;
    }
    let script = "grep -E '^(Uid|Gid|Groups|CapEff)' /proc/self/status | tr -s '[:space:]' ' '";
    let run = host.run(as_user(STRANGER, shell(script)));
    assert_eq!(
        run.stdout(),
        "Uid: 54321 54321 54321 54321 Gid: 54322 54322 54322 54322 Groups: CapEff: 0000000000000000"
    );
    let next = host.shell("id -u; grep CapEff /proc/self/status");
    assert!(next.stdout().starts_with("0\n"), "{next:?}");
    assert!(!next.stdout().contains("0000000000000000"), "{next:?}");
}

#[test]
fn a_command_of_another_user_gets_what_a_login_sets_and_begins_at_home() {
    let agent = Agent::start();
    let mut host = agent.host();
    if !may_change_user(&mut host) {
        return;
    }
    let script = "echo $HOME $USER $LOGNAME $SHELL; pwd; echo $PATH";
    let run = host.run(as_user(STRANGER, shell(script)));
    let lines: Vec<_> = run.stdout().lines().collect();
    assert_eq!(lines[..2], ["/ 54321 54321 /bin/sh", "/"]);
    assert!(!lines[2].contains("sbin"), "{lines:?}");
    let mut own = shell(script);
    own.env = vec![("HOME".into(), "/elsewhere".into())];
    own.cwd = Some("/usr".into());
    let run = host.run(as_user("root", own));
    let lines: Vec<_> = run.stdout().lines().collect();
    assert!(lines[0].starts_with("/elsewhere root root /"), "{lines:?}");
    assert_eq!(lines[1], "/usr");
    let run = host.run(as_user("root", shell("pwd")));
    assert_eq!(run.stdout(), "/root");
}

#[test]
fn another_users_permissions_decide_what_it_may_run_and_where() {
    let agent = Agent::start();
    let mut host = agent.host();
    if !may_change_user(&mut host) {
        return;
    }
    let private = agent.path("private");
    fs::create_dir(&private).unwrap();
    fs::write(private.join("tool"), "#!/bin/sh\n").unwrap();
    let open = |path: &std::path::Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    open(&private.join("tool"), 0o755);
    open(&agent.path("."), 0o755);
    open(&private, 0o700);
    let tool = || exec(&[&text(&private.join("tool"))]);
    let mut inside = exec(&["true"]);
    inside.cwd = Some(text(&private).into());
    for command in [tool(), inside.clone()] {
        let failure = host.run(as_user(STRANGER, command)).failure();
        assert_eq!(failure.kind, FailureKind::PermissionDenied, "{failure:?}");
    }
    open(&private, 0o755);
    for command in [tool(), inside] {
        let run = host.run(as_user(STRANGER, command));
        assert_eq!(run.outcome, Outcome::Exited(0));
    }
}

#[test]
fn a_user_who_does_not_exist_is_named() {
    let agent = Agent::start();
    let mut host = agent.host();
    for missing in ["nobody-of-this-name", "0:no-such-group"] {
        let failure = host.run(as_user(missing, shell("true"))).failure();
        assert_eq!(failure.kind, FailureKind::NoSuchUser);
        assert!(failure.message.contains(missing), "{}", failure.message);
    }
}

#[test]
fn the_agents_own_user_can_be_asked_for_by_anybody() {
    let agent = Agent::start();
    let own = format!(
        "{}:{}",
        geteuid().as_raw(),
        rustix::process::getegid().as_raw()
    );
    let run = agent.host().run(as_user(&own, shell("id -u")));
    assert_eq!(run.stdout(), geteuid().as_raw().to_string());
}

#[test]
fn a_list_shows_the_tag_of_a_command() {
    let agent = Agent::start();
    let mut host = agent.host();
    let mut command = exec(&["sleep", "1000"]);
    command.tag = "mine".into();
    host.start(Request::Exec(command));
    let Outcome::Commands(list) = host.run(Request::List).outcome else {
        panic!("no list");
    };
    let tags: Vec<_> = list.iter().map(|info| info.tag.to_string()).collect();
    assert_eq!(tags, ["mine"]);
}
