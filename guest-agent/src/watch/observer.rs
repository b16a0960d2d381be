//! The kernel's events of files, put together: renames of two halves, directories that are new, and
//! what was in those before they were watched.

use std::collections::{HashSet, VecDeque};
use std::ffi::OsStr;
use std::fs::{self, DirEntry, ReadDir};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use ironclaw_protocol::file::{EventKind, FileEvent};
use ironclaw_protocol::limits::{MAX_DEPTH, MAX_WATCHED};
use rustix::fs::inotify::ReadFlags;

use super::directories::{Descriptor, Directories};
use super::kernel::{Event, Kernel, TooMany, kinds};
use super::told::Told;

/// Names of directories that are looked at in one step, before others are served.
const MAX_AT_A_TIME: usize = 128;

/// Limit of the files that are remembered to have been told of, while their events may come. Beyond it
/// a file may be told to be created twice.
const MAX_SEEN: usize = 16_384;

/// What is told of the files that a search finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Telling {
    /// All of them: they are new.
    All,
    /// Those in directories that were not watched yet.
    Unwatched,
    Nothing,
}

/// A watched directory to be searched for others.
#[derive(Debug)]
struct Search {
    directory: Descriptor,
    telling: Telling,
    visit: u32,
    entries: Option<ReadDir>,
}

/// The first half of a rename.
#[derive(Debug)]
struct Moved {
    cookie: u32,
    from: Descriptor,
    name: Vec<u8>,
    is_directory: bool,
}

/// The observer of a file, or of a directory, perhaps with those below on the same file system.
#[derive(Debug)]
pub(crate) struct Observer {
    kernel: Kernel,
    device: u64,
    is_directory: bool,
    recursive: bool,
    directories: Directories,
    searches: VecDeque<Search>,
    /// The number of the last search from some directory down.
    visits: u32,
    moved: Option<Moved>,
    /// Files of new directories that were told of, and whose own events may still come.
    seen: HashSet<(Descriptor, Vec<u8>)>,
    is_gone: bool,
}

