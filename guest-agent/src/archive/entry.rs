//! Entries of tar archives as bytes: POSIX headers, with extended ones where those lack something.

use std::ffi::CString;

use rustix::fs::Dev;
use tar::{EntryType, Header};

/// The unit of an archive.
pub(crate) const BLOCK: usize = 512;

/// The end of an archive.
pub(crate) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// The longest name in a header itself.
const MAX_NAME: usize = 100;

/// The largest numbers of a header's fields: octal digits, without the terminator.
const MAX_ID: u32 = 0o777_7777;
const MAX_SIZE: u64 = 0o777_7777_7777;

/// A part of a file that is no hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// What an entry is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind<'a> {
    Directory,
    /// Its content follows: that of the extents, if it has holes.
    File {
        size: u64,
        extents: Option<&'a [Extent]>,
    },
    HardLink(&'a [u8]),
    Link(&'a [u8]),
    CharacterDevice(Dev),
    BlockDevice(Dev),
    Fifo,
}

/// The properties of an entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Properties {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: i64,
    pub(crate) mtime_nanos: u32,
    /// Extended attributes, by name.
    pub(crate) attributes: Vec<(CString, Vec<u8>)>,
}

/// Appends all of an entry that precedes its content. The path is relative; empty is the archive's root.
pub(crate) fn append(path: &[u8], properties: &Properties, kind: Kind<'_>, out: &mut Vec<u8>) {
    let mut name = path.to_vec();
    if let Kind::Directory = kind {
        name.extend(if path.is_empty() { &b"./"[..] } else { b"/" });
    }
    let mut records = Vec::new();
    let mut header = Header::new_ustar();
    // Some readers take no blank number.
    header.set_size(0);
    let mut map = Vec::new();
    match kind {
        Kind::Directory => header.set_entry_type(EntryType::Directory),
        Kind::File { size, extents } => {
            header.set_entry_type(EntryType::Regular);
            let mut stored = size;
            if let Some(extents) = extents {
                map = map_of(extents);
                stored = map.len() as u64 + extents.iter().map(|extent| extent.length).sum::<u64>();
                record("GNU.sparse.major", b"1", &mut records);
                record("GNU.sparse.minor", b"0", &mut records);
                record("GNU.sparse.name", &name, &mut records);
                let size = size.to_string();
                record("GNU.sparse.realsize", size.as_bytes(), &mut records);
            }
            header.set_size(stored.min(MAX_SIZE));
            if stored > MAX_SIZE {
                record("size", stored.to_string().as_bytes(), &mut records);
            }
        }
        Kind::HardLink(target) | Kind::Link(target) => {
            header.set_entry_type(match kind {
                Kind::Link(_) => EntryType::Symlink,
                _ => EntryType::Link,
            });
            let field = &mut header.as_mut_bytes()[157..257];
            if !fits(target, field) {
                record("linkpath", target, &mut records);
            }
        }
        Kind::CharacterDevice(device) => set_device(&mut header, EntryType::Char, device),
        Kind::BlockDevice(device) => set_device(&mut header, EntryType::Block, device),
        Kind::Fifo => header.set_entry_type(EntryType::Fifo),
    }
    let has_holes = matches!(
        kind,
        Kind::File {
            extents: Some(_),
            ..
        }
    );
    if !fits(&name, &mut header.as_mut_bytes()[..MAX_NAME]) && !has_holes {
        record("path", &name, &mut records);
    }
    describe(properties, &mut header, &mut records);
    if !records.is_empty() {
        append_records(&records, out);
    }
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
    out.extend(map);
}

/// Appends an empty file of this name: what a layer says about lower ones.
pub(crate) fn append_marker(path: &[u8], out: &mut Vec<u8>) {
    let size = 0;
    let extents = None;
    let kind = Kind::File { size, extents };
    append(path, &Properties::default(), kind, out);
}

/// Appends what fills the last block of content.
pub(crate) fn pad(stored: u64, out: &mut Vec<u8>) {
    let block = BLOCK as u64;
    let rest = usize::try_from(stored.next_multiple_of(block) - stored).unwrap_or(0);
    out.resize(out.len() + rest, 0);
}

