//! What the commands of a sandbox printed last.
//!
//! Readers hold up nobody: who falls behind is told how much it has missed.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use ironclaw_orchestrator::vm::{ExitStatus, Output};
use tokio::sync::watch;

/// Bytes that the log of a sandbox takes at most; the oldest records make room.
const MAX_SIZE: usize = 256 * 1024;

/// Bytes that a record takes beside its content.
const RECORD_SIZE: usize = 128;

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
    /// Bytes that the records take.
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
        RECORD_SIZE
            + match self {
                Self::Start(argv) => argv.iter().map(|it| it.len() + size_of::<String>()).sum(),
                other => other.output(),
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
    let from = output.len().saturating_sub(MAX_SIZE - RECORD_SIZE);
    Bytes::copy_from_slice(&output[from..])
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
        {
            let mut kept = self.lock();
            kept.printed += printed as u64;
            kept.size += happened.size();
            // Behind what there was no room for.
            let printed = kept.printed - happened.output() as u64;
            kept.records.push_back(Record {
                at: SystemTime::now(),
                pid,
                happened,
                printed,
            });
            while kept.size > MAX_SIZE {
                let Some(oldest) = kept.records.pop_front() else {
                    break;
                };
                kept.size -= oldest.happened.size();
                kept.dropped += 1;
            }
        }
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

/// Reads a log.
#[derive(Debug)]
pub(crate) struct Reader {
    /// The number of the next record.
    next: u64,
    /// Bytes that were printed before it.
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
        let records: Vec<_> = kept
            .records
            .iter()
            .skip(skipped)
            .take(MAX_BATCH)
            .cloned()
            .collect();
        let (first, last) = (records.first()?, records.last()?);
        let missed = first.printed.saturating_sub(self.printed);
        self.next = self.next.max(kept.dropped) + records.len() as u64;
        self.printed = last.printed + last.happened.output() as u64;
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
        let kept = log.lock().records.len();
        assert!(kept < 100 && log.lock().size <= MAX_SIZE);
        let batch = slow.next(&log).unwrap();
        assert_eq!(batch.missed, (100 - kept as u64) * 10_000);
        assert_eq!(batch.records.len(), kept);
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
        assert!(Happened::start(&many).size() <= MAX_ARGV + RECORD_SIZE);
    }
}
