//! Tests that the guide matches the product.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

// The `test` attribute is that of the harness.
#[macro_use]
extern crate ironclaw_test_harness;

mod vm;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use ironclaw_orchestrator::template::Sha256Digest;
use ironclaw_orchestrator::vm::config::SETTINGS;
use ironclaw_settings::with_variables;
use proc_macro2::{TokenStream, TokenTree};

fn main() -> std::process::ExitCode {
    ironclaw_test_harness::main()
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn guide() -> String {
    fs::read_to_string(repository().join("docs/snapshot-pool-guide.md")).unwrap()
}

/// Returns the rows of the table below `heading`, as cells.
fn table(heading: &str) -> Vec<Vec<String>> {
    let guide = guide();
    let (_, section) = guide.split_once(heading).unwrap();
    let rows = section
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'));
    // Skips the head.
    rows.skip(2)
        .map(|row| {
            let cells = row.trim_matches('|').split('|');
            cells.map(|cell| cell.trim().to_owned()).collect()
        })
        .collect()
}

#[test]
fn every_setting_is_in_the_guide_with_its_default_and_what_it_takes() {
    let plain = |cell: &str| cell.replace('`', "");
    let told: Vec<_> = table("## Settings")
        .iter()
        .map(|row| [plain(&row[0]), plain(&row[1]), plain(&row[2])])
        .collect();
    let plain = |text: &str| plain(&with_variables(text, SETTINGS));
    let known: Vec<_> = SETTINGS
        .iter()
        .map(|setting| {
            let (default, meaning) = (setting.default.to_string(), setting.expected());
            [setting.variable(), plain(&default), plain(&meaning)]
        })
        .collect();
    assert_eq!(told, known);
}

#[test]
fn every_metric_is_in_the_guide() {
    let source = repository().join("orchestrator/src/metrics.rs");
    let source = fs::read_to_string(source).unwrap();
    let constants = source.lines().filter(|line| line.starts_with("pub const "));
    let known: BTreeSet<_> = constants
        .map(|line| line.split('"').nth(1).unwrap().to_owned())
        .collect();
    let told: BTreeSet<_> = table("what the pool takes of the host")
        .iter()
        .map(|row| row[0].replace('`', ""))
        .collect();
    assert!(known.len() > 10);
    assert_eq!(told, known);
}

#[test]
fn every_exit_code_is_in_the_guide_with_its_meaning() {
    let help = Command::new(env!("CARGO_BIN_EXE_ironclaw"))
        .args(["run", "--help"])
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let (_, section) = help.split_once("Exit codes:").unwrap();
    let (section, _) = section.split_once("Environment variables:").unwrap();
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let told: Vec<_> = table("Exit codes tell")
        .iter()
        .map(|row| words(&row.join(" ")))
        .collect();
    assert_eq!(told.join(" "), words(section));
}

/// Returns the help of a command and of all its subcommands.
fn helps(command: &str) -> Vec<String> {
    let words = command.split_whitespace().chain(["--help"]);
    let help = Command::new(env!("CARGO_BIN_EXE_ironclaw"))
        .args(words)
        .output();
    let help = String::from_utf8(help.unwrap().stdout).unwrap();
    let (_, below) = help.split_once("\nCommands:\n").unwrap_or_default();
    let mut all = Vec::new();
    for line in below.lines().take_while(|line| !line.is_empty()) {
        // A description may continue in lines that are indented more.
        match line
            .strip_prefix("  ")
            .and_then(|line| line.split_once("  "))
        {
            None | Some(("" | "help", _)) => {}
            Some((name, _)) => all.extend(helps(&format!("{command} {name}"))),
        }
    }
    all.push(help);
    all
}

/// Returns the examples of a help.
fn examples(help: &str) -> Vec<String> {
    let (_, section) = help.split_once("Examples:\n").unwrap_or_default();
    let mut all: Vec<String> = Vec::new();
    for line in section.lines().map_while(|line| line.strip_prefix("  ")) {
        match (line.starts_with(' '), all.last_mut()) {
            (true, Some(begun)) => *begun = format!("{begun}\n{line}"),
            // A remark may follow.
            _ => all.push(line.split("   ").next().unwrap().to_owned()),
        }
    }
    all
}

/// Orders examples, so that none removes what another needs.
fn turn(example: &str) -> usize {
    let later = [
        "snapshot delete",
        "template import",
        "template list",
        "template delete --all",
    ];
    let turn = later.iter().rposition(|part| example.contains(part));
    turn.map_or(0, |turn| turn + 1)
}

#[test]
fn every_example_of_every_help_works_as_written() {
    let mut all: Vec<_> = helps("").iter().flat_map(|help| examples(help)).collect();
    all.sort_by_key(|example| turn(example));
    all.dedup();
    assert!(all.len() > 40, "{all:#?}");
    if !vm::runs() {
        return;
    }
    let built = vm::ironclaw("command-line", &["run", "--", "true"]).output();
    assert!(built.as_ref().unwrap().status.success(), "{built:?}");
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let bash = |script: &str| {
        let mut bash = vm::ironclaw("command-line", &[]);
        let program = Path::new(bash.get_program()).parent().unwrap().to_owned();
        let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
        let settings: Vec<_> = bash
            .get_envs()
            .map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned)))
            .collect();
        bash = Command::new("bash");
        for (name, value) in settings {
            match value {
                Some(value) => bash.env(name, value),
                None => bash.env_remove(name),
            };
        }
        for (name, state) in [
            ("IRONCLAW_SNAPSHOT_PATH", "snapshots"),
            ("IRONCLAW_TEMPLATE_PATH", "templates"),
            ("IRONCLAW_RUN_PATH", "run"),
        ] {
            bash.env(name, here.join(state));
        }
        bash.env("PATH", path).env("HOME", here).current_dir(here);
        // The example with five of them shows no more.
        bash.env("IRONCLAW_POOL_SIZE", "2");
        bash.args(["-o", "pipefail", "-c", script])
            .output()
            .unwrap()
    };
    let templates = vm::state().join("templates");
    let prepared = bash(&format!(
        "mkdir -m 700 templates && cp -a '{0}/.' templates && \
         cp templates/default/vmlinux vmlinux && cp vmlinux unikernel.elf && \
         cp templates/default/initramfs initrd.img && mkdir -p .local/share/bash-completion/completions \
         && ironclaw snapshot create",
        templates.display()
    ));
    assert!(prepared.status.success(), "{prepared:?}");
    let has_jq = bash("command -v jq").status.success();
    for example in all {
        // Slow commands have tests of their own, or need more than every machine has.
        let is_long = [
            "soak",
            "bench",
            "template build",
            "ironclaw serve",
            // These need a daemon.
            "ironclaw create",
            "ironclaw ls",
            "ironclaw exec",
            "ironclaw pause",
            "ironclaw resume",
            "ironclaw fork",
            "ironclaw rm",
            "ironclaw cp",
            "ironclaw logs",
            "ironclaw port",
            // It serves until it is ended, and tests of its own reach it.
            "ironclaw run -p",
            "docker:",
            "zsh",
        ];
        let is_parsed_only = is_long.iter().any(|part| example.contains(part))
            || (example.contains("jq") && !has_jq);
        let (script, code) = if is_parsed_only {
            // Ours alone: others' may need a network.
            let ours = &example[example.find("ironclaw").unwrap()..];
            let command = ours.split(['|', '>', '\n']).next().unwrap();
            let command = command.split(" && ironclaw ").next().unwrap();
            let command = command.split(" -- ").next().unwrap();
            (format!("{command} --help"), 0)
        } else if let Some(rest) = example.strip_prefix("timeout 1m ") {
            (format!("timeout 5 {rest}"), 124)
        } else if example.contains("run -it") {
            // There is no terminal here; tests of its own have one.
            (example.clone(), 2)
        } else if example.contains(EXAMPLE_ID) {
            let id =
                "$(ironclaw snapshot list --json | grep -o '\"id\":\"[^\"]*' | head -1 | cut -c7-)";
            (example.replace(EXAMPLE_ID, id), 0)
        } else {
            (example.clone(), 0)
        };
        let output = bash(&script);
        assert_eq!(output.status.code(), Some(code), "{script}: {output:?}");
    }
}

