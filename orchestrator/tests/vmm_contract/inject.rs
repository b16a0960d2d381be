//! Makes another process execute system calls, as a guest that took it over would: under the
//! process's own filters, with its own rights.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// The instruction SYSCALL.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// Distance below the stack that the interrupted function may use.
const SCRATCH: u64 = 32 << 10;

/// An argument of a call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Argument<'a> {
    Number(u64),
    /// A pointer to these bytes.
    Bytes(&'a [u8]),
}

/// The result of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The return value: a small negative number is an error.
    Returned(i64),
    /// The process got a signal for the call, and can't be used any more.
    Killed,
}

impl Outcome {
    pub(crate) fn is_refused(self) -> bool {
        match self {
            Self::Returned(value) => (-4095..0).contains(&value),
            Self::Killed => true,
        }
    }
}

/// Makes the first thread of the process `number` execute a call.
pub(crate) fn call(number: u32, call: i64, arguments: &[Argument<'_>]) -> Outcome {
    let pid = Pid::from_raw(number.cast_signed());
    ptrace::attach(pid).unwrap();
    let stopped = waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap();
    assert!(matches!(stopped, WaitStatus::Stopped(..)), "{stopped:?}");
    // A filter may kill this thread alone, which a wait for the process does not report.
    ptrace::setoptions(pid, ptrace::Options::PTRACE_O_TRACEEXIT).unwrap();
    let memory = File::options()
        .read(true)
        .write(true)
        .open(format!("/proc/{number}/mem"))
        .unwrap();
    let before = ptrace::getregs(pid).unwrap();
    let mut registers = before;
    let mut scratch = (before.rsp - SCRATCH) & !0xf;
    let mut values = [0; 6];
    for (value, argument) in values.iter_mut().zip(arguments) {
        *value = match argument {
            Argument::Number(number) => *number,
            Argument::Bytes(bytes) => {
                memory.write_all_at(bytes, scratch).unwrap();
                let at = scratch;
                scratch += (bytes.len() as u64 + 0xf) & !0xf;
                at
            }
        };
    }
    registers.rax = call.cast_unsigned();
    // Keeps the kernel from restarting an interrupted call.
    registers.orig_rax = u64::MAX;
    registers.rip = instruction(number, &memory, before.rip);
    let [rdi, rsi, rdx, r10, r8, r9] = values;
    (registers.rdi, registers.rsi, registers.rdx) = (rdi, rsi, rdx);
    (registers.r10, registers.r8, registers.r9) = (r10, r8, r9);
    ptrace::setregs(pid, registers).unwrap();
    ptrace::step(pid, None).unwrap();
    match waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap() {
        WaitStatus::Stopped(_, Signal::SIGTRAP) => {
            let result = ptrace::getregs(pid).unwrap().rax.cast_signed();
            ptrace::setregs(pid, before).unwrap();
            ptrace::detach(pid, None).unwrap();
            Outcome::Returned(result)
        }
        WaitStatus::Stopped(_, signal) => {
            ptrace::detach(pid, signal).unwrap();
            Outcome::Killed
        }
        WaitStatus::PtraceEvent(..) => {
            ptrace::detach(pid, None).unwrap();
            Outcome::Killed
        }
        _ => Outcome::Killed,
    }
}

/// Returns the address of a SYSCALL instruction: most often the thread waits in one.
fn instruction(number: u32, memory: &File, rip: u64) -> u64 {
    let mut bytes = [0; 2];
    if memory.read_exact_at(&mut bytes, rip - 2).is_ok() && bytes == SYSCALL {
        return rip - 2;
    }
    let maps = std::fs::read_to_string(format!("/proc/{number}/maps")).unwrap();
    let executable = maps.lines().filter(|line| line.contains(" r-xp "));
    for line in executable {
        let (start, rest) = line.split_once('-').unwrap();
        let end = rest.split(' ').next().unwrap();
        let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).unwrap());
        let mut code = vec![0; usize::try_from(end - start).unwrap()];
        if memory.read_exact_at(&mut code, start).is_err() {
            continue;
        }
        if let Some(at) = code.windows(2).position(|part| part == SYSCALL) {
            return start + at as u64;
        }
    }
    panic!("no SYSCALL in process {number}");
}
