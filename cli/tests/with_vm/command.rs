//! `ironclaw`, and commands that it runs in VMs.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use crate::vm;
use crate::vm::children;

pub(crate) fn ironclaw(arguments: &[&str]) -> Command {
    vm::ironclaw("command-line", arguments)
}

pub(crate) fn run(arguments: &[&str]) -> Output {
    ironclaw(&[&["run"], arguments].concat()).output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Starts a run; returns when its command has started, with the process of its VM.
pub(crate) fn started(run: Command) -> (Child, u32) {
    started_with(run, &[])
}

/// Does the same with options.
pub(crate) fn started_with(mut run: Command, options: &[&str]) -> (Child, u32) {
    let mut child = run
        .arg("run")
        .args(options)
        .args(["--", "sh", "-c", "echo on; exec sleep 1000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "on\n");
    let vmm = children(child.id());
    assert_eq!(vmm.len(), 1, "{vmm:?}");
    (child, vmm[0])
}

pub(crate) fn hidden(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap();
    names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with('.'))
        .collect()
}

/// Returns `command`, started by a shell that executes `first` before.
pub(crate) fn after(first: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    let script = format!("{first}; exec \"$@\"");
    shell.args(["-c", &script, "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}
