//! Content that comes compressed by gzip.

use std::io::Write as _;

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use futures_util::{Stream, StreamExt as _, stream};

/// Bytes that are decompressed at a time: a thousand times as many may come out.
const PIECE: usize = 1024;

struct Decompressing<S> {
    content: S,
    /// `None` at the end.
    decoder: Option<MultiGzDecoder<Vec<u8>>>,
    /// What was not decompressed yet.
    left: Bytes,
}

/// Decompresses content piece by piece, whatever comes out of it. Fails at its end if it is cut.
pub(super) fn gunzip<S, E>(content: S) -> impl Stream<Item = Result<Bytes, String>>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: std::fmt::Display,
{
    let state = Decompressing {
        content,
        decoder: Some(MultiGzDecoder::new(Vec::new())),
        left: Bytes::new(),
    };
    stream::unfold(state, |mut state| async move {
        let piece = state.next().await?;
        if piece.is_err() {
            state.decoder = None;
        }
        Some((piece, state))
    })
}

impl<S, E> Decompressing<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: std::fmt::Display,
{
    async fn next(&mut self) -> Option<Result<Bytes, String>> {
        let bad = |error: std::io::Error| format!("it is no gzip: {error}");
        loop {
            let decoder = self.decoder.as_mut()?;
            if self.left.is_empty() {
                match self.content.next().await {
                    Some(Ok(bytes)) => self.left = bytes,
                    Some(Err(error)) => return Some(Err(error.to_string())),
                    None => {
                        let ended = decoder.try_finish().map_err(bad);
                        let rest = std::mem::take(decoder.get_mut());
                        self.decoder = None;
                        return Some(ended.map(|()| rest.into()));
                    }
                }
            }
            let piece = self.left.split_to(self.left.len().min(PIECE));
            if let Err(error) = decoder.write_all(&piece) {
                return Some(Err(bad(error)));
            }
            let decompressed = std::mem::take(decoder.get_mut());
            if !decompressed.is_empty() {
                return Some(Ok(decompressed.into()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn compressed(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    /// Returns what comes out, and the longest piece of it.
    async fn decompress(bytes: &[u8], piece: usize) -> Result<(Vec<u8>, usize), String> {
        let pieces = bytes
            .chunks(piece)
            .map(|piece| Ok::<_, Infallible>(Bytes::copy_from_slice(piece)));
        let mut out = std::pin::pin!(gunzip(stream::iter(pieces)));
        let (mut content, mut longest) = (Vec::new(), 0);
        while let Some(piece) = out.next().await {
            let piece = piece?;
            longest = longest.max(piece.len());
            content.extend(piece);
        }
        Ok((content, longest))
    }

    #[tokio::test]
    async fn content_comes_out_whole_however_it_is_cut_and_never_much_at_a_time() {
        let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        let bytes = compressed(&content);
        for piece in [1000, 70_000] {
            assert!(decompress(&bytes, piece).await.unwrap().0 == content);
        }
        let twice = [bytes.clone(), bytes].concat();
        assert_eq!(
            decompress(&twice, 5000).await.unwrap().0.len(),
            2 * content.len()
        );
        let bomb = compressed(&vec![0; 50_000_000]);
        let (content, longest) = decompress(&bomb, bomb.len()).await.unwrap();
        assert_eq!(content.len(), 50_000_000);
        assert!(longest < 2 << 20, "{longest}");
        assert!(decompress(&compressed(b""), 10).await.unwrap().0.is_empty());
    }

    #[tokio::test]
    async fn what_is_cut_damaged_or_no_gzip_is_an_error() {
        let bytes = compressed(&b"content".repeat(1000));
        for cut in [1, 5, 12, bytes.len() - 9, bytes.len() - 1] {
            assert!(decompress(&bytes[..cut], 1000).await.is_err(), "{cut}");
        }
        let mut damaged = bytes.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0xff;
        assert!(decompress(&damaged, 1000).await.is_err());
        assert!(decompress(b"content", 1000).await.is_err());
    }
}
