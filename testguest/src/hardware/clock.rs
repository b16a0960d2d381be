//! Time since boot, from KVM's paravirtual clock. It goes on where it was after a restore.

use core::arch::x86_64::{__cpuid, _rdtsc};
use core::ptr::addr_of;
use core::sync::atomic::{Ordering, fence};
use core::time::Duration;

use super::supervisor;

const HYPERVISOR_LEAF: u32 = 0x4000_0000;
const KVM_FEATURES: u32 = 0x4000_0001;
const CLOCKSOURCE2: u32 = 1 << 3;
const SYSTEM_TIME_REGISTER: u32 = 0x4b56_4d01;
const ENABLE: u64 = 1;

/// `struct pvclock_vcpu_time_info` of the KVM interface.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Page {
    version: u32,
    pad: u32,
    tsc: u64,
    nanoseconds: u64,
    multiplier: u32,
    shift: i8,
    flags: u8,
    pad_end: [u8; 2],
}

static mut PAGE: Page = Page {
    version: 0,
    pad: 0,
    tsc: 0,
    nanoseconds: 0,
    multiplier: 0,
    shift: 0,
    flags: 0,
    pad_end: [0; 2],
};

/// Proof that the clock was started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(());

/// Returns whether KVM has this paravirtual feature.
pub(super) fn kvm_offers(feature: u32) -> bool {
    __cpuid(HYPERVISOR_LEAF).eax >= KVM_FEATURES && __cpuid(KVM_FEATURES).eax & feature != 0
}

impl Clock {
    /// Starts the clock; `None` if the hypervisor has none.
    pub(crate) fn start() -> Option<Self> {
        if !kvm_offers(CLOCKSOURCE2) {
            return None;
        }
        // SAFETY: KVM announced the register. It will write to the page, which is 32 bytes,
        // aligned to 64, and read by nothing but `uptime`, in volatile reads.
        unsafe { supervisor::write_register(SYSTEM_TIME_REGISTER, addr_of!(PAGE) as u64 | ENABLE) };
        Some(Self(()))
    }

    /// Time since the VM was started, by the hypervisor's count.
    #[allow(
        clippy::unused_self,
        reason = "only a clock that was started can be read"
    )]
    pub(crate) fn uptime(self) -> Duration {
        loop {
            // SAFETY: the page is valid; the hypervisor writes to it only while this CPU does not
            // run, and the version tells if it did between the reads.
            let (page, tsc, version) = unsafe {
                let page = addr_of!(PAGE).read_volatile();
                fence(Ordering::Acquire);
                let tsc = _rdtsc();
                fence(Ordering::Acquire);
                (page, tsc, addr_of!(PAGE.version).read_volatile())
            };
            if version == page.version && version & 1 == 0 {
                return page.at(tsc);
            }
        }
    }
}

impl Page {
    fn at(&self, tsc: u64) -> Duration {
        let ticks = u128::from(tsc.saturating_sub(self.tsc));
        let shift = u32::from(self.shift.unsigned_abs());
        let ticks = if self.shift < 0 {
            ticks >> shift
        } else {
            ticks << shift
        };
        let passed = (ticks * u128::from(self.multiplier)) >> 32;
        Duration::from_nanos(
            self.nanoseconds
                .saturating_add(passed.try_into().unwrap_or(0)),
        )
    }
}
