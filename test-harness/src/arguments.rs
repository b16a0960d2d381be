//! The arguments of a suite.

use clap::Parser;
use libtest_mimic::{Arguments, Trial};

/// The arguments of rustc's harness, most of which `libtest-mimic` parses.
#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    arguments: Arguments,
    /// Additional filters: a test that matches any of them is run.
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

/// Parses the arguments of this process, which select some of `trials`.
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
    // `libtest-mimic` takes one filter, but any number of names to skip.
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
