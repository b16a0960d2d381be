//! Tests that files, commands and tests named in documents exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;

use crate::Arguments;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Lists all files and directories of the repository, relative to its root.
fn tree() -> BTreeSet<PathBuf> {
    let mut tree = BTreeSet::new();
    let mut open = vec![root().to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if matches!(name, "target" | ".git") {
                continue;
            }
            tree.insert(path.strip_prefix(root()).unwrap().to_owned());
            if path.is_dir() && !path.is_symlink() {
                open.push(path);
            }
        }
    }
    tree
}

/// Reads all documents.
fn documents(tree: &BTreeSet<PathBuf>) -> Vec<(&Path, String)> {
    let markdown = |path: &&PathBuf| {
        path.extension().is_some_and(|it| it == "md")
            && (path.starts_with("docs") || path.components().count() == 1)
    };
    tree.iter()
        .filter(markdown)
        .map(|path| (&**path, fs::read_to_string(root().join(path)).unwrap()))
        .collect()
}

/// Returns the texts between single backquotes outside of code blocks.
fn spans(text: &str) -> impl Iterator<Item = String> {
    let mut in_block = false;
    let prose: Vec<&str> = text
        .lines()
        .filter(|line| {
            let fence = line.trim_start().starts_with("```");
            in_block ^= fence;
            !in_block && !fence
        })
        .collect();
    let prose = prose.join("\n");
    let spans: Vec<String> = prose
        .split('`')
        .skip(1)
        .step_by(2)
        .map(|span| span.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    spans.into_iter()
}

fn is_source(span: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    span.chars().all(plain)
        && [".rs", ".md", "bench-ratios.toml"]
            .iter()
            .any(|end| span.ends_with(end))
}

/// Returns whether it names a directory of this repository, from its root.
fn is_directory(span: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-/".contains(c);
    let top = [
        "orchestrator/",
        "cli/",
        "bench/",
        "guest-agent/",
        "protocol/",
        "testguest/",
        "docs/",
        "host/",
        "store/",
        "image/",
        "console/",
        "doctor/",
        "fuzz/",
    ];
    let top = top.iter().any(|top| span.starts_with(top));
    top && span.chars().all(plain)
}

#[test]
fn every_file_that_a_document_names_is_there() {
    let tree = tree();
    let mut missing = Vec::new();
    let mut found = 0;
    for (document, text) in documents(&tree) {
        for span in spans(&text) {
            // Exception: the name of one of Firecracker's own documents.
            if !(is_source(&span) || is_directory(&span)) || span.ends_with("prod-host-setup.md") {
                continue;
            }
            let path = Path::new(span.trim_end_matches('/'));
            match tree.iter().any(|there| there.ends_with(path)) {
                true => found += 1,
                false => missing.push(format!("{}: {span}", document.display())),
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(found > 100, "{found}");
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let tree = tree();
    let mut missing = Vec::new();
    let mut found = 0;
    for (document, text) in documents(&tree) {
        for link in text.split("](").skip(1) {
            let link = link.split(')').next().unwrap();
            let path = link.split('#').next().unwrap();
            if path.is_empty() || link.contains("://") {
                continue;
            }
            let from = root().join(document.parent().unwrap());
            match from.join(path).exists() {
                true => found += 1,
                false => missing.push(format!("{}: {link}", document.display())),
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(found > 10, "{found}");
}

#[test]
fn every_task_that_a_document_names_is_one_of_xtask() {
    let tree = tree();
    let command = Arguments::command();
    let tasks: BTreeSet<&str> = command
        .get_subcommands()
        .map(|task| task.get_name())
        .collect();
    let targets: BTreeSet<&str> = tree
        .iter()
        .filter(|path| path.starts_with("fuzz/fuzz_targets"))
        .filter_map(|path| path.file_stem()?.to_str())
        .collect();
    let mut wrong = Vec::new();
    for (document, text) in documents(&tree) {
        for command in text.split("cargo xtask ").skip(1) {
            let line = command.split(['`', '\n', ',', ';', '"']).next().unwrap();
            let mut words = line.split(' ');
            let task = words.next().unwrap();
            let named = task.chars().all(|c| c.is_ascii_lowercase());
            if named && !task.is_empty() && !tasks.contains(task) {
                wrong.push(format!("{}: {line}", document.display()));
            }
            // The last word is the fuzz target, if there is one.
            if task == "fuzz"
                && let Some(target) = words.next_back()
            {
                let named = target.contains('_') || target == "qmp";
                if named && !targets.contains(target) {
                    wrong.push(format!("{}: {line}", document.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Looks for test names of the threat model and other documents among the functions.
#[test]
fn every_test_that_a_document_names_is_there() {
    let tree = tree();
    let sources = tree
        .iter()
        .filter(|path| path.extension().is_some_and(|it| it == "rs"));
    let sources: String = sources
        .filter_map(|path| fs::read_to_string(root().join(path)).ok())
        .collect();
    let mut missing = Vec::new();
    let mut found = 0;
    for (document, text) in documents(&tree) {
        for span in spans(&text) {
            let name = span.rsplit("::").next().unwrap();
            let plain = name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            if !plain || name.matches('_').count() < 3 || name.starts_with("ironclaw_") {
                continue;
            }
            // Trials shared by several jails have names composed of parts.
            let shared = span
                .starts_with("taken_over::")
                .then(|| name.split_once("_gets_"));
            let there = match shared.flatten() {
                Some((jail, _)) => {
                    sources.contains(&format!("\"{jail}\"")) || sources.contains(name)
                }
                None => sources.contains(name),
            };
            match there {
                true => found += 1,
                false => missing.push(format!("{}: {span}", document.display())),
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(found > 10, "{found}");
}

#[test]
fn every_decision_is_in_the_list_of_decisions() {
    let tree = tree();
    let list = fs::read_to_string(root().join("docs/decisions/README.md")).unwrap();
    for path in tree
        .iter()
        .filter(|path| path.parent() == Some(Path::new("docs/decisions")))
    {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(
            name == "README.md" || list.contains(&format!("({name})")),
            "{name}"
        );
    }
}
