//! Extracts the vmlinux, which a VMM loads, from the kernel image that a distribution ships.

use super::compression::Compression;
use super::elf::{self, KernelKind};
use crate::kernel::{ELF_MAGIC, KernelError, MAX_VMLINUX, is_bzimage};
#[cfg(any(test, feature = "fuzzing"))]
use crate::kernel::{is_image, release};

/// Offsets into the setup header: Linux, Documentation/arch/x86/boot.rst.
mod setup {
    pub(super) const SECTORS: usize = 0x1f1;
    pub(super) const VERSION: usize = 0x206;
    pub(super) const PAYLOAD_OFFSET: usize = 0x248;
    pub(super) const PAYLOAD_LENGTH: usize = 0x24c;
}

const SECTOR: u64 = 512;

/// Returns the ELF image of a kernel, from a bzImage or an ELF image.
pub(super) fn extract(image: Vec<u8>) -> Result<Vec<u8>, KernelError> {
    let vmlinux = if image.starts_with(ELF_MAGIC) {
        image
    } else {
        unpack(&image)?
    };
    match elf::kernel_kind(&vmlinux) {
        KernelKind::Pvh => Ok(vmlinux),
        KernelKind::WithoutPvh => Err(KernelError::WithoutPvh),
        KernelKind::NotElf => Err(KernelError::NotElf),
    }
}

fn unpack(image: &[u8]) -> Result<Vec<u8>, KernelError> {
    let field = |at: usize| image.get(at..)?.first_chunk::<4>().copied();
    let number = |at| {
        field(at)
            .map(u32::from_le_bytes)
            .ok_or(KernelError::NotAKernel)
    };
    if !is_bzimage(image) {
        return Err(KernelError::NotAKernel);
    }
    let [minor, major, ..] = number(setup::VERSION)?.to_le_bytes();
    if (major, minor) < (2, 8) {
        return Err(KernelError::OldProtocol { major, minor });
    }
    // Zero sectors mean four, for very old loaders.
    let [sectors, ..] = number(setup::SECTORS)?.to_le_bytes();
    let sectors = if sectors == 0 { 4 } else { u64::from(sectors) };
    let start = (sectors + 1) * SECTOR + u64::from(number(setup::PAYLOAD_OFFSET)?);
    let end = start + u64::from(number(setup::PAYLOAD_LENGTH)?);
    let payload = usize::try_from(start)
        .ok()
        .zip(usize::try_from(end).ok())
        .and_then(|(start, end)| image.get(start..end))
        .ok_or(KernelError::Truncated {
            end,
            length: image.len(),
        })?;
    decompress(payload)
}

fn decompress(payload: &[u8]) -> Result<Vec<u8>, KernelError> {
    if payload.starts_with(ELF_MAGIC) {
        return Ok(payload.to_vec());
    }
    let Some(compression) = Compression::of(payload) else {
        let magic = payload.iter().take(6).copied().collect();
        return Err(KernelError::UnknownCompression { magic });
    };
    // The kernel's build appends the size of the content, like gzip itself.
    let (stream, size) = payload.split_last_chunk().ok_or(KernelError::NotAKernel)?;
    let stream = if compression == Compression::Gzip {
        payload
    } else {
        stream
    };
    let vmlinux = compression.decompress(stream, MAX_VMLINUX)?;
    let expected = u32::from_le_bytes(*size);
    if vmlinux.len() as u64 != u64::from(expected) {
        return Err(KernelError::WrongSize {
            found: vmlinux.len(),
            expected,
        });
    }
    Ok(vmlinux)
}

#[cfg(any(test, feature = "fuzzing"))]
/// Parses a file that should be a kernel's image, or its payload.
pub fn fuzz(image: &[u8]) {
    const LIMIT: usize = 1 << 20;
    if let Some(compression) = Compression::of(image)
        && let Ok(content) = compression.decompress(image, LIMIT)
    {
        assert!(content.len() <= LIMIT);
    }
    if let Ok(vmlinux) = extract(image.to_vec()) {
        assert!(is_image(image));
        let _ = release(&vmlinux);
    }
    if let Ok(release) = release(image) {
        assert!(release.bytes().all(|byte| byte.is_ascii_graphic()));
    }
}

#[cfg(test)]
mod tests;
