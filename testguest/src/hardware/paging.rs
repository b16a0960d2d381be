//! The page tables: the first 4 GiB one to one, open to both rings. The boot loader's map only
//! the first GiB, and only for ring 0; devices are in the fourth.
//!
//! They are made by the assembler, since filling them in ring 0 takes milliseconds where that is
//! emulated (see [`supervisor`](super::supervisor)).

use core::arch::global_asm;

/// Present, writable, open to ring 3.
const TABLE: u64 = 0b111;

/// A page of 2 MiB.
const LARGE: u64 = 1 << 7;

/// Not cached, as registers of devices have to be.
const UNCACHED: u64 = 1 << 4;

global_asm!(
    r#"
    .section .data.paging, "aw"
    .balign 4096
    .global page_tables
page_tables:
    .quad page_directory_pointers + {table}
    .skip 511 * 8
page_directory_pointers:
    .quad page_directories + {table}
    .quad page_directories + 0x1000 + {table}
    .quad page_directories + 0x2000 + {table}
    .quad page_directories + 0x3000 + {table}
    .skip 508 * 8
page_directories:
    .set page, 0
    .rept 1536
    .quad page * 0x200000 + {memory}
    .set page, page + 1
    .endr
    .rept 512
    .quad page * 0x200000 + {device}
    .set page, page + 1
    .endr
    "#,
    table = const TABLE,
    memory = const TABLE | LARGE,
    device = const TABLE | LARGE | UNCACHED,
);
