//! The zero page, the heap, and the memory that `dirty` writes.

use core::ptr::addr_of;

use ironclaw_testguest::boot::{self, BOOT_PARAMS, MAX_COMMAND_LINE, Region};
use linked_list_allocator::LockedHeap;

/// Most bytes of heap: a window of content for every request of every connection, and half as
/// much for everything else.
const MAX_HEAP: u64 = 48 << 20;

const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;

/// End of the RAM that is mapped: Firecracker puts none between here and 4 GiB.
const MAPPED_RAM: u64 = 3 << 30;

#[global_allocator]
static HEAP: LockedHeap = LockedHeap::empty();

unsafe extern "C" {
    static image_end: u8;
}

/// The data that the boot loader passes to the kernel.
pub(crate) struct BootInfo {
    pub(crate) zero_page: &'static [u8; BOOT_PARAMS],
    pub(crate) command_line: &'static [u8],
}

/// Finds the boot loader's data.
///
/// # Safety
/// `zero_page` must be what the boot protocol passes in RSI.
pub(crate) unsafe fn boot_info(zero_page: *const u8) -> BootInfo {
    // SAFETY: the protocol's zero page and command line lie in low memory, which is mapped and
    // which this guest never writes to, so they live as long as it does.
    unsafe {
        let zero_page = &*zero_page.cast::<[u8; BOOT_PARAMS]>();
        let command_line = boot::command_line(zero_page).map_or(&[][..], |address| {
            core::slice::from_raw_parts(address as usize as *const u8, MAX_COMMAND_LINE)
        });
        BootInfo {
            zero_page,
            command_line,
        }
    }
}

/// Memory that nothing else uses.
#[derive(Debug)]
pub(crate) struct Spare(Region);

impl Spare {
    /// Returns the size in whole MiB.
    pub(crate) fn mebibytes(&self) -> u32 {
        u32::try_from((self.0.end - self.0.start) / MIB).unwrap_or(u32::MAX)
    }

    /// Writes a word that differs each time to every page of one MiB.
    pub(crate) fn dirty_mebibyte(&mut self, index: u32) {
        if index >= self.mebibytes() {
            return;
        }
        let start = self.0.start + u64::from(index) * MIB;
        for page in 0..MIB / PAGE {
            let word = (start + page * PAGE) as *mut u64;
            // SAFETY: the address is aligned to a page and within RAM that `claim` set aside for
            // this value alone.
            unsafe { word.write_volatile(word.read_volatile().wrapping_add(1)) };
        }
    }
}

/// Splits the RAM behind the image into heap and spare memory; `None` if there is none.
///
/// # Safety
/// Once, with the zero page of this machine.
pub(crate) unsafe fn claim(zero_page: &[u8; BOOT_PARAMS]) -> Option<Spare> {
    let start = addr_of!(image_end) as u64;
    let ram = boot::ram(zero_page).find(|ram| ram.start <= start && start < ram.end)?;
    let end = ram.end.min(MAPPED_RAM);
    let heap = ((end - start) / 2).min(MAX_HEAP) & !(PAGE - 1);
    // SAFETY: the range is RAM, behind the image, and used by nothing else.
    unsafe {
        HEAP.lock()
            .init(start as *mut u8, usize::try_from(heap).ok()?)
    };
    let spare = (start + heap).next_multiple_of(PAGE);
    Some(Spare(Region {
        start: spare,
        end: end.max(spare),
    }))
}
