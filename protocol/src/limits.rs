//! Limits that both ends enforce. A value beyond them is a protocol error.

/// Maximum payload of a frame from a guest, in bytes. A list of commands travels in one frame.
pub const MAX_FRAME: usize = 192 * 1024;

/// Maximum payload of a frame from a host, in bytes. Command lines and environments travel in one
/// frame.
pub const MAX_REQUEST_FRAME: usize = MAX_ARGUMENTS + 4 * MAX_PATH;

/// Maximum content in one `Data` frame, in bytes.
///
/// Small enough that a short request is not held up for long behind bulk data on the one serial
/// line all requests share.
pub const MAX_CHUNK: usize = 32 * 1024;

/// Initial credit of each direction of a request, in bytes: the content that a sender may have
/// under way before the receiver grants more.
pub const WINDOW: u32 = 256 * 1024;

/// The window of each output of a command, in bytes, which the guest keeps until the host took it.
/// It narrows with the output that the guest keeps of all commands.
pub const OUTPUT_WINDOW: u32 = 256 * 1024;

/// Bytes of each output that a guest keeps while nobody listens.
pub const UNATTENDED_OUTPUT: usize = 64 * 1024;

/// Bytes of output that a guest keeps of all commands together. Each output may take half of what is
/// left, and [`MIN_OUTPUT_WINDOW`] in any case.
pub const MAX_KEPT_OUTPUT: usize = 1024 * 1024;

/// The minimum window of each output of a command, however much others use.
pub const MIN_OUTPUT_WINDOW: usize = 8 * 1024;

/// Bytes of an output after which the host acknowledges them. It has to be less than the smallest
/// window, or guest and host would wait for each other.
pub const TAKEN_PORTION: u32 = 4 * 1024;

const _: () = assert!((TAKEN_PORTION as usize) < MIN_OUTPUT_WINDOW);

/// Limit of running commands in a guest, attached or not.
pub const MAX_COMMANDS: usize = 256;

/// Limit of ended commands that a guest keeps until the host acknowledges them: as many as a
/// session may have open, so that none of them gets lost with it.
pub const MAX_ENDED: usize = MAX_REQUESTS;

/// Limit of commands in a list.
pub const MAX_LISTED: usize = MAX_COMMANDS + MAX_ENDED;

/// Maximum length of a program's name in a list, in bytes.
pub const MAX_PROGRAM: usize = 128;

/// Maximum length of a command's tag, in bytes.
pub const MAX_TAG: usize = 128;

/// Limit of the bytes of a command in a list beyond its name and tag, as they are encoded.
const MAX_INFO: usize = 96;

const _: () = assert!(MAX_LISTED * (MAX_PROGRAM + MAX_TAG + MAX_INFO) <= MAX_FRAME);

/// Limit of the ids of forgotten commands that a guest remembers, so that a late request does not
/// run one of them again.
pub const MAX_FORGOTTEN: usize = 1024;

/// Seconds, counted while the guest runs, that a command without a session is waited for: then it
/// is killed or, if it is to be kept, continues and loses the oldest of its output.
pub const UNATTENDED_TICKS: u32 = 30;

/// Limit of open requests on a connection.
pub const MAX_REQUESTS: usize = 256;

/// Limit of the bytes that a receiver skips while it searches for the start of a session.
pub const MAX_RESYNC: usize = 1024 * 1024;

/// Maximum length of a command's argument, or of an environment variable with its name and `=`, in
/// bytes (Linux: `MAX_ARG_STRLEN` without the terminator).
pub const MAX_ARGUMENT: usize = 128 * 1024 - 1;

/// Limit of a command's arguments and environment together, in bytes, each with
/// [`ARGUMENT_OVERHEAD`]: Linux's own limit with a stack of 8 MiB.
pub const MAX_ARGUMENTS: usize = 2 * 1024 * 1024;

/// Overhead of an argument, as Linux counts it: the terminator and a pointer.
pub const ARGUMENT_OVERHEAD: usize = 9;

/// Maximum length of a path, in bytes (Linux: `PATH_MAX`).
pub const MAX_PATH: usize = 4096;

/// Maximum length of the name of a user and a group, in bytes.
pub const MAX_USER: usize = 256;

/// Maximum depth of a list of files, or of a tree that is removed: the guest has a directory open
/// for each.
pub const MAX_DEPTH: u32 = 128;

/// Maximum length of the name of an extended attribute, in bytes (Linux: `XATTR_NAME_MAX`).
pub const MAX_ATTRIBUTE_NAME: usize = 255;

/// Limit of a file's extended attributes together, in bytes, each with its name (Linux:
/// `XATTR_SIZE_MAX`).
pub const MAX_ATTRIBUTES: usize = 64 * 1024;

/// Maximum length of a [record](crate::records), in bytes: a path, a link's target, two names, and
/// numbers.
pub const MAX_RECORD: usize = 2 * MAX_PATH + 2 * MAX_USER + 128;

/// Limit of the watches of a session: each takes one of the kernel's, which the guest's own programs
/// need, too.
pub const MAX_WATCHES: usize = 64;

/// Limit of the directories that one watch has its eyes on.
pub const MAX_WATCHED: usize = 8192;

/// Bytes of events that a guest keeps for a host that does not take them; then it tells of an
/// overflow instead.
pub const MAX_KEPT_EVENTS: usize = 256 * 1024;

/// Limit of the connections to a guest's ports at a time, so that requests for commands are left.
pub const MAX_CONNECTIONS: usize = 128;

/// Maximum length of a host name, in bytes (Linux: `HOST_NAME_MAX`).
pub const MAX_HOSTNAME: usize = 64;

/// Bytes of fresh host entropy in a `SetIdentity` message: a full seed of the kernel's ChaCha20
/// generator.
pub const ENTROPY: usize = 32;

/// Maximum length of the text in a failure or a fault, in bytes.
pub const MAX_TEXT: usize = 1024;

/// The largest signal number that a host may send: those beyond are real-time signals, which only a
/// program written for them understands.
pub const MAX_SIGNAL: i32 = 31;
