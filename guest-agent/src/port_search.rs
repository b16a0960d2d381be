//! Waits for the serial port to appear.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::console::say;
use crate::serial::{self, SerialPort};
use crate::uevents;

/// The first and the longest pause between two attempts to open a port that can't be opened yet:
/// the driver sends no event when it can.
const RETRY: (Duration, Duration) = (Duration::from_millis(2), Duration::from_secs(1));

/// The search for a port that may never come: a guest may have only vsock.
#[derive(Debug)]
pub(crate) struct PortSearch {
    /// Events about new devices; without them the search polls.
    devices: Option<OwnedFd>,
    /// The time of the next attempt, unless an event comes before.
    next: Option<Instant>,
    pause: Duration,
}

impl PortSearch {
    /// Starts watching for new devices, so that none is missed between two attempts.
    pub(crate) fn start() -> Self {
        let devices = uevents::watch();
        if let Err(error) = &devices {
            say(format_args!("watch for devices: {error}"));
        }
        Self {
            devices: devices.ok(),
            next: Some(Instant::now()),
            pause: RETRY.0,
        }
    }

    /// Returns the descriptor of the events.
    pub(crate) fn devices(&self) -> Option<BorrowedFd<'_>> {
        self.devices.as_ref().map(AsFd::as_fd)
    }

    /// Handles an event: tries again at once.
    pub(crate) fn announced(&mut self) {
        if let Some(devices) = self.devices() {
            uevents::drain(devices);
        }
        self.next = Some(Instant::now());
    }

    /// Returns the time of the next attempt, if there is one.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// Tries to open the port, if it is time.
    pub(crate) fn look(&mut self, now: Instant) -> Option<SerialPort> {
        if self.next.is_none_or(|next| next > now) {
            return None;
        }
        let found = serial::find();
        if let Some(port) = found
            .as_deref()
            .and_then(|node| SerialPort::open(node).ok())
        {
            return Some(port);
        }
        let by_time = found.is_some() || self.devices.is_none();
        self.next = by_time.then(|| now + self.pause);
        self.pause = (2 * self.pause).min(RETRY.1);
        None
    }
}
