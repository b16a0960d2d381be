//! Text of guests, of VMMs that they may have taken over, and of other users, made fit to be shown.
//!
//! What is shown beside our own words must not pass for them: no line of it begins without a mark,
//! and no character of it moves, hides or turns around what stands beside it.

use std::fmt::{self, Write as _};

/// Most characters that are kept of what a VMM refuses with.
pub const MAX_MESSAGE: usize = 4096;

/// Whether it shows as anything but itself: controls, what sets the direction of text (UAX #9), what
/// takes no room, and what ends a line.
pub fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// It in one line, with a space for whatever is deceptive.
pub fn line(text: &str) -> String {
    let plain = |c| if is_deceptive(c) { ' ' } else { c };
    text.chars().map(plain).collect()
}

/// What a VMM refuses with, in one bounded line.
pub fn message(words: &str) -> String {
    let plain = words.chars().filter(|c| !is_deceptive(*c));
    plain.take(MAX_MESSAGE).collect()
}

/// Its lines without whatever is deceptive in them.
pub fn lines(text: &str) -> String {
    let plain = |c: &char| *c == '\n' || !is_deceptive(*c);
    text.chars().filter(plain).collect()
}

/// Shows each line of such a text on one of its own, behind the name of whose it is.
pub struct Marked<'a>(pub &'static str, pub &'a str);

impl fmt::Display for Marked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(whose, text) = self;
        // Whoever made it may not have been careful.
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
