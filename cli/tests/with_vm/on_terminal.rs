//! Tests `ironclaw run -it` on a terminal.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize};

use crate::command::ironclaw;
use crate::vm::{TIMEOUT, runs};

/// A terminal with a program on it.
struct Terminal {
    ours: File,
    theirs: OwnedFd,
    shown: String,
}

impl Terminal {
    fn open() -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags).unwrap();
        unlockpt(&ours).unwrap();
        let theirs = ioctl_tiocgptpeer(&ours, flags).unwrap();
        let terminal = Self {
            ours: ours.into(),
            theirs,
            shown: String::new(),
        };
        terminal.resize(31, 99);
        terminal
    }

    fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.ours, size).unwrap();
    }

    fn modes(&self) -> Termios {
        tcgetattr(&self.theirs).unwrap()
    }

    fn run(&self, arguments: &[&str]) -> Child {
        let stream = || Stdio::from(self.theirs.try_clone().unwrap());
        let mut run = ironclaw(&[&["run", "-it"], arguments].concat());
        run.stdin(stream()).stdout(stream()).stderr(stream());
        run.spawn().unwrap()
    }

    fn types(&mut self, text: &str) {
        self.ours.write_all(text.as_bytes()).unwrap();
    }

    /// Reads until this is shown.
    fn wait_for(&mut self, text: &str) {
        let mut buffer = [0; 4096];
        while !self.shown.contains(text) {
            let timeout = Timespec::try_from(TIMEOUT).unwrap();
            let mut ready = [PollFd::new(&self.ours, PollFlags::IN)];
            let ready = poll(&mut ready, Some(&timeout)).unwrap();
            assert!(ready > 0, "{text} is not shown: {}", self.shown);
            let count = self.ours.read(&mut buffer).unwrap();
            self.shown += &String::from_utf8_lossy(&buffer[..count]);
        }
    }
}

/// What a terminal does with what is typed.
fn local(modes: &Termios) -> LocalModes {
    modes.local_modes
}

#[test]
fn a_shell_on_a_terminal_is_typed_to_and_the_terminal_is_as_before_afterwards() {
    if !runs() {
        return;
    }
    let mut terminal = Terminal::open();
    let before = terminal.modes();
    let mut shell = terminal.run(&["--", "sh"]);
    terminal.wait_for("# ");
    let during = local(&terminal.modes());
    assert!(!during.intersects(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG));
    terminal.types("echo $((6 * 7)) $(stty size)\n");
    terminal.wait_for("42 31 99");
    // The shell edits its lines itself: Ctrl-C is a signal only while a command runs.
    terminal.types("echo run''s; sleep 1000\n");
    terminal.wait_for("runs");
    terminal.types("\u{3}");
    terminal.types("echo interrupted $?\n");
    terminal.wait_for("interrupted 130");
    terminal.resize(40, 132);
    kill_process(Pid::from_child(&shell), Signal::WINCH).unwrap();
    // The resize and what is typed go one way, in this order.
    terminal.types("until [ \"$(stty size)\" = '40 132' ]; do :; done; echo resi''zed\n");
    terminal.wait_for("resized");
    terminal.types("exit 7\n");
    assert_eq!(shell.wait().unwrap().code(), Some(7));
    assert_eq!(local(&terminal.modes()), local(&before));
}

#[test]
fn a_signal_to_us_leaves_the_terminal_as_it_was() {
    if !runs() {
        return;
    }
    let mut terminal = Terminal::open();
    let before = local(&terminal.modes());
    let mut run = terminal.run(&["--", "sh", "-c", "echo u''p; exec sleep 1000"]);
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
