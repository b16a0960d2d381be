use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use ironclaw_store::Sha256Digest;

use super::*;
use crate::erofs::reader;
use crate::guest_failure::GuestFailure;
use crate::guests::Program;
use crate::recipe::{Action, Base, Context, Copy, DockerfileSteps, Planned, Step as RecipeStep};
use crate::step_cache::StepKey;
use crate::{TemplateStore, fixture};
use ironclaw_store::Artefact as _;

/// A guest that has no kernel: what programs change is given beforehand.
#[derive(Default)]
struct Fake {
    /// The programs that were run.
    ran: Vec<Vec<String>>,
    /// What warm-ups there were for.
    warmed: Vec<Vec<String>>,
    /// The image that the last program saw.
    seen: Vec<String>,
}

impl Guests for Fake {
    fn run(
        &mut self,
        template: &Template,
        program: &Program,
        changes: &mut File,
    ) -> Result<(), GuestFailure> {
        let image = fs::read(template.root_disk().unwrap())?;
        assert_eq!(
            Sha256Digest::of(&image),
            template.manifest().root_disk.as_ref().unwrap().sha256
        );
        self.seen = reader::read(&image)
            .into_keys()
            .map(|path| String::from_utf8(path).unwrap())
            .collect();
        self.ran.push(program.argv.clone());
        if program.argv.last().is_some_and(|script| script == "damage") {
            return Ok(changes.write_all(&[1; 512])?);
        }
        let mut archive = tar::Builder::new(changes);
        let mut add = |path: &str, content: &str| {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o640);
            header.set_uid(7);
            header.set_gid(8);
            archive.append_data(
                &mut header,
                path.trim_start_matches('/'),
                content.as_bytes(),
            )
        };
        let script = program.argv.last().unwrap();
        match script.split_whitespace().collect::<Vec<_>>()[..] {
            ["fail"] => return Err("it ended with exit status 3".into()),
            ["write", path] => {
                add(path, script)?;
                // As each guest's agent does.
                add("etc/hostname", "guest\n")?;
                add("etc/.wh.hosts", "")?;
            }
            ["remove", path] => {
                let (directory, name) = path.rsplit_once('/').unwrap();
                add(&format!("{directory}/.wh.{name}"), "")?;
            }
            _ => panic!("{script}"),
        }
        archive.finish()?;
        Ok(())
    }

    fn warm(&mut self, template: &Template) -> Result<u64, GuestFailure> {
        let warm = template.manifest().warm.as_ref().unwrap();
        self.warmed.extend(warm.commands.iter().cloned());
        if self.warmed.iter().any(|argv| argv[0] == "fail") {
            return Err("it failed".into());
        }
        Ok(12345)
    }
}

struct Kit {
    directory: tempfile::TempDir,
    store: TemplateStore,
    spec: BuildSpec,
    guests: Fake,
}

impl Kit {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = TemplateStore::open(directory.path().join("templates")).unwrap();
        let spec = fixture::spec(directory.path(), "agent");
        Self {
            directory,
            store,
            spec,
            guests: Fake::default(),
        }
    }

    fn context(&self, files: &[(&str, &str)]) -> Arc<Context> {
        let root = self.directory.path().join("context");
        fs::create_dir_all(&root).unwrap();
        for (name, content) in files {
            fs::write(root.join(name), content).unwrap();
        }
        Arc::new(Context::open(&root).unwrap())
    }

    /// Builds, and returns the steps that were told, with whether they were cached.
    fn build(&mut self, recipe: &Recipe) -> (Result<Template, TemplateError>, Vec<bool>) {
        let mut told = Vec::new();
        let built =
            self.store
                .build_recipe(None, &self.spec, recipe, &mut self.guests, &mut |step| {
                    if let Step::Following { is_cached, .. } = step {
                        told.push(is_cached);
                    }
                });
        (built, told)
    }

    fn dockerfile(&mut self, text: &str) -> Recipe {
        let context = self.context(&[("a", "a")]);
        Recipe {
            dockerfile: Some(DockerfileSteps {
                name: "Dockerfile".to_owned(),
                text: format!("FROM scratch\n{text}"),
                args: BTreeMap::new(),
                context,
            }),
            ..Recipe::new(Base::Scratch)
        }
    }

    /// All that is in the store, but for what was downloaded.
    fn listing(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut pending = vec![self.store.root().to_owned()];
        while let Some(directory) = pending.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    pending.push(entry.path());
                }
                found.push(entry.path());
            }
        }
        found.sort();
        found
    }
}

