//! Runs tests and lints, as CI does.

use anyhow::{Result, ensure};

use crate::build::{self, TESTGUEST};
use crate::workspace::Workspace;
use crate::{fuzz, packages, setting_names, step, structure};

/// The library, and the sets of its features that embedders have: of prepared templates, with a
/// backend of their own or one of ours.
const LIBRARY: &str = "ironclaw-orchestrator";
const LIBRARY_FEATURES: [&str; 3] = ["", "firecracker", "qemu"];

/// Runs all tests, with the guest agent and the bare-metal guest.
pub(crate) fn test(workspace: &Workspace) -> Result<()> {
    packages::ensure_installed_for_tests(workspace)?;
    let agent = build::agent(workspace)?;
    let mut tests = workspace.cargo(&["test", "--workspace", "--no-fail-fast"]);
    tests
        .env("IRONCLAW_GUEST_AGENT", agent)
        // The requirements of VMs are installed: a test that misses one fails.
        .env("IRONCLAW_TEST_REQUIRE_VM", "1");
    if let Some(image) = build::testguest(workspace)? {
        tests.env("IRONCLAW_TESTGUEST", image);
    }
    step::run(&mut tests)?;
    // With fewer features the library's tests are among these; clippy compiles them with each set.
    step::run(&mut workspace.cargo(&["test", "--manifest-path", TESTGUEST, "--lib"]))
}

/// Checks structure, formatting, clippy and documentation.
pub(crate) fn lint(workspace: &Workspace) -> Result<()> {
    structure::check(workspace.root())?;
    setting_names::check(workspace.root())?;
    let deny = ["--", "-D", "warnings"];
    step::run(&mut workspace.cargo(&["fmt", "--all", "--check"]))?;
    for manifest in [TESTGUEST, fuzz::MANIFEST] {
        step::run(&mut workspace.cargo(&["fmt", "--manifest-path", manifest, "--check"]))?;
    }
    step::run(
        workspace
            .cargo(&["clippy", "--workspace", "--all-targets"])
            .args(deny),
    )?;
    for features in LIBRARY_FEATURES {
        let chosen = [
            "-p",
            LIBRARY,
            "--no-default-features",
            "--features",
            features,
        ];
        // Its tests, examples and benches, too, as far as they need no other features.
        step::run(
            workspace
                .cargo(&["clippy", "--all-targets"])
                .args(chosen)
                .args(deny),
        )?;
        let tree = ["tree", "--edges", "normal", "--prefix", "none"];
        without_compression(&step::output(workspace.cargo(&tree).args(chosen))?)?;
    }
    step::run(
        workspace
            .cargo(&["clippy", "--manifest-path", TESTGUEST, "--lib"])
            .args(deny),
    )?;
    step::run(
        workspace
            .cargo(&["doc", "--workspace", "--no-deps"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )
}

/// Refuses a tree of dependencies with liblzma: an embedder of prepared templates would have to build
/// it, or to link it.
fn without_compression(tree: &str) -> Result<()> {
    let found = tree.lines().find(|line| line.contains("lzma"));
    ensure!(
        found.is_none(),
        "without the feature `debian`, {LIBRARY} depends on {}",
        found.unwrap_or_default()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_with_liblzma_is_refused() {
        let tree = "ironclaw-orchestrator v0.1.0 (/src)\nlibc v0.2.191\n";
        assert!(without_compression(tree).is_ok());
        let error = without_compression(&format!("{tree}liblzma v0.4.4\n")).unwrap_err();
        assert!(error.to_string().contains("liblzma v0.4.4"), "{error}");
    }
}
