//! Memory that the virtio device reads and writes. All memory is mapped one to one, and the
//! device sees all of it.

use alloc::alloc::{alloc_zeroed, dealloc};
use core::alloc::Layout;
use core::ptr::NonNull;

use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

/// The identity mapping.
pub(crate) struct IdentityMapping;

fn layout(pages: usize) -> Option<Layout> {
    Layout::from_size_align(pages.checked_mul(PAGE_SIZE)?, PAGE_SIZE).ok()
}

// SAFETY: the memory comes zeroed and aligned from the allocator, which gives it to nobody else
// until it is deallocated; physical addresses are virtual ones.
unsafe impl Hal for IdentityMapping {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let memory = layout(pages)
            .filter(|layout| layout.size() > 0)
            .and_then(|layout| {
                // SAFETY: the size is not zero.
                NonNull::new(unsafe { alloc_zeroed(layout) })
            });
        // The crate takes the physical address 0 for a failure.
        memory.map_or((0, NonNull::dangling()), |memory| {
            (memory.as_ptr() as PhysAddr, memory)
        })
    }

    unsafe fn dma_dealloc(_: PhysAddr, memory: NonNull<u8>, pages: usize) -> i32 {
        let Some(layout) = layout(pages) else {
            return -1;
        };
        // SAFETY: the caller passes what `dma_alloc` returned for as many pages.
        unsafe { dealloc(memory.as_ptr(), layout) };
        0
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::without_provenance(
            core::num::NonZero::new(usize::try_from(address).unwrap_or(0))
                .unwrap_or(core::num::NonZero::<usize>::MIN),
        )
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.as_ptr().cast::<u8>() as PhysAddr
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}