impl Observer {
    /// Begins to watch what is at a path.
    pub(crate) fn open(path: &Path, recursive: bool) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        let kernel = Kernel::new()?;
        let root = kernel.watch_root(path, found.is_dir())?;
        let mut observer = Self {
            kernel,
            device: found.dev(),
            is_directory: found.is_dir(),
            recursive: recursive && found.is_dir(),
            directories: Directories::new(root, path.as_os_str().as_bytes()),
            searches: VecDeque::new(),
            visits: 0,
            moved: None,
            seen: HashSet::new(),
            is_gone: false,
        };
        if observer.recursive {
            observer.search(root, Telling::Nothing);
        }
        Ok(observer)
    }

    /// Returns whether it watches a directory.
    pub(crate) fn is_directory(&self) -> bool {
        self.is_directory
    }

    /// Returns the descriptor that has the events.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.kernel.as_fd()
    }

    /// Returns whether directories are searched for others.
    pub(crate) fn is_searching(&self) -> bool {
        !self.searches.is_empty()
    }

    /// Returns whether what is watched is there no more.
    pub(crate) fn is_gone(&self) -> bool {
        self.is_gone
    }

    /// Searches a part of the directories that have to be.
    pub(crate) fn go_on_searching(&mut self, told: &mut Told) -> Result<(), TooMany> {
        let mut result = Ok(());
        for _ in 0..MAX_AT_A_TIME {
            let Some(mut search) = self.searches.pop_front() else {
                break;
            };
            if search.entries.is_none() {
                let path = self.directories.path(search.directory, b"");
                let read = path.map(|path| fs::read_dir(OsStr::from_bytes(&path)));
                search.entries = read.and_then(Result::ok);
            }
            // One that was removed, or renamed: the event of that will come. Or it can't be read.
            let Some(Ok(entry)) = search.entries.as_mut().and_then(Iterator::next) else {
                continue;
            };
            if self.found(&search, &entry, told).is_err() {
                result = Err(TooMany);
            }
            self.searches.push_front(search);
        }
        result
    }

    fn found(&mut self, search: &Search, entry: &DirEntry, told: &mut Told) -> Result<(), TooMany> {
        let name = entry.file_name();
        let name = name.as_bytes();
        let Ok(kind) = entry.file_type() else {
            return Ok(());
        };
        if search.telling == Telling::All {
            self.tell(
                told,
                EventKind::Created,
                search.directory,
                name,
                kind.is_dir(),
            );
            if self.seen.len() < MAX_SEEN {
                self.seen.insert((search.directory, name.to_vec()));
            }
            if kind.is_file() && entry.metadata().is_ok_and(|found| found.size() > 0) {
                self.tell(told, EventKind::Modified, search.directory, name, false);
            }
        }
        if !kind.is_dir() {
            return Ok(());
        }
        let (telling, visit) = (search.telling, search.visit);
        let Some(below) = self.watch(search.directory, name)? else {
            return Ok(());
        };
        if self.directories.contains(below) {
            if self.directories.visit(below, visit) {
                self.searches.push_back(Search::new(below, telling, visit));
            }
            return Ok(());
        }
        self.directories
            .insert(below, search.directory, name, visit);
        let telling = match telling {
            Telling::Unwatched => {
                self.tell(told, EventKind::Created, search.directory, name, true);
                Telling::All
            }
            telling => telling,
        };
        self.searches.push_back(Search::new(below, telling, visit));
        Ok(())
    }

    /// Has the kernel watch a directory; `None` if it is none, or may not be read.
    fn watch(&self, parent: Descriptor, name: &[u8]) -> Result<Option<Descriptor>, TooMany> {
        let Some(path) = self.directories.path(parent, name) else {
            return Ok(None);
        };
        let path = Path::new(OsStr::from_bytes(&path));
        let is_here = fs::symlink_metadata(path).is_ok_and(|found| found.dev() == self.device);
        if !is_here {
            return Ok(None);
        }
        if self.directories.len() >= MAX_WATCHED
            || self.directories.depth(parent) + 1 >= MAX_DEPTH as usize
        {
            return Err(TooMany);
        }
        self.kernel.watch_directory(path)
    }

    /// Searches a directory and those below.
    fn search(&mut self, directory: Descriptor, telling: Telling) {
        self.visits += 1;
        self.directories.visit(directory, self.visits);
        let search = Search::new(directory, telling, self.visits);
        self.searches.push_back(search);
    }

    /// Watches a directory that came to be, and searches it.
    fn enter(&mut self, parent: Descriptor, name: &[u8], told: &mut Told) {
        match self.watch(parent, name) {
            Ok(Some(new)) if !self.directories.contains(new) => {
                self.directories.insert(new, parent, name, 0);
                self.search(new, Telling::All);
            }
            Ok(_) => {}
            Err(TooMany) => told.overflow(),
        }
    }

    /// Reads events; returns whether there may be more.
    pub(crate) fn read(&mut self, told: &mut Told) -> io::Result<bool> {
        let (events, more) = self.kernel.read()?;
        for event in events {
            self.handle(event, told);
        }
        if !more {
            self.caught_up(told);
        }
        Ok(more)
    }

    /// Settles what depends on events that would have come by now.
    fn caught_up(&mut self, told: &mut Told) {
        if self.moved.is_some() && self.kernel.comes_soon() {
            return;
        }
        if let Some(moved) = self.moved.take() {
            self.moved_away(&moved, told);
        }
        if self.searches.is_empty() {
            self.seen.clear();
        }
    }

    fn handle(&mut self, event: Event, told: &mut Told) {
        let flags = event.flags;
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.begin_anew();
            return told.overflow();
        }
        match self.moved.take() {
            Some(moved)
                if flags.contains(ReadFlags::MOVED_TO)
                    && moved.cookie == event.cookie
                    && self.directories.contains(event.directory) =>
            {
                return self.renamed(&moved, &event, told);
            }
            Some(moved) => self.moved_away(&moved, told),
            None => {}
        }
        if flags.contains(ReadFlags::IGNORED) {
            self.is_gone |= event.directory == self.directories.root();
            return self.directories.remove(event.directory);
        }
        if !self.directories.contains(event.directory) {
            return;
        }
        if event.name.is_empty() {
            self.handle_own(&event, told);
        } else {
            self.handle_in_directory(event, told);
        }
    }

    /// Handles an event of something watched itself. That of a directory below the root comes from the
    /// one above it, too.
    fn handle_own(&mut self, event: &Event, told: &mut Told) {
        if event.directory != self.directories.root() {
            return;
        }
        let flags = event.flags;
        let is_directory = self.is_directory;
        let gone = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT;
        if flags.intersects(gone) && !self.is_gone {
            self.is_gone = true;
            self.tell(told, EventKind::Removed, event.directory, b"", is_directory);
        }
        for kind in kinds(flags) {
            self.tell(told, kind, event.directory, b"", is_directory);
        }
    }

    fn handle_in_directory(&mut self, event: Event, told: &mut Told) {
        let Event {
            directory,
            flags,
            cookie,
            name,
        } = event;
        let is_directory = flags.contains(ReadFlags::ISDIR);
        if flags.contains(ReadFlags::MOVED_FROM) {
            self.forget_seen(directory, &name);
            self.moved = Some(Moved {
                cookie,
                from: directory,
                name,
                is_directory,
            });
            return;
        }
        if flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
            if self.forget_seen(directory, &name) {
                return;
            }
            self.tell(told, EventKind::Created, directory, &name, is_directory);
            if is_directory && self.recursive {
                self.enter(directory, &name, told);
            }
        }
        for kind in kinds(flags) {
            self.tell(told, kind, directory, &name, is_directory);
        }
        if flags.contains(ReadFlags::DELETE) {
            self.forget_seen(directory, &name);
            self.tell(told, EventKind::Removed, directory, &name, is_directory);
        }
    }

    /// Returns whether a file was told of.
    fn forget_seen(&mut self, directory: Descriptor, name: &[u8]) -> bool {
        !self.seen.is_empty() && self.seen.remove(&(directory, name.to_vec()))
    }

    fn renamed(&mut self, moved: &Moved, to: &Event, told: &mut Told) {
        let from = self.directories.path(moved.from, &moved.name);
        let path = self.directories.path(to.directory, &to.name);
        if let (Some(from), Some(path)) = (from, path) {
            told.tell(&FileEvent {
                kind: EventKind::Renamed,
                path: path[..].into(),
                from: Some(from[..].into()),
                is_directory: moved.is_directory,
            });
        }
        if !moved.is_directory || !self.recursive {
            return;
        }
        match self.directories.find(moved.from, &moved.name) {
            Some(directory) => {
                self.directories.rename(directory, to.directory, &to.name);
                // A search for what is below may have come too late to find it by its old name.
                self.search(directory, Telling::Unwatched);
            }
            None => self.enter(to.directory, &to.name, told),
        }
    }

    fn moved_away(&mut self, moved: &Moved, told: &mut Told) {
        let is_directory = moved.is_directory;
        self.tell(
            told,
            EventKind::Removed,
            moved.from,
            &moved.name,
            is_directory,
        );
        if is_directory && let Some(top) = self.directories.find(moved.from, &moved.name) {
            self.unwatch(top);
        }
    }

    /// Ends to watch a directory and those below, but for the root.
    fn unwatch(&mut self, top: Descriptor) {
        for directory in self.directories.remove_tree(top) {
            self.kernel.unwatch(directory);
        }
    }

    /// Searches everything again: directories may have come and gone, and nobody said so.
    fn begin_anew(&mut self) {
        let root = self.directories.root();
        self.moved = None;
        self.seen.clear();
        self.searches.clear();
        self.unwatch(root);
        if self.recursive {
            self.search(root, Telling::Nothing);
        }
    }

    fn tell(
        &self,
        told: &mut Told,
        kind: EventKind,
        directory: Descriptor,
        name: &[u8],
        is_directory: bool,
    ) {
        if let Some(path) = self.directories.path(directory, name) {
            told.tell(&FileEvent {
                kind,
                path: path[..].into(),
                from: None,
                is_directory,
            });
        }
    }
}

impl Search {
    fn new(directory: Descriptor, telling: Telling, visit: u32) -> Self {
        Self {
            directory,
            telling,
            visit,
            entries: None,
        }
    }
}
