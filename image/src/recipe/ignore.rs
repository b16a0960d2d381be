//! `.dockerignore`: what of a context steps do not see.
//!
//! The rules are those of <https://docs.docker.com/build/concepts/context/#dockerignore-files>:
//! patterns are seen from the context's root, a pattern that matches a directory matches all in it,
//! and of several that match, the last one decides.

use std::path::{Component, Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher};

/// Limit of the patterns in one file.
const MAX_PATTERNS: usize = 1000;

/// The patterns of one file.
#[derive(Debug, Default)]
pub(super) struct Ignore {
    patterns: Vec<Pattern>,
}

#[derive(Debug)]
struct Pattern {
    matcher: GlobMatcher,
    /// The line began with `!`: it takes files back in.
    readmits: bool,
}

impl Ignore {
    /// Parses the file's text; an error tells what is wrong with which line.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut patterns = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (pattern, readmits) = match line.strip_prefix('!') {
                Some(rest) => (rest.trim(), true),
                None => (line, false),
            };
            let pattern = cleaned(pattern);
            if pattern.is_empty() {
                continue;
            }
            if patterns.len() == MAX_PATTERNS {
                return Err(format!("it has more than {MAX_PATTERNS} patterns"));
            }
            let matcher = glob(&pattern).map_err(|reason| format!("line {}: {reason}", at + 1))?;
            patterns.push(Pattern { matcher, readmits });
        }
        Ok(Self { patterns })
    }

    /// Returns whether steps do not see `path`, relative to the context.
    pub(super) fn excludes(&self, path: &Path) -> bool {
        let mut excluded = false;
        for pattern in &self.patterns {
            if pattern.readmits == excluded && pattern.matches(path) {
                excluded = !pattern.readmits;
            }
        }
        excluded
    }

    /// Returns whether something in an excluded directory may have been taken back in.
    pub(super) fn readmits_any(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.readmits)
    }
}

impl Pattern {
    fn matches(&self, path: &Path) -> bool {
        let mut ancestors = path.ancestors();
        ancestors.any(|path| path != Path::new("") && self.matcher.is_match(path))
    }
}

/// Compiles a pattern of Go's `filepath.Match` with `**`: `*` does not match a slash, and braces
/// mean nothing.
pub(super) fn glob(pattern: &str) -> Result<GlobMatcher, String> {
    let literal_braces: String = pattern
        .chars()
        .flat_map(|c| match c {
            '{' => vec!['[', '{', ']'],
            '}' => vec!['[', '}', ']'],
            c => vec![c],
        })
        .collect();
    GlobBuilder::new(&literal_braces)
        .literal_separator(true)
        .backslash_escape(true)
        .build()
        .map(|glob| glob.compile_matcher())
        .map_err(|error| error.kind().to_string())
}

/// Returns a path without `.`, `..`, doubled and leading slashes; `..` ends at the root.
pub(super) fn cleaned(path: &str) -> String {
    let mut clean = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excluded(text: &str, path: &str) -> bool {
        Ignore::parse(text).unwrap().excludes(Path::new(path))
    }

    #[test]
    fn last_pattern_that_matches_decides() {
        let text = "*.md\n!README.md\nREADME-secret.md\n";
        assert!(excluded(text, "a.md"));
        assert!(!excluded(text, "README.md"));
        assert!(excluded(text, "README-secret.md"));
        assert!(excluded("!README.md\n*.md", "README.md"));
    }

    #[test]
    fn patterns_are_seen_from_the_root() {
        assert!(excluded("/node_modules", "node_modules/a/b"));
        assert!(excluded("node_modules/", "node_modules/a"));
        assert!(!excluded("node_modules", "x/node_modules"));
        assert!(excluded("**/node_modules", "x/y/node_modules/z"));
        assert!(excluded("**/node_modules", "node_modules"));
        assert!(excluded("*/temp*", "somedir/temporary.txt"));
        assert!(!excluded("*/temp*", "a/b/temp"));
        assert!(excluded("temp?", "tempa"));
    }

    #[test]
    fn comments_empty_lines_and_braces_are_no_patterns() {
        let ignore = Ignore::parse("# *\n\n  \n{a,b}\n").unwrap();
        assert!(!ignore.excludes(Path::new("a")));
        assert!(ignore.excludes(Path::new("{a,b}")));
    }

    #[test]
    fn malformed_pattern_is_told_with_its_line() {
        let error = Ignore::parse("a\n[b").unwrap_err();
        assert!(error.starts_with("line 2: "), "{error}");
    }

    #[test]
    fn too_many_patterns_are_refused() {
        let text = "a\n".repeat(MAX_PATTERNS + 1);
        Ignore::parse(&text).unwrap_err();
    }
}
