//! What a suite is asked for.

use clap::Parser;
use libtest_mimic::{Arguments, Trial};

/// The arguments of rustc's harness. `libtest-mimic` has most of them.
#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    arguments: Arguments,
    /// More filters: a test that one of them fits is run.
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

/// The arguments of this process, by which some of `trials` are run.
pub(crate) fn of_process(trials: &[Trial]) -> Arguments {
    let Line {
        mut arguments,
        filters,
    } = Line::parse();
    let threads = std::env::var("RUST_TEST_THREADS").ok();
    let threads = threads.and_then(|threads| threads.parse().ok());
    arguments.test_threads = arguments.test_threads.or(threads);
    if filters.is_empty() {
        return arguments;
    }
    // There is one filter in them, and as many names to skip as one likes.
    let first = arguments.filter.take();
    let of_each = filters.into_iter().chain(first).map(|filter| Arguments {
        filter: Some(filter),
        ..arguments.clone()
    });
    let of_each: Vec<_> = of_each.collect();
    let is_skipped = |trial: &&Trial| of_each.iter().all(|one| one.is_filtered_out(trial));
    let skipped = trials.iter().filter(is_skipped);
    Arguments {
        skip: skipped.map(|trial| trial.name().to_owned()).collect(),
        exact: true,
        ..arguments
    }
}
