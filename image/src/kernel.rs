//! Kernel images, as VMMs load them.

use thiserror::Error;

#[cfg(feature = "debian")]
use crate::debian::DecompressError;

/// Size limit of a vmlinux, in bytes. Debian's has about 55 MB.
pub(crate) const MAX_VMLINUX: usize = 256 << 20;

/// Size limit of a kernel image, in bytes.
pub(crate) const MAX_IMAGE: u64 = MAX_VMLINUX as u64;

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
    #[cfg(feature = "debian")]
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

/// Where a bzImage says that it is one: Linux, Documentation/arch/x86/boot.rst.
const BZIMAGE_MAGIC: usize = 0x202;

/// The first bytes of every ELF file.
pub(crate) const ELF_MAGIC: &[u8] = b"\x7fELF";

/// Returns whether `image` begins like a kernel, in one of the forms that VMMs load.
pub(crate) fn is_image(image: &[u8]) -> bool {
    image.starts_with(ELF_MAGIC) || is_bzimage(image)
}

pub(crate) fn is_bzimage(image: &[u8]) -> bool {
    let magic = image.get(BZIMAGE_MAGIC..);
    magic.is_some_and(|magic| magic.starts_with(b"HdrS"))
}

/// Returns the kernel's release, as `uname -r` prints it in the guest.
pub(crate) fn release(vmlinux: &[u8]) -> Result<String, KernelError> {
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
