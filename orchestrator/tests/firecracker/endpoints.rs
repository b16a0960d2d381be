//! The requests that no VM of ours makes: Firecracker takes each of them all the same.

use std::os::unix::fs::MetadataExt as _;

use ironclaw_orchestrator::vm::firecracker::api::{
    Action, Balloon, BootSource, HugePages, LogLevel, Logger, MachineConfiguration, Metrics, Mmds,
    MmdsConfig, MmdsVersion, NetworkInterface, SnapshotCreate, SnapshotLoad, SnapshotType, Vm,
    Vsock,
};
use ironclaw_test_harness::skipped;
use serde_json::json;

use crate::lab::Lab;
use crate::raw_api::{Raw, load};
use crate::real::unless_required;

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_has_a_balloon_a_log_and_metrics_if_it_is_asked_to() {
    let Some(lab) = Lab::open().await else { return };
    let launcher = lab.launcher().await;
    let raw = Raw::start(&lab);
    let mut client = raw.client().await;
    let file = |name: &str| {
        let path = lab.path().join(name);
        std::fs::write(&path, "").unwrap();
        path
    };
    let (log_path, metrics_path) = (file("log"), file("metrics"));
    let logger = Logger {
        log_path: log_path.clone(),
        level: LogLevel::Debug,
    };
    client.call(&logger).await.unwrap();
    let metrics = Metrics {
        metrics_path: metrics_path.clone(),
    };
    client.call(&metrics).await.unwrap();
    let machine = MachineConfiguration {
        vcpu_count: 1,
        mem_size_mib: 128,
        track_dirty_pages: false,
    };
    client.call(&machine).await.unwrap();
    let balloon = Balloon {
        amount_mib: 16,
        deflate_on_oom: true,
    };
    client.call(&balloon).await.unwrap();
    let boot_source = BootSource {
        kernel_image_path: launcher.template().kernel().to_owned(),
        initrd_path: None,
        boot_args: None,
    };
    client.call(&boot_source).await.unwrap();
    // Without one the test guest ends at once.
    let vsock = Vsock {
        guest_cid: 3,
        uds_path: "vsock.sock".into(),
    };
    client.call(&vsock).await.unwrap();
    client.call(&Action::InstanceStart).await.unwrap();
    client.call(&Action::FlushMetrics).await.unwrap();
    assert!(!std::fs::read_to_string(log_path).unwrap().is_empty());
    let metrics = std::fs::read_to_string(metrics_path).unwrap();
    let first = metrics.lines().next().unwrap();
    let first: serde_json::Value = serde_json::from_str(first).unwrap();
    assert!(first["api_server"].is_object(), "{first}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_has_metadata_for_its_network_interface_if_it_is_asked_to() {
    let Some(lab) = Lab::open().await else { return };
    let raw = Raw::start(&lab);
    let mut client = raw.client().await;
    let interface = NetworkInterface {
        iface_id: "eth0".to_owned(),
        // Made by the kernel for as long as Firecracker has it.
        host_dev_name: format!("icmm{}", std::process::id() % 1_000_000),
        guest_mac: None,
    };
    if let Err(error) = client.call(&interface).await {
        // Whatever else is refused is a request of ours that is wrong.
        assert!(error.to_string().contains("tap device"), "{error}");
        return skipped(unless_required(error.to_string()));
    }
    for version in [MmdsVersion::V1, MmdsVersion::V2] {
        let config = MmdsConfig {
            version,
            network_interfaces: vec!["eth0".to_owned()],
        };
        client.call(&config).await.unwrap();
    }
    let content = Mmds(json!({"latest": {"meta-data": {"id": "i-1"}}}));
    client.call(&content).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_that_tracks_its_pages_has_snapshots_of_what_it_wrote() {
    let Some(lab) = Lab::open().await else { return };
    let (_launcher, snapshot) = lab.snapshot().await;
    let raw = Raw::start(&lab);
    let mut client = raw.client().await;
    let load = SnapshotLoad {
        track_dirty_pages: Some(true),
        // Since 1.17.
        huge_pages: (lab.binary.version.minor >= 17).then_some(HugePages::Transparent),
        ..load(&snapshot)
    };
    client.call(&load).await.unwrap();
    client.call(&Vm::Resumed).await.unwrap();
    client.call(&Vm::Paused).await.unwrap();
    let create = SnapshotCreate {
        snapshot_type: SnapshotType::Diff,
        snapshot_path: lab.path().join("vmstate"),
        mem_file_path: lab.path().join("memory"),
    };
    client.call(&create).await.unwrap();
    assert!(create.snapshot_path.exists());
    let memory = create.mem_file_path.metadata().unwrap();
    assert_eq!(memory.len(), snapshot.memory().metadata().unwrap().len());
    // Of all its pages, those alone that it wrote to.
    let on_disk = memory.blocks() * 512;
    assert!((1..memory.len() / 2).contains(&on_disk), "{on_disk}");
}
