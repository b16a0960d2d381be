//! From the settings to a launcher: the hypervisor, the template, the snapshots' directory.

use std::sync::Arc;

use super::probe::Verdict;
use super::{Inner, LaunchError, Launcher, Progress, Stage, blocking, find_guest_agent, probe};
use crate::template::{BuildSpec, Template, TemplateStore};
use crate::vm::config::{AccelChoice, BackendChoice, Config, JailChoice};
use crate::vm::firecracker::{self, Devices, Firecracker, FirecrackerBinary, Jailer};
use crate::vm::qemu::{self, Accelerator, Qemu, QemuBinary};
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

impl Launcher {
    /// The hypervisors that a run would choose from, best first.
    ///
    /// # Errors
    /// [`LaunchError`] if there is none that serves.
    pub async fn hypervisors(config: &Config) -> Result<Vec<Arc<dyn Vmm>>, LaunchError> {
        let Found { firecracker, qemu } = Found::look(config).await?;
        let mut all: Vec<Arc<dyn Vmm>> = Vec::new();
        if let Some(firecracker) = firecracker {
            all.push(Arc::new(firecracker));
        }
        let insists = config.backend == BackendChoice::Firecracker;
        if let (Ok(binary), false) = (qemu, insists || config.needs_firecracker().is_some()) {
            let translated = translated(binary, config).await?;
            let use_kvm = config.qemu_accel == AccelChoice::Kvm;
            all.push(match use_kvm {
                true => Arc::new(translated.accelerated_by(Accelerator::Kvm)),
                false => Arc::new(translated),
            });
        }
        Ok(all)
    }
}

/// QEMU as a translator, in its jail.
async fn translated(binary: QemuBinary, config: &Config) -> Result<Qemu, LaunchError> {
    let config = config.clone();
    blocking(move || {
        let jail = qemu_jail(&binary, &config)?;
        let qemu = Qemu::new(binary, Accelerator::Tcg, &config.run_path)?;
        Ok::<_, VmmError>(qemu.jailed(jail))
    })
    .await
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
                Err(error) => {
                    without_firecracker(error, config)?;
                    None
                }
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
        let needs_firecracker = config.needs_firecracker();
        // Where QEMU is no choice, a boot tells more than a probe that failed.
        let insists = config.backend == BackendChoice::Firecracker || needs_firecracker.is_some();
        if let Some(firecracker) = firecracker {
            if insists {
                return Ok(Arc::new(firecracker));
            }
            let identity = firecracker.identity().clone();
            match probe::boots(&firecracker, config, template, trying).await {
                Verdict::Boots => return Ok(Arc::new(firecracker)),
                // Said once for each combination of host, hypervisor and template: who calls
                // `ironclaw run` a thousand times knows it by then. QEMU says by itself if it runs
                // with less of a jail than it should.
                Verdict::FailsNow => tracing::warn!(
                    "{identity} is not used, since it does not boot the template here: QEMU is \
                     (IRONCLAW_BACKEND=qemu silences this)"
                ),
                Verdict::FailedBefore => {
                    tracing::info!("{identity} is not used, since it did not boot the template");
                }
            }
        }
        if let Some(variable) = needs_firecracker {
            return Err(LaunchError::NeedsFirecracker { variable });
        }
        let binary = qemu?;
        let translated = translated(binary, config).await?;
        let kvm = translated.clone().accelerated_by(Accelerator::Kvm);
        let use_kvm = match config.qemu_accel {
            AccelChoice::Kvm => true,
            AccelChoice::Tcg => false,
            AccelChoice::Auto => {
                probe::device().is_ok()
                    && probe::boots(&kvm, config, template, trying).await == Verdict::Boots
            }
        };
        if use_kvm {
            return Ok(Arc::new(kvm));
        }
        Ok(Arc::new(translated))
    }
}

