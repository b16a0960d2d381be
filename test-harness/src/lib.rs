//! A harness for suites with requirements that a machine may not meet: reports tests that can't run
//! there as ignored, with the reason. `rustc`'s own harness knows ignored tests at compile time
//! only.
//!
//! Tests are written as usual, with `#[test]` or `#[tokio::test]`. A suite has `harness = false` in
//! its `Cargo.toml`, and at its root:
//!
//! ```text
//! // The `test` attributes are those of the harness, and all else of Tokio is Tokio's.
//! #[macro_use]
//! #[allow(unused_imports, reason = "a suite may have asynchronous tests only")]
//! extern crate ironclaw_test_harness as tokio;
//!
//! fn main() -> std::process::ExitCode {
//!     ironclaw_test_harness::main()
//! }
//! ```
//!
//! A test that can't run here calls [`skipped`] and returns.
//! `cargo-nextest` runs a process for each test and has no tests ignored at run time: it shows the
//! reason, like other output, by `--success-output immediate`.

#![forbid(unsafe_code)]

mod arguments;

use std::cell::RefCell;
use std::fmt::Display;
use std::process::ExitCode;

pub use ironclaw_test_attribute::test;
use libtest_mimic::{Completion, Failed, Trial};
pub use tokio::*;

#[doc(hidden)]
pub use inventory;

thread_local! {
    /// The report of the test on this thread; `None` outside of tests.
    static TOLD: RefCell<Option<Told>> = const { RefCell::new(None) };
}

#[derive(Default)]
struct Told {
    reason: Option<String>,
}

/// Reports the test on this thread as ignored, unless it fails.
///
/// # Panics
/// On a thread without a test, such as one started by a test.
#[expect(clippy::panic, reason = "a test fails by panicking")]
pub fn skipped(reason: impl Display) {
    TOLD.with_borrow_mut(|told| match told {
        Some(told) => told.reason = Some(reason.to_string()),
        None => panic!("no test runs on this thread that could be skipped: {reason}"),
    });
}

/// Creates a trial that is ignored if it called [`skipped`].
pub fn trial(
    name: impl Into<String>,
    test: impl FnOnce() -> Result<(), Failed> + Send + 'static,
) -> Trial {
    Trial::ignorable_test(name, || {
        TOLD.set(Some(Told::default()));
        test()?;
        let reason = TOLD.take().and_then(|told| told.reason);
        Ok(reason.map_or(Completion::Completed, Completion::ignored_with))
    })
}

/// A test registered by an attribute.
#[doc(hidden)]
#[derive(Debug)]
pub struct Registered {
    /// Its path, which starts with the name of its suite.
    pub path: &'static str,
    /// The test function.
    pub test: fn(),
    /// Whether it runs only on request.
    pub is_ignored: bool,
}

inventory::collect!(Registered);

/// Registers a function as a test.
#[doc(hidden)]
#[macro_export]
macro_rules! register {
    ($name:ident, $is_ignored:literal) => {
        $crate::inventory::submit! {
            $crate::Registered {
                path: concat!(module_path!(), "::", stringify!($name)),
                test: $name,
                is_ignored: $is_ignored,
            }
        }
    };
}

impl Registered {
    fn trial(&self) -> Trial {
        let name = self
            .path
            .split_once("::")
            .map_or(self.path, |(_, name)| name);
        let test = self.test;
        let trial = trial(name, move || {
            test();
            Ok(())
        });
        trial.with_ignored_flag(self.is_ignored)
    }
}

/// Runs the tests of this suite.
pub fn main() -> ExitCode {
    run(Vec::new())
}

/// Runs the tests of this suite, and `others`.
pub fn run(others: Vec<Trial>) -> ExitCode {
    let registered = inventory::iter::<Registered>.into_iter();
    let mut trials: Vec<_> = registered.map(Registered::trial).chain(others).collect();
    trials.sort_by(|one, other| one.name().cmp(other.name()));
    let arguments = arguments::of_process(&trials);
    libtest_mimic::run(&arguments, trials).exit_code()
}
