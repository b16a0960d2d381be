//! Tests that commands and options of `ironclaw` named in documents exist.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn documents() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let decisions = root.join("docs/decisions");
    let mut documents = Vec::new();
    for directory in [root.to_owned(), root.join("docs"), decisions] {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|it| it == "md") {
                documents.push((path.clone(), fs::read_to_string(path).unwrap()));
            }
        }
    }
    documents
}

fn help(words: &[&str]) -> String {
    let mut ironclaw = Command::new(env!("CARGO_BIN_EXE_ironclaw"));
    let said = ironclaw.args(words).arg("--help").output().unwrap();
    assert!(said.status.success(), "ironclaw {} --help", words.join(" "));
    String::from_utf8(said.stdout).unwrap()
}

/// Returns the commands listed in a help.
fn commands(help: &str) -> BTreeSet<String> {
    let section = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    section
        .take_while(|line| !line.is_empty())
        // Exactly two spaces: more of them begin the second lines of descriptions.
        .filter_map(|line| line.strip_prefix("  "))
        .filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()))
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect()
}

/// Returns the help of every command, by its words.
fn all() -> BTreeMap<Vec<String>, String> {
    let mut all = BTreeMap::new();
    let mut open = vec![Vec::<String>::new()];
    while let Some(words) = open.pop() {
        let help = help(&words.iter().map(String::as_str).collect::<Vec<_>>());
        for command in commands(&help) {
            if command != "help" {
                open.push([&words[..], &[command]].concat());
            }
        }
        all.insert(words, help);
    }
    all
}

#[test]
fn every_command_and_option_that_a_document_names_is_one_of_ironclaw() {
    let all = all();
    assert!(all.len() > 10, "{:?}", all.keys());
    let mut wrong = Vec::new();
    let mut found = 0;
    for (document, text) in documents() {
        // A command is in backquotes or in a line of a code block.
        let starts = [
            "`ironclaw ",
            "release/ironclaw ",
            "\nironclaw ",
            "$ ironclaw ",
        ];
        let named = starts.iter().flat_map(|start| text.split(start).skip(1));
        for rest in named {
            let line = rest.split(['`', '\n', '|', ';', '"', '(']).next().unwrap();
            // The rest is the guest's command.
            let line = line.split(" -- ").next().unwrap();
            let mut words = Vec::new();
            let mut rest = line.split(' ').peekable();
            while let Some(word) = rest.next_if(|word| {
                let longer = [&words[..], &[(*word).to_owned()]].concat();
                all.contains_key(&longer)
            }) {
                words.push(word.to_owned());
            }
            let told = || format!("{}: ironclaw {line}", document.display());
            let is_plain = |word: &&str| word.chars().all(|c| c.is_ascii_lowercase());
            let group = !commands(&all[&words]).is_empty();
            if group
                && rest
                    .peek()
                    .is_some_and(|word| is_plain(word) && !word.is_empty())
            {
                wrong.push(told());
                continue;
            }
            found += 1;
            for option in rest.filter(|word| word.starts_with("--")) {
                let name = option
                    .split('=')
                    .next()
                    .unwrap()
                    .trim_end_matches(['.', ',', ':']);
                if !all[&words].contains(name) {
                    wrong.push(told());
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(found > 30, "{found}");
}