fn run(script: &str) -> Planned {
    let argv = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    given(script, Action::Run { argv, env: vec![] })
}

fn given(text: &str, action: Action) -> Planned {
    Planned {
        step: RecipeStep::new(text.to_owned(), action),
        context: None,
    }
}

fn files(template: &Template) -> reader::Entries {
    reader::read(&fs::read(template.root_disk().unwrap()).unwrap())
}

#[test]
fn a_step_runs_on_what_those_before_it_left_and_leaves_its_changes() {
    let mut kit = Kit::new();
    let text = "COPY a /etc/a\nENV A=b\nUSER me\nRUN write /b\nRUN remove /etc/a\nWORKDIR /w\n";
    let recipe = kit.dockerfile(text);
    let (built, told) = kit.build(&recipe);
    let built = built.unwrap();
    assert_eq!(told, [false; 6]);
    assert_eq!(kit.guests.ran.len(), 2);
    assert!(kit.guests.seen.contains(&"/b".to_owned()));
    let files = files(&built);
    let paths: Vec<_> = files
        .keys()
        .map(|path| path.escape_ascii().to_string())
        .collect();
    assert_eq!(paths, ["", "/b", "/etc", "/w"]);
    let written = &files[&b"/b"[..]];
    assert_eq!((written.uid, written.gid, written.mode), (7, 8, 0o100_640));
    let origin = built.manifest().root_origin.as_ref().unwrap();
    assert_eq!(origin.config.env, ["A=b"]);
    assert_eq!(origin.config.working_dir, "/w");
    assert_eq!(origin.layers.len(), 2);
    assert_eq!(origin.steps[3], "RUN write /b");
    built.verify().unwrap();
}

#[test]
fn a_step_is_run_again_when_what_it_runs_on_or_sees_is_another_and_not_before() {
    let mut kit = Kit::new();
    let text = "COPY a /a\nENV A=b\nRUN write /b\nLABEL x=y\nRUN write /c\n";
    let recipe = kit.dockerfile(text);
    kit.build(&recipe).0.unwrap();
    let count = |kit: &mut Kit, recipe: &Recipe| {
        let before = kit.guests.ran.len();
        kit.build(recipe).0.unwrap();
        kit.guests.ran.len() - before
    };
    assert_eq!(count(&mut kit, &recipe), 0);
    assert_eq!(kit.build(&recipe).1, [false, false, true, false, true]);
    // A label is nothing that a program sees.
    let other = kit.dockerfile(&text.replace("x=y", "x=z"));
    assert_eq!(count(&mut kit, &other), 0);
    let other = kit.dockerfile(&text.replace("write /c", "write /d"));
    assert_eq!(count(&mut kit, &other), 1);
    let other = kit.dockerfile(&text.replace("A=b", "A=c"));
    assert_eq!(count(&mut kit, &other), 2);
    fs::write(kit.directory.path().join("context/a"), "another").unwrap();
    assert_eq!(count(&mut kit, &recipe), 2);
}

#[test]
fn a_failed_step_is_told_and_leaves_nothing() {
    for (script, reason) in [("fail", "exit status 3"), ("damage", "can't be kept")] {
        let mut kit = Kit::new();
        // What all builds leave.
        let first = Recipe::new(Base::Minimal);
        kit.build(&first).0.unwrap();
        let recipe = kit.dockerfile("COPY a /a\nRUN write /b\n");
        kit.build(&recipe).0.unwrap();
        let before = kit.listing();
        let failing = kit.dockerfile(&format!("COPY a /a\nRUN write /b\n\nRUN {script}\n"));
        let error = kit.build(&failing).0.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("Dockerfile, line 5: RUN {script}")
        );
        let TemplateError::Step { step, .. } = error else {
            panic!("{error:?}");
        };
        assert!(step.reason.to_string().contains(reason), "{}", step.reason);
        assert_eq!(kit.listing(), before);
    }
}

