//! What the commands of a sandbox printed last.
//!
//! Readers hold up nobody: who falls behind is told how much it has missed.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use ironclaw_orchestrator::vm::{ExitStatus, Output};
use tokio::sync::watch;

/// Bytes of output and of command lines in the log of a sandbox, at most; the oldest records make room.
const MAX_SIZE: usize = 256 * 1024;

/// Records of a log, at most: each takes memory beside its content.
const MAX_RECORDS: usize = 4096;

/// Bytes of output that are joined to one record, at most: few enough to be copied for each piece.
const MAX_JOINED: usize = 4 * 1024;

/// Time after a record's first piece of output in which others are joined to it.
const JOINED_WITHIN: Duration = Duration::from_secs(1);

/// Bytes of a command line that are kept.
const MAX_ARGV: usize = 4 * 1024;

/// Records that a reader gets at a time.
const MAX_BATCH: usize = 64;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Happened {
    /// A command was started, or found.
    Start(Vec<String>),
    Stdout(Bytes),
    Stderr(Bytes),
    End(ExitStatus),
    /// A command is not listened to any more, as when its sandbox is paused.
    Lost,
}

/// A record.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    /// When it came; of output that is joined, the first piece.
    pub(crate) at: SystemTime,
    /// The PID of the command; none of one that was run to its end in one call.
    pub(crate) pid: Option<u32>,
    pub(crate) happened: Happened,
    /// Bytes that were printed before it.
    printed: u64,
}

/// The log of a sandbox.
#[derive(Debug)]
pub(crate) struct Log {
    kept: Mutex<Kept>,
    /// Whether it is closed; changes with each record.
    news: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Kept {
    records: VecDeque<Record>,
    /// How many records there were before those.
    dropped: u64,
    /// Bytes of what is in the records.
    size: usize,
    /// Bytes that were printed.
    printed: u64,
}

impl Default for Log {
    fn default() -> Self {
        let (news, _) = watch::channel(false);
        let kept = Mutex::default();
        Self { kept, news }
    }
}

impl Happened {
    /// Records a command line, without what is too long.
    pub(crate) fn start<'a>(argv: impl IntoIterator<Item = &'a String>) -> Self {
        let mut room = MAX_ARGV;
        let fits = |argument: &&String| {
            room = room.saturating_sub(argument.len() + size_of::<String>());
            room > 0
        };
        Self::Start(argv.into_iter().take_while(fits).cloned().collect())
    }

    /// Returns the bytes of output.
    fn output(&self) -> usize {
        match self {
            Self::Stdout(bytes) | Self::Stderr(bytes) => bytes.len(),
            Self::Start(_) | Self::End(_) | Self::Lost => 0,
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Start(argv) => argv.iter().map(|it| it.len() + size_of::<String>()).sum(),
            other => other.output(),
        }
    }

    /// Returns both as one, if they are small pieces of the same stream.
    fn joined(&self, next: &Self) -> Option<Self> {
        if self.output() + next.output() > MAX_JOINED {
            return None;
        }
        match (self, next) {
            (Self::Stdout(one), Self::Stdout(two)) => {
                Some(Self::Stdout([&one[..], two].concat().into()))
            }
            (Self::Stderr(one), Self::Stderr(two)) => {
                Some(Self::Stderr([&one[..], two].concat().into()))
            }
            _ => None,
        }
    }

    /// Returns output without its first bytes.
    fn after(&self, bytes: usize) -> Self {
        match self {
            Self::Stdout(output) => Self::Stdout(output.slice(bytes.min(output.len())..)),
            Self::Stderr(output) => Self::Stderr(output.slice(bytes.min(output.len())..)),
            other => other.clone(),
        }
    }

    /// Lets go of memory that is shared with more than what is kept.
    fn detached(self) -> Self {
        match self {
            Self::Stdout(bytes) => Self::Stdout(last(&bytes)),
            Self::Stderr(bytes) => Self::Stderr(last(&bytes)),
            other => other,
        }
    }
}

