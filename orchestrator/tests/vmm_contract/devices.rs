//! Tests devices with the simulator, which refuses a clone with its snapshot's tap device.

use std::sync::Arc;

use ironclaw_orchestrator::vm::Launcher;
use ironclaw_orchestrator::vm::firecracker::{Devices, Firecracker, FirecrackerBinary};
use libtest_mimic::Trial;

use crate::backend::{Backend, Kind};
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial(
        "devices::each_vm_has_a_tap_device_of_its_own".into(),
        || async {
            let backend = Kind::Simulator.start().await.unwrap();
            each_vm_has_its_devices(&backend).await;
        },
    )]
}

async fn launcher(b: &Backend, devices: Devices) -> Launcher {
    let simulator = b.simulator.as_ref().unwrap();
    let binary = FirecrackerBinary::find(Some(simulator.binary())).await;
    let vmm = Firecracker::new(binary.unwrap(), &b.config.run_path, None, devices).unwrap();
    let template = b.launcher.template().clone();
    let snapshots = b.launcher.snapshots().clone();
    let progress = Arc::new(|_: &_| {});
    Launcher::with(Arc::new(vmm), template, &b.config, snapshots, progress).unwrap()
}

async fn each_vm_has_its_devices(b: &Backend) {
    let taps = ["tap0", "tap1"].map(|tap| tap.parse().unwrap()).to_vec();
    let devices = Devices::new(None, taps, false).unwrap();
    let launcher = launcher(b, devices).await;
    let snapshot = launcher.create_snapshot().await.unwrap().snapshot;
    let (one, two) = (
        launcher.restore_vm(&snapshot, "one").await.unwrap(),
        launcher.restore_vm(&snapshot, "two").await.unwrap(),
    );
    let error = launcher.restore_vm(&snapshot, "three").await.unwrap_err();
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert!(why.contains("`taps`"), "{error}: {why}");
    one.destroy().await.unwrap();
    launcher
        .restore_vm(&snapshot, "four")
        .await
        .unwrap()
        .destroy()
        .await
        .unwrap();
    two.destroy().await.unwrap();

    let without = b.launcher.requirements().check(snapshot.manifest());
    assert!(without.unwrap_err().to_string().contains("devices"));
}
