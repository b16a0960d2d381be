//! A tar stream of the host that is unpacked while it comes.

mod extended;
mod holes;
mod malformed;
mod place;
mod stream;

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::path::Path;

use ironclaw_protocol::file::Owners;
use ironclaw_protocol::message::{FailureKind, Outcome, RequestId};
use ironclaw_protocol::os_bytes::OsBytes;
use ironclaw_protocol::session::{Outgoing, Violation};
use rustix::fs::FileType;
use rustix::io::Errno;

use crate::account::Account;
use crate::archive::entry::Properties;
use crate::credentials::as_user;
use crate::failure::{failed, refused};
use crate::inflow::Inflow;
use crate::os_str::os;
use crate::transfer::Transfer;

use malformed::Malformed;
use place::{Place, joined, set_size, write_at};
use stream::{Entry, Kind, Sink, Stream};

/// Directories that get their properties in one step, before others are served.
const MAX_AT_A_TIME: usize = 128;

/// Limit of the directories that get their properties at the end, when nothing more is made in them.
/// Beyond it they get them at once, and their times are those of what is made in them.
const MAX_LATE: usize = 65_536;

/// An archive on its way into a directory.
#[derive(Debug)]
pub(crate) struct Extract {
    account: Option<Account>,
    stream: Stream,
    unpacked: Unpacked,
    inflow: Inflow,
    has_ended: bool,
}

/// What has become of it so far.
#[derive(Debug)]
struct Unpacked {
    place: Place,
    file: Option<Open>,
    /// Directories, in the order of the archive.
    late: Vec<(Vec<CString>, Properties)>,
    files: u64,
    omitted: u64,
}

/// A file whose content is being written.
#[derive(Debug)]
struct Open {
    file: File,
    path: Vec<u8>,
    size: u64,
    properties: Properties,
}

/// The reason why an archive is not unpacked.
#[derive(Debug)]
struct Refused(Outcome);

impl From<Malformed> for Refused {
    fn from(malformed: Malformed) -> Self {
        let attempt = format_args!("unpack an archive: {malformed}");
        Self(failed(FailureKind::Invalid, attempt))
    }
}

fn of_path(path: &[u8], error: &io::Error) -> Refused {
    let attempt = format_args!("unpack {}", OsBytes::from(path));
    Refused(refused(attempt, error, FailureKind::NoSuchDirectory))
}

/// Returns the names of a path in an archive, which begins where that is unpacked.
fn names(path: &[u8]) -> Result<Vec<CString>, Refused> {
    let names = path.split(|byte| *byte == b'/');
    let mut all = Vec::new();
    for name in names.filter(|name| !matches!(*name, b"" | b".")) {
        if name == b".." {
            return Err(Refused(failed(
                FailureKind::Invalid,
                format_args!(
                    "unpack {}: its path leads out of the directory",
                    OsBytes::from(path)
                ),
            )));
        }
        all.push(CString::new(name).map_err(|_| Malformed::Path)?);
    }
    Ok(all)
}

impl Extract {
    /// Opens the directory.
    pub(crate) fn start(
        id: RequestId,
        path: &OsBytes,
        owners: Owners,
        account: Option<Account>,
    ) -> Result<Self, Outcome> {
        let path = Path::new(os(path));
        let opened = as_user(account.as_ref(), || Place::open(path, owners)).flatten();
        let place = opened.map_err(|error| {
            let attempt = format_args!("unpack an archive in {}", path.display());
            refused(attempt, &error, FailureKind::NotFound)
        })?;
        Ok(Self {
            account,
            stream: Stream::default(),
            unpacked: Unpacked {
                place,
                file: None,
                late: Vec::new(),
                files: 0,
                omitted: 0,
            },
            inflow: Inflow::new(id),
            has_ended: false,
        })
    }

    /// Works as the user of the request; returns the outcome if that ends it.
    fn work(
        &mut self,
        work: impl FnOnce(&mut Stream, &mut Unpacked) -> Result<(), Refused>,
    ) -> Option<Outcome> {
        let (stream, unpacked) = (&mut self.stream, &mut self.unpacked);
        match as_user(self.account.as_ref(), || work(stream, unpacked)) {
            Ok(Ok(())) => None,
            Ok(Err(Refused(outcome))) => Some(outcome),
            Err(error) => {
                let attempt = "become another user";
                Some(refused(attempt, &error, FailureKind::NoSuchUser))
            }
        }
    }
}

