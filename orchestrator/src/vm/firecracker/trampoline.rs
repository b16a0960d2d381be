//! The trampoline: a program that the jailer copies into each jail in place of Firecracker.
//!
//! The jailer copies the program that it is to run: megabytes, and milliseconds for each VM. So it is
//! given this one, of a few hundred bytes, which executes the Firecracker that is linked into the
//! jail beside it, with its own arguments and environment, and does nothing else. Should that fail,
//! it says so and exits with the number of the error.
//!
//! It is laid out here, byte by byte, because nothing can be compiled where this library runs, and
//! because it needs neither a C library nor a stack. `execve` is its only system call until that
//! has failed.

use super::binary::PROGRAM;

/// The file name of the trampoline. Jails are in a directory of this name, as the jailer makes them.
pub(super) const TRAMPOLINE: &str = "start-firecracker";

/// What the trampoline says if Firecracker can't be executed.
const COMPLAINT: &str = "start-firecracker: /firecracker can't be executed in its jail; the exit \
                         status is the number of the error, which is 2 for a script or a program \
                         that is not statically linked\n";

/// Where the file is mapped; any page would do.
const ADDRESS: u64 = 0x40_0000;
const HEADER_BYTES: u16 = 64;
const SEGMENT_BYTES: u16 = 56;
const SEGMENTS: u16 = 2;
/// Where the code begins in the file.
const CODE_START: u64 = HEADER_BYTES as u64 + SEGMENTS as u64 * SEGMENT_BYTES as u64;

/// A processor that Firecracker runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Processor {
    X86_64,
    Aarch64,
}

/// Returns the trampoline for this host; `None` on a processor that Firecracker does not run on.
pub(super) fn trampoline() -> Option<Vec<u8>> {
    let processor = match std::env::consts::ARCH {
        "x86_64" => Processor::X86_64,
        "aarch64" => Processor::Aarch64,
        _ => return None,
    };
    Some(elf(processor, &format!("/{PROGRAM}")))
}

/// Lays out an executable of one segment, which has its headers, its code and its texts (elf(5)). It
/// executes the program at `path`.
fn elf(processor: Processor, path: &str) -> Vec<u8> {
    let path = format!("{path}\0");
    // The length of the code does not depend on what it refers to.
    let path_at = code(processor, 0, 0).len();
    let code = code(processor, path_at, path_at + path.len());
    let (machine, page): (u16, u64) = match processor {
        Processor::X86_64 => (62, 0x1000),
        Processor::Aarch64 => (183, 0x1_0000),
    };
    let length = CODE_START + (code.len() + path.len() + COMPLAINT.len()) as u64;
    let mut file = Vec::new();
    // 64 bits, little-endian, version 1.
    file.extend(b"\x7fELF\x02\x01\x01");
    file.resize(16, 0);
    let (executable, version) = (2_u16, 1_u32);
    file.extend(executable.to_le_bytes());
    file.extend(machine.to_le_bytes());
    file.extend(version.to_le_bytes());
    file.extend((ADDRESS + CODE_START).to_le_bytes());
    file.extend(u64::from(HEADER_BYTES).to_le_bytes());
    let (no_sections, no_flags) = (0_u64, 0_u32);
    file.extend(no_sections.to_le_bytes());
    file.extend(no_flags.to_le_bytes());
    for number in [HEADER_BYTES, SEGMENT_BYTES, SEGMENTS, 0, 0, 0] {
        file.extend(number.to_le_bytes());
    }
    // Loaded to be read and executed; and a stack that is not executable.
    for (kind, flags, address, length) in [(1_u32, 5_u32, ADDRESS, length), (0x6474_e551, 6, 0, 0)]
    {
        file.extend(kind.to_le_bytes());
        file.extend(flags.to_le_bytes());
        for number in [0, address, address, length, length, page] {
            file.extend(number.to_le_bytes());
        }
    }
    file.extend(code);
    file.extend(path.as_bytes());
    file.extend(COMPLAINT.as_bytes());
    file
}

/// Returns the code, with the distances of the path and of the complaint from its first byte.
fn code(processor: Processor, path_at: usize, complaint_at: usize) -> Vec<u8> {
    match processor {
        Processor::X86_64 => x86_64(path_at, complaint_at),
        Processor::Aarch64 => aarch64(path_at, complaint_at),
    }
}

fn x86_64(path_at: usize, complaint_at: usize) -> Vec<u8> {
    let mut code = Vec::new();
    // The argument of `lea` is relative to the instruction behind it.
    let lea = |code: &mut Vec<u8>, register: u8, target: usize| {
        code.extend([0x48, 0x8d, register]);
        let next = code.len() + 4;
        let distance = u32::try_from(target.saturating_sub(next)).unwrap_or_default();
        code.extend(distance.to_le_bytes());
    };
    code.extend([0x48, 0x8b, 0x04, 0x24]); // mov rax, [rsp]         the number of arguments
    code.extend([0x48, 0x8d, 0x74, 0x24, 0x08]); // lea rsi, [rsp+8]       which follow it
    code.extend([0x48, 0x8d, 0x54, 0xc6, 0x08]); // lea rdx, [rsi+rax*8+8] and the environment
    lea(&mut code, 0x3d, path_at); // lea rdi, path
    code.extend([0xb8, 59, 0, 0, 0]); // mov eax, 59            execve
    code.extend([0x0f, 0x05]); // syscall
    code.extend([0xf7, 0xd8]); // neg eax
    code.extend([0x89, 0xc3]); // mov ebx, eax
    code.extend([0xbf, 2, 0, 0, 0]); // mov edi, 2
    lea(&mut code, 0x35, complaint_at); // lea rsi, complaint
    code.push(0xba); // mov edx, length
    code.extend(complaint_length().to_le_bytes());
    code.extend([0xb8, 1, 0, 0, 0]); // mov eax, 1             write
    code.extend([0x0f, 0x05]); // syscall
    code.extend([0x89, 0xdf]); // mov edi, ebx
    code.extend([0xb8, 231, 0, 0, 0]); // mov eax, 231           exit_group
    code.extend([0x0f, 0x05]); // syscall
    code
}

