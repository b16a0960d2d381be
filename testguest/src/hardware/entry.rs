//! From the first instruction to Rust code.
//!
//! Firecracker enters by the Linux 64-bit boot protocol: ring 0 in long mode, interrupts off, a
//! flat GDT, the first GiB mapped one to one, and the address of the zero page in RSI. This goes
//! on to ring 3 as soon as it can; [`supervisor`](super::supervisor) says why.

use core::arch::global_asm;

use super::supervisor::{USER_CODE, USER_DATA};

const STACK_SIZE: usize = 256 * 1024;
const SUPERVISOR_STACK_SIZE: usize = 4096;

#[repr(C, align(4096))]
struct Stack<const SIZE: usize>([u8; SIZE]);

static mut STACK: Stack<STACK_SIZE> = Stack([0; STACK_SIZE]);
static mut SUPERVISOR_STACK: Stack<SUPERVISOR_STACK_SIZE> = Stack([0; SUPERVISOR_STACK_SIZE]);

// Rust code of this target uses SSE registers, so they must be on before it runs. CR0: caches on
// (CD, NW off), no x87 emulation (EM off), MP on. CR4: OSFXSR and OSXMMEXCPT on.
//
// The descriptors are a flat 64-bit code segment and a data segment for each ring, then the task
// state segment, which only says where the stack of ring 0 is.
global_asm!(
    r#"
    .section .text.entry, "ax"
    .global entry
entry:
    cli
    cld
    mov rax, cr0
    and rax, 0xffffffff9ffffffb
    or rax, 2
    mov cr0, rax
    mov rax, cr4
    or rax, 0x600
    mov cr4, rax
    lea rax, [rip + page_tables]
    mov cr3, rax
    lea rsp, [rip + {supervisor_stack} + {supervisor_stack_size}]
    mov [rip + task_state + 4], rsp
    lea rax, [rip + task_state]
    mov word ptr [rip + task_descriptor + 2], ax
    shr rax, 16
    mov byte ptr [rip + task_descriptor + 4], al
    mov byte ptr [rip + task_descriptor + 7], ah
    lgdt [rip + descriptor_pointer]
    lidt [rip + interrupt_pointer]
    mov ax, 0x28
    ltr ax
    mov rdi, rsi
    lea rax, [rip + {start}]
    .global enter_user
enter_user:
    lea rcx, [rip + {stack} + {stack_size} - 8]
    xor ebp, ebp
    push {user_data}
    push rcx
    push 2
    push {user_code}
    push rax
    iretq

    .section .data.descriptors, "aw"
    .balign 16
descriptors:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00cff3000000ffff
    .quad 0x00affb000000ffff
task_descriptor:
    .quad 0x0000890000000067, 0
descriptor_pointer:
    .word 55
    .quad descriptors
interrupt_pointer:
    .word 4095
    .quad {interrupts}
    .balign 16
task_state:
    .skip 104
    "#,
    stack = sym STACK,
    stack_size = const STACK_SIZE,
    supervisor_stack = sym SUPERVISOR_STACK,
    supervisor_stack_size = const SUPERVISOR_STACK_SIZE,
    user_code = const USER_CODE,
    user_data = const USER_DATA,
    interrupts = sym super::interrupts::TABLE,
    start = sym crate::start,
);
