//! What a build needs guests for.

use std::fs::File;

use crate::guest_failure::GuestFailure;
use crate::root_origin::ImageConfig;
use crate::template::Template;

/// A program of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Program {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Variables beside those of `config`.
    pub env: Vec<(String, String)>,
    /// The user, the directory and the environment.
    pub config: ImageConfig,
}

impl Program {
    /// Creates one.
    #[must_use]
    pub fn new(argv: Vec<String>, env: Vec<(String, String)>, config: ImageConfig) -> Self {
        Self { argv, env, config }
    }
}

/// Runs programs in guests of unfinished templates. The methods block.
pub trait Guests {
    /// Runs a program in a fresh guest of `template`, and writes what it changed to `changes`: a tar
    /// archive with whiteouts, as a layer of an image is.
    ///
    /// # Errors
    /// The guest did not come up, or the program failed; what is in `changes` is of no use then.
    fn run(
        &mut self,
        template: &Template,
        program: &Program,
        changes: &mut File,
    ) -> Result<(), GuestFailure>;

    /// Runs the template's warm-up programs in a fresh guest, and returns how many bytes of memory
    /// it had less after them.
    ///
    /// # Errors
    /// The guest did not come up, or a program failed.
    fn warm(&mut self, template: &Template) -> Result<u64, GuestFailure>;
}
