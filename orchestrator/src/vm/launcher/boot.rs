//! Boots a template until its agent answers.

use std::convert::Infallible;
use std::future::ready;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use tokio::fs;
use tokio::time::{Instant, sleep, timeout};

use super::error::LaunchError;
use super::root_disk::RootDisk;
use super::stage::{Progress, Stage};
use crate::template::Template;
use crate::vm::guest::{Guest, GuestError};
use crate::vm::vmm::process::{self, PROCESS_END_TIMEOUT};
use crate::vm::vmm::{Exit, Machine, MicroVm, Ram, VmSpec, Vmm, VmmError, VmmProcess};

/// Limit of the attempts at a boot: under QEMU's translator some hang in the calibration of a
/// timer.
const MAX_BOOTS: u32 = 3;
/// The prefix of Linux's report of a panic (kernel/panic.c).
const PANIC: &str = "Kernel panic - not syncing";
/// Interval of reports about a boot that goes on.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// A VM whose agent answered.
pub(super) type Booted = (Box<dyn MicroVm>, Guest);

/// Returns the specification of a VM that boots `template`, with its disks if it has a root disk.
pub(super) fn spec(
    template: &Template,
    machine: Machine,
    root_disk: Option<&RootDisk>,
    ram: Ram,
) -> VmSpec {
    VmSpec {
        machine,
        kernel: template.kernel().to_owned(),
        initramfs: template.initramfs().map(Path::to_owned),
        cmdline: root_disk.map_or_else(
            || template.boot_args().to_owned(),
            |disk| disk.boot_args(template),
        ),
        ram,
        images: root_disk.map(RootDisk::images).unwrap_or_default(),
        scratch: root_disk.map(RootDisk::scratch).unwrap_or_default(),
    }
}

/// Boots `spec`, several times if the guest does not come up within `patience` of the start of its
/// vCPUs. Reports an error that another boot
/// would repeat at once.
pub(super) async fn boot(
    vmm: &dyn Vmm,
    spec: &VmSpec,
    patience: Duration,
    progress: &Progress,
) -> Result<Booted, LaunchError> {
    let mut attempt = 1;
    loop {
        // A VMM that does not get as far as running the guest is reported at once.
        let vm = vmm.boot(spec).await?;
        let booted = tokio::select! {
            booted = greet(vm, patience) => booted,
            never = tell(progress, attempt) => match never {},
        };
        match booted {
            Err(error) if attempt < MAX_BOOTS && is_worth_another(&error) => {
                // The last attempt's error has its output.
                let why = error.exit().map_or("", |exit| &exit.status);
                tracing::warn!(why, attempt, "the template did not come up, trying again");
            }
            result => return result,
        }
        if let Ram::File(path) = &spec.ram {
            // The next attempt must start without a file.
            remove(path).await?;
        }
        attempt += 1;
    }
}

/// Reports repeatedly that a boot goes on.
async fn tell(progress: &Progress, attempt: u32) -> Infallible {
    let start = Instant::now();
    loop {
        sleep(REPORT_INTERVAL).await;
        let after = start.elapsed();
        progress(&Stage::StillBooting { after, attempt });
    }
}

/// Boots `spec`; its agent has to answer within `patience` from the start of the vCPUs.
pub(super) async fn boot_once(
    vmm: &dyn Vmm,
    spec: &VmSpec,
    patience: Duration,
) -> Result<Booted, LaunchError> {
    greet(vmm.boot(spec).await?, patience).await
}

async fn greet(mut vm: Box<dyn MicroVm>, patience: Duration) -> Result<Booted, LaunchError> {
    let process = vm.process();
    let (died, panicked) = (process.died(), process.panicked());
    let greeted = async {
        let stream = vm.guest_channel().await?;
        let guest = Guest::of(&*process, stream)?;
        guest.ping(patience).await?;
        Ok::<Guest, LaunchError>(guest)
    };
    let greeted = tokio::select! {
        // Checked first: it explains the effects of its end on the connection.
        biased;
        _ = died => return Err(ended(&*process).await),
        () = panicked => {
            let exit = killed(vm).await;
            return Err(LaunchError::KernelPanic { exit });
        }
        greeted = timeout(patience, greeted) => greeted,
    };
    match greeted {
        Ok(Ok(guest)) => Ok((vm, guest)),
        Err(_) | Ok(Err(LaunchError::Guest(GuestError::NoAnswer { .. }))) => {
            let exit = killed(vm).await;
            Err(LaunchError::NoBoot {
                after: patience,
                exit,
            })
        }
        Ok(Err(error)) => Err(tokio::select! {
            biased;
            // The connection may have learned of the end after this was last asked.
            _ = process.died() => ended(&*process).await,
            () = ready(()) => error,
        }),
    }
}

