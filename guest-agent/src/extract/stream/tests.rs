//! Tests archives in pieces, whole and broken.

use super::*;
use crate::archive::entry::{self, END};

/// The parts of an archive, as they come.
#[derive(Debug, Default, PartialEq, Eq)]
struct Parts(Vec<(Vec<u8>, Kind, Vec<u8>)>);

impl Sink for Parts {
    type Error = Malformed;

    fn begin(&mut self, entry: Entry) -> Result<(), Malformed> {
        self.0.push((entry.path, entry.kind, Vec::new()));
        Ok(())
    }

    fn content(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Malformed> {
        let content = &mut self.0.last_mut().unwrap().2;
        let offset = usize::try_from(offset).unwrap();
        content.resize(content.len().max(offset + bytes.len()), 0);
        content[offset..offset + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn end(&mut self) -> Result<(), Malformed> {
        self.0.last_mut().unwrap().2.push(b'.');
        Ok(())
    }
}

fn read(archive: &[u8], piece: usize) -> Result<Parts, Malformed> {
    let (mut stream, mut parts) = (Stream::default(), Parts::default());
    for piece in archive.chunks(piece) {
        stream.push(piece, &mut parts)?;
    }
    stream.finish()?;
    Ok(parts)
}

/// A file with holes, which takes so many bytes, and one with a long name.
fn archive() -> (Vec<u8>, usize) {
    let mut out = Vec::new();
    let extents = [(3, 5), (600, 0)].map(|(offset, length)| Extent { offset, length });
    let kind = entry::Kind::File {
        size: 600,
        extents: Some(&extents),
    };
    entry::append(b"holes", &Properties::default(), kind, &mut out);
    out.extend(b"12345");
    entry::pad(5, &mut out);
    let first = out.len();
    let kind = entry::Kind::HardLink(b"holes");
    entry::append(&b"n".repeat(300), &Properties::default(), kind, &mut out);
    out.extend(END);
    (out, first)
}

#[test]
fn an_archive_is_the_same_however_it_is_cut() {
    let (archive, _) = archive();
    let whole = read(&archive, archive.len()).unwrap();
    let holes = (
        b"holes".to_vec(),
        Kind::File { size: 600 },
        b"\0\0\x0012345.".to_vec(),
    );
    let link = (
        b"n".repeat(300),
        Kind::HardLink(b"holes".to_vec()),
        Vec::new(),
    );
    assert_eq!(whole.0, [holes, link]);
    for piece in [1, 7, 511, 512, 513] {
        assert_eq!(read(&archive, piece).unwrap(), whole, "{piece}");
    }
}

#[test]
fn no_bytes_make_a_reader_panic_and_a_cut_archive_is_told() {
    let (archive, first) = archive();
    let end = archive.len() - END.len();
    for length in (1..end).filter(|length| *length != first) {
        assert_eq!(
            read(&archive[..length], 97),
            Err(Malformed::Cut),
            "{length}"
        );
    }
    for at in 0..end {
        for byte in [0, b'9', 0xff] {
            let mut broken = archive.clone();
            broken[at] = byte;
            let _ = read(&broken, 512);
        }
    }
}

#[test]
fn a_map_that_does_not_fit_its_file_is_refused() {
    for map in [
        "1\n0\n",
        "1\n5\n9999\n",
        "2\n3\n5\n4\n1\n",
        "-1\n",
        "999999999\n",
        "x",
    ] {
        let mut out = Vec::new();
        let kind = entry::Kind::File {
            size: 600,
            extents: Some(&[]),
        };
        entry::append(b"holes", &Properties::default(), kind, &mut out);
        let begin = out.len() - BLOCK;
        out[begin..].fill(0);
        out[begin..begin + map.len()].copy_from_slice(map.as_bytes());
        out.extend(END);
        assert_eq!(read(&out, 512), Err(Malformed::Map), "{map:?}");
    }
}