/// Copies as much of the end of an output as a log has room for.
fn last(output: &[u8]) -> Bytes {
    let from = output.len().saturating_sub(MAX_SIZE);
    Bytes::copy_from_slice(&output[from..])
}

impl Record {
    /// Bytes that were printed until its end.
    fn end(&self) -> u64 {
        self.printed + self.happened.output() as u64
    }

    /// Joins what the same command printed next, if it came soon; returns whether it did.
    fn join(&mut self, at: SystemTime, pid: Option<u32>, next: &Happened) -> bool {
        let soon = at
            .duration_since(self.at)
            .is_ok_and(|since| since < JOINED_WITHIN);
        if !soon || self.pid != pid {
            return false;
        }
        let joined = self.happened.joined(next);
        joined.map(|joined| self.happened = joined).is_some()
    }

    /// Returns the output in it that a reader of so many bytes has not had; `None` if it has had all.
    fn after(&self, read: u64) -> Option<Self> {
        let from = read.max(self.printed);
        let had = usize::try_from(from - self.printed).unwrap_or(usize::MAX);
        (from < self.end()).then(|| Self {
            happened: self.happened.after(had),
            printed: from,
            ..*self
        })
    }
}

impl Log {
    /// Adds a record.
    pub(crate) fn add(&self, pid: Option<u32>, happened: Happened) {
        let printed = happened.output();
        self.push(pid, happened.detached(), printed);
    }

    /// Adds a command that was run to its end in one call.
    pub(crate) fn add_run(&self, argv: &[String], output: &Output) {
        let Output { stdout, stderr, .. } = output;
        self.add(None, Happened::start(argv));
        if !stdout.is_empty() {
            self.push(None, Happened::Stdout(last(stdout)), stdout.len());
        }
        if !stderr.is_empty() {
            self.push(None, Happened::Stderr(last(stderr)), stderr.len());
        }
        self.add(None, Happened::End(output.status));
    }

    fn push(&self, pid: Option<u32>, happened: Happened, printed: usize) {
        self.lock().push(SystemTime::now(), pid, happened, printed);
        self.news.send_modify(|_| {});
    }

    /// Ends it: who reads it gets what there is, then nothing.
    pub(crate) fn close(&self) {
        self.news.send_replace(true);
    }

    /// Returns whether there is a record of a command.
    pub(crate) fn has(&self, pid: u32) -> bool {
        let kept = self.lock();
        kept.records.iter().any(|record| record.pid == Some(pid))
    }

    /// Returns the records that are kept and that nothing is joined to any more, the oldest one first.
    pub(crate) fn settled(&self) -> Vec<Record> {
        let mut records: Vec<_> = self.lock().records.iter().cloned().collect();
        let grows = |last: &Record| {
            last.happened.output() > 0 && last.at.elapsed().is_ok_and(|since| since < JOINED_WITHIN)
        };
        if records.last().is_some_and(grows) {
            records.pop();
        }
        records
    }

