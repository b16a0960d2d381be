//! Waiting without burning the host's CPU: the vsock device's interrupt and the timer of the
//! local APIC end a `hlt`. Their handlers do nothing else; the loop looks at the queues itself.
//!
//! The machine's exceptions end the guest with a line on the serial port.

use core::arch::global_asm;
use core::ptr::addr_of;
use core::time::Duration;

use super::clock::kvm_offers;
use super::serial::stop;
use super::supervisor;

const LOCAL_APIC: u64 = 0xfee0_0000;
const SPURIOUS: u64 = 0xf0;
const TIMER: u64 = 0x320;
const TIMER_COUNT: u64 = 0x380;
const TIMER_DIVIDE: u64 = 0x3e0;
const ENABLE: u32 = 1 << 8;
const DIVIDE_BY_ONE: u32 = 0b1011;

const IO_APIC: u64 = 0xfec0_0000;
const IO_APIC_WINDOW: u64 = 0x10;
const REDIRECTION: u32 = 0x10;

/// Data ports of the two legacy interrupt controllers, whose interrupts are all masked.
const LEGACY_MASKS: [u16; 2] = [0x21, 0xa1];

const EXCEPTIONS: usize = 32;
const INVALID_OPCODE: usize = 6;
const DEVICE_VECTOR: u8 = 0x40;
const TIMER_VECTOR: u8 = 0x41;
const SPURIOUS_VECTOR: u8 = 0xff;

/// `KVM_FEATURE_POLL_CONTROL` and its register, `MSR_KVM_POLL_CONTROL`.
const POLL_CONTROL: u32 = 1 << 12;
const POLL_CONTROL_REGISTER: u32 = 0x4b56_4d05;

/// Selector of ring 0's code segment.
const CODE: u16 = 8;
const INTERRUPT_GATE: u16 = 0x8e00;

/// Distance between the entries for the exceptions, in bytes.
const STUB: u64 = 16;

// An exception is reported by Rust code in ring 3, which starts on an empty stack. Before that
// code calls ring 0 again, what the CPU pushed is left alone at the top of ring 0's stack.
global_asm!(
    r#"
    .section .text.interrupts, "ax"
    .balign 16
exception_stubs:
    .set vector, 0
    .rept {exceptions}
    .balign {stub}
    push vector
    jmp exception
    .set vector, vector + 1
    .endr
    .global invalid_opcode_exception
invalid_opcode_exception:
    push {invalid_opcode}
exception:
    mov rdi, [rsp]
    lea rsi, [rsp + 8]
    mov rdx, cr2
    lea rax, [rip + {report}]
    jmp enter_user
acknowledge:
    push rax
    mov eax, {end_of_interrupt}
    mov dword ptr [rax], 0
    pop rax
ignore:
    iretq
    "#,
    exceptions = const EXCEPTIONS,
    stub = const STUB,
    invalid_opcode = const INVALID_OPCODE,
    end_of_interrupt = const 0xfee0_00b0_u32,
    report = sym report,
);

unsafe extern "C" {
    static exception_stubs: u8;
    static invalid_opcode: u8;
    static acknowledge: u8;
    static ignore: u8;
}

/// Ends the guest because of an exception. `frame` is what the CPU pushed: an error code for some
/// vectors, then the instruction's address, its segment, the flags, the stack's address.
extern "sysv64" fn report(vector: u64, frame: &[u64; 5], page_fault: u64) -> ! {
    let frame = *frame;
    stop(format_args!(
        "exception {vector}, frame {frame:x?}, CR2 {page_fault:#x}"
    ))
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Gate {
    low: u16,
    selector: u16,
    kind: u16,
    middle: u16,
    high: u32,
    reserved: u32,
}

impl Gate {
    const ABSENT: Self = Self {
        low: 0,
        selector: 0,
        kind: 0,
        middle: 0,
        high: 0,
        reserved: 0,
    };

    #[allow(
        clippy::cast_possible_truncation,
        reason = "the address is cut into its parts"
    )]
    fn to(handler: u64) -> Self {
        Self {
            low: handler as u16,
            selector: CODE,
            kind: INTERRUPT_GATE,
            middle: (handler >> 16) as u16,
            high: (handler >> 32) as u32,
            reserved: 0,
        }
    }
}

