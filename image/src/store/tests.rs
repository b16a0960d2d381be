use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::mpsc;

use tempfile::TempDir;

use super::*;
use crate::debian::{BuildSpec, CACHE, entries};
use crate::fixture;
use crate::links::{DEFAULT, NAMES};
use crate::removal::Removal;
use crate::step::Step;

struct Bench {
    _directory: TempDir,
    inputs: PathBuf,
    store: TemplateStore,
}

fn bench() -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let inputs = directory.path().join("inputs");
    fs::create_dir(&inputs).unwrap();
    let store = TemplateStore::open(directory.path().join("state/templates")).unwrap();
    Bench {
        _directory: directory,
        inputs,
        store,
    }
}

impl Bench {
    fn spec(&self, agent: &str) -> BuildSpec {
        fixture::spec(&self.inputs, agent)
    }

    fn build(&self, agent: &str) -> Template {
        self.store.build(&self.spec(agent), &mut |_| {}).unwrap()
    }

    /// What is in the store, but for the lock, the cache and the directory of names.
    fn names(&self) -> Vec<String> {
        let entries = entries(self.store.root()).unwrap();
        let names = entries
            .iter()
            .map(|entry| entry.file_name().into_string().unwrap());
        let mut names: Vec<_> = names
            .filter(|name| ![LOCK, CACHE, NAMES].contains(&&**name))
            .collect();
        names.sort();
        names
    }
}

