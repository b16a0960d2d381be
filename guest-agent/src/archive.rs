//! A tar stream of files, for the host.

pub(crate) mod entry;
pub(crate) mod item;
pub(crate) mod tree;

use std::collections::{HashMap, VecDeque};
use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};

use ironclaw_protocol::limits::MAX_CHUNK;
use ironclaw_protocol::message::{FailureKind, Outcome, RequestId};
use ironclaw_protocol::session::Outgoing;

use crate::account::Account;
use crate::credentials::as_user;
use crate::failure::refused;
use crate::outflow::Outflow;
use crate::transfer::Transfer;

use entry::{END, Extent, Kind};
use item::{Content, Item};

/// Files that are looked at in one step, before others are served.
const MAX_AT_A_TIME: usize = 128;

/// Limit of the files whose other names become links to the first one. Beyond it each name has the
/// content again.
const MAX_LINKED: usize = 65_536;

/// What goes into an archive next.
#[derive(Debug)]
pub(crate) enum Part {
    /// A file, with its path in the archive.
    Item(Vec<u8>, Box<Item>),
    /// A file that says something about lower layers.
    Marker(Vec<u8>),
    /// A file that can't be read, or that no archive holds.
    Omitted,
    /// Nothing: a file that belongs into none.
    Skipped,
}

/// The files of an archive.
pub(crate) trait Source: Debug {
    /// Returns the next part after a bounded piece of work; `None` at the end.
    fn next(&mut self) -> Option<Part>;
}

/// An archive on its way.
#[derive(Debug)]
pub(crate) struct Archive<S> {
    account: Option<Account>,
    source: S,
    /// First paths of files with more names.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// The file whose content is being read.
    content: Option<Reading>,
    /// Bytes that are not sent.
    bytes: VecDeque<u8>,
    is_complete: bool,
    files: u64,
    omitted: u64,
    flow: Outflow,
}

/// The content of a file.
#[derive(Debug)]
struct Reading {
    file: File,
    /// What is to be read.
    extents: VecDeque<Extent>,
    /// Number of bytes that it takes in the archive.
    stored: u64,
}

impl<S: Source> Archive<S> {
    pub(crate) fn new(id: RequestId, source: S, account: Option<Account>) -> Self {
        Self {
            account,
            source,
            links: HashMap::new(),
            content: None,
            bytes: VecDeque::new(),
            is_complete: false,
            files: 0,
            omitted: 0,
            flow: Outflow::new(id),
        }
    }

    /// Goes on until there is a chunk, or enough was done for now.
    fn further(&mut self, buffer: &mut [u8]) {
        for _ in 0..MAX_AT_A_TIME {
            if self.bytes.len() >= MAX_CHUNK || self.is_complete {
                return;
            }
            if self.content.is_some() {
                self.read(buffer);
                continue;
            }
            match self.source.next() {
                Some(Part::Item(path, item)) => self.add(path, *item),
                Some(Part::Marker(path)) => {
                    let mut bytes = Vec::new();
                    entry::append_marker(&path, &mut bytes);
                    self.files += 1;
                    self.bytes.extend(bytes);
                }
                Some(Part::Omitted) => self.omitted += 1,
                Some(Part::Skipped) => {}
                None => {
                    self.bytes.extend(END);
                    self.is_complete = true;
                }
            }
        }
    }

    fn add(&mut self, path: Vec<u8>, item: Item) {
        let Item {
            metadata,
            properties,
            content,
        } = item;
        let mut bytes = Vec::new();
        let mut append = |kind| entry::append(&path, &properties, kind, &mut bytes);
        let inode = (metadata.dev(), metadata.ino());
        if metadata.nlink() > 1
            && !metadata.is_dir()
            && let Some(first) = self.links.get(&inode)
        {
            append(Kind::HardLink(first));
        } else {
            match content {
                Content::Directory => append(Kind::Directory),
                Content::Link(target) => append(Kind::Link(&target)),
                Content::Socket => {
                    self.omitted += 1;
                    return;
                }
                Content::Special => {
                    let device = metadata.rdev();
                    let kind = metadata.file_type();
                    append(if kind.is_char_device() {
                        Kind::CharacterDevice(device)
                    } else if kind.is_block_device() {
                        Kind::BlockDevice(device)
                    } else {
                        Kind::Fifo
                    });
                }
                Content::File(file) => {
                    let size = metadata.size();
                    let extents = item::extents(&file, &metadata);
                    append(Kind::File {
                        size,
                        extents: extents.as_deref(),
                    });
                    let whole = Extent {
                        offset: 0,
                        length: size,
                    };
                    let extents = extents.unwrap_or_else(|| vec![whole]);
                    self.content = Some(Reading {
                        stored: extents.iter().map(|extent| extent.length).sum(),
                        file,
                        extents: extents.into(),
                    });
                }
            }
            if metadata.nlink() > 1 && !metadata.is_dir() && self.links.len() < MAX_LINKED {
                self.links.insert(inode, path);
            }
        }
        self.files += 1;
        self.bytes.extend(bytes);
    }

    /// Reads a chunk of the content, or ends it.
    fn read(&mut self, buffer: &mut [u8]) {
        let Some(reading) = &mut self.content else {
            return;
        };
        let Some(extent) = reading.extents.front_mut() else {
            let mut bytes = Vec::new();
            entry::pad(reading.stored, &mut bytes);
            self.bytes.extend(bytes);
            self.content = None;
            return;
        };
        let length = usize::try_from(extent.length).unwrap_or(usize::MAX);
        let buffer = &mut buffer[..length.min(MAX_CHUNK)];
        // The header has said how much there is: a file that has become shorter, or that can't be
        // read any more, has zeros there.
        let count = match reading.file.read_at(buffer, extent.offset) {
            Ok(count) if count > 0 => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return,
            Ok(_) | Err(_) => {
                buffer.fill(0);
                buffer.len()
            }
        };
        self.bytes.extend(&buffer[..count]);
        extent.offset += count as u64;
        extent.length -= count as u64;
        if extent.length == 0 {
            reading.extents.pop_front();
        }
    }
}

impl<S: Source> Transfer for Archive<S> {
    fn taken(&mut self, offset: u64) -> bool {
        self.flow.taken(offset)
    }

    fn is_ready(&self) -> bool {
        self.flow.room() > 0
    }

    fn step(&mut self, buffer: &mut [u8], out: &mut Outgoing) -> Option<Outcome> {
        let account = self.account.take();
        let read = as_user(account.as_ref(), || self.further(buffer));
        self.account = account;
        if let Err(error) = read {
            let attempt = "become another user";
            return Some(refused(attempt, &error, FailureKind::NoSuchUser));
        }
        let count = self.bytes.len().min(self.flow.room());
        if count > 0 {
            self.flow.send(self.bytes.drain(..count).collect(), out);
        } else if self.is_complete && self.bytes.is_empty() {
            return Some(Outcome::Archived {
                files: self.files,
                omitted: self.omitted,
            });
        }
        None
    }
}
