//! A reader that tells how far it came.

use std::io::{self, Read};

/// Bytes between two reports.
const REPORT_INTERVAL: u64 = 1 << 20;

/// Reports how many bytes were read: none at first, and then at each mebibyte.
pub(super) struct Watched<R, F> {
    inner: R,
    report: F,
    bytes: u64,
}

impl<R: Read, F: FnMut(u64)> Watched<R, F> {
    pub(super) fn new(inner: R, mut report: F) -> Self {
        report(0);
        Self {
            inner,
            report,
            bytes: 0,
        }
    }
}

impl<R: Read, F: FnMut(u64)> Read for Watched<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let before = self.bytes / REPORT_INTERVAL;
        self.bytes += read as u64;
        if self.bytes / REPORT_INTERVAL > before {
            (self.report)(self.bytes);
        }
        Ok(read)
    }
}