impl Unpacked {
    fn make(
        &mut self,
        path: &[u8],
        names: &[CString],
        kind: &Kind,
    ) -> Result<Option<File>, Refused> {
        let place = &mut self.place;
        let made = match kind {
            Kind::File { .. } => place.make_file(names).map(Some),
            Kind::Directory => place.make_directory(names).map(|()| None),
            Kind::HardLink(target) => {
                let target = self::names(target)?;
                place.make_hard_link(names, &target).map(|()| None)
            }
            Kind::Link(target) => place.make_link(names, target).map(|()| None),
            Kind::CharacterDevice(device) => place
                .make_node(names, FileType::CharacterDevice, *device)
                .map(|()| None),
            Kind::BlockDevice(device) => place
                .make_node(names, FileType::BlockDevice, *device)
                .map(|()| None),
            Kind::Fifo => place.make_node(names, FileType::Fifo, 0).map(|()| None),
        };
        made.map_err(|errno| match errno {
            Errno::ISDIR => Refused(failed(
                FailureKind::Exists,
                format_args!(
                    "unpack {}: there is a directory of that name",
                    OsBytes::from(path)
                ),
            )),
            errno => of_path(path, &errno.into()),
        })
    }

    /// Gives directories their properties, the last ones first; returns whether that was all.
    fn finish(&mut self) -> Result<bool, Refused> {
        for _ in 0..MAX_AT_A_TIME {
            let Some((names, properties)) = self.late.pop() else {
                return Ok(true);
            };
            match self.place.describe_directory(&names, &properties) {
                Ok(()) => {}
                // Removed by others meanwhile, or a link's, which leads to what has its own.
                Err(error) if is_elsewhere(&error) => {}
                Err(error) => {
                    return Err(of_path(&joined(&names), &error));
                }
            }
        }
        Ok(false)
    }
}

fn is_elsewhere(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(
        errno,
        Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV)
    )
}

impl Sink for Unpacked {
    type Error = Refused;

    fn begin(&mut self, entry: Entry) -> Result<(), Refused> {
        let Entry {
            path,
            kind,
            properties,
        } = entry;
        let names = names(&path)?;
        let is_device = matches!(kind, Kind::CharacterDevice(_) | Kind::BlockDevice(_));
        if is_device && !self.place.makes_devices() {
            self.omitted += 1;
            return Ok(());
        }
        // The directory itself keeps its properties.
        if names.is_empty() && kind == Kind::Directory {
            return Ok(());
        }
        let made = self.make(&path, &names, &kind)?;
        self.files += 1;
        match (kind, made) {
            (Kind::File { size }, Some(file)) => {
                self.file = Some(Open {
                    file,
                    path,
                    size,
                    properties,
                });
            }
            (Kind::Directory, _) if self.late.len() < MAX_LATE => {
                self.late.push((names, properties));
            }
            // It is a name of another file, which has its properties.
            (Kind::HardLink(_), _) => {}
            _ => {
                let described = self.place.describe(&names, &properties);
                described.map_err(|error| of_path(&path, &error))?;
            }
        }
        Ok(())
    }

    fn content(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Refused> {
        match &self.file {
            Some(Open { file, path, .. }) => {
                write_at(file, bytes, offset).map_err(|error| of_path(path, &error))
            }
            None => Ok(()),
        }
    }

    fn end(&mut self) -> Result<(), Refused> {
        let Some(open) = self.file.take() else {
            return Ok(());
        };
        let done = set_size(&open.file, open.size);
        let done = done.and_then(|()| self.place.set(&open.file, &open.properties));
        done.map_err(|error| of_path(&open.path, &error))
    }
}

impl Transfer for Extract {
    fn content(
        &mut self,
        id: RequestId,
        bytes: &[u8],
        out: &mut Outgoing,
    ) -> Result<Option<Outcome>, Violation> {
        if self.has_ended {
            return Err(Violation::UnexpectedContent(id));
        }
        self.inflow.arrive(bytes.len())?;
        let failed = self.work(|stream, unpacked| stream.push(bytes, unpacked));
        self.inflow.consume(bytes.len(), out);
        Ok(failed)
    }

    fn end_of_content(&mut self, id: RequestId) -> Result<Option<Outcome>, Violation> {
        if std::mem::replace(&mut self.has_ended, true) {
            return Err(Violation::UnexpectedContent(id));
        }
        Ok(self.work(|stream, _| Ok(stream.finish()?)))
    }

    fn is_ready(&self) -> bool {
        self.has_ended
    }

    fn step(&mut self, _: &mut [u8], _: &mut Outgoing) -> Option<Outcome> {
        let mut is_over = false;
        let failed = self.work(|_, unpacked| {
            is_over = unpacked.finish()?;
            Ok(())
        });
        let Unpacked { files, omitted, .. } = self.unpacked;
        failed.or_else(|| is_over.then_some(Outcome::Extracted { files, omitted }))
    }
}
