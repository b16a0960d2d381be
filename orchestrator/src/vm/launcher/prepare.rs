//! From the settings to a launcher: the hypervisor, the template, the snapshots' directory.

use std::sync::Arc;

use super::{Inner, LaunchError, Launcher, Progress, Stage, blocking, find_guest_agent, probe};
use crate::template::{BuildSpec, Template, TemplateStore};
use crate::vm::config::{AccelChoice, BackendChoice, Config, JailChoice};
use crate::vm::firecracker::{Devices, Firecracker, FirecrackerBinary, Jailer};
use crate::vm::qemu::{Accelerator, Qemu, QemuBinary};
use crate::vm::snapshot::{Host, Requirements, SnapshotStore};
use crate::vm::vmm::{Vmm, VmmError};

impl Launcher {
    /// Finds the hypervisor, opens the directories, and builds the template if there is none yet,
    /// or one with another guest agent: that takes some seconds, and `progress` says so.
    ///
    /// # Errors
    /// [`LaunchError`] with what is missing and what to do.
    pub async fn open(config: &Config, progress: Progress) -> Result<Self, LaunchError> {
        // Looked for first: what is missing should not cost a template's build.
        let found = Found::look(config).await?;
        let template = {
            let (config, progress) = (config.clone(), Arc::clone(&progress));
            blocking(move || template(&config, &progress)).await?
        };
        Self::found(found, template, config, progress).await
    }

    /// As [`open`](Self::open), for a template that is there.
    ///
    /// # Errors
    /// [`LaunchError`] with what is missing and what to do.
    pub async fn of(
        template: Template,
        config: &Config,
        progress: Progress,
    ) -> Result<Self, LaunchError> {
        let found = Found::look(config).await?;
        Self::found(found, template, config, progress).await
    }

    async fn found(
        found: Found,
        template: Template,
        config: &Config,
        progress: Progress,
    ) -> Result<Self, LaunchError> {
        let path = config.snapshot_path.clone();
        let snapshots = blocking(move || SnapshotStore::open(path)).await?;
        let vmm = found.choose(config, &template, &progress).await?;
        Self::with(vmm, template, config, snapshots, progress)
    }

    /// A launcher for a hypervisor, a template and a directory that were chosen already; of
    /// `config` only the machine counts.
    ///
    /// # Errors
    /// [`LaunchError::Snapshot`] if nothing can be found out about this host.
    pub fn with(
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

/// The hypervisors that are installed and allowed by the settings.
struct Found {
    firecracker: Option<Firecracker>,
    qemu: Result<QemuBinary, VmmError>,
}

impl Found {
    /// # Errors
    /// [`LaunchError`] if there is none that serves.
    async fn look(config: &Config) -> Result<Self, LaunchError> {
        let firecracker = match config.backend {
            BackendChoice::Qemu => None,
            BackendChoice::Firecracker => {
                probe::device().map_err(|error| LaunchError::NoKvm {
                    reason: format!("/dev/kvm can't be opened: {error}"),
                })?;
                Some(firecracker(config).await?)
            }
            BackendChoice::Auto if probe::device().is_err() => None,
            BackendChoice::Auto => match firecracker(config).await {
                Ok(firecracker) => Some(firecracker),
                // Nobody asked for it by name.
                Err(LaunchError::Vmm(VmmError::NotInstalled { path: None, .. })) => None,
                Err(error) => return Err(error),
            },
        };
        let qemu = QemuBinary::find(config.qemu.as_deref()).await;
        match (&firecracker, qemu) {
            (None, Err(error)) => Err(error.into()),
            (_, qemu) => Ok(Self { firecracker, qemu }),
        }
    }

    /// The one that runs the template's guest. KVM is tried only where nobody said that it works.
    async fn choose(
        self,
        config: &Config,
        template: &Template,
        progress: &Progress,
    ) -> Result<Arc<dyn Vmm>, LaunchError> {
        let trying = || progress(&Stage::ProbingKvm);
        let Self { firecracker, qemu } = self;
        if let Some(firecracker) = firecracker
            && (config.backend == BackendChoice::Firecracker
                || probe::works(&firecracker, config, template, trying).await)
        {
            return Ok(Arc::new(firecracker));
        }
        let binary = qemu?;
        if let Some(variable) = config.needs_firecracker() {
            return Err(LaunchError::NeedsFirecracker { variable });
        }
        let run_path = config.run_path.clone();
        let new = move || Qemu::new(binary, Accelerator::Tcg, &run_path);
        let translated = blocking(new).await?;
        let kvm = translated.clone().accelerated_by(Accelerator::Kvm);
        let use_kvm = match config.qemu_accel {
            AccelChoice::Kvm => true,
            AccelChoice::Tcg => false,
            AccelChoice::Auto => {
                probe::device().is_ok() && probe::works(&kvm, config, template, trying).await
            }
        };
        if use_kvm {
            return Ok(Arc::new(kvm));
        }
        Ok(Arc::new(translated))
    }
}

async fn firecracker(config: &Config) -> Result<Firecracker, LaunchError> {
    let binary = FirecrackerBinary::find(config.firecracker.as_deref()).await?;
    let config = config.clone();
    blocking(move || {
        let jailer = jailer(&config)?;
        let devices = Devices::new(
            config.root_drive.as_deref(),
            config.cpu_template.as_deref(),
            config.taps.0,
            jailer.is_some(),
        )?;
        Firecracker::new(binary, &config.run_path, jailer, devices)
    })
    .await
}

/// The jailer, if VMs are to be jailed.
fn jailer(config: &Config) -> Result<Option<Jailer>, VmmError> {
    let find = || Jailer::find(config.jailer.as_deref(), config.jail_users.0.clone());
    let reason = match config.jail {
        JailChoice::Off => return Ok(None),
        JailChoice::On => return find().map(Some),
        JailChoice::Auto if !rustix::process::geteuid().is_root() => "only root can jail them",
        JailChoice::Auto => match find() {
            Ok(jailer) => return Ok(Some(jailer)),
            Err(VmmError::NotInstalled { path: None, .. }) => "there is no jailer on PATH",
            Err(error) => return Err(error),
        },
    };
    tracing::warn!(
        "Firecracker runs without its jailer: {reason} (IRONCLAW_JAIL=off silences this)"
    );
    Ok(None)
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
            if template.is_imported() || template.has_agent(agent)? {
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
    let build = &mut |step| progress(&Stage::Template(step));
    Ok(store.build_if_missing(&spec, build)?)
}
