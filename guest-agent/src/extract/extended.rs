//! What extended headers say of the entry that follows: POSIX's records, and GNU's long names.

use std::ffi::CString;

use ironclaw_protocol::limits::MAX_ATTRIBUTES;
use tar::Header;

use super::malformed::Malformed;
use crate::archive::entry::Properties;

/// Said before an entry, in its place or in addition.
#[derive(Debug, Default)]
pub(crate) struct Extended {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    /// The name and the size of a file with holes.
    pub(crate) sparse_name: Option<Vec<u8>>,
    pub(crate) real_size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<(i64, u32)>,
    attributes: Vec<(CString, Vec<u8>)>,
    has_any: bool,
}

impl Extended {
    /// Returns whether nothing was said.
    pub(crate) fn is_empty(&self) -> bool {
        !self.has_any && self.path.is_none() && self.link.is_none()
    }

    /// Reads records: `length key=value\n` each, whose length counts itself.
    pub(crate) fn read(&mut self, mut records: &[u8]) -> Result<(), Malformed> {
        self.has_any = true;
        while !records.is_empty() {
            let space = records.iter().position(|byte| *byte == b' ');
            let space = space.ok_or(Malformed::Extended)?;
            let length: usize = number(&records[..space])?;
            let record = records.get(space + 1..length).ok_or(Malformed::Extended)?;
            let record = record.strip_suffix(b"\n").ok_or(Malformed::Extended)?;
            let equals = record.iter().position(|byte| *byte == b'=');
            let equals = equals.ok_or(Malformed::Extended)?;
            self.record(&record[..equals], &record[equals + 1..])?;
            records = &records[length..];
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), Malformed> {
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number(value)?),
            b"uid" => self.uid = Some(number(value)?),
            b"gid" => self.gid = Some(number(value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            b"GNU.sparse.major" if value != b"1" => return Err(Malformed::Map),
            // Older formats.
            b"GNU.sparse.map" | b"GNU.sparse.size" => return Err(Malformed::Map),
            b"GNU.sparse.name" => self.sparse_name = Some(value.to_vec()),
            b"GNU.sparse.realsize" => self.real_size = Some(number(value)?),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    let name = CString::new(name).map_err(|_| Malformed::Extended)?;
                    self.attributes.push((name, value.to_vec()));
                }
            }
        }
        Ok(())
    }

    /// Returns the properties of the entry with this header.
    pub(crate) fn properties(self, header: &Header) -> Result<Properties, Malformed> {
        let bytes = header.as_bytes();
        let id = |told: Option<u32>, id: u64| match told {
            Some(id) => Ok(id),
            None => u32::try_from(id).map_err(|_| Malformed::Number),
        };
        let (mtime, mtime_nanos) = match self.mtime {
            Some(time) => time,
            None => {
                let seconds = in_header(&bytes[136..148], header.mtime())?;
                (i64::try_from(seconds).map_err(|_| Malformed::Number)?, 0)
            }
        };
        let length = |(name, value): &(CString, Vec<u8>)| name.count_bytes() + value.len();
        if self.attributes.iter().map(length).sum::<usize>() > MAX_ATTRIBUTES {
            return Err(Malformed::Attributes);
        }
        Ok(Properties {
            mode: in_header(&bytes[100..108], header.mode())? & 0o7777,
            uid: id(self.uid, in_header(&bytes[108..116], header.uid())?)?,
            gid: id(self.gid, in_header(&bytes[116..124], header.gid())?)?,
            mtime,
            mtime_nanos,
            attributes: self.attributes,
        })
    }
}

/// Returns a number that was read from a field of a header; nothing there is 0.
pub(crate) fn in_header<T: Default>(
    field: &[u8],
    read: std::io::Result<T>,
) -> Result<T, Malformed> {
    match field.iter().all(|byte| matches!(byte, 0 | b' ')) {
        true => Ok(T::default()),
        false => read.map_err(|_| Malformed::Number),
    }
}

fn number<T: std::str::FromStr>(text: &[u8]) -> Result<T, Malformed> {
    let text = std::str::from_utf8(text).map_err(|_| Malformed::Extended)?;
    text.parse().map_err(|_| Malformed::Extended)
}

/// Reads seconds with a fraction, since 1970 or before.
fn time(text: &[u8]) -> Result<(i64, u32), Malformed> {
    let text = std::str::from_utf8(text).map_err(|_| Malformed::Extended)?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = number(whole.as_bytes())?;
    if !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(Malformed::Extended);
    }
    let digits = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
    let nanos = digits.fold(0, |nanos, digit| 10 * nanos + u32::from(digit - b'0'));
    Ok(match whole.starts_with('-') && nanos > 0 {
        true => (seconds.saturating_sub(1), 1_000_000_000 - nanos),
        false => (seconds, nanos),
    })
}
