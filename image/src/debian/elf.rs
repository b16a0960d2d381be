//! Reads the few facts about ELF files that a template depends on.

use object::elf::{EM_X86_64, FileHeader64, NoteType, PT_INTERP};
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{LittleEndian, Object, ObjectSection};

type Header = FileHeader64<LittleEndian>;

/// The note with the 32-bit entry point of the PVH boot protocol (`XEN_ELFNOTE_PHYS32_ENTRY` of the
/// Xen and Linux sources).
const PVH_ENTRY_NOTE: NoteType = NoteType(18);

fn x86_64(bytes: &[u8]) -> Option<&Header> {
    let header = Header::parse(bytes).ok()?;
    let little_endian = header.endian().is_ok();
    (little_endian && header.e_machine.get(LittleEndian) == EM_X86_64).then_some(header)
}

/// Returns why `bytes` is no static x86-64 executable; `None` if it is one.
pub(super) fn not_static(bytes: &[u8]) -> Option<&'static str> {
    let Some(header) = x86_64(bytes) else {
        return Some("it is no ELF file for x86-64");
    };
    let Ok(segments) = header.program_headers(LittleEndian, bytes) else {
        return Some("its program headers are damaged or cut off");
    };
    if segments.is_empty() {
        return Some("it has no program headers");
    }
    let dynamic = segments
        .iter()
        .any(|segment| segment.p_type(LittleEndian) == PT_INTERP);
    dynamic.then_some("it needs a dynamic linker")
}

/// The kind of a kernel image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KernelKind {
    /// No ELF file for x86-64, or a damaged one.
    NotElf,
    /// A kernel without a PVH entry.
    WithoutPvh,
    /// A kernel that every VMM can boot.
    Pvh,
}

pub(crate) fn kernel_kind(bytes: &[u8]) -> KernelKind {
    let Some(header) = x86_64(bytes) else {
        return KernelKind::NotElf;
    };
    let Ok(segments) = header.program_headers(LittleEndian, bytes) else {
        return KernelKind::NotElf;
    };
    // A segment beyond the end of the file means a truncated image.
    if segments
        .iter()
        .any(|segment| segment.data(LittleEndian, bytes).is_err())
    {
        return KernelKind::NotElf;
    }
    let notes = segments
        .iter()
        .filter_map(|s| s.notes(LittleEndian, bytes).ok().flatten());
    let pvh = notes.flat_map(|mut notes| std::iter::from_fn(move || notes.next().ok().flatten()));
    let mut pvh = pvh.filter(|note| note.name() == b"Xen");
    match pvh.any(|note| note.n_type(LittleEndian) == PVH_ENTRY_NOTE) {
        true => KernelKind::Pvh,
        false => KernelKind::WithoutPvh,
    }
}

/// Returns the `key=value` strings in the `.modinfo` section of a kernel module; `None` if `bytes`
/// is no module.
pub(super) fn modinfo(bytes: &[u8]) -> Option<Vec<(String, String)>> {
    let file = ElfFile64::<LittleEndian>::parse(bytes).ok()?;
    let section = file.section_by_name(".modinfo")?.data().ok()?;
    let strings = section
        .split(|byte| *byte == 0)
        .filter_map(|text| str::from_utf8(text).ok());
    let pairs = strings.filter_map(|text| text.split_once('='));
    Some(
        pairs
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
    )
}

#[cfg(any(test, feature = "fuzzing"))]
/// Parses a file that should be an executable, a kernel or a module.
pub fn fuzz(bytes: &[u8]) {
    let _ = (not_static(bytes), kernel_kind(bytes), modinfo(bytes));
}