fn damage(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[cfg(feature = "oci")]
#[test]
fn a_root_from_elsewhere_stays_with_the_default_template_when_its_agent_is_replaced() {
    use ironclaw_store::Sha256Digest;

    use crate::oci::RootSource;

    let bench = bench();
    let archive = bench.inputs.join("root.tar");
    // An archive of nothing but its end.
    fs::write(&archive, [0; 1024]).unwrap();
    let (spec, source) = (bench.spec("one"), RootSource::Tar(archive.clone()));
    let built = bench.store.build_from(&spec, &source, &mut |_| {}).unwrap();
    let origin = built.manifest().root_origin.clone().unwrap();
    assert_eq!(origin.source, format!("tar:{}", archive.display()));
    assert_eq!(origin.layers, [Sha256Digest::of([0; 1024])]);
    let layer = |digest: &Sha256Digest| {
        let layers = bench.store.root().join(".layers");
        layers.join(digest.to_string()).exists()
    };
    assert!(layer(&origin.layers[0]) && built.verify().is_ok());
    assert_eq!(
        bench.store.default_template().unwrap().unwrap().hash(),
        built.hash()
    );

    let again = bench
        .store
        .build_if_missing(&bench.spec("two"), &TemplateChoice::Default, &mut |_| {})
        .unwrap();
    assert_ne!(again.hash(), built.hash());
    let (again, built) = (again.manifest(), built.manifest());
    assert_eq!(
        (&again.root_disk, &again.root_origin),
        (&built.root_disk, &built.root_origin)
    );

    bench.store.delete(&built.hash).unwrap();
    bench.store.remove_unused_layers().unwrap();
    assert!(layer(&origin.layers[0]));
    bench.store.delete(&again.hash).unwrap();
    bench.store.remove_unused_layers().unwrap();
    assert!(!layer(&origin.layers[0]));
}

#[cfg(feature = "oci")]
mod names {
    use super::*;
    use crate::TemplateName;
    use crate::oci::RootSource;

    fn name(text: &str) -> TemplateName {
        text.parse().unwrap()
    }

    impl Bench {
        /// A directory as a source, with a file in it.
        fn source(&self, directory: &str, content: &str) -> RootSource {
            let root = self.inputs.join(directory);
            fs::create_dir_all(root.join("etc")).unwrap();
            fs::write(root.join("etc/issue"), content).unwrap();
            RootSource::Directory(root)
        }

        fn named(&self, text: &str, agent: &str, content: &str) -> Template {
            let (spec, source) = (self.spec(agent), self.source(text, content));
            let built = self
                .store
                .build_as(Some(&name(text)), &spec, &source, &mut |_| {});
            built.unwrap()
        }

        fn wanted(&self, agent: &str, choice: TemplateChoice) -> Result<Template, TemplateError> {
            let spec = self.spec(agent);
            self.store.build_if_missing(&spec, &choice, &mut |_| {})
        }
    }

    #[test]
    fn a_name_leads_to_what_was_built_last_under_it_and_leaves_the_default_alone() {
        let bench = bench();
        let minimal = bench.build("agent");
        let first = bench.named("app", "agent", "one");
        let second = bench.named("app", "agent", "two");
        assert_ne!(first.hash(), second.hash());
        let store = &bench.store;
        assert_eq!(
            store.named_hash(&name("app")).unwrap(),
            Some(*second.hash())
        );
        assert_eq!(store.default_hash().unwrap(), Some(*minimal.hash()));
        assert_eq!(store.default_name().unwrap(), Some(TemplateName::minimal()));
        // Whoever uses the former one still has it.
        store.load(first.hash()).unwrap().verify().unwrap();
        let names: Vec<_> = store
            .names()
            .unwrap()
            .into_iter()
            .map(|(it, _)| it)
            .collect();
        assert_eq!(names, [name("app"), TemplateName::minimal()]);
    }

    #[test]
    fn a_named_template_keeps_its_root_and_name_when_the_agent_is_replaced() {
        let bench = bench();
        let built = bench.named("app", "one", "x");
        let again = bench.wanted("two", name("app").into()).unwrap();
        assert_ne!(again.hash(), built.hash());
        assert_eq!(again.manifest().root_disk, built.manifest().root_disk);
        let named = bench.store.named_hash(&name("app")).unwrap();
        assert_eq!(named, Some(*again.hash()));
        assert!(bench.store.default_hash().unwrap().is_none());
    }

    #[test]
    fn a_default_that_has_a_name_moves_with_it() {
        let bench = bench();
        bench.named("app", "one", "x");
        bench.store.set_default(&name("app")).unwrap();
        let again = bench.wanted("two", TemplateChoice::Default).unwrap();
        let store = &bench.store;
        for hash in [store.named_hash(&name("app")), store.default_hash()] {
            assert_eq!(hash.unwrap(), Some(*again.hash()));
        }
        let rebuilt = bench.named("app", "two", "y");
        assert_eq!(store.default_hash().unwrap(), Some(*rebuilt.hash()));
        store.remove_name(&name("app")).unwrap();
        assert!(store.default_hash().unwrap().is_none());
    }

    #[test]
    fn a_name_that_nothing_has_is_an_error_with_those_that_there_are_and_minimal_is_built() {
        let bench = bench();
        bench.named("app", "agent", "x");
        for error in [
            bench.wanted("agent", name("aap").into()).unwrap_err(),
            bench.store.set_default(&name("aap")).unwrap_err(),
        ] {
            let text = error.to_string();
            assert!(text.contains("aap") && text.contains("app"), "{text}");
        }
        let minimal = bench
            .wanted("agent", TemplateName::minimal().into())
            .unwrap();
        assert!(minimal.root_disk().is_none());
        assert!(bench.store.default_hash().unwrap().is_none());
    }

    #[test]
    fn an_image_is_built_once_and_again_when_its_source_has_changed() {
        let bench = bench();
        let source = bench.source("root", "one");
        let choice = TemplateChoice::Image(source);
        assert!(bench.store.chosen(&choice).unwrap().is_none());
        let first = bench.wanted("agent", choice.clone()).unwrap();
        let found = bench.store.chosen(&choice).unwrap().unwrap();
        assert_eq!(found.hash(), first.hash());
        let packs = std::cell::Cell::new(0);
        let count = &mut |_| packs.set(packs.get() + 1);
        let again = bench
            .store
            .build_if_missing(&bench.spec("agent"), &choice, count);
        assert_eq!((again.unwrap().hash(), packs.get()), (first.hash(), 0));
        bench.source("root", "two");
        assert!(bench.store.chosen(&choice).unwrap().is_none());
        let second = bench.wanted("agent", choice.clone()).unwrap();
        assert_ne!(second.hash(), first.hash());
        bench.store.delete(second.hash()).unwrap();
        assert!(bench.store.chosen(&choice).unwrap().is_none());
    }

    #[test]
    fn a_template_that_is_deleted_takes_its_names_along() {
        let bench = bench();
        let built = bench.named("app", "agent", "x");
        bench.store.set_name(&name("other"), built.hash()).unwrap();
        bench.store.set_default(&name("other")).unwrap();
        bench.store.delete(built.hash()).unwrap();
        assert!(bench.store.names().unwrap().is_empty());
        assert!(bench.store.default_hash().unwrap().is_none());
    }
}

#[test]
fn an_empty_store_has_no_default() {
    let bench = bench();
    assert!(bench.store.default_template().unwrap().is_none());
    assert!(bench.store.list().unwrap().is_empty());
    assert_eq!(bench.store.root().metadata().unwrap().mode() & 0o777, 0o700);
}

#[test]
fn a_built_template_is_the_default_and_loads() {
    let bench = bench();
    let built = bench.build("agent");
    let found = bench.store.default_template().unwrap().unwrap();
    assert_eq!(found.manifest(), built.manifest());
    assert_eq!(found.manifest().kernel.release, fixture::RELEASE);
    assert_eq!(fs::read(found.kernel()).unwrap(), fixture::vmlinux(true));
    assert!(found.boot_args().contains("console=ttyS0"));
    found.verify().unwrap();
    for path in [found.kernel(), found.initramfs().unwrap()] {
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
    }
}

#[test]
fn the_same_inputs_change_nothing() {
    let bench = bench();
    let first = bench.build("agent");
    let stamp = |template: &Template| {
        let metadata = template.kernel().metadata().unwrap();
        (
            metadata.ino(),
            metadata.mtime_nsec(),
            fs::read(template.initramfs().unwrap()).unwrap(),
        )
    };
    let before = (stamp(&first), bench.names());
    let second = bench.build("agent");
    assert_eq!(second.manifest(), first.manifest());
    assert_eq!((stamp(&second), bench.names()), before);
}

#[test]
fn another_store_builds_the_same_template() {
    assert_eq!(bench().build("agent").hash(), bench().build("agent").hash());
}

#[test]
fn another_agent_makes_another_template_and_the_default_follows() {
    let bench = bench();
    let (one, two) = (bench.build("one"), bench.build("two"));
    assert_ne!(one.hash(), two.hash());
    assert_eq!(
        bench.store.default_template().unwrap().unwrap().hash(),
        two.hash()
    );
    assert_eq!(bench.store.list().unwrap().len(), 2);
    bench.build("one");
    assert_eq!(
        bench.store.default_template().unwrap().unwrap().hash(),
        one.hash()
    );
}

#[test]
fn a_truncated_kernel_is_refused_at_load_and_repaired_by_a_build() {
    let bench = bench();
    let template = bench.build("agent");
    damage(template.kernel(), |bytes| bytes.truncate(bytes.len() / 2));
    let error = bench.store.load(template.hash()).unwrap_err();
    assert!(matches!(error, TemplateError::WrongSize { .. }), "{error}");
    assert!(error.needs_rebuild());
    assert!(bench.store.list().unwrap()[0].template.is_err());
    bench.build("agent").verify().unwrap();
}

#[test]
fn changed_content_is_found_by_verify_and_repaired_by_a_build() {
    let bench = bench();
    let template = bench.build("agent");
    damage(template.initramfs().unwrap(), |bytes| bytes[200] ^= 1);
    let loaded = bench.store.load(template.hash()).unwrap();
    let error = loaded.verify().unwrap_err();
    assert!(error.to_string().contains("initramfs"), "{error}");
    bench.build("agent").verify().unwrap();
}

#[test]
fn a_manifest_of_another_release_or_with_other_content_is_refused() {
    let bench = bench();
    let template = bench.build("agent");
    let path = template.kernel().with_file_name(Template::MANIFEST);
    let original = fs::read_to_string(&path).unwrap();
    let load = |from: &str, to: &str| {
        assert!(original.contains(from), "{original}");
        fs::write(&path, original.replacen(from, to, 1)).unwrap();
        let error = bench.store.load(template.hash()).unwrap_err();
        assert!(error.needs_rebuild(), "{error}");
        error
    };
    let error = load("\"format\": 1", "\"format\": 2");
    assert!(
        matches!(
            error,
            TemplateError::Outdated {
                found: 2,
                needed: 1,
                ..
            }
        ),
        "{error}"
    );
    let protocol = ironclaw_protocol::VERSION;
    let error = load(&format!("\"protocol\": {protocol}"), "\"protocol\": 999");
    assert!(
        matches!(error, TemplateError::Outdated { found: 999, .. }),
        "{error}"
    );
    let error = load("\"created\"", "\"surprise\": 1, \"created\"");
    assert!(matches!(error, TemplateError::Manifest { .. }), "{error}");
    let error = load("console=ttyS0", "init=/bin/sh");
    assert!(matches!(error, TemplateError::Manifest { .. }), "{error}");
    let error = load("{", "");
    assert!(matches!(error, TemplateError::Manifest { .. }), "{error}");
    for (from, to) in [
        ("\"release\": \"", "\"release\": \"\\u001b[2J"),
        ("\"created\"", "\"\\u001b[2J\": 1, \"created\""),
    ] {
        let error = load(from, to);
        assert!(matches!(error, TemplateError::Manifest { .. }), "{error}");
        assert!(!error.to_string().contains('\x1b'), "{error:?}");
    }
}

#[test]
fn a_deleted_template_is_gone_and_no_default_any_more() {
    let bench = bench();
    let template = bench.build("agent");
    bench.store.delete(template.hash()).unwrap();
    assert!(bench.names().is_empty());
    assert!(bench.store.default_template().unwrap().is_none());
    let error = bench.store.delete(template.hash()).unwrap_err();
    assert!(matches!(error, TemplateError::NotFound { .. }), "{error}");
}

/// Makes the directories of a snapshot that is being made and of one that is published.
fn snapshot(bench: &Bench, name: &str) -> [PathBuf; 2] {
    let snapshots = bench.inputs.join("snapshots");
    let staging = snapshots.join(format!(".staging-{name}"));
    fs::create_dir_all(&staging).unwrap();
    [staging, snapshots.join(name)]
}

#[test]
fn a_template_that_a_process_or_a_snapshot_needs_is_deleted_once_none_does() {
    let bench = bench();
    let template = bench.build("agent");
    let store = &bench.store;
    let pin = template.pin().unwrap();
    let [staging, published] = snapshot(&bench, "one");
    template.keep_for(&staging, &published).unwrap();
    assert_eq!(store.delete(template.hash()).unwrap(), Removal::WhenUnused);
    assert!(store.default_template().unwrap().is_none());
    let kept = || {
        store.remove_deleted().unwrap();
        store.load(template.hash()).unwrap().verify().unwrap();
        let listed = store.list().unwrap();
        assert!(listed.len() == 1 && listed[0].is_deleted);
    };
    kept();
    drop(pin);
    kept();
    fs::rename(&staging, &published).unwrap();
    kept();
    // Another process may go on with its snapshots, and somebody may delete it again.
    let again = store.load(template.hash()).unwrap().pin().unwrap();
    fs::remove_dir_all(&published).unwrap();
    assert_eq!(store.delete(template.hash()).unwrap(), Removal::WhenUnused);
    kept();
    drop(again);
    store.remove_deleted().unwrap();
    assert!(bench.names().is_empty(), "{:?}", bench.names());
    assert!(matches!(
        template.pin().unwrap_err(),
        TemplateError::NotFound { .. }
    ));
}

#[test]
fn a_template_that_is_built_again_after_its_deletion_stays() {
    let bench = bench();
    let template = bench.build("agent");
    let pin = template.pin().unwrap();
    bench.store.delete(template.hash()).unwrap();
    bench.build("agent");
    drop(pin);
    bench.store.remove_deleted().unwrap();
    let default = bench.store.default_template().unwrap().unwrap();
    assert_eq!(default.hash(), template.hash());
    assert!(!bench.store.list().unwrap()[0].is_deleted);
}

#[test]
fn a_damaged_template_is_replaced_while_it_is_used_and_its_snapshots_need_the_other() {
    let bench = bench();
    let template = bench.build("agent");
    let pin = template.pin().unwrap();
    let [staging, published] = snapshot(&bench, "one");
    template.keep_for(&staging, &published).unwrap();
    let open = File::open(template.kernel()).unwrap();
    damage(template.kernel(), |bytes| bytes[100] ^= 1);
    bench.build("agent").verify().unwrap();
    assert_eq!(open.metadata().unwrap().nlink(), 1, "it is kept aside");
    drop(pin);
    let deleted = bench.store.delete(template.hash()).unwrap();
    assert_eq!(deleted, Removal::WhenUnused);
    assert_eq!(open.metadata().unwrap().nlink(), 0);
    fs::remove_dir_all(&staging).unwrap();
    bench.store.remove_deleted().unwrap();
    assert!(bench.names().is_empty(), "{:?}", bench.names());
}

/// Set to the number of the round where the test runs in a process of its own.
const VICTIM: &str = "IRONCLAW_TEST_VICTIM";

/// Builds, uses, deletes and sweeps for ever.
fn live(store: &TemplateStore, spec: &BuildSpec, snapshots: &Path) -> ! {
    for number in 0.. {
        let template = store.build(spec, &mut |_| {}).unwrap();
        let pin = template.pin().unwrap();
        let staging = snapshots.join(format!(".staging-{}-{number}", std::process::id()));
        let published = snapshots.join(format!("{}-{number}", std::process::id()));
        fs::create_dir(&staging).unwrap();
        template.keep_for(&staging, &published).unwrap();
        store.delete(template.hash()).unwrap();
        fs::rename(&staging, &published).unwrap();
        drop(pin);
        store.remove_deleted().unwrap();
        fs::remove_dir_all(&published).unwrap();
        store.remove_deleted().unwrap();
    }
    unreachable!()
}

#[test]
fn a_process_killed_anywhere_takes_no_template_that_is_used_and_leaves_none_that_is_not() {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};
    if let Some(directory) = std::env::var_os(VICTIM).map(PathBuf::from) {
        let store = TemplateStore::open(directory.join("templates")).unwrap();
        let spec = fixture::spec(&directory.join("inputs"), "of the victim");
        live(&store, &spec, &directory.join("snapshots"));
    }
    let root = tempfile::tempdir().unwrap();
    let path = |name| root.path().join(name);
    let snapshots = path("snapshots");
    fs::create_dir(&snapshots).unwrap();
    fs::create_dir(path("inputs")).unwrap();
    let spec = fixture::spec(&path("inputs"), "of the victim");
    let store = TemplateStore::open(path("templates")).unwrap();
    let name = std::thread::current().name().unwrap().to_owned();
    let mut hash = None;
    for round in 0..24_u32 {
        let mut victim = Command::new(std::env::current_exe().unwrap());
        let victim = victim.args(["--exact", &name]).env(VICTIM, root.path());
        let mut victim = victim
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // It has done something by then; the moment is another one each time.
        let begun = Instant::now();
        while fs::read_dir(&snapshots).unwrap().next().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(60), "it does nothing");
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_micros(700) * round);
        victim.kill().unwrap();
        victim.wait().unwrap();
        // A snapshot of ours, made like those.
        let template = store.build(&spec, &mut |_| {}).unwrap();
        let pin = template.pin().unwrap();
        let ours = snapshots.join("ours");
        fs::create_dir(&ours).unwrap();
        template.keep_for(&ours, &ours).unwrap();
        drop(pin);
        store.delete(template.hash()).unwrap();
        store.remove_deleted().unwrap();
        let loaded = store.load(template.hash()).unwrap();
        loaded.verify().unwrap();
        hash = Some(*template.hash());
        // What the sweep of snapshots does.
        for entry in fs::read_dir(&snapshots).unwrap() {
            fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }
        store.remove_deleted().unwrap();
        let left = entries(store.root()).unwrap();
        let left: Vec<_> = left.iter().map(std::fs::DirEntry::file_name).collect();
        let of_ours = |name: &std::ffi::OsString| name != LOCK && name != CACHE && name != NAMES;
        assert!(!left.iter().any(of_ours), "{left:?}");
    }
    let error = store.load(&hash.unwrap()).unwrap_err();
    assert!(matches!(error, TemplateError::NotFound { .. }), "{error}");
}

