//! Extended headers of POSIX archives: records of `length key=value`.

use std::str;

use crate::tree::{Mtime, Xattrs};

use super::error::Refusal;

/// Extended attributes have their names behind it.
const XATTR: &[u8] = b"SCHILY.xattr.";
/// Longest name of an extended attribute, in bytes.
const MAX_XATTR_NAME: usize = 255;
/// Longest value of an extended attribute, in bytes: one less than Linux allows fits into a field.
const MAX_XATTR_VALUE: usize = 65_535;

/// What the records say in place of the header that follows.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    pub(super) mtime: Option<Mtime>,
    pub(super) xattrs: Xattrs,
    pub(super) sparse: SparseRecords,
}

/// GNU's records about holes, in the versions 0.0, 0.1 and 1.0.
#[derive(Debug, Default)]
pub(super) struct SparseRecords {
    /// The file's size with its holes.
    pub(super) size: Option<u64>,
    /// Offsets and lengths.
    pub(super) map: Option<Vec<u64>>,
    /// The map precedes the content.
    pub(super) is_in_content: bool,
}

/// Parses the records of a header.
pub(super) fn parse(mut bytes: &[u8], at: u64) -> Result<Pax, Refusal> {
    let damaged = |what| Refusal::Damaged { at, what };
    let mut pax = Pax::default();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|byte| *byte == b' ');
        let length = space.and_then(|space| number(&bytes[..space]));
        let length = length.and_then(|length| usize::try_from(length).ok());
        let record = space.zip(length).and_then(|(space, length)| {
            let (record, rest) = bytes.split_at_checked(length)?;
            bytes = rest;
            record.get(space + 1..)?.strip_suffix(b"\n")
        });
        let record = record.ok_or_else(|| damaged("an extended header has no such records"))?;
        let equals = record.iter().position(|byte| *byte == b'=');
        let equals = equals.ok_or_else(|| damaged("a record has no value"))?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        pax.take(key, value).map_err(|refusal| {
            refusal.unwrap_or_else(|| damaged("a number in a record is none"))
        })?;
    }
    Ok(pax)
}

impl Pax {
    /// Takes a record; an error without a refusal is a number that is none.
    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), Option<Refusal>> {
        let numeric = || number(value).ok_or(None);
        let signed = || numeric().and_then(|it| i64::try_from(it).map_err(|_| None));
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(numeric()?),
            b"uid" => self.uid = Some(signed()?),
            b"gid" => self.gid = Some(signed()?),
            b"mtime" => self.mtime = Some(time(value).ok_or(None)?),
            b"GNU.sparse.name" => self.path = Some(value.to_vec()),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.size = Some(numeric()?),
            b"GNU.sparse.major" => self.sparse.is_in_content = numeric()? == 1,
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                self.sparse.map.get_or_insert_default().push(numeric()?);
            }
            b"GNU.sparse.map" => {
                let numbers = value.split(|byte| *byte == b',').map(number);
                self.sparse.map = Some(numbers.collect::<Option<_>>().ok_or(None)?);
            }
            _ => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    let fits = (1..=MAX_XATTR_NAME).contains(&name.len())
                        && value.len() <= MAX_XATTR_VALUE
                        && !name.contains(&0);
                    if !fits {
                        return Err(Some(Refusal::Xattr));
                    }
                    self.xattrs.insert(name.into(), value.into());
                }
            }
        }
        Ok(())
    }
}

/// Parses a decimal number.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    let is_plain = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    is_plain.then(|| str::from_utf8(text).ok()?.parse().ok())?
}

/// Parses a time: seconds, and a fraction that goes forward also from negative ones.
fn time(text: &[u8]) -> Option<Mtime> {
    const SECOND: u32 = 1_000_000_000;
    let text = str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = fraction.get(..fraction.len().min(9))?;
    let nanoseconds = match number(fraction.as_bytes()) {
        _ if digits.is_empty() => 0,
        // A longer one than 20 digits is a number, too.
        None if !fraction.bytes().all(|digit| digit.is_ascii_digit()) => return None,
        _ => format!("{digits:0<9}").parse().ok()?,
    };
    let seconds: i64 = whole.parse().ok()?;
    if !whole.starts_with('-') || nanoseconds == 0 {
        return Some(Mtime {
            seconds,
            nanoseconds,
        });
    }
    Some(Mtime {
        seconds: seconds.checked_sub(1)?,
        nanoseconds: SECOND - nanoseconds,
    })
}
