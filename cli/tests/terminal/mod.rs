//! A terminal, and what a shell on it has to do.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize};

use crate::vm::TIMEOUT;

/// A terminal with a program on it.
pub(crate) struct Terminal {
    ours: File,
    theirs: OwnedFd,
    shown: String,
}

impl Terminal {
    pub(crate) fn open() -> Self {
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

    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.ours, size).unwrap();
    }

    pub(crate) fn modes(&self) -> Termios {
        tcgetattr(&self.theirs).unwrap()
    }

    /// Starts a command on it.
    pub(crate) fn starts(&self, mut command: Command) -> Child {
        let stream = || Stdio::from(self.theirs.try_clone().unwrap());
        command.stdin(stream()).stdout(stream()).stderr(stream());
        command.spawn().unwrap()
    }

    pub(crate) fn types(&mut self, text: &str) {
        self.ours.write_all(text.as_bytes()).unwrap();
    }

    /// Reads until this is shown.
    pub(crate) fn wait_for(&mut self, text: &str) {
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
pub(crate) fn local(modes: &Termios) -> LocalModes {
    modes.local_modes
}

/// Asserts that a shell is typed to, which this command starts on a terminal, that it gets its size and Ctrl-C,
/// and that the terminal is as before afterwards.
pub(crate) fn talk_to_a_shell(command: Command) {
    let mut terminal = Terminal::open();
    let before = terminal.modes();
    let mut shell = terminal.starts(command);
    terminal.wait_for("# ");
    let during = local(&terminal.modes());
    assert!(!during.intersects(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG));
    terminal.types("echo $((6 * 7)) $(stty size)\n");
    terminal.wait_for("42 31 99");
    // The shell edits its lines itself: Ctrl-C is a signal only while a command runs.
    // One that says that it listens for it: between two commands, a shell may take no notice.
    let script = "trap 'exit 130' INT; echo run''s; while :; do sleep 0.1; done";
    terminal.types(&format!("sh -c \"{script}\"\n"));
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
