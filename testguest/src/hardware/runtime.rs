//! Functions that the compiler expects from a C library and an unwinder, which this target lacks.

use core::arch::global_asm;

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
