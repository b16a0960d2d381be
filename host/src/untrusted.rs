//! Sanitizes text from guests, from VMMs that a guest may have taken over, and from other users,
//! for display.
//!
//! Such text must not pass for our own: each line of it is marked, and no character of it may move,
//! hide or reverse what is shown beside it.

use std::fmt::{self, Write as _};

/// Limit of the characters kept of a VMM's error message.
pub const MAX_MESSAGE: usize = 4096;

/// Returns whether a character shows as something other than itself: control characters, direction
/// changes (UAX #9), zero-width characters, line ends.
pub fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Turns a text into one line: replaces deceptive characters by spaces.
pub fn line(text: &str) -> String {
    let plain = |c| if is_deceptive(c) { ' ' } else { c };
    text.chars().map(plain).collect()
}

/// Turns a VMM's error message into one line of bounded length.
pub fn message(words: &str) -> String {
    let plain = words.chars().filter(|c| !is_deceptive(*c));
    plain.take(MAX_MESSAGE).collect()
}

/// Removes deceptive characters, and keeps the line ends.
pub fn lines(text: &str) -> String {
    let plain = |c: &char| *c == '\n' || !is_deceptive(*c);
    text.chars().filter(plain).collect()
}

/// A text to show with each line prefixed by the name of its source.
pub struct Marked<'a>(pub &'static str, pub &'a str);

impl fmt::Display for Marked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(whose, text) = self;
        // Sanitizes again: the caller may not have done it.
        for each in text.trim_end().lines() {
            f.write_char('\n')?;
            write!(f, "{whose}| {}", line(each).trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_marked_and_nothing_in_it_moves_hides_or_turns_around_others() {
        let text = "one\r\nironclaw: error: two\u{202e}\u{200b}\n\u{1b}[2Jthree\u{2028}four\n\n";
        let shown = Marked("guest", text).to_string();
        let expected = "\nguest| one\nguest| ironclaw: error: two\nguest|  [2Jthree four";
        assert_eq!(shown, expected);
        assert_eq!(lines("a\u{2066}b\nc\u{7}"), "ab\nc");
    }

    #[test]
    fn one_line_stays_one() {
        assert_eq!(line("a\nb\u{202e}c\u{85}d\u{2029}e"), "a b c d e");
        assert_eq!(message("a\nb\u{feff}c"), "abc");
        assert_eq!(message(&"x".repeat(2 * MAX_MESSAGE)).len(), MAX_MESSAGE);
    }

    #[test]
    fn letters_of_any_script_stay_as_they_are() {
        let text = "Zażółć größer 日本語 עברית العربية हिन्दी 🦀";
        assert_eq!(line(text), text);
    }
}
