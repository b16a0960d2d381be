//! What a watch has to tell, in bounded memory.

use ironclaw_protocol::file::{EventKind, FileEvent};
use ironclaw_protocol::limits::MAX_KEPT_EVENTS;
use ironclaw_protocol::os_bytes::OsBytes;
use ironclaw_protocol::records;

/// Events as records that are not sent. When there are too many, later ones are lost, and what is told
/// in their place is that.
#[derive(Debug)]
pub(crate) struct Told {
    /// What is watched.
    root: OsBytes,
    is_directory: bool,
    records: Vec<u8>,
    /// Whether events were lost behind the last record.
    has_overflowed: bool,
}

impl Told {
    pub(crate) fn new(root: OsBytes, is_directory: bool) -> Self {
        Self {
            root,
            is_directory,
            records: Vec::new(),
            has_overflowed: false,
        }
    }

    /// Returns whether there is something to send.
    pub(crate) fn has_any(&self) -> bool {
        !self.records.is_empty() || self.has_overflowed
    }

    /// Adds an event.
    pub(crate) fn tell(&mut self, event: &FileEvent) {
        self.tell_of_overflow();
        // A path that no message holds.
        if self.has_overflowed || event.validate(&self.root).is_err() {
            return;
        }
        let before = self.records.len();
        if records::append(event, &mut self.records).is_ok() && self.records.len() > MAX_KEPT_EVENTS
        {
            self.records.truncate(before);
            self.has_overflowed = true;
        }
    }

    /// Records that events were lost.
    pub(crate) fn overflow(&mut self) {
        self.has_overflowed = true;
    }

    /// Takes up to so many bytes to send.
    pub(crate) fn take(&mut self, count: usize) -> Vec<u8> {
        self.tell_of_overflow();
        let count = self.records.len().min(count);
        self.records.drain(..count).collect()
    }

    /// Adds the event of an overflow once there is room for others again: not one for each of them.
    fn tell_of_overflow(&mut self) {
        if self.has_overflowed && self.records.len() <= MAX_KEPT_EVENTS / 2 {
            let event = FileEvent {
                kind: EventKind::Overflow,
                path: self.root.clone(),
                from: None,
                is_directory: self.is_directory,
            };
            // Always fits: it has the path of the request.
            let _ = records::append(&event, &mut self.records);
            self.has_overflowed = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use ironclaw_protocol::records::Records;

    use super::*;

    fn event(path: &str) -> FileEvent {
        FileEvent {
            kind: EventKind::Modified,
            path: path.into(),
            from: None,
            is_directory: false,
        }
    }

    fn all(told: &mut Told) -> Vec<FileEvent> {
        let mut records = Records::default();
        while told.has_any() {
            records.push(&told.take(1000));
        }
        let mut events = Vec::new();
        while let Some(event) = records.read::<FileEvent>().unwrap() {
            events.push(event);
        }
        events
    }

    #[test]
    fn lost_events_are_told_of_once_and_behind_those_that_are_kept() {
        let mut told = Told::new("/r".into(), true);
        let path = format!("/r/{}", "x".repeat(200));
        for _ in 0..MAX_KEPT_EVENTS / 200 + 100 {
            told.tell(&event(&path));
        }
        let first = told.take(1000);
        told.tell(&event("/r/lost, too"));
        let mut records = Records::default();
        records.push(&first);
        while told.has_any() {
            records.push(&told.take(1000));
        }
        let mut kinds = Vec::new();
        while let Some(event) = records.read::<FileEvent>().unwrap() {
            kinds.push(event.kind);
        }
        assert_eq!(kinds.pop(), Some(EventKind::Overflow));
        assert!(kinds.iter().all(|kind| *kind == EventKind::Modified));
        told.tell(&event("/r/later"));
        assert_eq!(all(&mut told), [event("/r/later")]);
    }

    #[test]
    fn what_is_not_watched_is_never_told() {
        let mut told = Told::new("/r".into(), true);
        told.tell(&event("/etc/passwd"));
        assert!(!told.has_any());
    }
}
