//! The task of a VM, from its start to its end: executes requests, one after the other, and ends
//! the VM in time.
//!
//! It runs from the start, so that handing a VM out neither starts nor wakes a task.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::vm::exit_reason::ExitReason;
use crate::vm::identity;
use crate::vm::instance::{Instance, Message, Reply, VmError};
use crate::vm::lifecycle::{Denied, Effect, Request, RequestQueue, STOP_GRACE, State, Verdict};
use crate::vm::vmm::{MicroVm, SavedFiles, VmmError};

/// Timeout of setting a released guest's clock, which takes milliseconds on an idle machine.
const RESUME_TIMEOUT: Duration = Duration::from_secs(15);

/// Returns the task of `instance`, to be spawned.
pub(crate) fn run(
    instance: Arc<Instance>,
    messages: mpsc::Receiver<Message>,
) -> impl Future<Output = ()> + Send + 'static {
    let with_runtime = WithRuntime(Some(Arc::clone(&instance)));
    async move {
        let mut with_runtime = with_runtime;
        let task = VmTask {
            instance,
            queue: RequestQueue::default(),
            work: None,
            deadline: None,
            idle: None,
            kill_at: None,
        };
        task.run(messages).await;
        with_runtime.0 = None;
    }
}

/// Ends the VM with the async runtime of its task: nobody could reach it any more.
struct WithRuntime(Option<Arc<Instance>>);

impl Drop for WithRuntime {
    fn drop(&mut self) {
        if let Some(instance) = self.0.take() {
            let reason = || {
                ExitReason::Host(
                    "the async runtime in which the VM was spawned has ended".to_owned(),
                )
            };
            instance.end(reason());
            instance.is_gone(reason());
        }
    }
}

/// An operation on the machine, which is returned with the result.
type Work = Pin<Box<dyn Future<Output = Worked> + Send>>;

struct Worked {
    machine: Box<dyn MicroVm>,
    result: Result<(), VmError>,
    then: State,
    reply: Reply,
}

struct VmTask {
    instance: Arc<Instance>,
    queue: RequestQueue<Reply>,
    work: Option<Work>,
    deadline: Option<Instant>,
    idle: Option<Duration>,
    /// When to kill a guest that was asked to power off.
    kill_at: Option<Instant>,
}

impl VmTask {
    async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        let mut died = self.instance.process.died();
        let exit = loop {
            let deadline = self.deadline;
            let kill_at = self.kill_at;
            tokio::select! {
                biased;
                exit = &mut died => break exit,
                worked = done(&mut self.work) => self.worked(worked),
                // The sender lives in the instance.
                Some((request, reply)) = messages.recv() => self.take(request, reply),
                () = reached(kill_at) => {
                    self.kill_at = None;
                    self.instance.end(ExitReason::Stopped);
                }
                () = reached(deadline) => {
                    self.expired(deadline);
                    self.deadline = None;
                }
                limit = unused(&self.instance, self.idle) => {
                    self.idle = None;
                    self.kill(ExitReason::Idle(limit));
                }
            }
        };
        messages.close();
        // An operation under way has lost its machine.
        self.work = None;
        self.instance.is_gone(ExitReason::vmm_ended(exit));
        let state = self.instance.state();
        let verdicts = self.queue.finished(&state);
        self.obey(verdicts);
        while let Some((request, reply)) = messages.recv().await {
            self.take(request, reply);
        }
    }

    fn expired(&self, deadline: Option<Instant>) {
        let since = self.instance.leased().map(|lease| lease.since);
        let limit = deadline.zip(since);
        let limit = limit.map(|(at, since)| at.saturating_duration_since(since));
        self.kill(ExitReason::Lifetime(limit.unwrap_or_default()));
    }

    fn kill(&self, reason: ExitReason) {
        tracing::info!(%reason, "a VM is killed");
        self.instance.end(reason);
    }

    fn take(&mut self, request: Request, reply: Reply) {
        let state = self.instance.state();
        let is_over = matches!(state, State::Starting | State::Gone(_));
        if let (Request::Stop { grace }, false) = (&request, is_over) {
            let at = Instant::now().checked_add(*grace);
            self.kill_at = self.kill_at.into_iter().chain(at).min();
        }
        let verdicts = self.queue.offer(&state, request, reply);
        self.obey(verdicts);
    }

    fn obey(&mut self, verdicts: Vec<Verdict<Reply>>) {
        for verdict in verdicts {
            match verdict {
                Verdict::Refuse(denied, reply) => answer(reply, Err(denied.into())),
                Verdict::Do(effect, reply) => self.perform(effect, reply),
            }
        }
    }

    fn perform(&mut self, effect: Effect, reply: Reply) {
        match effect {
            Effect::Nothing => answer(reply, Ok(())),
            Effect::SetDeadline(at) => {
                self.deadline = at;
                answer(reply, Ok(()));
            }
            Effect::SetIdle(limit) => {
                self.idle = limit;
                answer(reply, Ok(()));
            }
            effect => self.begin(effect, reply),
        }
    }

    fn begin(&mut self, effect: Effect, reply: Reply) {
        let mut machine = match self.instance.take_machine() {
            Ok(machine) => machine,
            // The VM is being ended; waiting requests are refused when it is gone.
            Err(denied) => return answer(reply, Err(denied.into())),
        };
        let instance = Arc::clone(&self.instance);
        match effect {
            Effect::ShutDown { .. } => {
                instance.expect_end(ExitReason::Stopped);
                instance.set_state(State::Stopping);
            }
            Effect::Checkpoint { .. } => instance.set_state(State::Checkpointing),
            _ => {}
        }
        // Commands have half of the grace, and the guest the rest.
        let grace = self.kill_at.map_or(STOP_GRACE, |at| {
            at.saturating_duration_since(Instant::now())
        });
        let patience = grace / 2;
        self.work = Some(Box::pin(async move {
            let (result, then) = match effect {
                Effect::Hold => (machine.hold().await.map_err(VmError::from), State::Paused),
                Effect::Release => (release(&instance, &mut *machine).await, State::Running),
                Effect::ShutDown { held } => (
                    shut_down(&instance, &mut *machine, held, patience).await,
                    State::Stopping,
                ),
                Effect::Checkpoint { files, held } => (
                    checkpoint(&instance, &mut *machine, &files, held).await,
                    if held { State::Paused } else { State::Running },
                ),
                Effect::Nothing | Effect::SetDeadline(_) | Effect::SetIdle(_) => {
                    (Ok(()), instance.state())
                }
            };
            Worked {
                machine,
                result,
                then,
                reply,
            }
        }));
    }

    fn worked(&mut self, worked: Worked) {
        let Worked {
            machine,
            result,
            then,
            reply,
        } = worked;
        self.work = None;
        match &result {
            Ok(()) => self.instance.set_state(then),
            // The end of its process reports that.
            Err(VmError::Vmm(VmmError::Died { .. })) => {}
            // It goes on as it was.
            Err(VmError::NoCheckpoint(_)) => self.instance.set_state(then),
            Err(_) if then == State::Stopping => self.instance.end(ExitReason::Stopped),
            Err(error) => self.kill(ExitReason::Host(format!("the VM is unfit: {error}"))),
        }
        self.instance.put_back(machine);
        answer(reply, result);
        let state = self.instance.state();
        let verdicts = self.queue.finished(&state);
        self.obey(verdicts);
    }
}