/// Stands for a snapshot's id.
const EXAMPLE_ID: &str = "0192f0c1-7a2b-7c3d-8e4f-5a6b7c8d9e0f";

/// Returns all string literals of the library, one a line: texts of errors are attributes,
/// constants and arguments of `format!`.
fn messages() -> String {
    let mut all = String::new();
    let mut directories: Vec<_> = [
        "host/src",
        "image/src",
        "orchestrator/src",
        "settings/src",
        "store/src",
    ]
    .map(|path| repository().join(path))
    .into();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let source = fs::read_to_string(path).unwrap();
            // Comments of items are attributes to the parser.
            let code = source
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"));
            let code: TokenStream = code.collect::<Vec<_>>().join("\n").parse().unwrap();
            literals(code, &mut all);
        }
    }
    all
}

fn literals(tokens: TokenStream, all: &mut String) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => literals(group.stream(), all),
            TokenTree::Literal(literal) => {
                if let Ok(text) = syn::parse2::<syn::LitStr>(TokenTree::Literal(literal).into()) {
                    let text = with_variables(&text.value(), SETTINGS);
                    all.push_str(&text.split_whitespace().collect::<Vec<_>>().join(" "));
                    all.push('\n');
                }
            }
            _ => {}
        }
    }
}

#[test]
fn every_message_in_the_guide_is_one_of_the_library() {
    let messages = messages();
    let rows = table("## Troubleshooting");
    assert!(rows.len() > 10);
    for row in rows {
        let quoted = row[0].trim_matches('`');
        let parts: Vec<_> = quoted.split('…').map(str::trim).collect();
        let has_all = |message: &str| {
            let mut rest = message;
            parts.iter().all(|part| match rest.split_once(part) {
                Some((_, after)) => {
                    rest = after;
                    true
                }
                None => false,
            })
        };
        assert!(messages.lines().any(has_all), "nothing says {quoted:?}");
    }
}

