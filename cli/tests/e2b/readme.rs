//! Runs the ten lines on the front page, as they are written there.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use ironclaw_test_harness::skipped;

use crate::apart::Apart;
use crate::vm::runs;
use crate::{NEWEST, python};

/// The address in the ten lines.
const ADDRESS: &str = "127.0.0.1:3000";

/// Returns the first block of this language in a section.
fn block<'a>(section: &'a str, language: &str) -> &'a str {
    let (_, block) = section.split_once(&format!("```{language}\n")).unwrap();
    block.split("```").next().unwrap()
}

#[test]
fn the_ten_lines_of_the_readme_print_what_it_says() {
    let Some(python) = runs().then(|| python(NEWEST)).flatten() else {
        return;
    };
    if let Err(error) = TcpListener::bind(ADDRESS) {
        return skipped(format!("something listens on {ADDRESS}: {error}"));
    }
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = fs::read_to_string(readme).unwrap();
    let (_, section) = readme.split_once("\n## In ten lines\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let (shell, script) = (block(section, "sh"), block(section, "python"));
    let code = [shell, script].map(|block| block.lines().filter(|line| !line.is_empty()).count());
    assert!(code[0] + code[1] <= 10, "these are more than ten lines");
    assert!(shell.contains(ADDRESS) && shell.contains("\npip install e2b\n"));
    // The daemon ends with the shell, and is waited for.
    let lines =
        format!("trap 'kill $!; wait $!' EXIT\n{shell}\npython <<'PYTHON'\n{script}\nPYTHON\n");
    let apart = Apart::new();
    let ironclaw = apart.ironclaw(&[]);
    let programs = [
        python.parent().unwrap(),
        Path::new(ironclaw.get_program()).parent().unwrap(),
    ];
    let path = std::env::var_os("PATH").unwrap();
    let programs = programs.into_iter().map(Path::to_owned);
    let path = std::env::join_paths(programs.chain(std::env::split_paths(&path))).unwrap();
    let mut bash = Command::new("bash");
    for (name, value) in ironclaw.get_envs() {
        match value {
            Some(value) => bash.env(name, value),
            None => bash.env_remove(name),
        };
    }
    // Others are built in the background, and cut off by the daemon's end.
    bash.env("IRONCLAW_POOL_SIZE", "1");
    // A version of pip that is newer than this is nothing that this test is about.
    bash.env("PATH", path)
        .env("PIP_DISABLE_PIP_VERSION_CHECK", "1");
    let output = bash.args(["-ec", &lines]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let told = block(section, "text");
    assert!(output.status.success(), "{output:?}");
    assert!(
        said.trim_end().ends_with(&format!("\n{}", told.trim_end())),
        "{output:?}"
    );
    // A snapshot that was being built meanwhile is swept by the next daemon.
    assert!(apart.processes().is_empty(), "VMs outlive their daemon");
}
