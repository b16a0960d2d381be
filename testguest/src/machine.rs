//! The machine under a guest.

use core::time::Duration;

/// The machine as the guest uses it.
pub trait Machine {
    /// Returns the time since some fixed moment, never going back.
    fn uptime(&self) -> Duration;

    /// Returns the size of the memory that `dirty` may write, in whole MiB.
    fn spare_mebibytes(&self) -> u32;

    /// Writes to every page of one MiB of the spare memory; `index` is below
    /// [`spare_mebibytes`](Self::spare_mebibytes).
    fn dirty_mebibyte(&mut self, index: u32);
}