#[test]
fn a_template_goes_on_from_another_one_that_may_be_deleted_then() {
    let mut kit = Kit::new();
    let recipe = kit.dockerfile("COPY a /a\nENV A=b\nRUN write /b\n");
    let first = kit.build(&recipe).0.unwrap();
    let mut recipe = Recipe::new(Base::Template(*first.hash()));
    recipe.steps = vec![
        run("write /c"),
        given("--user me", Action::User("me".to_owned())),
    ];
    let second = kit.build(&recipe).0.unwrap();
    kit.store.delete(first.hash()).unwrap();
    kit.store.remove_unused_layers().unwrap();
    second.verify().unwrap();
    let files = files(&second);
    for path in ["/a", "/b", "/c"] {
        assert!(files.contains_key(path.as_bytes()), "{path}");
    }
    let config = &second.manifest().root_origin.as_ref().unwrap().config;
    assert_eq!(
        (&*config.env, &*config.user),
        (&["A=b".to_owned()][..], "me")
    );
}

#[test]
fn results_of_steps_go_with_the_last_template_that_has_them() {
    let mut kit = Kit::new();
    let recipe = kit.dockerfile("RUN write /b\n");
    let built = kit.build(&recipe).0.unwrap();
    kit.store.delete(built.hash()).unwrap();
    kit.store.remove_unused_layers().unwrap();
    let left = kit.listing();
    let steps = |path: &PathBuf| {
        let root = kit.store.root();
        path.starts_with(root.join(".steps")) || path.starts_with(root.join(".layers"))
    };
    let left: Vec<_> = left.into_iter().filter(steps).collect();
    let names: Vec<_> = left.iter().filter_map(|path| path.file_name()).collect();
    assert!(
        names
            .iter()
            .all(|name| StepKey::parse(&name.to_string_lossy()).is_none()),
        "{left:?}"
    );
}

#[test]
fn the_minimal_base_has_busybox_and_no_agent() {
    let mut kit = Kit::new();
    let mut recipe = Recipe::new(Base::Minimal);
    let mut copy = Copy::new("a".to_owned(), "there".to_owned());
    copy.mode = Some(0o600);
    recipe.steps = vec![
        given("--workdir /w", Action::Workdir("w".to_owned())),
        Planned {
            context: Some(kit.context(&[("a", "text")])),
            ..given("--copy a:there", Action::Copy(copy))
        },
    ];
    let built = kit.build(&recipe).0.unwrap();
    let files = files(&built);
    assert_eq!(files[&b"/w/there"[..]].content, b"text");
    assert!(files.contains_key(&b"/bin/busybox"[..]));
    assert!(!files.contains_key(&b"/init"[..]));
}

#[test]
fn a_template_says_what_makes_its_guests_warm_and_what_that_takes() {
    let mut kit = Kit::new();
    let warm = |argv: &str| given(argv, Action::Warm(vec![argv.to_owned()]));
    let cold = kit.build(&Recipe::new(Base::Minimal)).0.unwrap();
    let mut recipe = Recipe::new(Base::Minimal);
    recipe.steps = vec![warm("true")];
    let built = kit.build(&recipe).0.unwrap();
    assert_eq!(built.root_disk(), None);
    assert_ne!(built.hash(), cold.hash());
    let found = built.manifest().warm.clone().unwrap();
    assert_eq!(found.commands, [["true"]]);
    assert_eq!(found.memory, Some(12345));
    let before = kit.listing();
    recipe.steps.push(warm("fail"));
    let error = kit.build(&recipe).0.unwrap_err();
    assert!(matches!(error, TemplateError::Warm(_)), "{error}");
    assert_eq!(kit.listing(), before);
    // What is built for another agent keeps it.
    let spec = fixture::spec(kit.directory.path(), "another agent");
    let built = kit
        .store
        .build_if_missing(&spec, &crate::TemplateChoice::Default, &mut |_| {})
        .unwrap();
    assert_eq!(built.manifest().warm, Some(found));
}

#[test]
fn a_dockerfile_that_cant_be_followed_is_named_with_the_line() {
    let mut kit = Kit::new();
    let recipe = kit.dockerfile("RUN write /b\nVOLUME /x\n");
    let error = kit.build(&recipe).0.unwrap_err();
    assert_eq!(
        error.to_string(),
        "Dockerfile, line 3: VOLUME is not supported"
    );
    assert_eq!(kit.guests.ran.len(), 0);
}