#[test]
fn a_failed_build_leaves_nothing_behind() {
    let bench = bench();
    let spec = bench.spec("agent");
    let list = bench.inputs.join("modules/modules.builtin");
    fs::write(&list, "").unwrap();
    let error = bench.store.build(&spec, &mut |_| {}).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("module ext4 is neither"), "{cause}");
    fs::remove_file(&list).unwrap();
    let error = bench.store.build(&spec, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("modules.builtin"), "{error}");
    assert!(bench.names().is_empty());
}

#[test]
fn a_build_waits_for_another_one_and_says_so() {
    let bench = bench();
    let spec = bench.spec("agent");
    let lock = bench.store.lock(|| panic!("nobody else is here")).unwrap();
    let (steps, reported) = mpsc::channel();
    std::thread::scope(|scope| {
        let build = scope.spawn(|| {
            bench
                .store
                .build(&spec, &mut |step| steps.send(step).unwrap())
        });
        assert_eq!(reported.recv().unwrap(), Step::Waiting);
        drop(lock);
        assert_eq!(reported.recv().unwrap(), Step::ExtractingKernel);
        build.join().unwrap().unwrap();
    });
}

#[test]
fn concurrent_builds_make_one_template() {
    let bench = bench();
    let spec = bench.spec("agent");
    let hashes: Vec<TemplateHash> = std::thread::scope(|scope| {
        let build = || {
            let store = TemplateStore::open(bench.store.root()).unwrap();
            *store.build(&spec, &mut |_| {}).unwrap().hash()
        };
        let builds: Vec<_> = (0..4).map(|_| scope.spawn(build)).collect();
        builds
            .into_iter()
            .map(|build| build.join().unwrap())
            .collect()
    });
    assert!(hashes.iter().all(|hash| *hash == hashes[0]));
    assert_eq!(bench.names(), [&*hashes[0].to_string(), DEFAULT]);
}

