//! A transfer that goes on where it broke off.

use std::io::{self, Read};
use std::thread;
use std::time::{Duration, Instant};

use ironclaw_host::untrusted;
use ureq::http::header::CONTENT_RANGE;
use ureq::http::{Response, StatusCode};
use ureq::{Body, BodyReader};

use super::super::registry_error::RegistryError;
use super::backoff::{Backoff, MAX_ATTEMPTS};
use super::session::Session;

/// A transfer that brings less in so much time is broken off: some bytes now and then would keep it for ever.
const MIN_BYTES: u64 = 64 << 10;
const MIN_BYTES_INTERVAL: Duration = Duration::from_secs(60);

/// Reads a document or a blob. Asks for the rest of it, by a range, when the connection ends before.
pub(crate) struct Download<'s> {
    session: &'s Session,
    part: String,
    /// Its size, if it is known.
    size: Option<u64>,
    body: Option<BodyReader<'static>>,
    /// The number of bytes that were read.
    at: u64,
    /// The number of bytes at the last failure.
    failed_at: u64,
    /// What comes again of it, from a registry that knows no ranges.
    surplus: u64,
    backoff: Backoff,
    pace: Pace,
    failure: Option<RegistryError>,
}

impl<'s> Download<'s> {
    pub(super) fn new(session: &'s Session, part: String, size: Option<u64>) -> Self {
        Self {
            session,
            part,
            size,
            body: None,
            at: 0,
            failed_at: 0,
            surplus: 0,
            backoff: Backoff::default(),
            pace: Pace::default(),
            failure: None,
        }
    }

    /// Returns why it could not be read, if that was the registry's fault.
    pub(crate) fn failure(&mut self) -> Option<RegistryError> {
        self.failure.take()
    }

    fn open(&mut self) -> Result<BodyReader<'static>, RegistryError> {
        let response = self.session.get(&self.part, self.at, &mut self.backoff)?;
        let begin = begin(&response);
        let surplus = begin.and_then(|begin| self.at.checked_sub(begin));
        self.surplus = surplus.ok_or_else(|| self.protocol("it begins elsewhere"))?;
        let end = begin.zip(response.body().content_length());
        let end = end.map(|(begin, length)| begin.saturating_add(length));
        if let (Some(size), Some(end)) = (self.size, end)
            && size != end
        {
            let text = format!("it has {end} bytes, and its image says {size}");
            return Err(self.protocol(&text));
        }
        // Who reads it has limits of his own.
        let body = response.into_body().into_with_config().limit(u64::MAX);
        Ok(body.reader())
    }

    fn protocol(&self, reason: &str) -> RegistryError {
        RegistryError::Protocol {
            host: self.session.host().to_owned(),
            reason: format!("{}: {reason}", untrusted::line(&self.part)),
        }
    }

    /// Notes that the transfer broke off, and waits. An error if it is given up.
    fn broke_off(&mut self, error: &io::Error) -> Result<(), RegistryError> {
        self.body = None;
        if self.at - self.failed_at >= MIN_BYTES {
            self.backoff.reset();
        }
        self.failed_at = self.at;
        match self.backoff.failed(None) {
            Some(pause) => {
                tracing::debug!(part = self.part, at = self.at, %error, "the transfer broke off");
                thread::sleep(pause);
                self.pace = Pace::default();
                Ok(())
            }
            None => Err(self.interrupted(error)),
        }
    }

    fn interrupted(&self, error: &io::Error) -> RegistryError {
        RegistryError::Interrupted {
            host: self.session.host().to_owned(),
            what: untrusted::line(&self.part),
            at: self.at,
            attempts: MAX_ATTEMPTS,
            reason: untrusted::message(&error.to_string()),
        }
    }

    fn read_on(&mut self, buffer: &mut [u8]) -> Result<usize, RegistryError> {
        loop {
            let mut body = match self.body.take() {
                Some(body) => body,
                None => self.open()?,
            };
            match self.read_of(&mut body, buffer) {
                // All of it came before.
                Ok((0, true)) => self.body = Some(body),
                Ok((read, _)) => {
                    self.at += read as u64;
                    self.body = Some(body);
                    return Ok(read);
                }
                Err(error) => self.broke_off(&error)?,
            }
        }
    }

    /// Reads what did not come before. Returns how much that is, and whether more may follow if it is
    /// nothing.
    fn read_of(
        &mut self,
        body: &mut BodyReader<'static>,
        buffer: &mut [u8],
    ) -> io::Result<(usize, bool)> {
        let begun = Instant::now();
        let read = body.read(buffer)?;
        self.pace.note(read as u64, begun.elapsed())?;
        let is_short = self.surplus > 0 || self.size.is_some_and(|size| self.at < size);
        if read == 0 && is_short && !buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let again = usize::try_from(self.surplus)
            .unwrap_or(usize::MAX)
            .min(read);
        self.surplus -= again as u64;
        buffer.copy_within(again..read, 0);
        Ok((read - again, again > 0))
    }
}

impl Read for Download<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_on(buffer).map_err(|failure| {
            self.failure = Some(failure.clone());
            io::Error::other(failure)
        })
    }
}

/// Where the content of an answer begins; `None` if it is not what was asked for.
fn begin(response: &Response<Body>) -> Option<u64> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Some(0);
    }
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    let begin = range.strip_prefix("bytes ")?.split('-').next()?;
    begin.parse().ok()
}

/// How fast bytes come, while somebody waits for them.
#[derive(Debug, Default)]
struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// Notes that bytes came after a time; an error if they are too few.
    fn note(&mut self, bytes: u64, time: Duration) -> io::Result<()> {
        self.bytes += bytes;
        self.waited += time;
        if self.waited < MIN_BYTES_INTERVAL {
            return Ok(());
        }
        let Self { bytes, .. } = std::mem::take(self);
        if bytes < MIN_BYTES {
            let text = format!("{bytes} bytes came in a minute");
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trickle_is_broken_off_and_a_slow_line_is_not() {
        let second = Duration::from_secs(1);
        let mut trickle = Pace::default();
        let result = (0..60).try_for_each(|_| trickle.note(10, second));
        assert_eq!(
            result.unwrap_err().to_string(),
            "600 bytes came in a minute"
        );
        let mut slow = Pace::default();
        assert!((0..600).all(|_| slow.note(2000, second).is_ok()));
    }
}
