//! The few instructions that must run in ring 0, and the way there from ring 3, where the rest of
//! the guest runs.
//!
//! A guest without an operating system could stay in ring 0. But KVM without hardware support for
//! virtualisation (`kvm-pvm`, as found in clouds where machines are nested) runs only ring 3 on the
//! CPU: of ring 0 it emulates about one instruction in a microsecond, and of SSE, which compiled
//! code is full of, next to none. It has no `int n` either, and takes `syscall` for the start of
//! its own calling convention. An invalid instruction works everywhere.

use core::arch::global_asm;

/// Selector of ring 3's code segment.
pub(super) const USER_CODE: u64 = 0x23;

/// Selector of ring 3's data segment.
pub(super) const USER_DATA: u64 = 0x1b;

/// Command port of the i8042 keyboard controller.
const KEYBOARD_COMMAND: u16 = 0x64;

/// Pulses the CPU's reset line; Firecracker exits on it.
const RESET_CPU: u8 = 0xfe;

const WRITE_PORT: u64 = 0;
const WRITE_REGISTER: u64 = 1;
/// Any number above the others.
const HALT: u64 = 2;

// `invalid_opcode` is what the interrupt table has for that exception. The CPU has pushed the
// address of the instruction on the stack of ring 0.
global_asm!(
    r#"
    .section .text.supervisor, "ax"
supervisor_call:
    ud2
    ret
    .global invalid_opcode
invalid_opcode:
    cmp qword ptr [rsp], offset supervisor_call
    jne invalid_opcode_exception
    add qword ptr [rsp], 2
    cmp edi, {write_register}
    jb 2f
    je 3f
    sti
    hlt
    cli
    iretq
2:
    mov r8, rdx
    mov edx, ecx
2:
    lodsb
    out dx, al
    dec r8
    jnz 2b
    iretq
3:
    mov ecx, esi
    mov eax, edx
    shr rdx, 32
    wrmsr
    iretq
    "#,
    write_register = const WRITE_REGISTER,
);

unsafe extern "sysv64" {
    fn supervisor_call(operation: u64, first: u64, second: u64, third: u64);
}

/// Writes bytes to a port, one by one.
///
/// # Safety
/// The device behind the port must not change memory that Rust code uses.
pub(super) unsafe fn write_port(port: u16, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    // SAFETY: the caller vouches for the device; the bytes are read only during the call, and the
    // register that steps through them need not be kept by a callee.
    unsafe {
        supervisor_call(
            WRITE_PORT,
            bytes.as_ptr() as u64,
            bytes.len() as u64,
            port.into(),
        );
    }
}

/// Writes a model-specific register.
///
/// # Safety
/// The register must exist, and `value` must not take from Rust code what it relies on.
pub(super) unsafe fn write_register(register: u32, value: u64) {
    // SAFETY: the caller vouches for register and value.
    unsafe { supervisor_call(WRITE_REGISTER, register.into(), value, 0) };
}

/// Halts until an interrupt, and returns at once if one is pending: `sti` lets interrupts in only
/// after the instruction behind it, so none is missed between the two.
pub(super) fn halt() {
    // SAFETY: the handlers of interrupts run on the stack of ring 0 and keep all registers.
    unsafe { supervisor_call(HALT, 0, 0, 0) };
}

/// Resets the machine, which ends the VMM.
pub(crate) fn reset() -> ! {
    // SAFETY: the command changes no memory.
    unsafe { write_port(KEYBOARD_COMMAND, &[RESET_CPU]) };
    // Control comes back only until another thread of the VMM has acted.
    loop {
        halt();
    }
}
