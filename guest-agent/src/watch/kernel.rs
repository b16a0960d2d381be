//! The kernel's notifications of files (inotify).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use ironclaw_protocol::file::EventKind;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{
    CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init, remove_watch,
};
use rustix::io::Errno;

use super::directories::Descriptor;

/// Bytes of events that are read at a time.
const BUFFER: usize = 16 * 1024;

/// Timeout of the second half of a rename, which the kernel writes right behind the first one, unless its
/// processor is taken away in between. There is none if the file went elsewhere.
const RENAME_TIMEOUT: Duration = Duration::from_millis(20);

const EVENTS: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::EXCL_UNLINK);

/// An event of the kernel.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) directory: Descriptor,
    pub(crate) flags: ReadFlags,
    /// What the halves of a rename have in common.
    pub(crate) cookie: u32,
    /// The name in the directory; empty for what is watched itself.
    pub(crate) name: Vec<u8>,
}

/// Not all directories can be watched.
#[derive(Debug)]
pub(crate) struct TooMany;

/// The kernel's end of a watch.
#[derive(Debug)]
pub(crate) struct Kernel(OwnedFd);

impl Kernel {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?))
    }

    /// Watches what a path leads to.
    pub(crate) fn watch_root(&self, path: &Path, is_directory: bool) -> io::Result<Descriptor> {
        let kind = match is_directory {
            true => WatchFlags::ONLYDIR,
            false => WatchFlags::empty(),
        };
        Ok(add_watch(&self.0, path, EVENTS | kind)?)
    }

    /// Watches a directory; `None` if it is none, or may not be read.
    pub(crate) fn watch_directory(&self, path: &Path) -> Result<Option<Descriptor>, TooMany> {
        let flags = EVENTS | WatchFlags::ONLYDIR | WatchFlags::DONT_FOLLOW;
        match add_watch(&self.0, path, flags) {
            Ok(directory) => Ok(Some(directory)),
            // The kernel's own limit.
            Err(Errno::NOSPC | Errno::NOMEM) => Err(TooMany),
            Err(_) => Ok(None),
        }
    }

    /// Ends to watch a directory, which may be gone already.
    pub(crate) fn unwatch(&self, directory: Descriptor) {
        let _ = remove_watch(&self.0, directory);
    }

    /// Reads events; returns whether there may be more.
    pub(crate) fn read(&self) -> io::Result<(Vec<Event>, bool)> {
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut events = Vec::new();
        let mut reader = Reader::new(&self.0, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => events.push(Event {
                    directory: event.wd(),
                    flags: event.events(),
                    cookie: event.cookie(),
                    name: event
                        .file_name()
                        .map_or(Vec::new(), |name| name.to_bytes().into()),
                }),
                Err(Errno::AGAIN) => return Ok((events, false)),
                Err(Errno::INTR) => return Ok((events, true)),
                Err(error) => return Err(error.into()),
            }
            // What is in the buffer would be lost with it.
            if reader.is_buffer_empty() {
                return Ok((events, true));
            }
        }
    }

    /// Returns whether the second half of a rename comes, after its first one.
    pub(crate) fn comes_soon(&self) -> bool {
        let mut set = [PollFd::new(&self.0, PollFlags::IN)];
        let timeout = Timespec::try_from(RENAME_TIMEOUT).ok();
        poll(&mut set, timeout.as_ref()).is_ok_and(|ready| ready > 0)
    }
}

impl AsFd for Kernel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Returns what happened to a file that stays where it is.
pub(crate) fn kinds(flags: ReadFlags) -> impl Iterator<Item = EventKind> {
    let all = [
        (ReadFlags::ATTRIB, EventKind::Attributes),
        (ReadFlags::MODIFY, EventKind::Modified),
        (ReadFlags::CLOSE_WRITE, EventKind::Written),
    ];
    let told = all
        .into_iter()
        .filter(move |(flag, _)| flags.contains(*flag));
    told.map(|(_, kind)| kind)
}
