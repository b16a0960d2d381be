//! Creates the launcher of the tests' pools.

use std::path::Path;
use std::sync::Arc;

use ironclaw_orchestrator::template::{ImportSpec, TemplateStore};
use ironclaw_orchestrator::vm::snapshot::SnapshotStore;
use ironclaw_orchestrator::vm::vmm::Machine;
use ironclaw_orchestrator::vm::{Config, Launcher};

use crate::vm::Simulated;
use crate::world::World;

pub(crate) fn launcher(directory: &Path, world: &Arc<World>) -> Launcher {
    let kernel = directory.join("kernel");
    std::fs::write(&kernel, "\x7fELF").unwrap();
    let templates = TemplateStore::open(directory.join("templates")).unwrap();
    let spec = ImportSpec {
        kernel,
        initramfs: None,
        boot_args: String::new(),
    };
    let template = templates.import(&spec, &mut |_| {}).unwrap();
    let mut config = Config::from_env().unwrap();
    config.machine = Machine {
        memory_mib: 1,
        vcpus: 1,
    };
    let snapshots = SnapshotStore::open(directory.join("snapshots")).unwrap();
    let vmm = Arc::new(Simulated::new(Arc::clone(world)));
    Launcher::with(vmm, template, &config, snapshots, Arc::new(|_: &_| {})).unwrap()
}
