//! What a VMM says when it refuses something. One that a guest took over may say anything.

/// Most characters of it that are kept.
pub(crate) const MAX_MESSAGE: usize = 4096;

/// Its words, bounded, and such that they drive no terminal.
pub(crate) fn message(words: &str) -> String {
    let plain = words.chars().filter(|c| !c.is_control());
    plain.take(MAX_MESSAGE).collect()
}
