//! Words of an instruction: quotes, escapes and variables, as Dockerfiles have them.
//!
//! An unquoted space ends a word; one that a variable brings does not.

use thiserror::Error;

/// Limit of an expanded word, in bytes: variables that name each other grow fast.
const MAX_WORD: usize = 128 * 1024;
/// Limit of the depth of `${A:-${B:-...}}`.
const MAX_DEPTH: usize = 16;

/// The reason why a text could not be expanded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ExpandError {
    /// A quote or a brace is not closed.
    #[error("{0:?} is not closed")]
    Unclosed(char),
    /// A form of `${...}` that is not supported.
    #[error("${{{0}}} is a form of substitution that is not supported")]
    Substitution(String),
    /// `${NAME:?message}`, and the variable is not set.
    #[error("{name}: {message}")]
    Required {
        /// The variable.
        name: String,
        /// The text after `?`.
        message: String,
    },
    /// The result is too long, or too deeply nested.
    #[error("it expands to more than {MAX_WORD} bytes, or is nested more than {MAX_DEPTH} deep")]
    TooLarge,
}

/// Splits `text` at unquoted white space and expands each word; `lookup` returns the value of a
/// variable.
///
/// # Errors
/// [`ExpandError`] if the text is malformed, or too long when expanded.
pub(super) fn words(
    text: &str,
    escape: char,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<String>, ExpandError> {
    let mut expansion = Expansion::new(text, escape, lookup);
    let mut words = Vec::new();
    loop {
        expansion.skip_white_space();
        if expansion.rest.is_empty() {
            return Ok(words);
        }
        words.push(expansion.word(&|c| c.is_whitespace(), 0)?);
    }
}

/// Expands `text` as one word, white space and all.
///
/// # Errors
/// [`ExpandError`] if the text is malformed, or too long when expanded.
pub(super) fn word(
    text: &str,
    escape: char,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<String, ExpandError> {
    Expansion::new(text, escape, lookup).word(&|_| false, 0)
}

struct Expansion<'a> {
    rest: &'a str,
    escape: char,
    lookup: &'a dyn Fn(&str) -> Option<String>,
}

impl<'a> Expansion<'a> {
    fn new(text: &'a str, escape: char, lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self {
            rest: text,
            escape,
            lookup,
        }
    }

    fn next(&mut self) -> Option<char> {
        let next = self.rest.chars().next()?;
        self.rest = &self.rest[next.len_utf8()..];
        Some(next)
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn skip_white_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// Expands until the first unquoted character that `ends` names, which is left.
    fn word(&mut self, ends: &dyn Fn(char) -> bool, depth: usize) -> Result<String, ExpandError> {
        let mut word = String::new();
        while let Some(next) = self.peek() {
            if ends(next) {
                break;
            }
            self.next();
            match next {
                '\'' => self.single_quoted(&mut word)?,
                '"' => self.double_quoted(&mut word, depth)?,
                '$' => word.push_str(&self.variable(depth)?),
                // At the end it stands for itself.
                c if c == self.escape => word.push(self.next().unwrap_or(c)),
                c => word.push(c),
            }
            if word.len() > MAX_WORD {
                return Err(ExpandError::TooLarge);
            }
        }
        Ok(word)
    }

    fn single_quoted(&mut self, word: &mut String) -> Result<(), ExpandError> {
        let (inside, rest) = self
            .rest
            .split_once('\'')
            .ok_or(ExpandError::Unclosed('\''))?;
        word.push_str(inside);
        self.rest = rest;
        Ok(())
    }

    fn double_quoted(&mut self, word: &mut String, depth: usize) -> Result<(), ExpandError> {
        loop {
            match self.next().ok_or(ExpandError::Unclosed('"'))? {
                '"' => return Ok(()),
                '$' => word.push_str(&self.variable(depth)?),
                // Before anything else an escape character stands for itself.
                c if c == self.escape => match self.peek() {
                    Some(next) if next == '"' || next == '$' || next == self.escape => {
                        word.push(next);
                        self.next();
                    }
                    _ => word.push(c),
                },
                c => word.push(c),
            }
            if word.len() > MAX_WORD {
                return Err(ExpandError::TooLarge);
            }
        }
    }

    /// Expands what follows on a `$`.
    fn variable(&mut self, depth: usize) -> Result<String, ExpandError> {
        if depth == MAX_DEPTH {
            return Err(ExpandError::TooLarge);
        }
        if self.peek() != Some('{') {
            let name = self.name();
            return Ok(if name.is_empty() {
                "$".to_owned()
            } else {
                (self.lookup)(name).unwrap_or_default()
            });
        }
        self.next();
        let whole = self.rest;
        let name = self.name();
        let unsupported = || {
            let form = whole.split('}').next().unwrap_or_default();
            ExpandError::Substitution(form.to_owned())
        };
        if name.is_empty() {
            return Err(unsupported());
        }
        // With a colon, an empty value counts as unset.
        let colon = self.peek() == Some(':');
        if colon {
            self.next();
        }
        let value = (self.lookup)(name).filter(|value| !(colon && value.is_empty()));
        match self.next() {
            Some('}') if !colon => Ok(value.unwrap_or_default()),
            Some(operator @ ('-' | '+' | '?')) => {
                let other = self.word(&|c| c == '}', depth + 1)?;
                self.next().ok_or(ExpandError::Unclosed('{'))?;
                match (operator, value) {
                    ('-', Some(value)) | ('?', Some(value)) => Ok(value),
                    ('-', None) | ('+', Some(_)) => Ok(other),
                    ('?', None) => Err(ExpandError::Required {
                        name: name.to_owned(),
                        message: if other.is_empty() {
                            "not set".to_owned()
                        } else {
                            other
                        },
                    }),
                    _ => Ok(String::new()),
                }
            }
            None => Err(ExpandError::Unclosed('{')),
            Some(_) => Err(unsupported()),
        }
    }

    fn name(&mut self) -> &'a str {
        let is_part = |(at, c): (usize, char)| {
            c == '_' || c.is_ascii_alphabetic() || (at > 0 && c.is_ascii_digit())
        };
        let end = self
            .rest
            .char_indices()
            .find(|&c| !is_part(c))
            .map_or(self.rest.len(), |(at, _)| at);
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        name
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "A" => Some("a b".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    fn split(text: &str) -> Result<Vec<String>, ExpandError> {
        words(text, '\\', &lookup)
    }

    #[test]
    fn quotes_and_escapes_keep_a_word_together() {
        let split = split(r#"a  'b c' "d \" $A"x e\ f "a\b" 'no $A' $"#).unwrap();
        let expected = ["a", "b c", "d \" a bx", "e f", "a\\b", "no $A", "$"];
        assert_eq!(split, expected);
    }

    #[test]
    fn space_of_a_variable_does_not_split() {
        assert_eq!(split("x$A ${A}y").unwrap(), ["xa b", "a by"]);
    }

    #[test]
    fn defaults_follow_the_shells_rules() {
        for (text, expected) in [
            ("${NO:-d}", "d"),
            ("${NO-d}", "d"),
            ("${EMPTY:-d}", "d"),
            ("${EMPTY-d}", ""),
            ("${A:+set}", "set"),
            ("${EMPTY:+set}", ""),
            ("${EMPTY+set}", "set"),
            ("${NO:-${A}x}", "a bx"),
            ("${A:?needed}", "a b"),
            ("$NO.", "."),
        ] {
            assert_eq!(word(text, '\\', &lookup).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn malformed_text_is_refused() {
        assert_eq!(split("'a"), Err(ExpandError::Unclosed('\'')));
        assert_eq!(split("\"a"), Err(ExpandError::Unclosed('"')));
        assert_eq!(split("${A"), Err(ExpandError::Unclosed('{')));
        assert_eq!(
            split("${A%b}"),
            Err(ExpandError::Substitution("A%b".into()))
        );
        assert_eq!(split("${}"), Err(ExpandError::Substitution("".into())));
        assert_eq!(
            split("${NO:?give it}"),
            Err(ExpandError::Required {
                name: "NO".into(),
                message: "give it".into()
            })
        );
    }

    #[test]
    fn backquote_escapes_where_the_directive_says_so() {
        assert_eq!(words("C:\\a` b", '`', &lookup).unwrap(), ["C:\\a b"]);
    }

    proptest! {
        #[test]
        fn any_text_ends_in_bounds(text in "[a$A{}:?+'\"\\\\ -]{0,60}") {
            if let Ok(words) = split(&text) {
                prop_assert!(words.iter().all(|word| word.len() <= MAX_WORD + 8));
            }
        }

        #[test]
        fn plain_words_stay(words in prop::collection::vec("[a-z0-9=/._-]{1,8}", 0..6)) {
            prop_assert_eq!(split(&words.join(" ")).unwrap(), words);
        }
    }
}
