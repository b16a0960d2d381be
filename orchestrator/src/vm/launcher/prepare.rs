//! From the settings to a launcher: the hypervisor, the template, the snapshots' directory.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use super::probe::{Known, Verdict};
use super::root_disk::RootDisk;
use super::{
    Inner, LaunchError, Launcher, PassedOver, Progress, Stage, blocking, find_guest_agent, probe,
};
#[cfg(feature = "debian")]
use crate::template::BuildSpec;
#[cfg(not(feature = "debian"))]
use crate::template::TemplateError;
use crate::template::{ImageConfig, Template, TemplateStore};
use crate::vm::backend::select::{self, Listed, OutOfOrder, Step};
use crate::vm::backend::{Absence, Backend, Candidate, Installed, Surroundings};
use crate::vm::config::Config;
use crate::vm::guest::defaults::Defaults;
use crate::vm::instance::Lineage;
use crate::vm::snapshot::{Host, Requirements, SnapshotError, SnapshotStore};
use crate::vm::vmm::rundown::Rundown;
use crate::vm::vmm::{Vmm, VmmError, VmmIdentity, VmmKind};

impl Launcher {
    /// Opens one whose VMs end in `rundown`; see [`Launcher::open`].
    pub(crate) async fn open_in(
        rundown: Rundown,
        config: &Config,
        progress: Progress,
    ) -> Result<Self, LaunchError> {
        // Looked for first: what is missing should not cost a template's build.
        let found = Detected::detect(config, rundown).await?;
        let template = {
            let (config, progress) = (config.clone(), Arc::clone(&progress));
            blocking(move || template(&config, &progress)).await?
        };
        Self::found(found, template, config, progress).await
    }

    /// Does the same for an existing template.
    pub(crate) async fn of_in(
        rundown: Rundown,
        template: Template,
        config: &Config,
        progress: Progress,
    ) -> Result<Self, LaunchError> {
        let found = Detected::detect(config, rundown).await?;
        Self::found(found, template, config, progress).await
    }

    async fn found(
        found: Detected,
        template: Template,
        config: &Config,
        progress: Progress,
    ) -> Result<Self, LaunchError> {
        let path = config.snapshot_path.clone();
        let snapshots = blocking(move || SnapshotStore::open(path)).await?;
        let (vmm, passed_over) = found.choose(config, &template, &progress).await?;
        Self::over(vmm, passed_over, template, config, snapshots, progress)
    }

    /// A launcher for a hypervisor, a template and a directory that were chosen already; of
    /// `config` only the machine and the time for a boot count.
    ///
    /// # Errors
    /// [`LaunchError::Template`] if the template is gone; [`LaunchError::Snapshot`] if nothing can be found
    /// out about this host.
    pub fn with(
        vmm: Arc<dyn Vmm>,
        template: Template,
        config: &Config,
        snapshots: SnapshotStore,
        progress: Progress,
    ) -> Result<Self, LaunchError> {
        Self::over(vmm, Vec::new(), template, config, snapshots, progress)
    }

    fn over(
        vmm: Arc<dyn Vmm>,
        passed_over: Vec<PassedOver>,
        template: Template,
        config: &Config,
        snapshots: SnapshotStore,
        progress: Progress,
    ) -> Result<Self, LaunchError> {
        let machine = RootDisk::machine(&template, config.machine);
        let pin = template.pin()?;
        let root_disk = RootDisk::new(&template, machine)?;
        let requirements = Requirements {
            template: *template.hash(),
            vmm: vmm.identity().clone(),
            machine,
            host: Host::current(vmm.tsc_khz()).map_err(SnapshotError::from)?,
        };
        Ok(Self(Arc::new(Inner {
            vmm,
            passed_over,
            machine,
            boot_timeout: config.boot_timeout,
            lineage: Arc::new(Lineage {
                store: snapshots.clone(),
                requirements: requirements.clone(),
                images: root_disk.as_ref().map(RootDisk::images).unwrap_or_default(),
                defaults: defaults(&template),
                template: template.clone(),
                _pin: pin,
            }),
            template,
            root_disk,
            snapshots,
            requirements,
            progress,
        })))
    }
}

/// What an image says of the commands in it; nothing, if the root is none of one.
fn defaults(template: &Template) -> Defaults {
    let origin = template.manifest().root_origin.as_ref();
    let config = origin.map(|origin| &origin.config);
    let of_config =
        |it: &ImageConfig| Defaults::of_image(&it.env, &it.user, &it.working_dir, &it.stop_signal);
    config.map(of_config).unwrap_or_default()
}