fn aarch64(path_at: usize, complaint_at: usize) -> Vec<u8> {
    let mut code = Vec::<u32>::new();
    // The argument of `adr` is relative to itself.
    let adr = |code: &mut Vec<u32>, register: u32, target: usize| {
        let distance = target.saturating_sub(code.len() * 4);
        let distance = u32::try_from(distance).unwrap_or_default();
        code.push(0x1000_0000 | (distance & 3) << 29 | (distance >> 2) << 5 | register);
    };
    code.push(0xf940_03e3); // ldr x3, [sp]           the number of arguments
    code.push(0x9100_23e1); // add x1, sp, #8         which follow it
    code.push(0x8b03_0c22); // add x2, x1, x3, lsl #3
    code.push(0x9100_2042); // add x2, x2, #8         and the environment
    adr(&mut code, 0, path_at); // adr x0, path
    code.push(0xd280_1ba8); // mov x8, #221           execve
    code.push(0xd400_0001); // svc #0
    code.push(0xcb00_03f3); // neg x19, x0
    code.push(0xd280_0040); // mov x0, #2
    adr(&mut code, 1, complaint_at); // adr x1, complaint
    code.push(0xd280_0002 | complaint_length() << 5); // mov x2, length
    code.push(0xd280_0808); // mov x8, #64            write
    code.push(0xd400_0001); // svc #0
    code.push(0xaa13_03e0); // mov x0, x19
    code.push(0xd280_0bc8); // mov x8, #94            exit_group
    code.push(0xd400_0001); // svc #0
    code.into_iter().flat_map(u32::to_le_bytes).collect()
}

/// The length of the complaint, which both processors take from 16 bits of an instruction.
fn complaint_length() -> u32 {
    u32::from(u16::try_from(COMPLAINT.len()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::sys::with_own_descriptors;

    /// Returns the number of `bytes` bytes at `at`.
    fn number(file: &[u8], at: usize, bytes: usize) -> u64 {
        let mut number = [0; 8];
        number[..bytes].copy_from_slice(&file[at..at + bytes]);
        u64::from_le_bytes(number)
    }

    #[test]
    fn it_is_an_executable_of_its_own_length_for_each_processor() {
        for (processor, machine) in [(Processor::X86_64, 62), (Processor::Aarch64, 183)] {
            let file = elf(processor, "/firecracker");
            assert_eq!(&file[..4], b"\x7fELF");
            assert_eq!(number(&file, 18, 2), machine);
            assert_eq!(number(&file, 24, 8), ADDRESS + CODE_START);
            // Of the first segment: its flags, and its length in the file and in memory.
            assert_eq!(number(&file, 68, 4), 5, "nothing can be written to it");
            assert_eq!(number(&file, 96, 8), file.len() as u64);
            assert_eq!(number(&file, 104, 8), file.len() as u64);
            let texts = format!("/firecracker\0{COMPLAINT}");
            assert!(file.ends_with(texts.as_bytes()));
        }
    }

    /// Runs what executes `path`, with two arguments and a variable.
    fn run(path: &str) -> std::process::Output {
        let directory = tempfile::tempdir().unwrap();
        let trampoline = directory.path().join(TRAMPOLINE);
        let processor = match std::env::consts::ARCH {
            "x86_64" => Processor::X86_64,
            _ => Processor::Aarch64,
        };
        let written = with_own_descriptors(|| {
            fs::write(&trampoline, elf(processor, path))?;
            fs::set_permissions(&trampoline, Permissions::from_mode(0o755))
        });
        written.unwrap();
        let mut command = std::process::Command::new(&trampoline);
        command.args(["-c", "echo $0: $VARIABLE; exit 7", "argument"]);
        command.env_clear().env("VARIABLE", "its value");
        command.output().unwrap()
    }

    #[test]
    fn it_executes_the_program_with_its_own_arguments_and_environment() {
        let output = run("/bin/sh");
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(
            (output.status.code(), text.as_str()),
            (Some(7), "argument: its value\n")
        );
    }

    #[test]
    fn a_program_that_can_not_be_executed_is_told_with_its_error() {
        let output = run("/no/such/program");
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), text.as_str()), (Some(2), COMPLAINT));
        assert_eq!(run("/dev/null").status.code(), Some(13));
    }

    /// Returns the target of an `adr`, the instruction number `index` of the code.
    fn target(code: &[u8], index: usize) -> u64 {
        let instruction = number(code, index * 4, 4);
        (index as u64 * 4) + ((instruction >> 5 & 0x7_ffff) << 2 | instruction >> 29 & 3)
    }

    #[test]
    fn arm_code_refers_to_its_texts() {
        let texts = aarch64(0, 0).len();
        let code = aarch64(texts, texts + 13);
        let target = |index| target(&code, index);
        assert_eq!((target(4), target(9)), (texts as u64, texts as u64 + 13));
    }
}
