//! Bounds that both ends keep. A value outside of them is a protocol error.

/// Longest payload of a frame from a guest, in bytes.
pub const MAX_FRAME: usize = 128 * 1024;

/// Longest payload of a frame from a host, in bytes. Command lines and environments travel in one
/// frame.
pub const MAX_REQUEST_FRAME: usize = MAX_ARGUMENTS + 4 * MAX_PATH;

/// Most bytes of file or stream content that a sender puts into one `Data` frame.
///
/// Small enough that a short request is not held up for long behind bulk data on the one serial
/// line all requests share.
pub const MAX_CHUNK: usize = 32 * 1024;

/// Credit that each direction of a request starts with, in bytes: how much content a sender may
/// have under way before the receiver says that it took some.
pub const WINDOW: u32 = 256 * 1024;

/// The same of each output of a command, in bytes, and the most of it that a guest keeps: for a host
/// that has lost its session, or while nobody listens.
pub const OUTPUT_WINDOW: u32 = 64 * 1024;

/// Bytes of output that a guest keeps of all commands together, beyond which each has no more than
/// [`MIN_OUTPUT_WINDOW`] for itself.
pub const MAX_KEPT_OUTPUT: usize = 1024 * 1024;

/// What each output of a command may have under way however much the others have.
pub const MIN_OUTPUT_WINDOW: usize = 4 * 1024;

/// Most commands that may run in a guest at one time, whoever listens to them.
pub const MAX_COMMANDS: usize = 256;

/// Most commands whose end a guest keeps until the host acknowledges it: as many as a session may have
/// open, so that none of them gets lost with it.
pub const MAX_ENDED: usize = MAX_REQUESTS;

/// Most commands in a list.
pub const MAX_LISTED: usize = MAX_COMMANDS + MAX_ENDED;

/// Longest name of a program in a list, in bytes.
pub const MAX_PROGRAM: usize = 128;

/// Most numbers of commands that a guest remembers after it forgot the rest, so that a late request does
/// not run one of them again.
pub const MAX_FORGOTTEN: usize = 1024;

/// Seconds, each counted while the guest runs, that a command without a session is waited for: then it is
/// killed, or, if it is to be kept, goes on and loses the oldest of its output.
pub const UNATTENDED_TICKS: u32 = 30;

/// Most requests that may be open on a connection at one time.
pub const MAX_REQUESTS: usize = 256;

/// Most bytes that a receiver skips while it looks for the start of a session.
pub const MAX_RESYNC: usize = 1024 * 1024;

/// Longest argument of a command, or environment variable with its name and `=`, in bytes (Linux:
/// `MAX_ARG_STRLEN` without the NUL byte at the end).
pub const MAX_ARGUMENT: usize = 128 * 1024 - 1;

/// Most bytes that the arguments and the environment of a command take together, each with
/// [`ARGUMENT_OVERHEAD`]. It is what Linux takes where a stack may have 8 MiB.
pub const MAX_ARGUMENTS: usize = 2 * 1024 * 1024;

/// What an argument takes besides its bytes, as Linux counts: the NUL byte at its end, and a pointer.
pub const ARGUMENT_OVERHEAD: usize = 9;

/// Longest path, in bytes (Linux: `PATH_MAX`).
pub const MAX_PATH: usize = 4096;

/// Longest host name, in bytes (Linux: `HOST_NAME_MAX`).
pub const MAX_HOSTNAME: usize = 64;

/// Bytes of fresh host entropy in a `Restored` message: a full seed of the kernel's ChaCha20
/// generator.
pub const ENTROPY: usize = 32;

/// Longest explanation in a failure or a fault, in bytes.
pub const MAX_TEXT: usize = 1024;

/// Largest number of a signal that a host may send: those beyond are real-time signals, which mean
/// nothing to a command that was not written for them.
pub const MAX_SIGNAL: i32 = 31;