#[repr(C, align(16))]
pub(super) struct Table([Gate; 256]);

/// Loaded by the entry code while it is still empty.
pub(super) static mut TABLE: Table = Table([Gate::ABSENT; 256]);

/// Fills the interrupt table: exceptions are reported and ring 0 can be called from now on.
///
/// # Safety
/// Once, before anything needs [`supervisor`].
pub(crate) unsafe fn fill_table() {
    // SAFETY: nothing else refers to the table, and each gate leads to code made for it.
    unsafe {
        let table = &mut *core::ptr::addr_of_mut!(TABLE);
        for (gate, number) in table.0.iter_mut().zip(0_u64..).take(EXCEPTIONS) {
            *gate = Gate::to(addr_of!(exception_stubs) as u64 + number * STUB);
        }
        table.0[INVALID_OPCODE] = Gate::to(addr_of!(invalid_opcode) as u64);
        for vector in [DEVICE_VECTOR, TIMER_VECTOR] {
            table.0[usize::from(vector)] = Gate::to(addr_of!(acknowledge) as u64);
        }
        table.0[usize::from(SPURIOUS_VECTOR)] = Gate::to(addr_of!(ignore) as u64);
    }
}

/// Lets `input` of the I/O APIC and the timer end a [`wait`].
///
/// # Safety
/// Once, after [`fill_table`].
pub(crate) unsafe fn enable(input: u8) {
    // SAFETY: the registers are where every PC with KVM's interrupt controllers has them, mapped
    // uncached; the vectors written have handlers.
    unsafe {
        for mask in LEGACY_MASKS {
            supervisor::write_port(mask, &[0xff]);
        }
        write(LOCAL_APIC + SPURIOUS, ENABLE | u32::from(SPURIOUS_VECTOR));
        write(LOCAL_APIC + TIMER_DIVIDE, DIVIDE_BY_ONE);
        write(LOCAL_APIC + TIMER, u32::from(TIMER_VECTOR));
        // Edge triggered, to the CPU with the id 0, not masked.
        let register = REDIRECTION + 2 * u32::from(input);
        write(IO_APIC, register + 1);
        write(IO_APIC + IO_APIC_WINDOW, 0);
        write(IO_APIC, register);
        write(IO_APIC + IO_APIC_WINDOW, u32::from(DEVICE_VECTOR));
        // By default KVM looks for an interrupt for up to 200 microseconds before a halted guest
        // gives up its processor, which others on the host have a use for.
        if kvm_offers(POLL_CONTROL) {
            supervisor::write_register(POLL_CONTROL_REGISTER, 0);
        }
    }
}

/// Halts until an interrupt, or for about `limit`, and returns at once if an interrupt is already
/// pending. May return early for no reason.
///
/// KVM's local APIC counts nanoseconds, 32 bits of them, so it wakes at least every 4.3 s if a
/// limit is given.
pub(crate) fn wait(limit: Option<Duration>) {
    let count = limit.map(|limit| u32::try_from(limit.as_nanos()).unwrap_or(u32::MAX).max(1));
    // SAFETY: the timer's only effect is an interrupt, which has a handler.
    let set_timer = |count| unsafe { write(LOCAL_APIC + TIMER_COUNT, count) };
    if let Some(count) = count {
        set_timer(count);
    }
    supervisor::halt();
    if count.is_some() {
        set_timer(0);
    }
}

unsafe fn write(register: u64, value: u32) {
    // SAFETY: the callers pass mapped, aligned addresses of device registers.
    unsafe { (register as *mut u32).write_volatile(value) };
}
