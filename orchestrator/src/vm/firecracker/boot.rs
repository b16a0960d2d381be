//! Boots a machine in a process that was started.

use super::api::{Action, BootSource, Entropy, MachineConfiguration, Vsock};
use super::chroot::Chroot;
use super::devices::{Devices, Tap};
use super::vm::{FirecrackerVm, VSOCK, Writes};
use crate::vm::vmm::{Ram, VmSpec, VmmError};

/// The guest's context id on its vsock. Each guest has a vsock of its own, so all can have the
/// same.
const GUEST_CID: u32 = 3;

/// Arguments for the guest's kernel.
///
/// - `pci=off i8042…`: there is no PCI bus to probe, and no keyboard controller but the one that
///   resets the machine.
/// - `nowatchdog rcupdate.rcu_cpu_stall_suppress=1`: a guest's clock jumps by minutes or hours when
///   it is restored from a snapshot, and when it is released from a hold. The kernel takes that for
///   a hung processor, and would print pages about it just when it has to answer. (A VMM can report
///   a pause to the kernel, `KVM_KVMCLOCK_CTRL`, but neither of these.)
const BOOT_ARGS: &str = "pci=off i8042.noaux i8042.nomux i8042.dumbkbd nowatchdog \
                         rcupdate.rcu_cpu_stall_suppress=1";

impl FirecrackerVm {
    /// Boots what `spec` names, with the `devices` and this tap.
    pub(super) async fn boot(
        &mut self,
        spec: &VmSpec,
        devices: &Devices,
        tap: Option<&Tap>,
    ) -> Result<(), VmmError> {
        // All other pages of a freshly booted VM are zeros, so a snapshot of the written ones is
        // complete: it saves writing, reading and punching holes for memory that was never touched.
        let track_dirty_pages = matches!(spec.ram, Ram::File(_));
        if track_dirty_pages {
            self.writes = Writes::Since(None);
        }
        let boot_source = boot_source(spec, &self.chroot)?;
        let drives = self.attach(&spec.images, &spec.scratch).await?;

        self.converse("configure the VM", async |api| {
            api.call(&MachineConfiguration {
                vcpu_count: spec.machine.vcpus,
                mem_size_mib: spec.machine.memory_mib,
                track_dirty_pages,
            })
            .await?;
            api.call(&boot_source).await?;
            devices.configure(api, tap).await?;
            for drive in drives {
                api.call(&drive).await?;
            }
            api.call(&Vsock {
                guest_cid: GUEST_CID,
                uds_path: VSOCK.into(),
            })
            .await?;
            api.call(&Entropy {}).await
        })
        .await?;
        self.converse("boot", async |api| api.call(&Action::InstanceStart).await)
            .await
    }
}

fn boot_source(spec: &VmSpec, chroot: &Chroot) -> Result<BootSource, VmmError> {
    let initramfs = spec.initramfs.as_deref();
    Ok(BootSource {
        kernel_image_path: chroot.expose_read_only(&spec.kernel, "kernel")?,
        initrd_path: initramfs
            .map(|initramfs| chroot.expose_read_only(initramfs, "initramfs"))
            .transpose()?,
        boot_args: Some(format!("{} {BOOT_ARGS}", spec.cmdline)),
    })
}
