//! A minimal page fault handler for Firecracker's `Uffd` backend (Firecracker's
//! docs/snapshotting/handling-page-faults-on-snapshot-resume.md; Linux
//! Documentation/admin-guide/mm/userfaultfd.rst).

#![allow(
    unsafe_code,
    reason = "the kernel's request for it has no safe wrapper"
)]

use std::fs::File;
use std::io::{IoSliceMut, PipeWriter, pipe};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::ioctl::{Updater, ioctl, opcode};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde::Deserialize;

const PAGE: usize = 4096;
/// `UFFD_EVENT_PAGEFAULT` of linux/userfaultfd.h, and the size of a `uffd_msg`.
const PAGE_FAULT: u8 = 0x12;
const MESSAGE: usize = 32;

/// Offsets of pages in the memory file, in the order in which guests asked for them.
pub(crate) type WorkingSet = Arc<Mutex<Vec<u64>>>;

/// Serves the page faults of one VM, until it is dropped.
pub(crate) struct Handler {
    socket: PathBuf,
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

/// A part of the guest's memory, as described by Firecracker.
#[derive(Deserialize)]
struct Region {
    base_host_virt_addr: u64,
    size: u64,
    offset: u64,
}

impl Handler {
    /// Listens in `directory` for a guest with that `memory` file. Provides the pages in `first` in
    /// advance; adds the pages that the guest asks for to `asked`.
    pub(crate) fn listen(
        directory: &Path,
        memory: &Path,
        first: Vec<u64>,
        asked: WorkingSet,
    ) -> Self {
        let socket = directory.join("page-faults.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let memory = File::open(memory).unwrap();
        let (stopped, stop) = pipe().unwrap();
        let thread = std::thread::spawn(move || {
            // Dropped before anybody connected.
            let ready = [
                PollFd::new(&listener, PollFlags::IN),
                PollFd::new(&stopped, PollFlags::IN),
            ];
            if !waits(ready) {
                return;
            }
            let (regions, faults) = receive(&listener.accept().unwrap().0);
            let guest = Guest {
                memory,
                regions,
                faults,
            };
            for offset in first {
                guest.give(offset);
            }
            loop {
                let ready = [
                    PollFd::new(&guest.faults, PollFlags::IN),
                    PollFd::new(&stopped, PollFlags::IN),
                ];
                if !waits(ready) {
                    return;
                }
                if let Some(offset) = guest.asks() {
                    guest.give(offset);
                    asked.lock().unwrap().push(offset);
                }
            }
        });
        Self {
            socket,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(
                ended.is_ok() || std::thread::panicking(),
                "the handler panicked"
            );
        }
    }
}

/// Waits for the first; returns `false` if the second, which is the end, comes before.
fn waits(mut ready: [PollFd<'_>; 2]) -> bool {
    poll(&mut ready, None).unwrap();
    ready[1].revents().is_empty()
}

fn receive(stream: &UnixStream) -> (Vec<Region>, OwnedFd) {
    let mut text = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut text)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    );
    let bytes = received.unwrap().bytes;
    let regions = serde_json::from_slice(&text[..bytes]).unwrap();
    let mut descriptors = ancillary.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
        _ => Vec::new(),
    });
    (regions, descriptors.next().unwrap())
}

struct Guest {
    memory: File,
    regions: Vec<Region>,
    faults: OwnedFd,
}

/// `uffdio_copy` of linux/userfaultfd.h.
#[repr(C)]
struct Copy {
    to: u64,
    from: u64,
    bytes: u64,
    mode: u64,
    copied: i64,
}

impl Guest {
    /// Returns the page that it asks for.
    fn asks(&self) -> Option<u64> {
        let mut message = [0; MESSAGE];
        match rustix::io::read(&self.faults, &mut message) {
            Ok(MESSAGE) if message[0] == PAGE_FAULT => {}
            Ok(_) | Err(Errno::AGAIN) => return None,
            Err(error) => panic!("{error}"),
        }
        let address = u64::from_ne_bytes(message[16..24].try_into().unwrap());
        let region = self.regions.iter().find(|region| {
            let end = region.base_host_virt_addr + region.size;
            (region.base_host_virt_addr..end).contains(&address)
        });
        let region = region.unwrap();
        let offset = address - region.base_host_virt_addr + region.offset;
        Some(offset - offset % PAGE as u64)
    }

    fn give(&self, offset: u64) {
        let mut page = [0u8; PAGE];
        self.memory.read_exact_at(&mut page, offset).unwrap();
        let mut regions = self.regions.iter();
        let region =
            regions.find(|region| (region.offset..region.offset + region.size).contains(&offset));
        let region = region.unwrap();
        let mut copy = Copy {
            to: region.base_host_virt_addr + offset - region.offset,
            from: page.as_ptr() as u64,
            bytes: PAGE as u64,
            mode: 0,
            copied: 0,
        };
        // SAFETY: the request is UFFDIO_COPY and `copy` what it takes; it reads `page`, which lives,
        // and writes to the memory of another process.
        let copied = unsafe {
            ioctl(
                &self.faults,
                Updater::<{ opcode::read_write::<Copy>(0xAA, 0x03) }, Copy>::new(&mut copy),
            )
        };
        match copied {
            // Provided before, or the guest has ended.
            Ok(()) | Err(Errno::EXIST | Errno::SRCH) => {}
            Err(error) => panic!("{error}"),
        }
    }
}
