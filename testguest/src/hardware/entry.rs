//! From the first instruction to Rust code.
//!
//! Firecracker enters by the Linux 64-bit boot protocol: long mode, interrupts off, a flat GDT,
//! the first GiB mapped one to one, and the address of the zero page in RSI.

use core::arch::global_asm;

// Rust code of this target uses SSE registers, so SSE must be on before it runs. CR0: caches on
// (CD, NW off), no x87 emulation (EM off), MP on. CR4: OSFXSR and OSXMMEXCPT on. The stack is
// not the boot loader's, which ends where its page tables begin.
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
    lea rsp, [rip + {stack} + {stack_size}]
    xor ebp, ebp
    mov rdi, rsi
    call {start}
    ud2
    "#,
    stack = sym STACK,
    stack_size = const STACK_SIZE,
    start = sym crate::start,
);

const STACK_SIZE: usize = 256 * 1024;

#[repr(C, align(4096))]
struct Stack([u8; STACK_SIZE]);

static mut STACK: Stack = Stack([0; STACK_SIZE]);

// The compiler calls these for moves and comparisons of memory, and this target expects them
// from a C library. They are written in assembly since a loop in Rust could be compiled into a
// call of itself. `rep movsb` and `rep stosb` are fast on every CPU that Firecracker supports.
global_asm!(
    r#"
    .section .text.memory, "ax"
    .global memcpy, memmove, memset, memcmp, bcmp
memcpy:
    mov rax, rdi
    mov rcx, rdx
    rep movsb
    ret
memmove:
    mov rax, rdi
    mov rcx, rdx
    mov r8, rdi
    sub r8, rsi
    cmp r8, rdx
    jb 2f
    rep movsb
    ret
2:
    lea rdi, [rdi + rdx - 1]
    lea rsi, [rsi + rdx - 1]
    std
    rep movsb
    cld
    ret
memset:
    mov r8, rdi
    mov eax, esi
    mov rcx, rdx
    rep stosb
    mov rax, r8
    ret
memcmp:
bcmp:
    xor eax, eax
    mov rcx, rdx
    cmp rcx, rcx
    repe cmpsb
    je 3f
    movzx eax, byte ptr [rdi - 1]
    movzx ecx, byte ptr [rsi - 1]
    sub ecx, eax
    mov eax, ecx
3:
    ret
    "#
);

// The standard library's `alloc` comes compiled for unwinding and refers to these two. With
// panics that abort, nothing ever calls them.
global_asm!(
    r#"
    .section .text.unwind, "ax"
    .global rust_eh_personality, _Unwind_Resume
rust_eh_personality:
_Unwind_Resume:
    ud2
    "#
);
