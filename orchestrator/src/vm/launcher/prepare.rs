//! From the settings to a launcher: the hypervisor, the template, the snapshots' directory.

use std::sync::Arc;

use super::{Inner, LaunchError, Launcher, Progress, Stage, blocking, find_guest_agent};
use crate::template::{BuildSpec, Template, TemplateStore};
use crate::vm::config::{AccelChoice, BackendChoice, Config};
use crate::vm::qemu::{Accelerator, Qemu, QemuBinary};
use crate::vm::snapshot::{Host, Requirements, SnapshotStore};
use crate::vm::vmm::Vmm;

impl Launcher {
    /// Finds the hypervisor, opens the directories, and builds the template if there is none yet,
    /// or one with another guest agent: that takes some seconds, and `progress` says so.
    ///
    /// # Errors
    /// [`LaunchError`] with what is missing and what to do.
    pub async fn open(config: &Config, progress: Progress) -> Result<Self, LaunchError> {
        if config.backend == BackendChoice::Firecracker {
            return Err(LaunchError::NoFirecracker);
        }
        let binary = QemuBinary::find(config.qemu.as_deref()).await?;
        let path = config.snapshot_path.clone();
        let snapshots = blocking(move || SnapshotStore::open(path)).await?;
        let template = {
            let (config, progress) = (config.clone(), Arc::clone(&progress));
            blocking(move || template(&config, &progress)).await?
        };
        let accelerator = match config.qemu_accel {
            AccelChoice::Kvm => Accelerator::Kvm,
            AccelChoice::Tcg | AccelChoice::Auto => Accelerator::Tcg,
        };
        let vmm = Arc::new(Qemu::new(binary, accelerator));
        Self::with(vmm, template, config, snapshots, progress)
    }

    /// A launcher for a hypervisor that was chosen already.
    pub(crate) fn with(
        vmm: Arc<dyn Vmm>,
        template: Template,
        config: &Config,
        snapshots: SnapshotStore,
        progress: Progress,
    ) -> Result<Self, LaunchError> {
        let requirements = Requirements {
            template: template.hash().clone(),
            vmm: vmm.identity().clone(),
            machine: config.machine,
            host: Host::current(vmm.tsc_khz())?,
        };
        let machine = config.machine;
        Ok(Self(Arc::new(Inner {
            vmm,
            template,
            machine,
            snapshots,
            requirements,
            progress,
        })))
    }
}

/// The template in use, built if need be.
///
/// # Errors
/// [`LaunchError`].
fn template(config: &Config, progress: &Progress) -> Result<Template, LaunchError> {
    let store = TemplateStore::open(&config.template_path)?;
    let agent = find_guest_agent(config);
    match store.default_template() {
        Ok(Some(template)) => {
            // Without an agent at hand the template's own is as good as it gets.
            let Ok(agent) = &agent else {
                return Ok(template);
            };
            if template.has_agent(agent)? {
                return Ok(template);
            }
        }
        Ok(None) => {}
        Err(error) if error.needs_rebuild() => {
            tracing::warn!(%error, "the template is built again");
        }
        Err(error) => return Err(error.into()),
    }
    let spec = BuildSpec::new(agent?);
    Ok(store.build(&spec, &mut |step| progress(&Stage::Template(step)))?)
}
