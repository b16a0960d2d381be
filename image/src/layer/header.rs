//! Headers of tar archives: blocks of 512 bytes.

use super::error::Refusal;

/// Size of a block.
pub(super) const BLOCK: u64 = BLOCK_SIZE as u64;
/// The same, for what is in memory.
pub(super) const BLOCK_SIZE: usize = 512;

/// A header, as it is in the archive.
pub(super) struct Header<'a> {
    bytes: &'a [u8; BLOCK_SIZE],
    at: u64,
}

impl<'a> Header<'a> {
    /// Checks that a block is a header; `None` for a block of zeros, which ends an archive.
    pub(super) fn parse(bytes: &'a [u8; BLOCK_SIZE], at: u64) -> Result<Option<Self>, Refusal> {
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = Self { bytes, at };
        let expected = header.number(148..156)?;
        // The checksum's own field counts as spaces. Some archivers add signed bytes.
        let field = |at| (148..156).contains(&at);
        let byte = |(at, byte): (usize, &u8)| if field(at) { b' ' } else { *byte };
        let counted = || bytes.iter().enumerate().map(byte);
        let unsigned: i64 = counted().map(i64::from).sum();
        let signed: i64 = counted().map(|byte| i64::from(byte.cast_signed())).sum();
        if expected != unsigned && expected != signed {
            return Err(header.damaged("its header has another checksum than it should"));
        }
        Ok(Some(header))
    }

    pub(super) fn damaged(&self, what: &'static str) -> Refusal {
        let at = self.at;
        Refusal::Damaged { at, what }
    }

    /// Returns the name, with the prefix that POSIX archives have.
    pub(super) fn path(&self) -> Vec<u8> {
        let name = text(&self.bytes[..100]);
        let is_posix = &self.bytes[257..263] == b"ustar\0";
        match text(&self.bytes[345..500]) {
            prefix if is_posix && !prefix.is_empty() => [prefix, b"/", name].concat(),
            _ => name.to_vec(),
        }
    }

    pub(super) fn link(&self) -> &'a [u8] {
        text(&self.bytes[157..257])
    }

    pub(super) fn kind(&self) -> u8 {
        self.bytes[156]
    }

    pub(super) fn mode(&self) -> Result<i64, Refusal> {
        self.number(100..108)
    }

    pub(super) fn uid(&self) -> Result<i64, Refusal> {
        self.number(108..116)
    }

    pub(super) fn gid(&self) -> Result<i64, Refusal> {
        self.number(116..124)
    }

    pub(super) fn size(&self) -> Result<i64, Refusal> {
        self.number(124..136)
    }

    pub(super) fn mtime(&self) -> Result<i64, Refusal> {
        self.number(136..148)
    }

    pub(super) fn device(&self) -> Result<(i64, i64), Refusal> {
        Ok((self.number(329..337)?, self.number(337..345)?))
    }

    /// Returns the size of a file in GNU's format for holes.
    pub(super) fn real_size(&self) -> Result<i64, Refusal> {
        self.number(483..495)
    }

    /// Returns the extents in a header of GNU's format for holes, and whether a block of more follows.
    pub(super) fn extents(&self) -> Result<(Vec<(i64, i64)>, bool), Refusal> {
        Ok((self.pairs(386, 4)?, self.bytes[482] != 0))
    }

    /// Reads a block of extents that follows such a header.
    pub(super) fn more_extents(
        bytes: &'a [u8; BLOCK_SIZE],
        at: u64,
    ) -> Result<(Vec<(i64, i64)>, bool), Refusal> {
        let block = Self { bytes, at };
        Ok((block.pairs(0, 21)?, bytes[504] != 0))
    }

    fn pairs(&self, from: usize, count: usize) -> Result<Vec<(i64, i64)>, Refusal> {
        let mut pairs = Vec::new();
        for at in (0..count).map(|number| from + 24 * number) {
            // An empty field: there are no more.
            if self.bytes[at] == 0 {
                break;
            }
            pairs.push((self.number(at..at + 12)?, self.number(at + 12..at + 24)?));
        }
        Ok(pairs)
    }

    /// Reads a number: octal digits between spaces and NULs, or, with the highest bit set, binary.
    fn number(&self, range: std::ops::Range<usize>) -> Result<i64, Refusal> {
        let field = &self.bytes[range];
        if let [first, rest @ ..] = field
            && first & 0x80 != 0
        {
            let negative = first & 0x40 != 0;
            let start = i128::from(first & 0x3f) - if negative { 0x40 } else { 0 };
            let value = rest.iter().try_fold(start, |value, byte| {
                value.checked_mul(256)?.checked_add(i128::from(*byte))
            });
            let value = value.and_then(|value| i64::try_from(value).ok());
            return value.ok_or_else(|| self.damaged("a number in its header is too large"));
        }
        let digits = text(field).trim_ascii();
        digits.iter().try_fold(0_i64, |value, digit| match digit {
            b'0'..=b'7' => value
                .checked_mul(8)
                .and_then(|value| value.checked_add(i64::from(digit - b'0')))
                .ok_or_else(|| self.damaged("a number in its header is too large")),
            _ => Err(self.damaged("a number in its header is none")),
        })
    }
}

/// Returns a field up to its NUL.
fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0);
    &field[..end.unwrap_or(field.len())]
}
