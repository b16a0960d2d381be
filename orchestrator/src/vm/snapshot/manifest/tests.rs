use super::super::compat::Requirements;
use super::super::kind::Checkpoint;
use super::*;
use crate::vm::vmm::VmmKind;
use proptest::prelude::*;

const OF_MEMORY: &str = "30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58";
const OF_VMSTATE: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// The format on disk. A change here needs another [`FORMAT`], or old snapshots become garbage.
const GOLDEN: &str = r#"{
  "format": 3,
  "id": "0192f0c1-7a2b-7c3d-8e4f-5a6b7c8d9e0f",
  "kind": "base",
  "parent": null,
  "generation": 3,
  "template": "abababababababababababababababababababababababababababababababab",
  "vmm": {
    "kind": "qemu",
    "version": "7.2.19",
    "accelerator": "tcg"
  },
  "machine": {
    "memory_mib": 1,
    "vcpus": 2
  },
  "host": {
    "cpu_model": "Some CPU",
    "kernel_release": "6.1.0-test",
    "tsc_khz": 2000000
  },
  "boot_id": "6f0b1c7e-2f43-4f5a-9d3c-0a1b2c3d4e5f",
  "created": {
    "unix_seconds": 1764000000,
    "nanoseconds": 5
  },
  "files": {
    "memory": {
      "bytes": 1048576,
      "sha256_of_blocks": "30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58"
    },
    "vmstate": {
      "bytes": 7,
      "sha256_of_blocks": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    }
  }
}
"#;

pub(in crate::vm::snapshot) fn manifest() -> Manifest {
    Manifest {
        format: FORMAT,
        id: "0192f0c1-7a2b-7c3d-8e4f-5a6b7c8d9e0f".parse().unwrap(),
        kind: Kind::Base,
        parent: None,
        generation: 3,
        template: "ab".repeat(32).parse().unwrap(),
        vmm: VmmIdentity {
            kind: VmmKind::new("QEMU"),
            version: "7.2.19".to_owned(),
            accelerator: "tcg".to_owned(),
            devices: None,
        },
        machine: Machine {
            memory_mib: 1,
            vcpus: 2,
            disk_mib: None,
        },
        host: Host {
            cpu_model: "Some CPU".to_owned(),
            kernel_release: "6.1.0-test".to_owned(),
            tsc_khz: Some(2_000_000),
        },
        boot_id: "6f0b1c7e-2f43-4f5a-9d3c-0a1b2c3d4e5f".parse().unwrap(),
        created: Timestamp {
            unix_seconds: 1_764_000_000,
            nanoseconds: 5,
        },
        files: BTreeMap::from([
            (
                FileRole::Memory,
                FileRecord {
                    bytes: 1 << 20,
                    sha256_of_blocks: OF_MEMORY.parse().unwrap(),
                },
            ),
            (
                FileRole::VmState,
                FileRecord {
                    bytes: 7,
                    sha256_of_blocks: OF_VMSTATE.parse().unwrap(),
                },
            ),
        ]),
    }
}

/// Returns a checkpoint's manifest, with a disk.
fn checkpoint() -> Manifest {
    let mut manifest = manifest();
    manifest.kind = Kind::Checkpoint(Checkpoint {
        owner: "somebody".to_owned(),
        of: "vm-1".to_owned(),
        keep_until: Some(Timestamp {
            unix_seconds: 1_764_000_100,
            nanoseconds: 6,
        }),
    });
    manifest.parent = Some("0192f0c1-7a2b-7c3d-8e4f-000000000000".parse().unwrap());
    let record = manifest.files[&FileRole::VmState];
    let disk = FileRole::Disk("root".parse().unwrap());
    manifest.files.insert(disk, record);
    manifest
}

pub(in crate::vm::snapshot) fn requirements() -> Requirements {
    let Manifest {
        template,
        vmm,
        machine,
        host,
        ..
    } = manifest();
    Requirements {
        template,
        vmm,
        machine,
        host,
    }
}

#[test]
fn the_format_on_disk_is_the_golden_one() {
    assert_eq!(
        String::from_utf8(manifest().to_json().unwrap()).unwrap(),
        GOLDEN
    );
    assert_eq!(Manifest::parse(GOLDEN.as_bytes()), Ok(manifest()));
}

#[test]
fn a_checkpoint_says_whose_it_is_and_where_it_comes_from() {
    let checkpoint = checkpoint();
    let json = checkpoint.to_json().unwrap();
    assert_eq!(Manifest::parse(&json), Ok(checkpoint));
    let golden = r#"  "kind": {
    "checkpoint": {
      "owner": "somebody",
      "of": "vm-1",
      "keep_until": {
        "unix_seconds": 1764000100,
        "nanoseconds": 6
      }
    }
  },
  "parent": "0192f0c1-7a2b-7c3d-8e4f-000000000000",
"#;
    assert!(String::from_utf8(json).unwrap().contains(golden));
}

