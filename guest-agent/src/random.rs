//! The kernel's random generator. Its two ioctls have no safe wrapper in a crate, so this is the
//! one module with `unsafe` code.
#![allow(
    unsafe_code,
    reason = "the ioctls of /dev/urandom have no safe wrapper"
)]

use std::fs::OpenOptions;
use std::io;

use ironclaw_protocol::limits::ENTROPY;
use rustix::ioctl::{NoArg, Setter, ioctl, opcode};

/// `struct rand_pool_info` of linux/random.h, with a buffer of the protocol's length.
#[repr(C)]
struct PoolInfo {
    /// Entropy to credit, in bits.
    entropy_count: i32,
    /// Length of `buf`, in bytes.
    buf_size: i32,
    buf: [u8; ENTROPY],
}

const _: () =
    assert!(size_of::<PoolInfo>() == 8 + ENTROPY && ENTROPY.is_multiple_of(4) && ENTROPY < 1024);

/// `_IOW('R', 0x03, int [2])`: the encoded size is the header's, without the buffer.
const RNDADDENTROPY: rustix::ioctl::Opcode = opcode::write::<[i32; 2]>(b'R', 0x03);
/// `_IO('R', 0x07)`.
const RNDRESEEDCRNG: rustix::ioctl::Opcode = opcode::none(b'R', 0x07);

/// Mixes `entropy` into the pool with full credit, and reseeds the generator from it at once:
/// otherwise its next output would still derive from the snapshot's seed.
///
/// # Errors
/// The kernel's error: it requires `CAP_SYS_ADMIN`.
pub(crate) fn reseed(entropy: &[u8; ENTROPY]) -> io::Result<()> {
    let urandom = OpenOptions::new().write(true).open("/dev/urandom")?;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        reason = "below 1024"
    )]
    let length = ENTROPY as i32;
    let info = PoolInfo {
        entropy_count: 8 * length,
        buf_size: length,
        buf: *entropy,
    };
    // SAFETY: the opcode is RNDADDENTROPY, which reads a `struct rand_pool_info` and then
    // `buf_size` bytes behind it; `PoolInfo` is laid out so (repr(C), checked above) and lives
    // until the call returns. The kernel writes nothing to it.
    unsafe { ioctl(&urandom, Setter::<RNDADDENTROPY, PoolInfo>::new(info)) }?;
    // SAFETY: the opcode is RNDRESEEDCRNG, which takes no argument and touches no memory of ours.
    unsafe { ioctl(&urandom, NoArg::<RNDRESEEDCRNG>::new()) }?;
    Ok(())
}
