//! Images as the tools of containers make them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[macro_use]
extern crate ironclaw_test_harness;

mod container_tools;

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use ironclaw_image::oci::{LayerStore, RootBuilder, RootImage, RootSource};
use ironclaw_test_harness::skipped;

use container_tools::{make, missing, run};

fn main() -> std::process::ExitCode {
    ironclaw_test_harness::main()
}

/// Builds a root, and returns its image's bytes, too.
fn build(directory: &Path, source: &str) -> (RootImage, Vec<u8>) {
    let store = LayerStore::open(&directory.join("store")).unwrap();
    let (source, out) = (RootSource::parse(OsStr::new(source)), directory.join("out"));
    drop(fs::remove_file(&out));
    let built = RootBuilder::new(store, 1 << 30).build(&source.unwrap(), &out, &mut |_| {});
    (built.unwrap(), fs::read(out).unwrap())
}

#[test]
fn images_of_umoci_and_skopeo_become_the_same_root() {
    if let Some(reason) = missing(&["umoci", "skopeo"]) {
        return skipped(reason);
    }
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    make(here);
    let at = |text: &str| text.replace('@', &here.display().to_string());
    let (image, root) = build(here, &at("oci:@/layout:app"));
    assert!(image.config.env.contains(&"A=b=c".to_owned()));
    assert_eq!(
        (&*image.config.user, &image.config.cmd),
        ("app", &vec!["sh".to_owned()])
    );
    let has = |text: &str| root.windows(text.len()).any(|it| it == text.as_bytes());
    assert!(
        has("app:x:1000") && has("newnewnew"),
        "files of the image are in its root"
    );
    assert!(
        !has("old\0") && !has("gone"),
        "whiteouts hide what was there"
    );

    let copy = |to: &str| {
        run(
            here,
            "skopeo",
            &["--insecure-policy", "copy", "-q", "oci:layout:app", to],
        );
    };
    copy("oci-archive:archive.tar:app");
    copy("docker-archive:saved.tar:app:1");
    let archive = build(here, &at("oci-archive:@/archive.tar:app"));
    assert_eq!(archive, (image.clone(), root.clone()));
    let saved = build(
        here,
        &at("docker-archive:@/saved.tar:docker.io/library/app:1"),
    );
    assert_eq!((saved.0.config, saved.1), (image.config, root.clone()));
    run(
        here,
        "skopeo",
        &[
            "--insecure-policy",
            "copy",
            "-q",
            "--dest-compress-format",
            "zstd",
            "--dest-compress",
            "oci:layout:app",
            "oci:zstd:app",
        ],
    );
    assert_eq!(build(here, &at("oci:@/zstd:app")).1, root);
}