fn describe(properties: &Properties, header: &mut Header, records: &mut Vec<u8>) {
    header.set_mode(properties.mode & 0o7777);
    header.set_uid(properties.uid.min(MAX_ID).into());
    header.set_gid(properties.gid.min(MAX_ID).into());
    for (key, id) in [("uid", properties.uid), ("gid", properties.gid)] {
        if id > MAX_ID {
            record(key, id.to_string().as_bytes(), records);
        }
    }
    let seconds = u64::try_from(properties.mtime).unwrap_or(0).min(MAX_SIZE);
    header.set_mtime(seconds);
    if i64::try_from(seconds) != Ok(properties.mtime) || properties.mtime_nanos != 0 {
        let time = time(properties.mtime, properties.mtime_nanos);
        record("mtime", time.as_bytes(), records);
    }
    for (name, value) in &properties.attributes {
        // A record has no way to say where such a name ends.
        if name.to_bytes().contains(&b'=') {
            continue;
        }
        let mut key = b"SCHILY.xattr.".to_vec();
        key.extend(name.to_bytes());
        record_of_bytes(&key, value, records);
    }
}

/// Writes a name into a header's field, as far as it goes; returns whether that is all.
fn fits(name: &[u8], field: &mut [u8]) -> bool {
    let length = name.len().min(field.len());
    field[..length].copy_from_slice(&name[..length]);
    length == name.len()
}

fn set_device(header: &mut Header, kind: EntryType, device: Dev) {
    header.set_entry_type(kind);
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    // The fields of a POSIX header hold what Linux has.
    let _ = header.set_device_major(major);
    let _ = header.set_device_minor(minor);
}

/// Appends an extended header with these records, which are about the header that follows.
fn append_records(records: &[u8], out: &mut Vec<u8>) {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::XHeader);
    header.as_mut_bytes()[..5].copy_from_slice(b"./PaX");
    header.set_mode(0o644);
    header.set_size(records.len() as u64);
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(records);
    pad(records.len() as u64, out);
}

fn record(key: &str, value: &[u8], records: &mut Vec<u8>) {
    record_of_bytes(key.as_bytes(), value, records);
}

/// Appends `length key=value\n`, whose length counts itself.
fn record_of_bytes(key: &[u8], value: &[u8], records: &mut Vec<u8>) {
    let rest = key.len() + value.len() + 3;
    let mut digits = 1;
    while (rest + digits).to_string().len() > digits {
        digits += 1;
    }
    records.extend((rest + digits).to_string().bytes());
    records.push(b' ');
    records.extend(key);
    records.push(b'=');
    records.extend(value);
    records.push(b'\n');
}

/// Writes a time as a decimal number: one before 1970 is negative as a whole.
fn time(seconds: i64, nanos: u32) -> String {
    if seconds >= 0 || nanos == 0 {
        return format!("{seconds}.{nanos:09}");
    }
    let (whole, fraction) = (seconds.saturating_add(1), 1_000_000_000 - nanos);
    format!("-{}.{fraction:09}", whole.unsigned_abs())
}

/// Writes the map of a file with holes: the number of extents, and each of them, in whole blocks.
fn map_of(extents: &[Extent]) -> Vec<u8> {
    let mut map = format!("{}\n", extents.len());
    for extent in extents {
        map += &format!("{}\n{}\n", extent.offset, extent.length);
    }
    let mut map = map.into_bytes();
    pad(map.len() as u64, &mut map);
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length_at_each_number_of_digits() {
        for length in [
            0, 1, 80, 90, 91, 92, 93, 94, 95, 980, 990, 991, 992, 9980, 9990,
        ] {
            let mut records = Vec::new();
            record("key", &vec![b'x'; length], &mut records);
            let text = String::from_utf8(records.clone()).unwrap();
            let (count, _) = text.split_once(' ').unwrap();
            assert_eq!(count.parse::<usize>().unwrap(), records.len());
        }
    }

    #[test]
    fn a_time_before_1970_is_one_negative_number() {
        assert_eq!(time(1, 5), "1.000000005");
        assert_eq!(time(-1, 0), "-1.000000000");
        assert_eq!(time(-1, 750_000_000), "-0.250000000");
        assert_eq!(time(-2, 750_000_000), "-1.250000000");
    }
}
