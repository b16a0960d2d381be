//! Port I/O, CPU registers and the way out.

use core::arch::asm;

/// Command port of the i8042 keyboard controller.
const KEYBOARD_COMMAND: u16 = 0x64;

/// Pulses the CPU's reset line; Firecracker exits on it.
const RESET_CPU: u8 = 0xfe;

/// Writes a byte to a port.
///
/// # Safety
/// The device behind the port must not change memory that Rust code uses.
pub(super) unsafe fn write(port: u16, value: u8) {
    // SAFETY: the caller vouches for the device; the instruction itself touches no memory.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags));
    }
}

/// Reads a byte from a port.
///
/// # Safety
/// As for [`write`].
pub(super) unsafe fn read(port: u16) -> u8 {
    let value;
    // SAFETY: as in `write`.
    unsafe {
        asm!("in al, dx", out("al") value, in("dx") port, options(nomem, nostack, preserves_flags));
    }
    value
}

/// Writes a model-specific register.
///
/// # Safety
/// The register must exist, and `value` must not take from Rust code what it relies on.
pub(super) unsafe fn write_msr(register: u32, value: u64) {
    let low = value & 0xffff_ffff;
    let high = value >> 32;
    // SAFETY: the caller vouches for register and value.
    unsafe {
        asm!("wrmsr", in("ecx") register, in("rax") low, in("rdx") high, options(nostack));
    }
}

/// Resets the machine, which ends the VMM.
pub(crate) fn reset() -> ! {
    loop {
        // SAFETY: the command changes no memory. Control comes back only until the VMM's thread
        // for it has acted; there are no interrupts to wake the halted CPU.
        unsafe {
            write(KEYBOARD_COMMAND, RESET_CPU);
            asm!("cli", "hlt", options(nomem, nostack));
        }
    }
}
