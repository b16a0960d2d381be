//! Drives QEMU by literal commands on its monitor.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use ironclaw_orchestrator::vm::snapshot::Snapshot;
use rustix::io::{FdFlags, fcntl_setfd};

use super::{Ask, Control, Hold, Running, State, Vmm};

/// The name of the guest's memory in the orchestrator's command line.
const RAM_FILE: &str = r#""mem-path":"/memory""#;

/// The command line for clones of a snapshot, copied from an existing one.
pub(crate) struct Recipe {
    program: String,
    arguments: Vec<String>,
}

impl Recipe {
    /// Copies that of the clone in the process `pid`.
    pub(crate) fn of(pid: u32) -> Self {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        let mut words = line.split_terminator('\0').map(str::to_owned);
        Self {
            program: words.next().unwrap(),
            arguments: words.collect(),
        }
    }

    /// Starts a clone.
    pub(crate) fn restore(&self, snapshot: &Snapshot) -> Running {
        let (monitor, monitor_end) = UnixStream::pair().unwrap();
        let (agent, agent_end) = UnixStream::pair().unwrap();
        let state = File::open(snapshot.vmstate()).unwrap();
        for inherited in [monitor_end.as_fd(), agent_end.as_fd(), state.as_fd()] {
            fcntl_setfd(inherited, FdFlags::empty()).unwrap();
        }
        let ends = [("monitor", &monitor_end), ("agent", &agent_end)];
        let memory = format!(r#""mem-path":"{}""#, snapshot.memory().display());
        let arguments = self.arguments.iter().map(|argument| {
            let end = ends.iter().find_map(|(name, end)| {
                let socket = format!("socket,id={name},fd=");
                let fd = end.as_raw_fd();
                argument
                    .starts_with(&socket)
                    .then(|| format!("{socket}{fd}"))
            });
            // Our QEMU is given the open file; this one opens it by its path.
            end.unwrap_or_else(|| argument.replace(RAM_FILE, &memory))
        });
        let process = Command::new(&self.program)
            .args(arguments)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map(Vmm)
            .unwrap();
        drop((monitor_end, agent_end));
        let mut monitor = Monitor {
            stream: BufReader::new(monitor),
            agent: Some(agent),
        };
        let state_fd = state.as_raw_fd();
        monitor.write(&format!(
            r#"{{"execute":"qmp_capabilities"}}
            {{"execute":"migrate-set-capabilities","arguments":{{"capabilities":[{{"capability":"x-ignore-shared","state":true}},{{"capability":"events","state":true}}]}}}}
            {{"execute":"migrate-incoming","arguments":{{"uri":"fd:{state_fd}"}}}}"#
        ));
        monitor.until(r#""status": "completed""#);
        monitor.request(State::Resumed);
        monitor.confirm();
        Running {
            process,
            hold: Hold::ByRequest,
            control: Box::new(monitor),
            ask: Ask::Identity,
        }
    }
}

struct Monitor {
    stream: BufReader<UnixStream>,
    agent: Option<UnixStream>,
}

impl Monitor {
    fn write(&mut self, commands: &str) {
        self.stream
            .get_mut()
            .write_all(commands.as_bytes())
            .unwrap();
    }

    fn until(&mut self, text: &str) {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert!(self.stream.read_line(&mut line).unwrap() > 0, "QEMU ended");
            assert!(!line.contains(r#"{"error""#), "{line}");
        }
    }
}

impl Control for Monitor {
    fn request(&mut self, state: State) {
        self.write(match state {
            State::Paused => r#"{"execute":"stop"}"#,
            State::Resumed => r#"{"execute":"cont"}"#,
        });
    }

    fn confirm(&mut self) {
        self.until(r#""return""#);
    }

    fn reach_agent(&mut self) -> UnixStream {
        self.agent.take().unwrap()
    }
}
