//! Extracts the vmlinux, which a VMM loads, from the kernel image that a distribution ships.

use thiserror::Error;

use super::compression::{Compression, DecompressError};
use super::elf::{self, KernelKind};

/// Size limit of a vmlinux, in bytes. Debian's has about 55 MB.
pub(super) const MAX_VMLINUX: usize = 256 << 20;

/// Size limit of a kernel image, in bytes.
pub(super) const MAX_IMAGE: u64 = MAX_VMLINUX as u64;

/// The reason why an image is no kernel for a template.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KernelError {
    /// Neither a bzImage nor an ELF file.
    #[error("neither a bzImage nor an ELF image of a kernel")]
    NotAKernel,
    /// The image's boot protocol has no payload.
    #[error("the bzImage has boot protocol {major}.{minor:02}, 2.08 is the first with a payload")]
    OldProtocol {
        /// The upper byte of the version.
        major: u8,
        /// The lower byte of the version.
        minor: u8,
    },
    /// The setup header points beyond the end of the image.
    #[error("the bzImage is cut off: its payload should end at byte {end}, it has {length} bytes")]
    Truncated {
        /// The end of the payload according to the setup header.
        end: u64,
        /// The length of the image in bytes.
        length: usize,
    },
    /// The compression of the payload is unknown.
    #[error(
        "the kernel's compression is none of gzip, xz, zstd and LZ4 (it starts with {magic:02x?})"
    )]
    UnknownCompression {
        /// The first bytes of the payload.
        magic: Vec<u8>,
    },
    /// The payload can't be decompressed.
    #[error(transparent)]
    Decompress(#[from] DecompressError),
    /// The payload's size differs from the one noted at its end.
    #[error("the kernel has {found} bytes after decompression, {expected} are announced")]
    WrongSize {
        /// Size after decompression, in bytes.
        found: usize,
        /// The size noted at the end, in bytes.
        expected: u32,
    },
    /// The content of a bzImage is no ELF image.
    #[error("the kernel is not a complete ELF image for x86-64")]
    NotElf,
    /// The kernel has no entry for the PVH boot protocol.
    #[error("the kernel has no PVH entry note; it must be built with CONFIG_PVH=y")]
    WithoutPvh,
    /// The kernel has no banner with its release.
    #[error("the kernel holds no \"Linux version\" banner")]
    NoBanner,
}

/// Offsets into the setup header: Linux, Documentation/arch/x86/boot.rst.
mod setup {
    pub(super) const SECTORS: usize = 0x1f1;
    pub(super) const MAGIC: usize = 0x202;
    pub(super) const VERSION: usize = 0x206;
    pub(super) const PAYLOAD_OFFSET: usize = 0x248;
    pub(super) const PAYLOAD_LENGTH: usize = 0x24c;
}

const SECTOR: u64 = 512;

/// Returns whether `image` begins like a kernel, in one of the forms that VMMs load.
pub(super) fn is_image(image: &[u8]) -> bool {
    image.starts_with(elf::MAGIC) || is_bzimage(image)
}

fn is_bzimage(image: &[u8]) -> bool {
    let magic = image.get(setup::MAGIC..);
    magic.is_some_and(|magic| magic.starts_with(b"HdrS"))
}

/// Returns the ELF image of a kernel, from a bzImage or an ELF image.
pub(super) fn vmlinux(image: Vec<u8>) -> Result<Vec<u8>, KernelError> {
    let vmlinux = if image.starts_with(elf::MAGIC) {
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
    if payload.starts_with(elf::MAGIC) {
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

/// Returns the kernel's release, as `uname -r` prints it in the guest.
pub(super) fn release(vmlinux: &[u8]) -> Result<String, KernelError> {
    const BANNER: &[u8] = b"Linux version ";
    const LONGEST: usize = 64; // __NEW_UTS_LEN
    memchr::memmem::find_iter(vmlinux, BANNER)
        .filter_map(|at| {
            let text = vmlinux.get(at + BANNER.len()..)?;
            let text = &text[..text.len().min(LONGEST + 1)];
            let end = text.iter().position(|byte| *byte == b' ')?;
            let release = str::from_utf8(&text[..end]).ok()?;
            // It is shown to people.
            let plain = release.bytes().all(|byte| byte.is_ascii_graphic());
            (plain && release.starts_with(|c: char| c.is_ascii_digit())).then(|| release.to_owned())
        })
        .next()
        .ok_or(KernelError::NoBanner)
}

#[cfg(any(test, feature = "fuzzing"))]
/// Parses a file that should be a kernel's image, or its payload.
pub(crate) fn fuzz(image: &[u8]) {
    const LIMIT: usize = 1 << 20;
    if let Some(compression) = Compression::of(image)
        && let Ok(content) = compression.decompress(image, LIMIT)
    {
        assert!(content.len() <= LIMIT);
    }
    if let Ok(vmlinux) = vmlinux(image.to_vec()) {
        assert!(is_image(image));
        let _ = release(&vmlinux);
    }
    if let Ok(release) = release(image) {
        assert!(release.bytes().all(|byte| byte.is_ascii_graphic()));
    }
}

#[cfg(test)]
mod tests;