impl Launcher {
    /// Returns the hypervisors that a run would choose from; see [`Launcher::hypervisors`].
    pub(crate) async fn hypervisors_in(
        rundown: Rundown,
        config: &Config,
    ) -> Result<Vec<Arc<dyn Vmm>>, LaunchError> {
        let mut queue = Queue::new(config, rundown)?;
        let mut all = Vec::new();
        while let Some(installed) = queue.next().await? {
            // The one that serves whatever a trial of the others shows.
            all.extend(installed.open().await?.pop());
        }
        if all.is_empty() {
            return Err(queue.none());
        }
        Ok(all.into_iter().map(|candidate| candidate.vmm).collect())
    }
}

/// The backends that may serve, best first. Each is looked for when its turn comes.
struct Queue {
    left: VecDeque<Arc<dyn Backend>>,
    surroundings: Surroundings,
    /// The one that was chosen by its name.
    chosen: Option<VmmKind>,
    /// Why the last one that was looked for is not used.
    missing: Option<LaunchError>,
}

impl Queue {
    fn new(config: &Config, rundown: Rundown) -> Result<Self, LaunchError> {
        let chosen = config.backend.kind().cloned();
        let backends = config.backends.list();
        let listed: Vec<_> = backends
            .iter()
            .map(|backend| Listed {
                kind: backend.kind(),
                insists: backend.insists(),
            })
            .collect();
        let order = select::order(chosen.as_ref(), &listed).map_err(|error| match error {
            OutOfOrder::Unknown(kind) => LaunchError::UnknownBackend { kind },
            OutOfOrder::Needs { variable, needed } => {
                LaunchError::NeedsBackend { variable, needed }
            }
        })?;
        // Of whatever keeps the one away that a setting insists on, that is the reason.
        let missing = match (order.as_slice(), &chosen) {
            ([only], None) => listed[*only]
                .insists
                .map(|variable| LaunchError::NeedsBackend {
                    variable,
                    needed: listed[*only].kind.clone(),
                }),
            _ => None,
        };
        Ok(Self {
            left: order
                .iter()
                .map(|place| Arc::clone(&backends[*place]))
                .collect(),
            surroundings: config.surroundings(rundown),
            chosen,
            missing,
        })
    }

    /// The next one that is here.
    async fn next(&mut self) -> Result<Option<Box<dyn Installed>>, LaunchError> {
        let insists = matches!(self.missing, Some(LaunchError::NeedsBackend { .. }));
        while let Some(backend) = self.left.pop_front() {
            let kind = backend.kind();
            let error = match backend.detect(&self.surroundings).await {
                Ok(installed) => return Ok(Some(installed)),
                Err(Absence::Refused(error)) => return Err(error.into()),
                Err(Absence::Host(reason)) => LaunchError::BackendUnusable { kind, reason },
                Err(Absence::Program(error)) => {
                    if self.chosen.is_none() && !matches!(error, VmmError::NotInstalled { .. }) {
                        tracing::warn!("{kind} is not used: {error}");
                    }
                    error.into()
                }
            };
            if !insists {
                self.missing = Some(error);
            }
        }
        Ok(None)
    }

    /// Why there is none.
    fn none(self) -> LaunchError {
        let chosen = self.chosen.unwrap_or_else(|| VmmKind::new("none"));
        let unknown = LaunchError::UnknownBackend { kind: chosen };
        self.missing.unwrap_or(unknown)
    }
}

/// The first backend that is here, and those that may serve if it does not.
struct Detected {
    installed: Box<dyn Installed>,
    others: Queue,
}

impl Detected {
    /// # Errors
    /// [`LaunchError`] if there is none that serves.
    async fn detect(config: &Config, rundown: Rundown) -> Result<Self, LaunchError> {
        let mut others = Queue::new(config, rundown)?;
        match others.next().await? {
            Some(installed) => Ok(Self { installed, others }),
            None => Err(others.none()),
        }
    }

    /// The one that runs the template's guest. KVM is tried only where nobody said that it works.
    async fn choose(
        self,
        config: &Config,
        template: &Template,
        progress: &Progress,
    ) -> Result<(Arc<dyn Vmm>, Vec<PassedOver>), LaunchError> {
        let Self {
            mut installed,
            mut others,
        } = self;
        let mut passed_over = Vec::new();
        loop {
            let mut candidates = VecDeque::from(installed.open().await?);
            while let Some(Candidate { vmm, trust }) = candidates.pop_front() {
                let next = others.left.front();
                let is_last = candidates.is_empty() && next.is_none();
                if select::step(trust, is_last) == Step::Use {
                    return Ok((vmm, passed_over));
                }
                let trying = || progress(&Stage::ProbingKvm);
                match probe::boots(&*vmm, config, template, trying).await {
                    Verdict::Boots => return Ok((vmm, passed_over)),
                    Verdict::Fails { reason, known } => {
                        // One that serves after all, without an accelerator, is no news.
                        let next = next.filter(|_| candidates.is_empty());
                        let next = next.map(|backend| backend.kind());
                        say_why_not(vmm.identity(), &reason, known, next.as_ref());
                        let vmm = vmm.identity().clone();
                        passed_over.push(PassedOver { vmm, reason });
                    }
                }
            }
            installed = match others.next().await? {
                Some(installed) => installed,
                None => return Err(others.none()),
            };
        }
    }
}

