//! Builds a template from Debian's packages.

use std::fs::{self, OpenOptions};
use std::process::Command;

use super::*;
use crate::debian::{KernelKind, entries, kernel_kind};

#[test]
fn debian_s_packages_give_the_same_template_every_time() {
    let directory = tempfile::tempdir().unwrap();
    let agent = directory.path().join("agent");
    fs::write(&agent, fixture::program("agent")).unwrap();
    let spec = BuildSpec::new(&agent);
    let store = TemplateStore::open(directory.path().join("templates")).unwrap();
    let build = |spec: &BuildSpec| {
        let mut downloads = Vec::new();
        let template = store.build(spec, &mut |step| {
            if let Step::Downloading { package } = step {
                downloads.push(package);
            }
        });
        (template, downloads)
    };

    let (first, downloads) = build(&spec);
    if Command::new("apt-get").arg("--version").output().is_err() {
        let error = first.unwrap_err();
        assert!(
            matches!(error, TemplateError::ToolMissing { .. }),
            "{error}"
        );
        return;
    }
    let first = first.unwrap();
    assert_eq!(downloads.len(), 2, "{downloads:?}");
    first.verify().unwrap();
    let manifest = first.manifest();
    let kernel = manifest.kernel.package.as_ref().unwrap();
    assert_eq!(
        kernel.name,
        format!("linux-image-{}", manifest.kernel.release)
    );
    let vmlinux = fs::read(first.kernel()).unwrap();
    assert_eq!(kernel_kind(&vmlinux), KernelKind::Pvh);
    let archive = fs::read(first.initramfs().unwrap()).unwrap();
    for name in [
        &b"virtio_mmio.ko\0"[..],
        b"virtio_console.ko\0",
        b"squashfs.ko\0",
        b"bin/sh\0",
    ] {
        assert!(
            memchr::memmem::find(&archive, name).is_some(),
            "{}",
            name.escape_ascii()
        );
    }

    // From the packages alone, one of which is damaged.
    store.delete(first.hash()).unwrap();
    let cache = store.root().join(".cache");
    let entries = entries(&cache).unwrap();
    let mut packages = entries.iter().map(fs::DirEntry::path);
    let busybox = packages
        .find(|path| path.to_string_lossy().contains("busybox"))
        .unwrap();
    let length = busybox.metadata().unwrap().len();
    OpenOptions::new()
        .write(true)
        .open(&busybox)
        .unwrap()
        .set_len(length / 2)
        .unwrap();
    let (second, downloads) = build(&spec);
    assert_eq!(second.unwrap().hash(), first.hash());
    assert_eq!(downloads, ["busybox-static"]);

    // Another agent makes another template, without a download.
    fs::write(&agent, fixture::program("another agent")).unwrap();
    let (third, downloads) = build(&spec);
    assert_ne!(third.unwrap().hash(), first.hash());
    assert!(downloads.is_empty(), "{downloads:?}");

    let unknown = KernelSource::Package("linux-image-of-nobody".to_owned());
    let (error, _) = build(&BuildSpec {
        kernel: unknown,
        ..spec
    });
    let text = error.unwrap_err().to_string();
    assert!(
        text.contains("apt-get update") && text.contains("linux-image-of-nobody"),
        "{text}"
    );
}
