//! Everything that touches the machine. All `unsafe` code of the guest is below here.
//!
//! The guest runs on one CPU, in one flow of control, in ring 3 except for the few instructions in
//! [`supervisor`]. Interrupts are let in only while it waits ([`interrupts::wait`]), and their
//! handlers touch nothing but the local APIC, so there is nothing to lock.

pub(crate) mod clock;
mod dma;
mod entry;
pub(crate) mod interrupts;
pub(crate) mod memory;
mod paging;
mod runtime;
pub(crate) mod serial;
pub(crate) mod socket;
pub(crate) mod supervisor;
