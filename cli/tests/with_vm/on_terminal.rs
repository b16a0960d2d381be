//! Tests `ironclaw run -it` on a terminal.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use crate::command::ironclaw;
use crate::terminal::{Terminal, local, talk_to_a_shell};
use crate::vm::runs;

#[test]
fn a_shell_on_a_terminal_is_typed_to_and_the_terminal_is_as_before_afterwards() {
    if !runs() {
        return;
    }
    talk_to_a_shell(ironclaw(&["run", "-it", "--", "sh"]));
}

#[test]
fn a_signal_to_us_leaves_the_terminal_as_it_was() {
    if !runs() {
        return;
    }
    let mut terminal = Terminal::open();
    let before = local(&terminal.modes());
    let command = ["run", "-it", "--", "sh", "-c", "echo u''p; exec sleep 1000"];
    let mut run = terminal.starts(ironclaw(&command));
    terminal.wait_for("up");
    assert_ne!(local(&terminal.modes()), before);
    kill_process(Pid::from_child(&run), Signal::TERM).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(128 + 15));
    assert_eq!(local(&terminal.modes()), before);
}

#[test]
fn nothing_but_a_terminal_can_be_typed_on() {
    let output = ironclaw(&["run", "-it", "--", "sh"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("leave -t out"), "{said}");
}

#[test]
fn a_terminal_is_no_json() {
    let output = ironclaw(&["run", "-t", "--json", "--", "true"]).output();
    assert_eq!(output.unwrap().status.code(), Some(2));
}
