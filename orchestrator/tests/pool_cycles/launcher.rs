//! Creates the launchers of the tests' pools.

use std::path::Path;
use std::sync::Arc;

use ironclaw_orchestrator::template::{ImportSpec, TemplateStore};
use ironclaw_orchestrator::vm::snapshot::SnapshotStore;
use ironclaw_orchestrator::vm::vmm::{Machine, Vmm};
use ironclaw_orchestrator::vm::{Config, Launcher};

use crate::vm::Simulated;
use crate::world::World;

pub(crate) fn launcher(directory: &Path, world: &Arc<World>) -> Launcher {
    of_template(directory, Arc::new(Simulated::new(Arc::clone(world))), 0)
}

/// Creates one with a template of its own for each number.
pub(crate) fn of_template(directory: &Path, vmm: Arc<dyn Vmm>, template: usize) -> Launcher {
    let kernel = directory.join("kernel");
    std::fs::write(&kernel, format!("\x7fELF{template}")).unwrap();
    let templates = TemplateStore::open(directory.join("templates")).unwrap();
    let spec = ImportSpec {
        kernel,
        initramfs: None,
        root_disk: None,
        boot_args: String::new(),
    };
    let template = templates.import(&spec, &mut |_| {}).unwrap();
    let mut config = Config::from_env().unwrap();
    config.machine = Machine::new(1, 1);
    let snapshots = SnapshotStore::open(directory.join("snapshots")).unwrap();
    Launcher::with(vmm, template, &config, snapshots, Arc::new(|_: &_| {})).unwrap()
}
