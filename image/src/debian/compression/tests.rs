use std::io::Write;

use flate2::write::GzEncoder;
use proptest::prelude::*;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::*;
use crate::fixture;

const LIMIT: usize = 1 << 20;

fn compress(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    match compression {
        Compression::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Xz => fixture::xz(bytes),
        Compression::Zstd => compress_to_vec(bytes, CompressionLevel::Fastest),
        Compression::Lz4Legacy => fixture::lz4_legacy(bytes, 700),
    }
}

fn any_compression() -> impl Strategy<Value = Compression> {
    prop::sample::select(Compression::ALL.to_vec())
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    // Repetitive, to be compressible.
    (prop::collection::vec(any::<u8>(), 1..50), 1_usize..60).prop_map(|(part, n)| part.repeat(n))
}

proptest! {
    #[test]
    fn compressed_bytes_decompress_to_the_same(compression in any_compression(), bytes in content()) {
        let compressed = compress(compression, &bytes);
        prop_assert_eq!(Compression::of(&compressed), Some(compression));
        prop_assert_eq!(compression.decompress(&compressed, LIMIT).unwrap(), bytes);
    }

    #[test]
    fn content_over_the_limit_is_refused(compression in any_compression(), bytes in content()) {
        let compressed = compress(compression, &bytes);
        let result = compression.decompress(&compressed, bytes.len() - 1);
        let refused = matches!(result, Err(DecompressError::TooLarge { .. }));
        prop_assert!(refused);
    }

    #[test]
    fn a_truncated_stream_is_an_error_or_a_shorter_content(
        compression in any_compression(),
        bytes in content(),
        cut in any::<prop::sample::Index>(),
    ) {
        let compressed = compress(compression, &bytes);
        // Any cut, even within the magic number: a stream may be truncated after it was recognized.
        let cut = cut.index(compressed.len());
        match compression.decompress(&compressed[..cut], LIMIT) {
            Ok(shorter) => prop_assert!(bytes.starts_with(&shorter)),
            Err(error) => prop_assert!(error.to_string().contains("truncated")),
        }
    }

    #[test]
    fn garbage_behind_a_magic_number_neither_panics_nor_grows(
        compression in any_compression(),
        garbage in prop::collection::vec(any::<u8>(), 0..500),
    ) {
        let stream = [compression.magic(), &garbage].concat();
        if let Ok(bytes) = compression.decompress(&stream, LIMIT) {
            prop_assert!(bytes.len() <= LIMIT);
        }
    }
}

#[test]
fn an_lz4_block_that_is_cut_off_is_told() {
    let stream = fixture::lz4_legacy(&[7; 5000], 1000);
    let error = Compression::Lz4Legacy
        .decompress(&stream[..stream.len() - 3], LIMIT)
        .unwrap_err();
    assert!(error.to_string().contains("are left"), "{error}");
    let error = Compression::Lz4Legacy.decompress(&[&stream, &[9_u8][..]].concat(), LIMIT);
    assert!(error.unwrap_err().to_string().contains("cut off"));
}

#[test]
fn an_lz4_block_that_grows_beyond_the_format_s_block_size_is_refused() {
    let stream = fixture::lz4_legacy(&vec![0; LZ4_LEGACY_BLOCK + 1], LZ4_LEGACY_BLOCK + 1);
    let result = Compression::Lz4Legacy.decompress(&stream, 4 * LZ4_LEGACY_BLOCK);
    assert!(matches!(result, Err(DecompressError::Damaged { .. })));
}
