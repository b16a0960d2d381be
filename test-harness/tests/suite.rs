//! Tests the harness by running this suite again, with tests in it, and checking the report.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

// The `test` attributes are those of the harness, and all else of Tokio is Tokio's.
#[macro_use]
extern crate ironclaw_test_harness as tokio;

use std::process::{Command, ExitCode, Output};

use ironclaw_test_harness::skipped;
use libtest_mimic::{Arguments, Trial};

/// Set in the inner run, which has the tests that are reported on.
const INNER: &str = "IRONCLAW_TEST_INNER_SUITE";
/// Makes one of the inner tests fail.
const FAILS: &str = "IRONCLAW_TEST_INNER_FAILS";

fn main() -> ExitCode {
    if std::env::var_os(INNER).is_some() {
        return ironclaw_test_harness::main();
    }
    let trials = vec![
        Trial::test("a_skipped_test_is_ignored_with_its_reason", || {
            skipped_is_ignored();
            Ok(())
        }),
        Trial::test("a_failure_after_a_skip_is_a_failure", || {
            failure_is_failure();
            Ok(())
        }),
        Trial::test("tests_are_found_by_their_names", || {
            found_by_name();
            Ok(())
        }),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

#[test]
fn passes() {}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn misses_something() {
    tokio::task::yield_now().await;
    skipped("there is no hypervisor");
    assert!(std::env::var_os(FAILS).is_none());
}

mod below {
    use std::time::Duration;

    use tokio::runtime::{Handle, RuntimeFlavor};
    use tokio::time::timeout;

    #[tokio::test]
    async fn has_a_runtime_of_one_thread() {
        let flavor = Handle::current().runtime_flavor();
        assert_eq!(flavor, RuntimeFlavor::CurrentThread);
        timeout(Duration::from_secs(60), async {}).await.unwrap();
    }

    #[test]
    #[ignore = "it has to be asked for"]
    fn has_to_be_asked_for() {}
}

fn inner(arguments: &[&str], environment: &[(&str, &str)]) -> (Output, String) {
    let mut suite = Command::new(std::env::current_exe().unwrap());
    suite.args(arguments).env(INNER, "1");
    let output = suite.envs(environment.iter().copied()).output().unwrap();
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    (output, said)
}

fn skipped_is_ignored() {
    let (output, said) = inner(&[], &[]);
    assert!(output.status.success(), "{said}");
    let line = said.lines().find(|line| line.contains("misses_something"));
    assert!(
        line.unwrap().ends_with("ignored (there is no hypervisor)"),
        "{said}"
    );
    assert!(said.contains("2 passed; 0 failed; 2 ignored"), "{said}");
}

fn failure_is_failure() {
    let (output, said) = inner(&[], &[(FAILS, "1")]);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("2 passed; 1 failed; 1 ignored"), "{said}");
}

fn found_by_name() {
    let one = "below::has_a_runtime_of_one_thread";
    for (arguments, result) in [
        (vec!["--exact", one], "1 passed; 0 failed; 0 ignored"),
        (vec!["below"], "1 passed; 0 failed; 1 ignored"),
        (vec!["--ignored"], "1 passed; 0 failed; 0 ignored"),
        (
            vec!["--include-ignored", "below"],
            "2 passed; 0 failed; 0 ignored",
        ),
        (
            vec!["thread", "pass"],
            "2 passed; 0 failed; 0 ignored; 0 measured; 2 filtered",
        ),
        (
            vec!["--exact", one, "passes"],
            "2 passed; 0 failed; 0 ignored",
        ),
        (
            vec!["--ignored", "passes", "below"],
            "1 passed; 0 failed; 0 ignored",
        ),
        (vec!["--skip", "below"], "1 passed; 0 failed; 1 ignored"),
    ] {
        let (_, said) = inner(&arguments, &[]);
        assert!(said.contains(result), "{arguments:?}: {said}");
    }
    // The arguments that cargo-nextest passes.
    let (_, listed) = inner(&["--list", "--format", "terse"], &[]);
    assert_eq!(
        listed,
        "below::has_a_runtime_of_one_thread: test\nbelow::has_to_be_asked_for: test\n\
         misses_something: test\npasses: test\n"
    );
}
