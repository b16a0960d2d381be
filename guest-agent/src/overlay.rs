//! The two layers of a root disk, as far as an agent has to look below the root that they make.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

/// The layers, open. Commands do not inherit them.
#[derive(Debug, Clone)]
pub(crate) struct Overlay(Rc<Layers>);

#[derive(Debug)]
struct Layers {
    upper: OwnedFd,
    lower: OwnedFd,
}

impl Overlay {
    pub(crate) fn new(upper: OwnedFd, lower: OwnedFd) -> Self {
        Self(Rc::new(Layers { upper, lower }))
    }

    /// Returns the directory with what this guest has written.
    pub(crate) fn upper(&self) -> BorrowedFd<'_> {
        self.0.upper.as_fd()
    }

    /// Returns the root of the image.
    pub(crate) fn lower(&self) -> BorrowedFd<'_> {
        self.0.lower.as_fd()
    }
}