#[test]
fn a_checkpoint_that_breaks_a_rule_is_refused_by_name() {
    let json = String::from_utf8(checkpoint().to_json().unwrap()).unwrap();
    let cases = [
        ("\"somebody\"", "\"\"", "kind.checkpoint.owner"),
        ("\"vm-1\"", "\"\\u0007\"", "kind.checkpoint.of"),
        (
            "\"nanoseconds\": 6",
            "\"nanoseconds\": 1000000000",
            "kind.checkpoint.keep_until",
        ),
        ("\"owner\"", "\"color\": 1, \"owner\"", "color"),
        ("\"checkpoint\"", "\"backup\"", "backup"),
        ("disk-root", "disk-../x", "file of a snapshot"),
        ("disk-root", "swap", "file of a snapshot"),
    ];
    for (from, to, word) in cases {
        assert!(json.contains(from), "{from}");
        let parsed = Manifest::parse(json.replacen(from, to, 1).as_bytes());
        let Err(ManifestError::Invalid(reason)) = parsed else {
            panic!("{to} was accepted");
        };
        assert!(reason.contains(word), "{reason:?} should say {word:?}");
    }
    let mut many = checkpoint();
    let record = many.files[&FileRole::VmState];
    for number in 0..MAX_DISKS {
        let id = format!("disk{number}").parse().unwrap();
        many.files.insert(FileRole::Disk(id), record);
    }
    let parsed = Manifest::parse(&many.to_json().unwrap());
    let Err(ManifestError::Invalid(reason)) = parsed else {
        panic!("{parsed:?}");
    };
    assert!(reason.contains("more than 16 disks"), "{reason}");
}

/// Returns a manifest as written by a release with that format.
fn golden_of_format_2() -> String {
    let golden = GOLDEN.replacen("\"format\": 3", "\"format\": 2", 1);
    golden.replacen("  \"kind\": \"base\",\n  \"parent\": null,\n", "", 1)
}

#[test]
fn one_of_format_2_is_a_pools_with_the_same_two_files() {
    let golden = golden_of_format_2();
    assert_eq!(Manifest::parse(golden.as_bytes()), Ok(manifest()));
    for (from, to, word) in [
        ("\"vcpus\": 2", "\"vcpus\": 2, \"color\": 1", "color"),
        ("\"format\": 2", "\"format\": 2, \"kind\": \"base\"", "kind"),
        ("\"bytes\": 7", "\"bytes\": 0", "files.vmstate"),
    ] {
        let parsed = Manifest::parse(golden.replacen(from, to, 1).as_bytes());
        let Err(ManifestError::Invalid(reason)) = parsed else {
            panic!("{to} was accepted");
        };
        assert!(reason.contains(word), "{reason:?} should say {word:?}");
    }
    // Format 2 does not have the fields of format 3.
    let mixed = GOLDEN.replacen("\"format\": 3", "\"format\": 2", 1);
    assert!(Manifest::parse(mixed.as_bytes()).is_err());
    let mixed = golden.replacen("\"format\": 2", "\"format\": 3", 1);
    assert!(Manifest::parse(mixed.as_bytes()).is_err());
}

#[test]
fn another_format_is_told_apart_from_garbage() {
    for format in [1, 4] {
        let other = format!("\"format\": {format}, \"new\": [1]");
        let other = GOLDEN.replacen("\"format\": 3", &other, 1);
        assert_eq!(
            Manifest::parse(other.as_bytes()),
            Err(ManifestError::OtherFormat(format))
        );
    }
}

#[test]
fn a_manifest_that_breaks_a_rule_is_refused_by_name() {
    let cases = [
        ("\"vcpus\": 2", "\"vcpus\": 2, \"color\": 1", "color"),
        ("\"vcpus\": 2", "\"vcpus\": 0", "vCPU"),
        ("\"vcpus\": 2", "\"vcpus\": 256", "256"),
        ("\"memory_mib\": 1", "\"memory_mib\": 2", "files.memory"),
        ("\"bytes\": 7", "\"bytes\": 0", "files.vmstate"),
        ("\"bytes\": 7", "\"bytes\": 67108865", "files.vmstate"),
        ("\"memory\"", "\"disk-a\"", "files has no memory"),
        ("\"base\"", "\"checkpoint\"", "newtype variant"),
        ("\"base\"", "\"backup\"", "backup"),
        (
            "\"nanoseconds\": 5",
            "\"nanoseconds\": 1000000000",
            "created.nanoseconds",
        ),
        ("\"tcg\"", "\"\\u001b[2J\"", "vmm.accelerator"),
        ("\"tcg\"", "\"\"", "vmm.accelerator"),
        ("\"generation\": 3", "\"generation\": -3", "-3"),
        ("abababab", "ABABABAB", "hexadecimal"),
        ("0192f0c1", "0192F0C1", "snapshot id"),
        ("30e14955", "30E14955", "SHA-256"),
    ];
    for (from, to, word) in cases {
        assert!(GOLDEN.contains(from), "{from}");
        let Err(ManifestError::Invalid(reason)) =
            Manifest::parse(GOLDEN.replacen(from, to, 1).as_bytes())
        else {
            panic!("{to} was accepted");
        };
        assert!(reason.contains(word), "{reason:?} should say {word:?}");
    }
}

proptest! {
    #[test]
    fn anything_may_be_in_the_file(json in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Manifest::parse(&json).is_err());
    }

    #[test]
    fn a_damaged_manifest_is_refused_or_still_keeps_the_rules(
        at in 0..GOLDEN.len(),
        byte: u8,
    ) {
        let mut json = GOLDEN.as_bytes().to_vec();
        json[at] = byte;
        if let Ok(manifest) = Manifest::parse(&json) {
            prop_assert_eq!(manifest.check(), Ok(()));
        }
    }
}

#[test]
fn the_error_about_a_bad_manifest_has_no_terminal_escapes() {
    let json = GOLDEN.replacen("\"id\"", "\"\\u001b[2J\": 1, \"id\"", 1);
    let Err(ManifestError::Invalid(reason)) = Manifest::parse(json.as_bytes()) else {
        panic!("it is one");
    };
    assert!(
        reason.contains("[2J") && !reason.contains('\x1b'),
        "{reason:?}"
    );
}