fn answer(reply: Reply, result: Result<(), VmError>) {
    // The caller may have stopped waiting.
    let _ = reply.send(result);
}

/// Releases the guest, which keeps its identity, and sets its clock.
async fn release(instance: &Instance, machine: &mut dyn MicroVm) -> Result<(), VmError> {
    machine.release().await?;
    let Some(lease) = instance.leased() else {
        return Err(Denied::Starting.into());
    };
    let again = identity::again(&lease.identity)
        .map_err(|error| VmmError::io("get entropy for a guest that goes on")(error.0))?;
    Ok(instance.guest.set_identity(again, RESUME_TIMEOUT).await?)
}

/// Writes a checkpoint of the machine, and leaves it as it was. Whatever is asked of the guest meanwhile
/// waits.
async fn checkpoint(
    instance: &Instance,
    machine: &mut dyn MicroVm,
    files: &SavedFiles,
    held: bool,
) -> Result<(), VmError> {
    if held {
        machine.release().await?;
    }
    let ends_channel = machine.checkpoint_ends_channel();
    if ends_channel {
        instance.guest.suspend();
    }
    let written = machine.checkpoint(files).await;
    if ends_channel {
        let channel = timeout(RESUME_TIMEOUT, machine.guest_channel()).await;
        let channel = channel.map_err(|_| VmmError::TimedOut {
            operation: "reach the guest after a checkpoint",
            after: RESUME_TIMEOUT,
        })?;
        instance.guest.reconnect(channel?)?;
    }
    if held {
        machine.hold().await?;
    }
    written.map_err(VmError::NoCheckpoint)
}

/// Asks the guest to power off. Ignores a missing answer: the end has a timeout anyway.
async fn shut_down(
    instance: &Instance,
    machine: &mut dyn MicroVm,
    held: bool,
    patience: Duration,
) -> Result<(), VmError> {
    if held {
        machine.release().await?;
    }
    // Those that do not end, end with the guest.
    if let Ok(Err(error)) = timeout(patience, instance.guest.end_commands()).await {
        tracing::debug!(%error, "commands were asked to end");
    }
    if let Err(error) = instance.guest.shut_down().await {
        tracing::debug!(%error, "a guest was asked to power off");
    }
    Ok(())
}

async fn done(work: &mut Option<Work>) -> Worked {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Resolves when a running VM was idle for `limit`, to that limit.
async fn unused(instance: &Instance, limit: Option<Duration>) -> Duration {
    match limit {
        Some(limit) if instance.state() == State::Running => {
            instance.guest.activity().none_for(limit).await;
            limit
        }
        _ => std::future::pending().await,
    }
}
