//! Maps the first 4 GiB one to one. The boot loader mapped only the first, and devices are in
//! the fourth.

use core::arch::asm;
use core::ptr::{addr_of, addr_of_mut};

const GIB: u64 = 1 << 30;
const LARGE_PAGE: u64 = 2 << 20;
const ENTRIES: usize = 512;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const UNCACHED: u64 = 1 << 4;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The GiB that Firecracker keeps free of RAM for devices.
const DEVICES: u64 = 3;

#[repr(C, align(4096))]
struct Directory([u64; ENTRIES]);

static mut DIRECTORIES: [Directory; 3] = [const { Directory([0; ENTRIES]) }; 3];

/// Adds the second to fourth GiB to the page tables in use.
///
/// # Safety
/// Once, by the only CPU, while the tables are in the first GiB, mapped one to one.
pub(crate) unsafe fn map_four_gibibytes() {
    // SAFETY: the tables that CR3 leads to are the boot loader's, below 1 MiB and mapped; nothing
    // else refers to the directories. Entries are added, none in use is changed.
    unsafe {
        let root: u64;
        asm!("mov {}, cr3", out(reg) root, options(nomem, nostack, preserves_flags));
        let first = ((root & ADDRESS) as *const u64).read();
        let pointers = (first & ADDRESS) as *mut u64;
        let directories = addr_of_mut!(DIRECTORIES).cast::<Directory>();
        for number in 1..4_usize {
            let directory = directories.add(number - 1);
            let base = number as u64 * GIB;
            let cache = if number as u64 == DEVICES { UNCACHED } else { 0 };
            for (index, entry) in (*directory).0.iter_mut().enumerate() {
                *entry = (base + index as u64 * LARGE_PAGE) | PRESENT | WRITABLE | LARGE | cache;
            }
            pointers.add(number).write_volatile(addr_of!(*directory) as u64 | PRESENT | WRITABLE);
        }
        asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags));
    }
}
