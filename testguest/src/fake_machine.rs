//! A machine for unit tests: its clock goes when told to.

use alloc::boxed::Box;
use alloc::rc::Rc;
use core::cell::Cell;
use core::time::Duration;

use crate::guest::{Guest, Machine};

#[derive(Debug, Clone, Default)]
pub(crate) struct FakeMachine {
    pub(crate) now: Rc<Cell<Duration>>,
    pub(crate) dirtied: Rc<Cell<u32>>,
}

impl FakeMachine {
    pub(crate) fn guest(&self) -> Guest {
        Guest::new(Box::new(self.clone()), b"test")
    }

    pub(crate) fn pass(&self, milliseconds: u64) {
        self.now
            .set(self.now.get() + Duration::from_millis(milliseconds));
    }
}

impl Machine for FakeMachine {
    fn uptime(&self) -> Duration {
        self.now.get()
    }

    fn spare_mebibytes(&self) -> u32 {
        40
    }

    fn dirty_mebibyte(&mut self, _: u32) {
        self.dirtied.set(self.dirtied.get() + 1);
    }
}