#[test]
fn the_code_in_the_guide_and_in_the_readme_is_that_of_the_examples() {
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    for (text, example) in [(guide(), "own_pool"), (readme, "quickstart")] {
        let path = format!("orchestrator/examples/{example}.rs");
        let source = fs::read_to_string(repository().join(path)).unwrap();
        let block = text.split("```rust\n").nth(1).unwrap();
        let block = block.split("```").next().unwrap();
        assert!(source.ends_with(block), "{example} differs");
    }
}

/// The image of the guide to templates, made with the tools that a template is built with.
fn busybox_image(directory: &Path) {
    let root = directory.join("root");
    let made = bash_in(
        directory,
        &format!(
            "mkdir -p root/bin root/etc root/app && dpkg-deb -x '{}'/.cache/busybox-static*.deb deb && \
             cp deb/bin/busybox root/bin/ && for applet in sh id pwd echo env; do \
             ln -s busybox root/bin/$applet; done && \
             printf '%s\\n' root:x:0:0::/root:/bin/sh app:x:1000:1000::/app:/bin/sh > root/etc/passwd && \
             tar --numeric-owner --owner=0 --group=0 -cf layer.tar -C '{}' .",
            vm::state().join("templates").display(),
            root.display(),
        ),
    );
    assert!(made.status.success(), "{made:?}");
    let blobs = directory.join("busybox/blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let add = |content: &[u8]| {
        let digest = Sha256Digest::of(content);
        fs::write(blobs.join(digest.to_string()), content).unwrap();
        let size = content.len();
        serde_json::json!({"digest": format!("sha256:{digest}"), "size": size})
    };
    let layer = add(&fs::read(directory.join("layer.tar")).unwrap());
    let config = serde_json::json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Env": ["PATH=/bin", "GREETING=hello"],
            "User": "app",
            "WorkingDir": "/srv/data",
            "Entrypoint": ["sh", "-c"],
            "Cmd": ["echo $GREETING from $(id -un) in $(pwd)"],
            "StopSignal": "SIGUSR1",
            "Labels": {"maker": "us"},
        },
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    });
    let config = add(config.to_string().as_bytes());
    let manifest = serde_json::json!({"schemaVersion": 2, "config": config, "layers": [layer]});
    let manifest = add(manifest.to_string().as_bytes());
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(directory.join("busybox/index.json"), index.to_string()).unwrap();
    let version = "{\"imageLayoutVersion\": \"1.0.0\"}";
    fs::write(directory.join("busybox/oci-layout"), version).unwrap();
}

fn bash_in(directory: &Path, script: &str) -> std::process::Output {
    let mut command = Command::new("bash");
    command.arg("-ec").arg(script).current_dir(directory);
    command.output().unwrap()
}

#[test]
fn the_commands_of_the_guide_to_templates_print_what_it_says() {
    if !vm::runs() {
        return;
    }
    // Its kernel's packages, and busybox, are there then.
    let mut build = vm::ironclaw("templates-guide", &["template", "build", "minimal"]);
    let built = build.output().unwrap();
    assert!(built.status.success(), "{built:?}");
    let directory = tempfile::tempdir().unwrap();
    busybox_image(directory.path());
    let copy = directory.path().join("templates.md");
    let guide = fs::read_to_string(repository().join("docs/templates.md")).unwrap();
    let image = directory.path().join("busybox");
    // Its commands run elsewhere.
    let guide = guide.replace("oci:busybox", &format!("oci:{}", image.display()));
    fs::write(&copy, guide).unwrap();
    let commands = trycmd::TestCases::new();
    for (name, path) in vm::settings("templates-guide") {
        commands.env(name, path.to_str().unwrap());
    }
    commands.case(&copy);
}

#[test]
fn the_commands_of_the_guide_print_what_it_says() {
    if !vm::runs() {
        return;
    }
    let commands = trycmd::TestCases::new();
    commands.env("IRONCLAW_POOL_SIZE", "2");
    // Uses snapshots of its own, because their number is printed: not even those of an earlier build.
    let snapshots = vm::state().join("guide-commands");
    if snapshots.exists() {
        fs::remove_dir_all(&snapshots).unwrap();
    }
    for (name, path) in vm::settings("guide-commands") {
        commands.env(name, path.to_str().unwrap());
    }
    commands.case(repository().join("docs/snapshot-pool-guide.md"));
}
