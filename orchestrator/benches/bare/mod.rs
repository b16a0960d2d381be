//! A minimal client of a VMM, to compare ours with: blocking sockets, literal requests, no runtime.

mod agent;
pub(crate) mod firecracker;
pub(crate) mod qemu;

use std::any::Any;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use agent::Agent;
pub(crate) use agent::Ask;

/// The requested state of the vCPUs.
enum State {
    Paused,
    Resumed,
}

/// The interface of a VMM.
trait Control {
    fn request(&mut self, state: State);
    /// Waits until the request is done.
    fn confirm(&mut self);
    /// Returns a stream to the guest's agent; called once.
    fn reach_agent(&mut self) -> UnixStream;
}

/// The process of a VMM, which is killed on drop.
struct Vmm(Child);

impl Drop for Vmm {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The way in which a clone is held until it is asked.
#[derive(Clone, Copy)]
enum Hold {
    /// By a request to its VMM, which stops the vCPUs.
    ByRequest,
    /// By a signal, which stops the whole VMM: for guests that receive nothing after the other way.
    BySignal,
}

/// A running clone.
pub(crate) struct Running {
    process: Vmm,
    hold: Hold,
    control: Box<dyn Control>,
    /// The request to its agent.
    ask: Ask,
}

/// Stops all threads of a VMM that was measured: a running guest would take a processor from the
/// next measurement.
pub(crate) fn stop(pid: u32) {
    signal(pid, Signal::STOP);
}

fn signal(pid: u32, signal: Signal) -> Pid {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
    pid
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// Calls [`stop`] for it.
    pub(crate) fn stop(&self) {
        stop(self.pid());
    }

    /// Asks its agent and waits for the answer.
    pub(crate) fn ask(&mut self) {
        let mut agent = Agent::over(self.control.reach_agent(), self.ask);
        agent.ask();
        agent.hear();
    }

    /// Primes and holds it.
    pub(crate) fn pause(self) -> Paused {
        let mut primed = self.prime();
        let running = &mut primed.running;
        match running.hold {
            Hold::ByRequest => {
                running.control.request(State::Paused);
                running.control.confirm();
            }
            Hold::BySignal => {
                let pid = signal(running.pid(), Signal::STOP);
                let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap().unwrap();
                assert!(status.stopped(), "{status:?}");
            }
        }
        primed
    }

    /// Releases a held clone, as far as that needs no answer.
    fn release(&mut self) {
        match self.hold {
            Hold::ByRequest => self.control.request(State::Resumed),
            Hold::BySignal => drop(signal(self.pid(), Signal::CONT)),
        }
    }

    /// Waits until it continues.
    fn released(&mut self) {
        match self.hold {
            Hold::ByRequest => self.control.confirm(),
            Hold::BySignal => {}
        }
    }

    /// Primes it and lets it run.
    pub(crate) fn prime(mut self) -> Paused {
        let mut agent = Agent::over(self.control.reach_agent(), self.ask);
        agent.prime();
        Paused {
            running: self,
            agent,
        }
    }

    /// Resumes a clone that was loaded but not resumed, connects to its agent and waits for an
    /// answer.
    pub(crate) fn resume_and_ask(mut self) -> (Duration, Box<dyn Any>) {
        let start = Instant::now();
        self.control.request(State::Resumed);
        self.control.confirm();
        self.ask();
        let took = start.elapsed();
        self.stop();
        (took, Box::new(self))
    }
}

/// Returns the processor time used so far by a VMM, its guest included, and by this thread, which
/// is its client (Linux Documentation/scheduler/sched-stats.rst).
pub(crate) fn processor_time(pid: u32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let tasks = tasks.map(|task| task.unwrap().path());
    let all = tasks.chain([Path::new("/proc/thread-self").to_owned()]);
    all.map(|task| {
        let text = std::fs::read_to_string(task.join("schedstat")).unwrap();
        let nanoseconds = text.split(' ').next().unwrap();
        Duration::from_nanos(nanoseconds.parse().unwrap())
    })
    .sum()
}

/// A held clone with a connection to its agent.
pub(crate) struct Paused {
    running: Running,
    agent: Agent,
}

impl Paused {
    /// Returns the threads that run the vCPUs.
    pub(crate) fn vcpus(&self) -> Vec<rustix::thread::Pid> {
        let tasks = format!("/proc/{}/task", self.running.pid());
        let tasks = std::fs::read_dir(tasks).unwrap().map(Result::unwrap);
        let vcpus = tasks.filter(|task| {
            let name = std::fs::read_to_string(task.path().join("comm")).unwrap();
            name.starts_with("fc_vcpu")
        });
        let number = |name: std::ffi::OsString| name.to_str().unwrap().parse().unwrap();
        let pids = vcpus.map(|task| number(task.file_name()));
        pids.map(|pid: i32| rustix::thread::Pid::from_raw(pid).unwrap())
            .collect()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Measures from its release to the agent's answer.
    pub(crate) fn resume_and_ask(mut self) -> (Duration, Box<dyn Any>) {
        let start = Instant::now();
        self.running.release();
        self.running.released();
        self.agent.ask();
        self.agent.hear();
        let took = start.elapsed();
        self.running.stop();
        (took, Box::new(self))
    }

    /// Measures from `go_on`, which is called after sending the request, to the agent's answer.
    pub(crate) fn ask_and(mut self, go_on: impl FnOnce()) -> (Duration, Box<dyn Any>) {
        let start = Instant::now();
        go_on();
        self.agent.ask();
        self.agent.hear();
        let took = start.elapsed();
        self.running.stop();
        (took, Box::new(self))
    }

    /// Measures many at once, until the last has answered: all are asked before any is read.
    pub(crate) fn resume_and_ask_all(mut clones: Vec<Self>) -> (Duration, Box<dyn Any>) {
        let start = Instant::now();
        for clone in &mut clones {
            clone.running.release();
            clone.agent.ask();
        }
        for clone in &mut clones {
            clone.running.released();
            clone.agent.hear();
        }
        let took = start.elapsed();
        clones.iter().for_each(|clone| clone.running.stop());
        (took, Box::new(clones))
    }
}
