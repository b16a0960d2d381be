//! One source, any number of listeners, of which none misses anything.

use std::sync::{Mutex, PoisonError};

use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Events that wait for a listener; the source waits for the slowest one then.
const QUEUE: usize = 16;

/// Sends each event to everybody who listens at that time.
#[derive(Debug)]
pub(crate) struct FanOut<T> {
    /// `None` after the last event.
    listeners: Mutex<Option<Vec<Sender<T>>>>,
}

impl<T: Clone> FanOut<T> {
    /// Creates it with a first listener, which gets every event.
    pub(crate) fn new() -> (Self, Receiver<T>) {
        let (sender, receiver) = channel(QUEUE);
        let listeners = Mutex::new(Some(vec![sender]));
        (Self { listeners }, receiver)
    }

    /// Adds a listener, which gets what comes from now on; `None` if nothing comes any more.
    pub(crate) fn listen(&self) -> Option<Receiver<T>> {
        let (sender, receiver) = channel(QUEUE);
        self.with(|listeners| {
            let all = listeners.as_mut()?;
            all.push(sender);
            Some(receiver)
        })
    }

    /// Sends an event, and waits until each listener has room for it or is gone.
    pub(crate) async fn send(&self, event: T) {
        let all = self.with(|listeners| listeners.clone().unwrap_or_default());
        for listener in &all {
            // A listener that is gone misses nothing.
            let _ = listener.send(event.clone()).await;
        }
        self.with(|listeners| {
            if let Some(all) = listeners {
                all.retain(|listener| !listener.is_closed());
            }
        });
    }

    /// Ends it: who listens gets what was sent, then nothing.
    pub(crate) fn close(&self) {
        self.with(|listeners| *listeners = None);
    }

    fn with<R>(&self, work: impl FnOnce(&mut Option<Vec<Sender<T>>>) -> R) -> R {
        work(
            &mut self
                .listeners
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_listener_gets_what_comes_after_it_began_and_one_that_left_holds_up_nobody() {
        let (source, mut first) = FanOut::new();
        source.send(1).await;
        let mut second = source.listen().unwrap();
        drop(source.listen().unwrap());
        for event in 2..=QUEUE {
            source.send(event).await;
        }
        source.close();
        assert!(source.listen().is_none());
        let mut got = Vec::new();
        while let Some(event) = first.recv().await {
            got.push(event);
        }
        assert_eq!(got, (1..=QUEUE).collect::<Vec<_>>());
        assert_eq!(second.recv().await, Some(2));
    }
}
