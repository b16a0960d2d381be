use proptest::prelude::*;

use super::*;
use crate::fixture;

/// Builds a bzImage like Debian 12's.
fn bz_image() -> Vec<u8> {
    let content = fixture::vmlinux(true);
    let mut payload = fixture::lz4_legacy(&content, 100);
    payload.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
    fixture::bz_image(&payload)
}

#[test]
fn an_elf_image_passes_as_it_is() {
    let image = fixture::vmlinux(true);
    assert_eq!(extract(image.clone()).unwrap(), image);
}

#[test]
fn a_bz_image_gives_the_elf_image_in_it() {
    assert_eq!(extract(bz_image()).unwrap(), fixture::vmlinux(true));
}

#[test]
fn a_bz_image_may_hold_xz_or_nothing_compressed() {
    let content = fixture::vmlinux(true);
    let mut payload = fixture::xz(&content);
    payload.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
    assert_eq!(extract(fixture::bz_image(&payload)).unwrap(), content);
    assert_eq!(extract(fixture::bz_image(&content)).unwrap(), content);
}

#[test]
fn the_release_is_taken_from_the_banner() {
    assert_eq!(release(&fixture::vmlinux(true)).unwrap(), fixture::RELEASE);
    assert!(matches!(
        release(b"Linux version %s (%s)"),
        Err(KernelError::NoBanner)
    ));
    assert!(matches!(
        release(b"Linux version 6.1"),
        Err(KernelError::NoBanner)
    ));
}

#[test]
fn a_file_that_is_no_kernel_is_refused() {
    assert!(matches!(
        extract(b"MZ".repeat(1000)),
        Err(KernelError::NotAKernel)
    ));
    assert!(matches!(extract(Vec::new()), Err(KernelError::NotAKernel)));
    let mut other_machine = fixture::vmlinux(true);
    other_machine[18] = 183; // aarch64
    assert!(matches!(extract(other_machine), Err(KernelError::NotElf)));
}

#[test]
fn a_kernel_without_a_pvh_entry_is_refused() {
    assert!(matches!(
        extract(fixture::vmlinux(false)),
        Err(KernelError::WithoutPvh)
    ));
}

#[test]
fn a_boot_protocol_without_a_payload_is_refused() {
    let mut image = bz_image();
    image[0x206] = 7;
    assert!(matches!(
        extract(image),
        Err(KernelError::OldProtocol { major: 2, minor: 7 })
    ));
}

#[test]
fn an_unknown_compression_is_shown_by_its_first_bytes() {
    let image = fixture::bz_image(b"BZh91AY&SY");
    assert!(
        extract(image)
            .unwrap_err()
            .to_string()
            .contains("[42, 5a, 68, 39")
    );
}

#[test]
fn a_release_is_text_that_drives_no_terminal() {
    for bad in [&b"6\x1b[2J"[..], b"6.1\n", "6\u{9b}".as_bytes()] {
        let banner = [b"Linux version ", bad, b" (x)"].concat();
        assert!(matches!(release(&banner), Err(KernelError::NoBanner)));
    }
}

#[test]
fn content_of_another_size_than_announced_is_refused() {
    let content = fixture::vmlinux(true);
    let mut payload = fixture::lz4_legacy(&content, 100);
    payload.extend(u32::try_from(content.len() + 1).unwrap().to_le_bytes());
    let result = extract(fixture::bz_image(&payload));
    assert!(matches!(result, Err(KernelError::WrongSize { .. })));
}

#[test]
fn a_payload_that_ends_within_its_magic_number_is_refused() {
    for length in 0..=8 {
        let mut image = bz_image();
        image[setup::PAYLOAD_LENGTH..][..4].copy_from_slice(&u32::to_le_bytes(length));
        assert!(extract(image).is_err(), "{length} bytes");
    }
}

proptest! {
    #[test]
    fn a_truncated_image_is_refused(cut in any::<prop::sample::Index>()) {
        let mut image = bz_image();
        let payload_end = image.len() - 8;
        image.truncate(cut.index(payload_end));
        prop_assert!(extract(image).is_err());
    }

    #[test]
    fn a_damaged_image_never_panics(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let mut image = bz_image();
        for (at, byte) in damage {
            let at = at.index(image.len());
            image[at] = byte;
        }
        if let Ok(vmlinux) = extract(image) {
            prop_assert!(vmlinux.starts_with(ELF_MAGIC));
        }
    }
}
