//! A backend outside of this library: a program adds it to the list, and its VMs work like all
//! others.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

// Its VMs are tasks of this process, as in `pool_cycles`.
#[allow(dead_code, reason = "nothing goes wrong here")]
#[path = "../pool_cycles/fault.rs"]
mod fault;
#[allow(dead_code, reason = "nothing goes wrong here")]
#[path = "../pool_cycles/guest.rs"]
mod guest;
#[allow(dead_code, reason = "nothing goes wrong here")]
#[path = "../pool_cycles/vm.rs"]
mod vm;
#[allow(dead_code, reason = "nothing goes wrong here")]
#[path = "../pool_cycles/world.rs"]
mod world;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use ironclaw_orchestrator::template::{ImportSpec, Template, TemplateStore};
use ironclaw_orchestrator::vm::backend::{
    Absence, Backend, Candidate, Installed, Surroundings, Trust,
};
use ironclaw_orchestrator::vm::config::BackendChoice;
use ironclaw_orchestrator::vm::snapshot::Mismatch;
use ironclaw_orchestrator::vm::vmm::{Machine, Vmm, VmmError, VmmKind};
use ironclaw_orchestrator::vm::{
    Config, LaunchError, Launcher, Origin, Pool, PoolOptions, Progress,
};

use vm::Simulated;
use world::World;

/// The kind that the simulated hypervisor reports.
const KIND: VmmKind = VmmKind::new("simulated");

/// The whole backend, except for its VMs.
#[derive(Debug, Clone)]
struct Third {
    world: Arc<World>,
    /// The reason why it is not installed.
    absent: Option<&'static str>,
    /// A setting that requires this backend.
    insists: Option<&'static str>,
}

#[async_trait]
impl Backend for Third {
    fn kind(&self) -> VmmKind {
        KIND
    }

    fn process_names(&self) -> &'static [&'static str] {
        &[]
    }

    fn insists(&self) -> Option<&'static str> {
        self.insists
    }

    async fn detect(&self, _: &Surroundings) -> Result<Box<dyn Installed>, Absence> {
        match self.absent {
            Some(reason) => Err(Absence::Host(reason.to_owned())),
            None => Ok(Box::new(self.clone())),
        }
    }
}

#[async_trait]
impl Installed for Third {
    async fn open(self: Box<Self>) -> Result<Vec<Candidate>, VmmError> {
        let vmm: Arc<dyn Vmm> = Arc::new(Simulated::new(self.world));
        Ok(vec![Candidate::new(vmm, Trust::Sure)])
    }
}

/// A program with this backend beside the built-in ones, in directories of its own.
struct Program {
    config: Config,
    template: Template,
    world: Arc<World>,
    _directory: tempfile::TempDir,
}

impl Program {
    fn new(change: impl FnOnce(&mut Third, &mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let below = |name: &str| directory.path().join(name);
        let variables = [
            ("IRONCLAW_SNAPSHOT_PATH", below("snapshots")),
            ("IRONCLAW_TEMPLATE_PATH", below("templates")),
            ("IRONCLAW_RUN_PATH", below("run")),
        ];
        let variable = |name: &str| {
            let mut set = variables.iter();
            set.find(|(known, _)| *known == name)
                .map(|(_, path)| path.clone().into())
        };
        let mut config = Config::from_vars(variable, true).unwrap();
        config.machine = Machine::new(1, 1);
        let world = World::new();
        let mut third = Third {
            world: Arc::clone(&world),
            absent: None,
            insists: None,
        };
        change(&mut third, &mut config);
        config.backends.others.push(Arc::new(third));
        Self {
            template: template(directory.path()),
            config,
            world,
            _directory: directory,
        }
    }

    async fn launcher(&self) -> Result<Launcher, LaunchError> {
        let progress: Progress = Arc::new(|_: &_| {});
        Launcher::of(self.template.clone(), &self.config, progress).await
    }
}

/// The simulated guest reads no kernel; any file will do.
fn template(directory: &Path) -> Template {
    let kernel = directory.join("kernel");
    std::fs::write(&kernel, "\x7fELF").unwrap();
    let store = TemplateStore::open(directory.join("templates")).unwrap();
    let spec = ImportSpec {
        kernel,
        initramfs: None,
        root_disk: None,
        boot_args: String::new(),
    };
    store.import(&spec, &mut |_| {}).unwrap()
}

fn by_name(_: &mut Third, config: &mut Config) {
    config.backend = BackendChoice::Only(KIND);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_of_it_serves_clones_and_leaves_nothing() {
    let program = Program::new(by_name);
    let launcher = program.launcher().await.unwrap();
    assert_eq!(launcher.vmm().kind, KIND);
    let mut options = PoolOptions::from(&program.config);
    options.size = 1;
    let pool = Pool::open(launcher, options).await.unwrap();
    pool.warmup().await.unwrap();
    let vm = pool.spawn("third").await.unwrap();
    assert_eq!(vm.origin(), Origin::Warm);
    assert_eq!(vm.exec(["echo", "hello"]).await.unwrap().stdout, b"hello");
    vm.destroy().await.unwrap();
    pool.close().await;
    ironclaw_orchestrator::vm::dropped_vms_ended().await;
    assert_eq!(program.world.served_twice(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_that_it_alone_has_makes_it_serve_though_nobody_named_it() {
    let program = Program::new(|third, _| third.insists = Some("THIRD_DISK"));
    assert_eq!(program.launcher().await.unwrap().vmm().kind, KIND);
    let program = Program::new(|third, config| {
        third.insists = Some("THIRD_DISK");
        config.backend = "qemu".parse().unwrap();
    });
    let error = program.launcher().await.unwrap_err().to_string();
    for part in ["THIRD_DISK", "simulated"] {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_asked_for_and_is_not_here_is_told_with_its_reason() {
    let program = Program::new(|third, config| {
        third.absent = Some("no such device");
        by_name(third, config);
    });
    let error = program.launcher().await.unwrap_err();
    let LaunchError::BackendUnusable { kind, reason } = error else {
        panic!("{error}");
    };
    assert_eq!((kind, reason.as_str()), (KIND, "no such device"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_not_listed_is_told_by_its_name() {
    let mut program = Program::new(by_name);
    program.config.backends.others.clear();
    let error = program.launcher().await.unwrap_err();
    assert!(
        matches!(error, LaunchError::UnknownBackend { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("simulated"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn its_snapshots_do_not_fit_others_and_are_not_damaged_to_a_program_without_it() {
    let program = Program::new(by_name);
    let launcher = program.launcher().await.unwrap();
    let id = launcher.create_snapshot().await.unwrap().snapshot.id();
    let entries = launcher.snapshots().list().unwrap();
    let [entry] = entries.as_slice() else {
        panic!("{entries:?}");
    };
    let manifest = entry.state.as_ref().unwrap();
    assert_eq!((manifest.id, &manifest.vmm.kind), (id, &KIND));
    let mut other = launcher.requirements().clone();
    other.vmm.kind = VmmKind::new("QEMU");
    let mismatch = other.check(manifest).unwrap_err();
    assert!(matches!(mismatch, Mismatch::VmmKind { .. }), "{mismatch}");
}
