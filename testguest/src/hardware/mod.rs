//! Everything that touches the machine. All `unsafe` code of the guest is below here.
//!
//! The guest runs on one CPU, in one flow of control. Interrupts are let in only while it waits
//! ([`interrupts::wait`]), and their handlers touch nothing but the local APIC, so there is
//! nothing to lock.

pub(crate) mod clock;
pub(crate) mod dma;
pub(crate) mod entry;
pub(crate) mod interrupts;
pub(crate) mod memory;
pub(crate) mod paging;
pub(crate) mod port;
pub(crate) mod serial;
pub(crate) mod socket;