/// Whether it may be done without Firecracker, which failed for this reason: not if anybody asked
/// for what failed by name. That there is one that can't be used is said.
fn without_firecracker(error: LaunchError, config: &Config) -> Result<(), LaunchError> {
    let LaunchError::Vmm(reason) = &error else {
        return Err(error);
    };
    let asked_for = match reason {
        VmmError::NotInstalled {
            program,
            path: None,
            ..
        } if *program == firecracker::PROGRAM => return Ok(()),
        VmmError::Unusable { program, .. } if *program == firecracker::PROGRAM => {
            config.firecracker.is_some()
        }
        VmmError::Unusable { program, .. } if *program == firecracker::JAILER => {
            config.jail == JailChoice::On
        }
        _ => true,
    };
    if asked_for {
        return Err(error);
    }
    tracing::warn!("Firecracker is not used: {reason}");
    Ok(())
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

/// The jailer, if VMs are to be jailed: as root always, unless the settings say otherwise.
fn jailer(config: &Config) -> Result<Option<Jailer>, VmmError> {
    let is_root = rustix::process::geteuid().is_root();
    match config.jail {
        JailChoice::Off => return Ok(None),
        JailChoice::Auto if !is_root => {}
        JailChoice::On | JailChoice::Auto => {
            let users = config.jail_users.0.clone();
            return Jailer::find(config.jailer.as_deref(), users).map(Some);
        }
    }
    let reason = "only root can jail them";
    tracing::warn!(
        "Firecracker runs without its jailer: {reason} (IRONCLAW_JAIL=off silences this)"
    );
    Ok(None)
}

/// What QEMU is jailed by. A jail that is weaker than this user should have is told.
fn qemu_jail(binary: &QemuBinary, config: &Config) -> Result<qemu::Jail, VmmError> {
    if config.jail == JailChoice::Off {
        return Ok(qemu::Jail::off());
    }
    let jail = qemu::Jail::find(&binary.path, config.jail_users.0.clone())?;
    if config.jail == JailChoice::On {
        return jail.or_error(&binary.path);
    }
    if let Some(reason) = jail.why_no_stronger() {
        tracing::warn!(
            "QEMU runs with a weaker jail: {reason} (`ironclaw doctor` lists what is in force, \
             IRONCLAW_JAIL=off silences this)"
        );
    }
    Ok(jail)
}

/// The template in use, built if need be.
///
/// # Errors
/// [`LaunchError`].
fn template(config: &Config, progress: &Progress) -> Result<Template, LaunchError> {
    let store = TemplateStore::open(&config.template_path)?;
    let agent = match find_guest_agent(config) {
        Err(error) if config.guest_agent.is_some() => return Err(error),
        agent => agent,
    };
    match store.default_template() {
        Ok(Some(template)) => {
            // Without an agent at hand the template's own is as good as it gets.
            let Ok(agent) = &agent else {
                return Ok(template);
            };
            if template.is_imported() || template.has_agent(agent)? {
                return Ok(template);
            }
            // It speaks this release's protocol, or it would not have been loaded.
            if store.is_read_only() {
                tracing::debug!("the template holds another agent, and can't be built anew");
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::launcher::fake;

    fn config(settings: &[(&str, &str)]) -> Config {
        let variable = |name: &str| {
            let setting = settings.iter().find(|(variable, _)| *variable == name);
            setting.map(|(_, value)| value.into())
        };
        Config::from_vars(variable, true).unwrap()
    }

    fn unusable(program: &'static str) -> LaunchError {
        let (path, reason) = (program.into(), "of its age".to_owned());
        VmmError::Unusable {
            program,
            path,
            reason,
        }
        .into()
    }

    #[test]
    fn a_firecracker_that_nobody_asked_for_by_name_can_be_done_without() {
        let missing = |program, path: Option<&str>| VmmError::NotInstalled {
            program,
            path: path.map(Into::into),
            hint: "",
        };
        let nothing = config(&[]);
        without_firecracker(missing("firecracker", None).into(), &nothing).unwrap();
        without_firecracker(unusable("firecracker"), &nothing).unwrap();
        without_firecracker(unusable("jailer"), &nothing).unwrap();

        without_firecracker(missing("firecracker", Some("/x")).into(), &nothing).unwrap_err();
        without_firecracker(unusable("tap device"), &nothing).unwrap_err();
        let named = config(&[("IRONCLAW_FIRECRACKER", "/x")]);
        without_firecracker(unusable("firecracker"), &named).unwrap_err();
        let jailed = config(&[("IRONCLAW_JAIL", "on")]);
        without_firecracker(unusable("jailer"), &jailed).unwrap_err();
        without_firecracker(missing("jailer", None).into(), &jailed).unwrap_err();
        let full = std::io::ErrorKind::StorageFull.into();
        without_firecracker(VmmError::io("write")(full).into(), &nothing).unwrap_err();
    }

    #[test]
    fn an_agent_that_is_named_and_not_there_is_an_error_whatever_the_template_has() {
        let (directory, _) = fake::template();
        let templates = directory.path().join("templates");
        let templates = ("IRONCLAW_TEMPLATE_PATH", templates.to_str().unwrap());
        let progress: Progress = Arc::new(|_: &_| {});
        template(&config(&[templates]), &progress).unwrap();
        let named = config(&[templates, ("IRONCLAW_GUEST_AGENT", "/nowhere")]);
        let error = template(&named, &progress).unwrap_err();
        assert!(error.to_string().contains("/nowhere"), "{error}");
    }
}
