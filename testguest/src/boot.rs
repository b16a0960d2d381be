//! Parses what Firecracker passes to a Linux kernel: memory map and command line.

/// A range of physical memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
}

/// A virtio device on the MMIO bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Physical address of its registers.
    pub address: u64,
    /// Length of its registers, in bytes.
    pub length: u64,
    /// Its interrupt, as an input of the I/O APIC.
    pub interrupt: u8,
}

const E820_ENTRIES: usize = 0x1e8;
const E820_TABLE: usize = 0x2d0;
const E820_ENTRY: usize = 20;
const E820_MAX: usize = 128;
const E820_RAM: u32 = 1;
const CMD_LINE_POINTER: usize = 0x228;

/// Length of Linux' `struct boot_params`, the "zero page".
pub const BOOT_PARAMS: usize = 4096;

/// Longest command line that Firecracker hands over on x86, in bytes.
pub const MAX_COMMAND_LINE: usize = 2048;

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Ranges of RAM in the E820 map of a zero page.
pub fn ram(zero_page: &[u8; BOOT_PARAMS]) -> impl Iterator<Item = Region> + '_ {
    let entries = usize::from(zero_page[E820_ENTRIES]).min(E820_MAX);
    (0..entries).filter_map(|index| {
        let at = E820_TABLE + index * E820_ENTRY;
        let start = u64_at(zero_page, at)?;
        let end = start.checked_add(u64_at(zero_page, at + 8)?)?;
        (u32_at(zero_page, at + 16)? == E820_RAM).then_some(Region { start, end })
    })
}

/// Returns the physical address of the command line, which ends at a NUL byte or after
/// [`MAX_COMMAND_LINE`] bytes.
#[must_use]
pub fn command_line(zero_page: &[u8; BOOT_PARAMS]) -> Option<u32> {
    u32_at(zero_page, CMD_LINE_POINTER).filter(|&pointer| pointer != 0)
}

/// Parses the devices that a command line names as `virtio_mmio.device=4K@0xc0001000:5`.
pub fn devices(command_line: &[u8]) -> impl Iterator<Item = Device> + '_ {
    let end = command_line
        .iter()
        .position(|&b| b == 0)
        .unwrap_or(command_line.len());
    command_line[..end]
        .split(u8::is_ascii_whitespace)
        .filter_map(|word| {
            let (length, place) = str::from_utf8(word)
                .ok()?
                .strip_prefix("virtio_mmio.device=")?
                .split_once('@')?;
            let (address, interrupt) = place.split_once(':')?;
            Some(Device {
                address: u64::from_str_radix(address.strip_prefix("0x")?, 16).ok()?,
                length: length
                    .strip_suffix('K')?
                    .parse::<u64>()
                    .ok()?
                    .checked_mul(1024)?,
                interrupt: interrupt.split(':').next()?.parse().ok()?,
            })
        })
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn devices_are_read_from_a_command_line_that_holds_other_things() {
        let line = b"console=ttyS0 virtio_mmio.device=4K@0xc0001000:5 virtio_mmio.device=junk \
                     virtio_mmio.device=8K@0xc0002000:6\0virtio_mmio.device=4K@0x1:7";
        assert_eq!(
            devices(line).collect::<Vec<_>>(),
            [
                Device {
                    address: 0xc000_1000,
                    length: 4096,
                    interrupt: 5
                },
                Device {
                    address: 0xc000_2000,
                    length: 8192,
                    interrupt: 6
                },
            ]
        );
    }

    #[test]
    fn only_ram_is_taken_from_the_memory_map() {
        let mut page = [0; BOOT_PARAMS];
        page[E820_ENTRIES] = 2;
        for (index, (start, size, kind)) in
            [(0_u64, 0x9fc00_u64, 2_u32), (0x10_0000, 0x7f0_0000, 1)]
                .into_iter()
                .enumerate()
        {
            let at = E820_TABLE + index * E820_ENTRY;
            page[at..at + 8].copy_from_slice(&start.to_le_bytes());
            page[at + 8..at + 16].copy_from_slice(&size.to_le_bytes());
            page[at + 16..at + 20].copy_from_slice(&kind.to_le_bytes());
        }
        let found = ram(&page).collect::<Vec<_>>();
        assert_eq!(
            found,
            [Region {
                start: 0x10_0000,
                end: 0x800_0000
            }]
        );
    }

    #[test]
    fn a_count_beyond_the_table_is_not_followed() {
        let mut page = [0; BOOT_PARAMS];
        page[E820_ENTRIES] = 255;
        assert_eq!(ram(&page).count(), 0);
    }
}
