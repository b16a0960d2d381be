//! The built-in commands of the guest.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;
use core::time::Duration;

use ironclaw_protocol::message::{Exec, Failure, FailureKind, Stream};
use ironclaw_protocol::os_bytes::OsBytes;

use crate::files::DIRECTORIES;
use crate::guest::Guest;
use crate::task::Work;

/// Exit status of a command with invalid arguments, as in shells.
const USAGE: u8 = 2;

/// Starts the command in `exec`.
///
/// # Errors
/// `NotFound` if there is none of that name, `NoSuchDirectory` if the working directory does not
/// exist.
pub(crate) fn start(exec: &Exec, guest: &mut Guest) -> Result<Work, Failure> {
    if let Some(cwd) = &exec.cwd
        && !DIRECTORIES
            .iter()
            .any(|name| name.as_bytes() == cwd.as_bytes())
    {
        let message = format!("working directory {cwd:?} does not exist");
        return Err(Failure {
            kind: FailureKind::NoSuchDirectory,
            message,
        });
    }
    if exec.user.is_some() || exec.terminal.is_some() {
        return Err(Failure {
            kind: FailureKind::Unsupported,
            message: "this guest has no users and no terminals".into(),
        });
    }
    let program = exec.program().and_then(OsBytes::to_str).unwrap_or_default();
    let args = exec.argv.get(1..).unwrap_or_default();
    Ok(match program {
        "echo" => echo(args),
        "cat" => Work::Copy {
            held: VecDeque::new(),
        },
        "counter" => {
            guest.counter += 1;
            print(format!("{}\n", guest.counter))
        }
        "entropy" => print(format!("{}\n", hex(&guest.generator.draw()))),
        "identity" => identity(guest),
        "clock" => clock(guest),
        "dirty" => with_number(program, args, |mebibytes| dirty(guest, mebibytes)),
        "sleep" => with_number(program, args, |milliseconds| {
            let now = guest.machine.uptime();
            let until = now.checked_add(Duration::from_millis(milliseconds));
            Work::Sleep {
                until: until.unwrap_or(Duration::MAX),
            }
        }),
        "count" => with_number(program, args, |milliseconds| Work::Count {
            next: 1,
            every: Duration::from_millis(milliseconds.max(1)),
            due: guest.machine.uptime(),
        }),
        "fail" => with_number(program, args, |code| match u8::try_from(code) {
            Ok(code) => Work::print(Stream::Stdout, Vec::new(), code),
            Err(_) => complain(USAGE, format!("fail: {code} is not an exit status")),
        }),
        "flood" => with_number(program, args, |mebibytes| Work::Flood {
            sent: 0,
            total: mebibytes.saturating_mul(1024 * 1024),
        }),
        _ => {
            let message = format!("no built-in command is called {program:?}");
            return Err(Failure {
                kind: FailureKind::NotFound,
                message,
            });
        }
    })
}

fn echo(args: &[OsBytes]) -> Work {
    let args: Vec<_> = args.iter().map(OsBytes::as_bytes).collect();
    let mut text = args.join(&b' ');
    text.push(b'\n');
    Work::print(Stream::Stdout, text, 0)
}

fn print(text: String) -> Work {
    Work::print(Stream::Stdout, text.into_bytes(), 0)
}

fn complain(code: u8, text: String) -> Work {
    let mut bytes = text.into_bytes();
    bytes.push(b'\n');
    Work::print(Stream::Stderr, bytes, code)
}

fn with_number(program: &str, args: &[OsBytes], start: impl FnOnce(u64) -> Work) -> Work {
    match args {
        [number] => match number.to_str().unwrap_or_default().parse() {
            Ok(number) => start(number),
            Err(_) => complain(USAGE, format!("{program}: {number:?} is not a number")),
        },
        _ => complain(USAGE, format!("{program}: takes one number")),
    }
}

fn dirty(guest: &Guest, mebibytes: u64) -> Work {
    let spare = guest.machine.spare_mebibytes();
    match u32::try_from(mebibytes) {
        Ok(end) if end <= spare => Work::Dirty { next: 0, end },
        _ => complain(1, format!("dirty: only {spare} MiB can be written")),
    }
}

fn identity(guest: &Guest) -> Work {
    let Some(identity) = guest.identity() else {
        return complain(
            1,
            "identity: the host has not said who this guest is".into(),
        );
    };
    let boot = hex(&identity.boot_id);
    print(format!(
        "{}\n{}\n{}-{}-{}-{}-{}\n",
        identity.hostname,
        hex(&identity.machine_id),
        &boot[..8],
        &boot[8..12],
        &boot[12..16],
        &boot[16..20],
        &boot[20..],
    ))
}

fn clock(guest: &Guest) -> Work {
    match guest.unix_time() {
        Some(time) => print(format!("{}.{:09}\n", time.as_secs(), time.subsec_nanos())),
        None => complain(1, "clock: the host has not said what time it is".into()),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
