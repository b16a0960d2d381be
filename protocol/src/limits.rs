//! Bounds that both ends keep. A value outside of them is a protocol error.

/// Longest payload of one frame, in bytes. Command lines and environments travel in one frame.
pub const MAX_FRAME: usize = 128 * 1024;

/// Most bytes of file or stream content that a sender puts into one `Data` frame.
///
/// Small enough that a short request is not held up for long behind bulk data on the one serial
/// line all requests share.
pub const MAX_CHUNK: usize = 32 * 1024;

/// Credit that each direction of a request starts with, in bytes: how much content a sender may
/// have under way before the receiver says that it took some.
pub const WINDOW: u32 = 256 * 1024;

/// Most requests that may be open on a connection at one time.
pub const MAX_REQUESTS: usize = 256;

/// Most bytes that a receiver skips while it looks for the start of a session.
pub const MAX_RESYNC: usize = 1024 * 1024;

/// Most arguments of a command, the program's name included.
pub const MAX_ARGS: usize = 4096;

/// Most environment variables of a command.
pub const MAX_ENV: usize = 4096;

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