#[test]
fn of_many_that_need_a_template_one_builds_it() {
    let bench = bench();
    let spec = bench.spec("agent");
    let (steps, reported) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let (steps, spec) = (steps.clone(), &spec);
            let store = TemplateStore::open(bench.store.root()).unwrap();
            scope.spawn(move || {
                let build = &mut |step| steps.send(step).unwrap();
                store
                    .build_if_missing(spec, &TemplateChoice::Default, build)
                    .unwrap();
            });
        }
    });
    let packed = |step: &Step| *step == Step::Packing;
    assert_eq!(reported.try_iter().filter(packed).count(), 1);
    // Another agent needs another one.
    let other = bench.spec("another agent");
    let build = &mut |step| steps.send(step).unwrap();
    bench
        .store
        .build_if_missing(&other, &TemplateChoice::Default, build)
        .unwrap();
    assert_eq!(reported.try_iter().filter(packed).count(), 1);
}

#[test]
fn a_hash_is_64_lower_case_digits() {
    let good = "0123456789abcdef".repeat(4);
    assert_eq!(good.parse::<TemplateHash>().unwrap().to_string(), good);
    for bad in [
        "",
        "../x",
        &good[1..],
        &good.to_uppercase(),
        &format!("{good}0"),
    ] {
        assert!(bad.parse::<TemplateHash>().is_err(), "{bad:?}");
    }
}

