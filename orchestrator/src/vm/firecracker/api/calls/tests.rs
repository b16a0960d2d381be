use serde_json::{Value, json};

use super::*;

/// Returns the path and the body of a request.
fn sent<C: Call>(call: &C) -> (String, Value) {
    (
        format!("{} {}", C::METHOD, call.path()),
        serde_json::to_value(call).unwrap(),
    )
}

fn load() -> SnapshotLoad {
    SnapshotLoad {
        snapshot_path: "vmstate".into(),
        mem_backend: MemBackend {
            backend_type: MemBackendType::File,
            backend_path: "memory".into(),
        },
        resume_vm: true,
        track_dirty_pages: None,
        network_overrides: Vec::new(),
        vsock_override: None,
        clock_realtime: None,
    }
}

/// Checked against Firecracker's `swagger/firecracker.yaml`: it refuses unknown fields.
#[test]
fn each_request_is_what_the_api_takes() {
    let drive = Drive {
        drive_id: "root".to_owned(),
        path_on_host: "/image".into(),
        is_root_device: true,
        is_read_only: true,
    };
    let interface = NetworkInterface {
        iface_id: "eth0".to_owned(),
        host_dev_name: "tap0".to_owned(),
        guest_mac: Some("06:00:00:00:00:01".to_owned()),
    };
    let boot_source = BootSource {
        kernel_image_path: "kernel".into(),
        initrd_path: Some("initramfs".into()),
        boot_args: Some("quiet".to_owned()),
    };
    let machine = MachineConfiguration {
        vcpu_count: 2,
        mem_size_mib: 128,
        track_dirty_pages: true,
    };
    let create = SnapshotCreate {
        snapshot_type: SnapshotType::Diff,
        snapshot_path: "vmstate".into(),
        mem_file_path: "memory".into(),
    };
    let full_load = SnapshotLoad {
        track_dirty_pages: Some(true),
        network_overrides: vec![NetworkOverride {
            iface_id: "eth0".to_owned(),
            host_dev_name: "tap1".to_owned(),
        }],
        vsock_override: Some(VsockOverride {
            uds_path: "vsock.sock".into(),
        }),
        clock_realtime: Some(true),
        ..load()
    };
    let vsock = Vsock {
        guest_cid: 3,
        uds_path: "vsock.sock".into(),
    };
    let all = [
        (
            sent(&machine),
            "PUT /machine-config",
            json!({"vcpu_count": 2, "mem_size_mib": 128, "track_dirty_pages": true}),
        ),
        (
            sent(&boot_source),
            "PUT /boot-source",
            json!({
                "kernel_image_path": "kernel", "initrd_path": "initramfs", "boot_args": "quiet",
            }),
        ),
        (
            sent(&CpuConfig::from_json(br#"{"msr_modifiers": []}"#).unwrap()),
            "PUT /cpu-config",
            json!({"msr_modifiers": []}),
        ),
        (
            sent(&drive),
            "PUT /drives/root",
            json!({
                "drive_id": "root", "path_on_host": "/image", "is_root_device": true,
                "is_read_only": true,
            }),
        ),
        (
            sent(&interface),
            "PUT /network-interfaces/eth0",
            json!({
                "iface_id": "eth0", "host_dev_name": "tap0", "guest_mac": "06:00:00:00:00:01",
            }),
        ),
        (
            sent(&vsock),
            "PUT /vsock",
            json!({"guest_cid": 3, "uds_path": "vsock.sock"}),
        ),
        (sent(&Entropy {}), "PUT /entropy", json!({})),
        (
            sent(&Action::InstanceStart),
            "PUT /actions",
            json!({"action_type": "InstanceStart"}),
        ),
        (sent(&Vm::Paused), "PATCH /vm", json!({"state": "Paused"})),
        (sent(&Vm::Resumed), "PATCH /vm", json!({"state": "Resumed"})),
        (
            sent(&create),
            "PUT /snapshot/create",
            json!({
                "snapshot_type": "Diff", "snapshot_path": "vmstate", "mem_file_path": "memory",
            }),
        ),
        (
            sent(&full_load),
            "PUT /snapshot/load",
            json!({
                "snapshot_path": "vmstate",
                "mem_backend": {"backend_type": "File", "backend_path": "memory"},
                "resume_vm": true,
                "track_dirty_pages": true,
                "network_overrides": [{"iface_id": "eth0", "host_dev_name": "tap1"}],
                "vsock_override": {"uds_path": "vsock.sock"},
                "clock_realtime": true,
            }),
        ),
    ];
    for ((line, body), expected_line, expected_body) in all {
        assert_eq!((line.as_str(), body), (expected_line, expected_body));
    }
}

/// Older versions refuse fields that they do not know.
#[test]
fn absent_fields_are_not_sent() {
    let (_, body) = sent(&load());
    let expected = json!({
        "snapshot_path": "vmstate",
        "mem_backend": {"backend_type": "File", "backend_path": "memory"},
        "resume_vm": true,
    });
    assert_eq!(body, expected);
    let bare = BootSource {
        kernel_image_path: "kernel".into(),
        initrd_path: None,
        boot_args: None,
    };
    assert_eq!(sent(&bare).1, json!({"kernel_image_path": "kernel"}));
}

#[test]
fn answers_are_read_as_firecracker_writes_them() {
    let info: InstanceInfo = serde_json::from_value(json!({
        "app_name": "Firecracker", "id": "a", "state": "Not started", "vmm_version": "1.17.0",
        "a later field": 1,
    }))
    .unwrap();
    assert_eq!(info.state, InstanceState::NotStarted);
    let version = json!({"firecracker_version": "1.17.0"});
    let version: FirecrackerVersion = serde_json::from_value(version).unwrap();
    assert_eq!(version.firecracker_version, "1.17.0");
    let get = format!("{} {}", GetInstance::METHOD, GetInstance.path());
    assert_eq!(get, "GET /");
    let get = format!("{} {}", GetVersion::METHOD, GetVersion.path());
    assert_eq!(get, "GET /version");
}
