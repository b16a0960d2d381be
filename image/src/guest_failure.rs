//! Errors of guests, whoever runs them.

use std::error::Error;

/// The reason why a program in a guest did not do what it should.
pub type GuestFailure = Box<dyn Error + Send + Sync>;
