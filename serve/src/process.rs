//! The commands of a sandbox, under the PIDs that clients know, with any number of listeners each.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use ironclaw_orchestrator::vm::{
    Command, CommandId, ExecEvent, ExitStatus, GuestError, Running, StdinWriter, VmClient,
};
use tokio::sync::mpsc::Receiver;

use crate::fan_out::FanOut;
use crate::log::{Happened, Log};

/// What a client started, for those who list it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Described {
    pub(crate) cmd: String,
    pub(crate) args: Vec<String>,
    pub(crate) envs: BTreeMap<String, String>,
    pub(crate) cwd: Option<String>,
    pub(crate) tag: Option<String>,
    /// Whether it has a terminal.
    pub(crate) terminal: bool,
}

/// An event of a command.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    Stdout(Bytes),
    Stderr(Bytes),
    /// The end, or the reason why it is not known.
    Ended(Result<ExitStatus, GuestError>),
}

/// A command of a sandbox.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) id: CommandId,
    pub(crate) described: Described,
    output: FanOut<Event>,
    stdin: tokio::sync::Mutex<Option<StdinWriter>>,
}

/// The commands of a sandbox that runs.
#[derive(Debug)]
pub(crate) struct Processes {
    by_pid: Mutex<BTreeMap<u32, Arc<Process>>>,
    log: Arc<Log>,
}

impl Process {
    /// Listens to what comes from now on; `None` if it has ended.
    pub(crate) fn listen(&self) -> Option<Receiver<Event>> {
        self.output.listen()
    }

    /// Writes to its standard input; returns whether there is one that is open.
    pub(crate) async fn write(&self, bytes: &[u8]) -> Result<bool, GuestError> {
        match &mut *self.stdin.lock().await {
            Some(stdin) => stdin.write_all(bytes).await.map(|()| true),
            None => Ok(false),
        }
    }

    /// Ends its standard input.
    pub(crate) async fn close_stdin(&self) {
        self.stdin.lock().await.take();
    }
}

impl Event {
    /// Returns what a log has of it.
    fn happened(&self) -> Happened {
        match self {
            Self::Stdout(bytes) => Happened::Stdout(bytes.clone()),
            Self::Stderr(bytes) => Happened::Stderr(bytes.clone()),
            Self::Ended(Ok(status)) => Happened::End(*status),
            Self::Ended(Err(_)) => Happened::Lost,
        }
    }
}

impl Processes {
    /// Creates an empty table, whose commands are recorded in this log.
    pub(crate) fn new(log: &Arc<Log>) -> Arc<Self> {
        Arc::new(Self {
            by_pid: Mutex::default(),
            log: Arc::clone(log),
        })
    }

    /// Starts a command, which goes on without a listener.
    pub(crate) async fn start(
        self: &Arc<Self>,
        vm: &VmClient,
        command: Command,
        described: Described,
    ) -> Result<(Arc<Process>, Receiver<Event>), GuestError> {
        let mut running = vm.start(command.keep()).await?;
        let id = running.id();
        let known = vm.list_commands().await?;
        let known = known.into_iter().find(|command| command.id == id);
        let mut first = None;
        let pid = match known {
            Some(command) => command.pid,
            // It could not be started, or is over already.
            None => {
                first = Some(running.next().await?);
                self.free_pid()
            }
        };
        Ok(self.follow(pid, running, described, first))
    }

    /// Finds a command by its PID, also one that was started before the sandbox was copied.
    pub(crate) async fn find(
        self: &Arc<Self>,
        vm: &VmClient,
        pid: u32,
    ) -> Result<Option<Arc<Process>>, GuestError> {
        if let Some(process) = self.lock().get(&pid) {
            return Ok(Some(Arc::clone(process)));
        }
        self.adopt(vm).await?;
        Ok(self.lock().get(&pid).cloned())
    }

    /// Finds a command by the tag that its client gave it.
    pub(crate) async fn find_tag(
        self: &Arc<Self>,
        vm: &VmClient,
        tag: &str,
    ) -> Result<Option<Arc<Process>>, GuestError> {
        let all = self.list(vm).await?;
        let tagged = |process: &Arc<Process>| process.described.tag.as_deref() == Some(tag);
        Ok(all.into_iter().find(tagged))
    }

    /// Lists the commands, by PID.
    pub(crate) async fn list(
        self: &Arc<Self>,
        vm: &VmClient,
    ) -> Result<Vec<Arc<Process>>, GuestError> {
        self.adopt(vm).await?;
        Ok(self.lock().values().cloned().collect())
    }

    /// Listens to commands of the guest that are not known here.
    async fn adopt(self: &Arc<Self>, vm: &VmClient) -> Result<(), GuestError> {
        for command in vm.list_commands().await? {
            let is_known = self.lock().contains_key(&command.pid);
            if is_known || command.attached || command.end.is_some() {
                continue;
            }
            let running = match vm.attach_from(command.id, command.printed).await {
                Ok(running) => running,
                // It has ended meanwhile.
                Err(GuestError::Failed { .. }) => continue,
                Err(error) => return Err(error),
            };
            let described = Described {
                cmd: command.program.to_string_lossy().into_owned(),
                tag: Some(command.tag.to_string_lossy().into_owned()).filter(|tag| !tag.is_empty()),
                ..Described::default()
            };
            self.follow(command.pid, running, described, None);
        }
        Ok(())
    }

    fn follow(
        self: &Arc<Self>,
        pid: u32,
        mut running: Running,
        described: Described,
        first: Option<ExecEvent>,
    ) -> (Arc<Process>, Receiver<Event>) {
        let argv = std::iter::once(&described.cmd).chain(&described.args);
        self.log.add(Some(pid), Happened::start(argv));
        let (output, listener) = FanOut::new();
        let process = Arc::new(Process {
            pid,
            id: running.id(),
            described,
            output,
            stdin: tokio::sync::Mutex::new(running.take_stdin()),
        });
        self.lock().insert(pid, Arc::clone(&process));
        tokio::spawn(forward(
            Arc::clone(self),
            Arc::clone(&process),
            running,
            first,
        ));
        (process, listener)
    }

    /// Returns a PID that no command of the guest can have: one beyond Linux's limit.
    fn free_pid(&self) -> u32 {
        const PID_MAX_LIMIT: u32 = 4 * 1024 * 1024;
        let above = self.lock().keys().last().copied().unwrap_or_default();
        above.max(PID_MAX_LIMIT) + 1
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<Process>>> {
        self.by_pid.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Passes on what a command prints, until its end.
async fn forward(
    processes: Arc<Processes>,
    process: Arc<Process>,
    mut running: Running,
    first: Option<ExecEvent>,
) {
    let mut next = first.map(Ok);
    loop {
        let event = match next.take() {
            Some(event) => event,
            None => running.next().await,
        };
        let event = match event {
            Ok(ExecEvent::Stdout(bytes)) => Event::Stdout(bytes.into()),
            Ok(ExecEvent::Stderr(bytes)) => Event::Stderr(bytes.into()),
            Ok(ExecEvent::Ended(status)) => Event::Ended(Ok(status)),
            Ok(_) => continue,
            Err(error) => Event::Ended(Err(error)),
        };
        processes.log.add(Some(process.pid), event.happened());
        let is_end = matches!(event, Event::Ended(_));
        if is_end {
            // Who is told of the end does not find it any more.
            processes.lock().remove(&process.pid);
        }
        process.output.send(event).await;
        if is_end {
            break;
        }
    }
    process.output.close();
    process.close_stdin().await;
}