/// Says what is not used although it is there: once for each combination of host, hypervisor and
/// template, since who calls `ironclaw run` a thousand times knows it by then. The `next` one says by
/// itself if it runs with less of a jail than it should.
fn say_why_not(vmm: &VmmIdentity, reason: &str, known: Known, next: Option<&VmmKind>) {
    match (known, next) {
        (Known::Now, Some(next)) => tracing::warn!(
            "{vmm} is not used, since it does not boot the template here, and {next} is: {reason} \
             (`ironclaw doctor` says what to do, `backend={}` silences this)",
            next.name()
        ),
        (Known::Now | Known::Before, _) => {
            tracing::info!("{vmm} is not used, since it did not boot the template: {reason}");
        }
        (Known::Not, _) => tracing::warn!(
            "{vmm} is not used: whether it boots the template could not be found out, and is tried \
             again at the next start: {reason}"
        ),
    }
}

/// The template in use, built if need be.
///
/// # Errors
/// [`LaunchError`].
fn template(config: &Config, progress: &Progress) -> Result<Template, LaunchError> {
    let store = TemplateStore::open(&config.template_path)?;
    if let Err(error) = store.remove_deleted() {
        tracing::warn!(%error, "a template that was deleted stays for now");
    }
    let agent = match find_guest_agent(config) {
        Err(error) if config.guest_agent.is_some() => return Err(error),
        agent => agent,
    };
    match store.chosen(&config.template) {
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
        Ok(None) => store.ensure_buildable(&config.template)?,
        Err(error) if error.needs_rebuild() => {
            tracing::warn!(%error, "the template is built again");
        }
        Err(error) => return Err(error.into()),
    }
    build(&store, config, agent?, progress)
}

#[cfg(feature = "debian")]
fn build(
    store: &TemplateStore,
    config: &Config,
    agent: PathBuf,
    progress: &Progress,
) -> Result<Template, LaunchError> {
    let spec = BuildSpec {
        max_root_bytes: config.max_root_bytes(),
        ..BuildSpec::new(agent)
    };
    #[cfg(feature = "oci")]
    let spec = spec.with_registry(config.registry_access());
    let progress = &mut |step| progress(&Stage::Template(step));
    Ok(store.build_if_missing(&spec, &config.template, progress)?)
}

/// Says that there is nothing to build a template with.
#[cfg(not(feature = "debian"))]
fn build(
    store: &TemplateStore,
    _: &Config,
    _: PathBuf,
    _: &Progress,
) -> Result<Template, LaunchError> {
    let root = store.root().to_owned();
    Err(TemplateError::NoBuilder { root }.into())
}

#[cfg(test)]
#[cfg(all(feature = "firecracker", feature = "qemu"))]
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

    #[test]
    fn a_setting_that_the_chosen_backend_has_nothing_for_is_named_with_the_one_that_has() {
        let settings = [("IRONCLAW_BACKEND", "qemu"), ("IRONCLAW_TAPS", "tap0")];
        let error = Queue::new(&config(&settings), Rundown::default())
            .err()
            .unwrap();
        assert!(matches!(error, LaunchError::NeedsBackend { .. }), "{error}");
        for part in ["`taps`", "Firecracker"] {
            assert!(error.to_string().contains(part), "{error}");
        }
        let queue = Queue::new(&config(&settings[1..]), Rundown::default()).unwrap();
        let kinds: Vec<_> = queue.left.iter().map(|backend| backend.kind()).collect();
        assert_eq!(kinds, [crate::vm::firecracker::KIND]);
    }

    #[tokio::test]
    async fn a_program_that_a_setting_names_is_not_done_without() {
        let named = ("IRONCLAW_QEMU", "/nonexistent/qemu");
        let set = [named, ("IRONCLAW_BACKEND", "qemu")];
        let error = Detected::detect(&config(&set), Rundown::default())
            .await
            .err()
            .unwrap();
        assert!(error.to_string().contains("/nonexistent/qemu"), "{error}");
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