    /// Reads it from its beginning.
    pub(crate) fn reader(&self) -> Reader {
        Reader {
            next: 0,
            printed: 0,
            news: self.news.subscribe(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn push(&mut self, at: SystemTime, pid: Option<u32>, happened: Happened, printed: usize) {
        self.printed += printed as u64;
        self.size += happened.size();
        let last = self.records.back_mut();
        if !last.is_some_and(|last| last.join(at, pid, &happened)) {
            // Behind what there was no room for.
            let printed = self.printed - happened.output() as u64;
            self.records.push_back(Record {
                at,
                pid,
                happened,
                printed,
            });
        }
        self.make_room();
    }

    /// Takes as much of the oldest records as there is too much.
    fn make_room(&mut self) {
        loop {
            let surplus = self.size.saturating_sub(MAX_SIZE);
            let too_many = self.records.len() > MAX_RECORDS;
            let Some(oldest) = self.records.front_mut() else {
                return;
            };
            if surplus == 0 && !too_many {
                return;
            }
            if too_many || oldest.happened.output() <= surplus {
                self.size -= oldest.happened.size();
                self.records.pop_front();
                self.dropped += 1;
            } else {
                oldest.happened = oldest.happened.after(surplus);
                oldest.printed += surplus as u64;
                self.size -= surplus;
            }
        }
    }

    /// Returns the record with this number, if it is kept.
    fn get(&self, number: u64) -> Option<&Record> {
        let index = number.checked_sub(self.dropped)?;
        self.records.get(usize::try_from(index).ok()?)
    }
}

/// Reads a log.
#[derive(Debug)]
pub(crate) struct Reader {
    /// The number of the next record.
    next: u64,
    /// Bytes that it has read, or missed.
    printed: u64,
    news: watch::Receiver<bool>,
}

/// Records, and how many bytes of output there were between them and those before.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) missed: u64,
    pub(crate) records: Vec<Record>,
}

impl Reader {
    /// Returns the next records that are there; `None` if there are none now.
    pub(crate) fn next(&mut self, log: &Log) -> Option<Batch> {
        self.news.mark_unchanged();
        let kept = log.lock();
        let skipped = self.next.saturating_sub(kept.dropped);
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        let new = kept.records.iter().skip(skipped).take(MAX_BATCH).cloned();
        let mut records: Vec<_> = new.collect();
        let count = records.len() as u64;
        let before = self.next.checked_sub(1).and_then(|last| kept.get(last));
        // It may have grown since.
        if let Some(rest) = before.and_then(|before| before.after(self.printed)) {
            records.insert(0, rest);
        }
        let (first, last) = (records.first()?, records.last()?);
        let missed = first.printed.saturating_sub(self.printed);
        self.next = self.next.max(kept.dropped) + count;
        self.printed = last.end();
        Some(Batch { missed, records })
    }

    /// Waits for a record; returns false if none comes any more.
    pub(crate) async fn wait(&mut self) -> bool {
        // What came before the end is still to be read.
        match self.news.has_changed() {
            Ok(false) => !*self.news.borrow() && self.news.changed().await.is_ok(),
            changed => changed.is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stdout(text: &str) -> Happened {
        Happened::Stdout(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn output_that_others_are_joined_to_is_not_settled_until_something_else_follows() {
        let log = Log::default();
        log.add(Some(1), stdout("one "));
        assert!(log.settled().is_empty());
        log.add(Some(1), stdout("two"));
        log.add(Some(1), Happened::Lost);
        let settled = log.settled();
        assert_eq!(settled[0].happened, stdout("one two"));
        assert_eq!(settled.len(), 2);
    }

    #[tokio::test]
    async fn a_reader_gets_what_there_is_and_what_comes_until_the_end() {
        let log = Log::default();
        log.add(Some(1), stdout("one"));
        let mut reader = log.reader();
        let batch = reader.next(&log).unwrap();
        assert_eq!((batch.missed, batch.records.len()), (0, 1));
        assert!(reader.next(&log).is_none());
        let (came, ()) = tokio::join!(reader.wait(), async {
            tokio::task::yield_now().await;
            log.add(Some(1), Happened::Lost);
        });
        assert!(came);
        let batch = reader.next(&log).unwrap();
        assert_eq!(batch.records[0].happened, Happened::Lost);
        // What was added before the end is not lost by it.
        log.add(Some(2), stdout("two"));
        log.close();
        assert_eq!(reader.next(&log).unwrap().records[0].pid, Some(2));
        assert!(!reader.wait().await);
    }

    #[test]
    fn the_oldest_records_make_room_and_a_reader_is_told_how_much_it_missed() {
        let log = Log::default();
        let mut slow = log.reader();
        log.add(None, stdout("first"));
        assert_eq!(slow.next(&log).unwrap().missed, 0);
        let piece = "x".repeat(10_000);
        for _ in 0..100 {
            log.add(Some(1), stdout(&piece));
        }
        let batch = slow.next(&log).unwrap();
        let output = batch.records.iter().map(|it| it.happened.output());
        assert_eq!(output.sum::<usize>(), MAX_SIZE);
        assert_eq!(batch.missed, 1_000_000 - MAX_SIZE as u64);
        assert_eq!(log.reader().next(&log).unwrap().missed, batch.missed + 5);
    }

    #[test]
    fn one_record_is_no_longer_than_the_log() {
        let log = Log::default();
        log.add(None, Happened::Stdout(vec![7; MAX_SIZE * 2].into()));
        let batch = log.reader().next(&log).unwrap();
        let [
            Record {
                happened: Happened::Stdout(kept),
                ..
            },
        ] = &batch.records[..]
        else {
            panic!("{batch:?}")
        };
        assert_eq!(batch.missed + kept.len() as u64, MAX_SIZE as u64 * 2);
        let long = vec!["a".repeat(MAX_ARGV * 2); 3];
        assert_eq!(Happened::start(&long), Happened::Start(Vec::new()));
        let many = vec![String::new(); MAX_ARGV];
        assert!(Happened::start(&many).size() <= MAX_ARGV);
    }

    #[test]
    fn a_log_keeps_as_much_of_small_pieces_as_of_large_ones_and_a_reader_gets_each_byte_once() {
        let log = Log::default();
        let mut follower = log.reader();
        let (mut read, mut written) = (Vec::new(), Vec::new());
        let mut follow = |log: &Log| {
            while let Some(batch) = follower.next(log) {
                assert_eq!(batch.missed, 0);
                for record in batch.records {
                    let Happened::Stdout(bytes) = record.happened else {
                        panic!("{record:?}")
                    };
                    read.extend_from_slice(&bytes);
                }
            }
        };
        for number in 0..100_000 {
            let piece = format!("{number}\n");
            log.add(Some(1), stdout(&piece));
            written.extend_from_slice(piece.as_bytes());
            if number % 7 == 0 {
                follow(&log);
            }
        }
        follow(&log);
        assert_eq!(read, written);
        assert_eq!(log.lock().size, MAX_SIZE);
        // One that has had a part of what was joined is told what it missed of the rest.
        let mut slow = log.reader();
        while slow.next(&log).is_some() {}
        let read = slow.printed;
        for _ in 0..10 {
            log.add(Some(1), stdout(&"x".repeat(MAX_SIZE / 2)));
        }
        let (mut missed, mut got) = (0, 0);
        while let Some(batch) = slow.next(&log) {
            missed += batch.missed;
            got += batch
                .records
                .iter()
                .map(|it| it.happened.output())
                .sum::<usize>();
        }
        assert_eq!((got, missed), (MAX_SIZE, 4 * MAX_SIZE as u64));
        assert_eq!(slow.printed, read + 5 * MAX_SIZE as u64);
    }

    #[test]
    fn pieces_of_other_commands_streams_and_times_stay_apart() {
        let mut kept = Kept::default();
        let began = SystemTime::UNIX_EPOCH;
        let stderr = || Happened::Stderr(Bytes::from_static(b"e"));
        kept.push(began, Some(1), stdout("a"), 1);
        kept.push(began, Some(1), stdout("b"), 1);
        assert_eq!(kept.records[0].happened, stdout("ab"));
        kept.push(began, Some(2), stdout("c"), 1);
        kept.push(began, Some(2), stderr(), 1);
        kept.push(began + JOINED_WITHIN, Some(2), stderr(), 1);
        assert_eq!(kept.records.len(), 4);
        let ends: Vec<_> = kept.records.iter().map(Record::end).collect();
        assert_eq!(ends, [2, 3, 4, 5]);
        // Alternating ones take no memory without end.
        for pid in 0..2 * MAX_RECORDS {
            kept.push(began, u32::try_from(pid).ok(), stdout("x"), 1);
        }
        assert_eq!(kept.records.len(), MAX_RECORDS);
    }
}
