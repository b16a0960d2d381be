//! What a build prints, line by line.

use std::time::SystemTime;

/// Lines of programs that are kept of a build's log, the bytes of one, and of all.
const MAX_LINES: usize = 10_000;
const MAX_LINE: usize = 4096;
const MAX_PRINTED: usize = 4 * 1024 * 1024;

/// The last line of a program that is kept, if it prints more.
const FULL: &str = "[the log is full: what programs print from here on is not kept]";

/// A line of a build's log.
#[derive(Debug, Clone)]
pub(crate) struct LogLine {
    pub(crate) at: SystemTime,
    pub(crate) text: String,
}

/// The log of a build.
#[derive(Debug, Default)]
pub(crate) struct BuildLog {
    lines: Vec<LogLine>,
    /// What came since the last end of a line.
    begun: String,
    /// Lines of programs, and their bytes.
    printed: (usize, usize),
}

impl BuildLog {
    /// Returns up to `limit` lines, from `offset` on.
    pub(crate) fn lines(&self, offset: usize, limit: usize) -> Vec<LogLine> {
        self.lines
            .iter()
            .skip(offset)
            .take(limit)
            .cloned()
            .collect()
    }

    /// Adds what a program prints, which may be anything: without what would drive a terminal.
    pub(crate) fn print(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '\n' => self.end_line(),
                '\t' => self.begun.push(c),
                c if c.is_control() => {}
                c => self.begun.push(c),
            }
            if self.begun.len() >= MAX_LINE {
                self.end_line();
            }
        }
    }

    /// Adds what the build itself tells, which has room in any case.
    pub(crate) fn tell(&mut self, text: &str) {
        self.end_line();
        let clean = text.replace(char::is_control, " ");
        self.push(clean.chars().take(MAX_LINE).collect());
    }

    fn end_line(&mut self) {
        let text = std::mem::take(&mut self.begun);
        let (lines, bytes) = &mut self.printed;
        if text.is_empty() || *lines > MAX_LINES {
            return;
        }
        *lines += 1;
        *bytes += text.len();
        if *lines == MAX_LINES || *bytes > MAX_PRINTED {
            *lines = MAX_LINES + 1;
            self.push(FULL.to_owned());
        } else {
            self.push(text);
        }
    }

    fn push(&mut self, text: String) {
        let at = SystemTime::now();
        self.lines.push(LogLine { at, text });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_has_whole_lines_without_what_drives_a_terminal() {
        let mut log = BuildLog::default();
        log.print("on");
        log.print("e\u{1b}[31m\r\ntwo\n\n");
        log.print(&"x".repeat(2 * MAX_LINE + 1));
        log.tell("step\n2");
        let lines: Vec<_> = log.lines.iter().map(|line| line.text.len()).collect();
        assert_eq!(log.lines[0].text, "one[31m");
        assert_eq!(lines, [7, 3, MAX_LINE, MAX_LINE, 1, 6]);
        assert_eq!(log.lines(5, 10)[0].text, "step 2");
    }

    #[test]
    fn a_log_is_bounded_and_says_so_and_has_room_for_the_reason_of_a_failure() {
        for line in ["x\n".to_owned(), "y".repeat(MAX_LINE)] {
            let mut log = BuildLog::default();
            for _ in 0..2 * MAX_LINES {
                log.print(&line);
            }
            log.tell("it failed");
            let bytes: usize = log.lines.iter().map(|line| line.text.len()).sum();
            assert!(log.lines.len() <= MAX_LINES + 1, "{}", log.lines.len());
            assert!(bytes <= MAX_PRINTED + MAX_LINE, "{bytes}");
            let [.., full, last] = &log.lines[..] else {
                panic!("{log:?}")
            };
            assert_eq!(
                (full.text.as_str(), last.text.as_str()),
                (FULL, "it failed")
            );
        }
    }
}
