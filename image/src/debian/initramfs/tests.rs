use super::*;
use crate::fixture;

fn module(name: &str) -> Module {
    Module {
        name: name.to_owned(),
        bytes: name.as_bytes().to_vec(),
    }
}

#[test]
fn the_agent_stands_in_for_the_applets_it_replaces() {
    let list = "bin/busybox\nbin/sh\nlinuxrc\nsbin/init\nusr/bin/env\n";
    assert_eq!(applets(list).unwrap(), ["bin/sh", "usr/bin/env"]);
}

#[test]
fn applets_outside_of_the_tree_are_refused() {
    for list in [
        "/bin/sh",
        "bin/../../sh",
        "bin//sh",
        "bin/sh\n\nbin/ls",
        "./sh",
        "",
    ] {
        assert!(
            matches!(applets(list), Err(TemplateError::Applet { .. })),
            "{list:?}"
        );
    }
    let many: String = (0..=MAX_APPLETS).map(|n| format!("bin/{n}\n")).collect();
    assert!(applets(&many).is_err());
}

#[test]
fn a_guest_finds_what_the_contract_promises() {
    let modules = vec![module("virtio_ring"), module("virtio")];
    let tree = tree(b"agent".to_vec(), b"busybox".to_vec(), &["bin/sh"], modules);
    for path in [
        "init",
        "bin/busybox",
        "bin/sh",
        "dev/console",
        "dev/null",
        "etc/passwd",
        "lib/modules/00-virtio_ring.ko",
        "lib/modules/01-virtio.ko",
        "proc",
        "run",
        "sys",
        "tmp",
    ] {
        assert!(tree.contains(path), "{path}");
    }
}

#[test]
fn names_of_modules_sort_as_they_load_even_beyond_a_hundred() {
    let modules = (0..101).map(|n| module(&format!("m{n}"))).collect();
    let tree = tree(Vec::new(), Vec::new(), &[], modules);
    assert!(tree.contains("lib/modules/009-m9.ko"));
    assert!(tree.contains("lib/modules/100-m100.ko"));
}

#[test]
fn a_program_that_could_not_run_in_the_guest_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent");
    let read = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        read_program(&path).map_err(|error| error.to_string())
    };
    assert_eq!(read(&fixture::program("x")), Ok(fixture::program("x")));
    assert!(
        read(&fixture::dynamic_program())
            .unwrap_err()
            .contains("dynamic linker")
    );
    assert!(read(b"#!/bin/sh\n").unwrap_err().contains("no ELF file"));
    assert!(
        read(&fixture::program("x")[..100])
            .unwrap_err()
            .contains("cut off")
    );
    assert!(read(b"").unwrap_err().contains("no ELF file"));
}