/// Returns how the boot of a process failed that has ended, after its cleanup.
async fn ended(process: &dyn VmmProcess) -> LaunchError {
    let (operation, exit) = ("boot the template", process.exited().await);
    if exit.log.contains(PANIC) {
        return LaunchError::KernelPanic { exit };
    }
    VmmError::Died { operation, exit }.into()
}

/// Returns whether the guest, or the VMM under it, failed by itself.
pub(super) fn did_not_come_up(error: &LaunchError) -> bool {
    matches!(error, LaunchError::KernelPanic { .. }) || is_worth_another(error)
}

/// Returns whether another boot may do better: a kernel that panicked will do so again.
fn is_worth_another(error: &LaunchError) -> bool {
    matches!(
        error,
        LaunchError::NoBoot { .. } | LaunchError::Vmm(VmmError::Died { .. })
    )
}

/// Returns the end of a killed VM, with its output until then.
async fn killed(vm: Box<dyn MicroVm>) -> Exit {
    let exited = vm.process().exited();
    drop(vm);
    let ended = timeout(PROCESS_END_TIMEOUT, exited).await;
    ended.unwrap_or_else(|_| process::stuck())
}

async fn remove(path: &Path) -> Result<(), VmmError> {
    match fs::remove_file(path).await {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(VmmError::io(format!("remove {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::vm::launcher::fake::{Boot, Fake, template};

    const PATIENCE: Duration = Duration::from_secs(60);

    fn spec(template: &Template) -> VmSpec {
        let machine = Machine {
            memory_mib: 128,
            vcpus: 1,
            disk_mib: None,
        };
        super::spec(template, machine, None, Ram::Private)
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_hangs_and_a_vmm_that_dies_are_booted_again() {
        let (_directory, template) = template();
        let vmm = Fake::new([Boot::Silent, Boot::Dies, Boot::Answers]);
        boot(&vmm, &spec(&template), PATIENCE, &quiet())
            .await
            .unwrap();
        assert_eq!(vmm.left(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_boot_failure_reports_the_last_lines_of_the_guest() {
        let (_directory, template) = template();
        let vmm = Fake::new([Boot::Silent; 3]);
        let error = boot(&vmm, &spec(&template), PATIENCE, &quiet())
            .await
            .unwrap_err();
        assert!(matches!(error, LaunchError::NoBoot { .. }), "{error}");
        assert!(error.to_string().contains("last words"), "{error}");
        let vmm = Fake::new([Boot::Dies; 3]);
        let error = boot(&vmm, &spec(&template), PATIENCE, &quiet())
            .await
            .unwrap_err();
        let died = matches!(error, LaunchError::Vmm(VmmError::Died { .. }));
        assert!(died && error.to_string().contains("last words"), "{error}");
    }

    #[tokio::test]
    async fn a_permanent_boot_failure_is_reported_at_once_with_its_cause() {
        let (_directory, template) = template();
        for (fault, cause) in [
            (Boot::OtherVersion, "ironclaw template build"),
            (Boot::Fails, "make a directory"),
        ] {
            let vmm = Fake::new([fault, Boot::Answers]);
            let error = boot(&vmm, &spec(&template), PATIENCE, &quiet())
                .await
                .unwrap_err();
            assert!(error.to_string().contains(cause), "{error}");
            assert_eq!(vmm.left(), 1, "{fault:?} is not tried again");
        }
    }

    fn quiet() -> Progress {
        Arc::new(|_: &_| {})
    }

    #[tokio::test(start_paused = true)]
    async fn a_kernel_that_panicked_is_not_booted_again() {
        let (_directory, template) = template();
        let panics = [
            Boot::PanicsAndEnds,
            Boot::PanicsAndEndsLate,
            Boot::PanicsAndStays,
        ];
        for panic in panics {
            let vmm = Fake::new([panic, Boot::Answers]);
            let start = Instant::now();
            let error = boot(&vmm, &spec(&template), PATIENCE, &quiet())
                .await
                .unwrap_err();
            assert!(matches!(error, LaunchError::KernelPanic { .. }), "{error}");
            assert!(error.to_string().contains("Kernel panic"), "{error}");
            assert_eq!(vmm.left(), 1, "{panic:?}");
            assert!(start.elapsed() < PATIENCE, "it is not waited for");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_boot_that_takes_long_is_told_again_and_again() {
        let (_directory, template) = template();
        let told = Arc::new(Mutex::new(Vec::new()));
        let tells = Arc::clone(&told);
        let progress: Progress =
            Arc::new(move |stage: &Stage| tells.lock().unwrap().push(stage.to_string()));
        let vmm = Fake::new([Boot::Silent, Boot::Answers]);
        boot(&vmm, &spec(&template), PATIENCE, &progress)
            .await
            .unwrap();
        let told = told.lock().unwrap();
        assert!(told.len() >= 5 && told[0].contains("10"), "{told:?}");
    }
}