#[test]
fn a_directory_that_others_can_change_is_refused() {
    let root = tempfile::tempdir().unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let error = TemplateStore::open(root.path()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("0777") && text.contains("`template_path`"),
        "{text}"
    );
}

#[test]
fn foreign_entries_are_left_alone_whatever_their_name() {
    let bench = bench();
    let root = bench.store.root().to_owned();
    let hash: TemplateHash = "ab".repeat(32).parse().unwrap();
    let theirs = [&*hash.to_string(), ".staging-abcdef", ".cache"].map(|name| root.join(name));
    for directory in &theirs {
        fs::create_dir(directory).unwrap();
        fs::write(directory.join("a.deb"), "somebody's").unwrap();
    }
    let template = bench.build("agent");
    let error = bench.store.delete(&hash).unwrap_err();
    assert!(matches!(error, TemplateError::NotOurs { .. }), "{error}");
    let listed = bench.store.list().unwrap();
    let theirs_listed = listed.iter().find(|listed| listed.hash == hash).unwrap();
    let state = &theirs_listed.template;
    assert!(
        matches!(state, Err(TemplateError::NotOurs { .. })),
        "{state:?}"
    );

    // Nor is it replaced by a template of that name.
    bench.store.delete(template.hash()).unwrap();
    let taken = root.join(template.hash().to_string());
    fs::create_dir(&taken).unwrap();
    fs::write(taken.join("file"), "somebody's").unwrap();
    let spec = bench.spec("agent");
    let error = bench.store.build(&spec, &mut |_| {}).unwrap_err();
    assert!(matches!(error, TemplateError::NotOurs { .. }), "{error}");
    assert!(taken.join("file").exists());
    assert!(
        theirs
            .iter()
            .all(|directory| directory.join("a.deb").exists())
    );
}

#[test]
fn only_opening_a_store_to_build_sweeps_it() {
    let bench = bench();
    let half_made = bench.store.root().join(".staging-abcdef");
    fs::create_dir(&half_made).unwrap();
    mark::create(mark::open(&half_made).unwrap()).unwrap();
    let again = TemplateStore::open(bench.store.root()).unwrap();
    again.list().unwrap();
    assert!(half_made.exists());
    bench.build("agent");
    assert!(!half_made.exists());
}

#[test]
fn a_template_of_the_last_release_is_ours_by_its_manifest() {
    let bench = bench();
    let template = bench.build("agent");
    let directory = bench.store.root().join(template.hash().to_string());
    fs::remove_file(directory.join(mark::NAME)).unwrap();
    bench.store.delete(template.hash()).unwrap();
    assert!(!directory.exists());
}
