use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use ironclaw_store::Sha256Digest;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::layer_store::Expected;
use super::*;
use crate::erofs::reader::{Entries, read};

/// An image in the OCI layout, and a builder beside it.
struct Lab {
    directory: TempDir,
    builder: RootBuilder,
    store: LayerStore,
}

fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, path, content.as_bytes())
            .unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    // Two frames, and one to be skipped between them, as `zstd:chunked` has them.
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let frame = |bytes: &[u8]| compress_to_vec(bytes, CompressionLevel::Fastest);
    let skipped = [&b"\x50\x2a\x4d\x18\x05\0\0\0"[..], b"chunk"].concat();
    [frame(first), skipped, frame(second)].concat()
}

/// Layers as they are unpacked, and as they are stored.
fn layers() -> Vec<(Vec<u8>, Vec<u8>)> {
    let lower = tar(&[("etc/a", "lower"), ("etc/b", "lower"), ("bin/c", "c")]);
    let middle = tar(&[("etc/.wh.b", ""), ("etc/a", "middle")]);
    let upper = tar(&[("usr/d", "upper")]);
    vec![
        (lower.clone(), gzip(&lower)),
        (middle.clone(), zstd(&middle)),
        (upper.clone(), upper),
    ]
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", Sha256Digest::of(bytes))
}

fn config(layers: &[(Vec<u8>, Vec<u8>)]) -> Value {
    let ids: Vec<_> = layers.iter().map(|(archive, _)| digest(archive)).collect();
    json!({
        "architecture": "amd64", "os": "linux", "created": "2024-01-01T00:00:00Z",
        "config": {
            "Env": ["PATH=/bin", "EMPTY="], "User": "app:100", "WorkingDir": "/srv",
            "Entrypoint": ["/bin/c"], "Cmd": ["-x"], "StopSignal": "SIGINT",
            "Labels": {"a": "b"}, "ExposedPorts": {"80/tcp": {}}, "Volumes": null,
        },
        "rootfs": {"type": "layers", "diff_ids": ids}, "history": [],
    })
}

impl Lab {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = LayerStore::open(&directory.path().join("layers")).unwrap();
        fs::create_dir_all(directory.path().join("image/blobs/sha256")).unwrap();
        Self {
            builder: RootBuilder::new(store.clone(), 1 << 30),
            directory,
            store,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn image(&self) -> PathBuf {
        self.path("image")
    }

    fn put(&self, bytes: &[u8]) -> Value {
        let hex = Sha256Digest::of(bytes).to_string();
        fs::write(self.image().join("blobs/sha256").join(hex), bytes).unwrap();
        json!({"mediaType": "application/octet-stream", "digest": digest(bytes), "size": bytes.len()})
    }

    fn document(&self, value: &Value) -> Value {
        self.put(value.to_string().as_bytes())
    }

    fn manifest(&self, config: &Value, layers: &[(Vec<u8>, Vec<u8>)]) -> Value {
        let blobs: Vec<_> = layers.iter().map(|(_, blob)| self.put(blob)).collect();
        let config = self.document(config);
        self.document(&json!({"schemaVersion": 2, "config": config, "layers": blobs}))
    }

    fn index(&self, manifests: &[Value]) {
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        fs::write(self.image().join("index.json"), index.to_string()).unwrap();
    }

    fn whole(&self) {
        let manifest = self.manifest(&config(&layers()), &layers());
        self.index(&[manifest]);
    }

    fn build(&self, source: &str) -> Result<(RootImage, Entries, Vec<RootStep>), SourceError> {
        let source = source.replacen('@', &self.directory.path().display().to_string(), 1);
        let source = RootSource::parse(OsStr::new(&source)).unwrap();
        let (out, mut steps) = (self.path("out"), Vec::new());
        drop(fs::remove_file(&out));
        let image = self
            .builder
            .build(&source, &out, &mut |step| steps.push(step))?;
        Ok((image, read(&fs::read(out).unwrap()), steps))
    }

    fn refused(&self, source: &str) -> String {
        self.build(source).unwrap_err().to_string()
    }

    fn stored(&self) -> usize {
        let names = fs::read_dir(self.path("layers")).unwrap();
        names
            .filter(|it| it.as_ref().unwrap().path().is_dir())
            .count()
    }
}

fn paths(entries: &Entries) -> Vec<String> {
    let paths = entries
        .keys()
        .map(|path| String::from_utf8_lossy(path).into_owned());
    paths.collect()
}

const SHAPE: [&str; 7] = ["", "/bin", "/bin/c", "/etc", "/etc/a", "/usr", "/usr/d"];

#[test]
fn an_image_in_the_oci_layout_becomes_a_root() {
    let lab = Lab::new();
    lab.whole();
    let (image, entries, _) = lab.build("oci:@/image").unwrap();
    let mut shape = SHAPE.to_vec();
    // The working directory of its programs.
    shape.insert(5, "/srv");
    assert_eq!(paths(&entries), shape);
    assert_eq!(entries[&b"/etc/a"[..]].content, b"middle");
    let config = &image.config;
    assert_eq!((&*config.user, &*config.working_dir), ("app:100", "/srv"));
    assert_eq!(config.env, ["PATH=/bin", "EMPTY="]);
    assert_eq!(
        (&*config.entrypoint, &*config.cmd),
        (&["/bin/c".to_owned()][..], &["-x".to_owned()][..])
    );
    assert_eq!(
        (&*config.stop_signal, &*config.labels["a"]),
        ("SIGINT", "b")
    );
    assert_eq!(image.layers.len(), 3);
    let index = fs::read_to_string(lab.image().join("index.json")).unwrap();
    assert!(index.contains(&image.digest.unwrap().to_string()));
}

#[test]
fn layers_are_unpacked_once_and_swept_when_no_template_has_them() {
    let lab = Lab::new();
    lab.whole();
    let unpacked = |steps: &[RootStep]| {
        let unpacking = steps
            .iter()
            .filter(|it| matches!(it, RootStep::Unpacking { .. }));
        unpacking.count()
    };
    let (image, first, steps) = lab.build("oci:@/image").unwrap();
    assert_eq!((unpacked(&steps), lab.stored()), (3, 3));
    let (_, second, steps) = lab.build("oci:@/image").unwrap();
    assert_eq!((unpacked(&steps), first), (0, second));
    // One that is damaged is unpacked again.
    let damaged = lab
        .path("layers")
        .join(image.layers[1].to_string())
        .join("layer.tar");
    fs::write(damaged, "cut off").unwrap();
    let (_, _, steps) = lab.build("oci:@/image").unwrap();
    assert_eq!(unpacked(&steps), 1);
    let keep = BTreeSet::from([image.layers[0]]);
    lab.store.remove_all_but(&keep).unwrap();
    assert_eq!(lab.stored(), 1);
}

#[test]
fn archives_of_oci_and_docker_are_read_where_they_are() {
    let lab = Lab::new();
    lab.whole();
    let mut builder = tar::Builder::new(fs::File::create(lab.path("oci.tar")).unwrap());
    builder.append_dir_all("", lab.image()).unwrap();
    builder.finish().unwrap();
    let (expected, entries, _) = lab.build("oci:@/image").unwrap();
    let (image, found, _) = lab.build("oci-archive:@/oci.tar").unwrap();
    assert_eq!((&image, &found), (&expected, &entries));

    let saved = lab.path("saved");
    fs::create_dir(&saved).unwrap();
    let config = config(&layers()).to_string();
    fs::write(saved.join("config.json"), &config).unwrap();
    for (number, (archive, _)) in layers().iter().enumerate() {
        fs::create_dir(saved.join(number.to_string())).unwrap();
        fs::write(saved.join(format!("{number}/layer.tar")), archive).unwrap();
    }
    // Older releases link to a layer that is there twice.
    symlink("../2/layer.tar", saved.join("0/linked.tar")).unwrap();
    let list = json!([{"Config": "config.json", "RepoTags": ["app:1"],
        "Layers": ["0/layer.tar", "1/layer.tar", "0/linked.tar"]}]);
    fs::write(saved.join("manifest.json"), list.to_string()).unwrap();
    let mut builder = tar::Builder::new(fs::File::create(lab.path("docker.tar")).unwrap());
    builder.follow_symlinks(false);
    builder.append_dir_all("", &saved).unwrap();
    builder.finish().unwrap();
    let (image, found, _) = lab.build("docker-archive:@/docker.tar:app:1").unwrap();
    assert_eq!((&image.config, &found), (&expected.config, &entries));
    assert_eq!(image.digest, Some(Sha256Digest::of(config)));
    let text = lab.refused("docker-archive:@/docker.tar:app:2");
    assert!(
        text.contains("has no image \"app:2\"; it has: app:1"),
        "{text}"
    );
    let text = lab.refused("docker-archive:@/oci.tar");
    assert!(
        text.contains("oci.tar is no archive of `docker save`: manifest.json: "),
        "{text}"
    );
    let text = lab.refused("oci:@/saved");
    assert!(
        text.contains("saved is no OCI image layout: index.json: "),
        "{text}"
    );
}

#[test]
fn what_is_not_what_its_digest_says_is_refused_and_not_kept() {
    for (what, damage) in [("layer", 0), ("manifest", 1), ("config", 2), ("layer", 3)] {
        let lab = Lab::new();
        lab.whole();
        let index = fs::read(lab.image().join("index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        let blob = |digest: &Value| {
            let hex = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
            lab.image().join("blobs/sha256").join(hex)
        };
        let path = blob(&index["manifests"][0]["digest"]);
        let manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        match damage {
            0 => fs::write(blob(&manifest["layers"][0]["digest"]), gzip(&tar(&[]))).unwrap(),
            1 => fs::write(&path, fs::read_to_string(&path).unwrap() + " ").unwrap(),
            2 => fs::write(blob(&manifest["config"]["digest"]), "{}").unwrap(),
            // The blob is right, and unpacks to something else than the config says.
            _ => {
                let mut config = config(&layers());
                config["rootfs"]["diff_ids"][0] = json!(digest(b"other"));
                let manifest = lab.manifest(&config, &layers());
                lab.index(&[manifest]);
            }
        }
        let text = lab.refused("oci:@/image");
        assert!(
            text.starts_with(what) && text.contains(" is damaged: it"),
            "{text}"
        );
        assert_eq!(lab.stored(), 0, "{what}");
    }
}

#[test]
fn a_layer_has_the_size_that_its_image_says() {
    for (change, said) in [(-1, "it has more than the"), (1, "it has less than the")] {
        let lab = Lab::new();
        let config = lab.document(&config(&layers()));
        let blobs = layers().into_iter().map(|(_, blob)| lab.put(&blob));
        let mut blobs: Vec<_> = blobs.collect();
        blobs[2]["size"] = json!(blobs[2]["size"].as_i64().unwrap() + change);
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": blobs});
        let manifest = lab.document(&manifest);
        lab.index(&[manifest]);
        let text = lab.refused("oci:@/image");
        let layer = format!(
            "layer {} is damaged: {said}",
            blobs[2]["digest"].as_str().unwrap()
        );
        assert!(text.starts_with(&layer), "{text}");
    }
}

#[test]
fn the_variant_for_this_machine_is_chosen_and_no_other_is_run() {
    let lab = Lab::new();
    let of = |architecture: &str, layers: &[(Vec<u8>, Vec<u8>)]| {
        let mut config = config(layers);
        config["architecture"] = json!(architecture);
        let mut manifest = lab.manifest(&config, layers);
        manifest["platform"] = json!({"architecture": architecture, "os": "linux"});
        manifest
    };
    let (arm, ours) = (of("arm64", &layers()[..1]), of("amd64", &layers()));
    let index = json!({"schemaVersion": 2, "manifests": [arm, ours]});
    let index = lab.document(&index);
    lab.index(&[index]);
    let (image, ..) = lab.build("oci:@/image").unwrap();
    assert_eq!(
        (image.layers.len(), &*image.config.architecture),
        (3, "amd64")
    );

    let index = lab.document(&json!({"schemaVersion": 2, "manifests": [arm]}));
    lab.index(&[index]);
    let text = lab.refused("oci:@/image");
    assert!(
        text.contains("not for linux/amd64, but for linux/arm64"),
        "{text}"
    );
    // Whatever the index says.
    let mut only = arm.clone();
    only.as_object_mut().unwrap().remove("platform");
    lab.index(&[only]);
    assert_eq!(lab.refused("oci:@/image"), text);
}

#[test]
fn a_reference_chooses_among_images() {
    let lab = Lab::new();
    let named = |name: &str, layers: &[(Vec<u8>, Vec<u8>)]| {
        let mut manifest = lab.manifest(&config(layers), layers);
        manifest["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        manifest
    };
    lab.index(&[named("one", &layers()[..1]), named("all", &layers())]);
    assert_eq!(lab.build("oci:@/image:one").unwrap().0.layers.len(), 1);
    assert_eq!(lab.build("oci:@/image:all").unwrap().0.layers.len(), 3);
    let text = lab.refused("oci:@/image");
    assert!(
        text.ends_with("several images, and no reference says which; it has: one, all"),
        "{text}"
    );
    let text = lab.refused("oci:@/image:none");
    assert!(
        text.ends_with("has no image \"none\"; it has: one, all"),
        "{text}"
    );
}

#[test]
fn documents_that_make_no_sense_are_refused() {
    let lab = Lab::new();
    let refused = |config: &Value, layers: &[(Vec<u8>, Vec<u8>)]| {
        let manifest = lab.manifest(config, layers);
        lab.index(&[manifest]);
        lab.refused("oci:@/image")
    };
    let text = refused(&config(&layers()[..1]), &layers());
    assert!(text.contains("it has 3 layers, and its config 1"), "{text}");
    for (change, said) in [
        (json!({"Env": ["=x"]}), "no NAME=VALUE"),
        (json!({"Cmd": ["a\u{0}b"]}), "holds a NUL"),
        (json!({"Env": "PATH=/"}), "config can't be used"),
        (
            json!({"Labels": {"a": "x".repeat(300 << 10)}}),
            "it has more than 262144 bytes",
        ),
    ] {
        let mut config = config(&layers());
        config["config"] = change;
        let text = refused(&config, &layers());
        assert!(text.contains(said), "{text}");
    }
    // A document that is an image to one program, and an index to another.
    let both = json!({"manifests": [], "config": {"digest": "x"}, "layers": []});
    let both = lab.document(&both);
    lab.index(&[both]);
    assert!(
        lab.refused("oci:@/image")
            .contains("neither a manifest nor an index")
    );
    lab.index(&[json!({"digest": "sha256:../../../etc/passwd"})]);
    assert!(lab.refused("oci:@/image").contains("is no SHA-256 digest"));
}

#[test]
fn damaged_and_endless_layers_are_refused() {
    let bomb = vec![0; 2 << 20];
    for (blob, said) in [
        (gzip(&bomb), "it has more than 1000000 bytes"),
        (zstd(&bomb), "it has more than 1000000 bytes"),
        (bomb, "it has more than 1000000 bytes"),
        (gzip(&[7; 1000])[..20].to_vec(), ""),
        (zstd(&[7; 1000])[..20].to_vec(), ""),
        (zstd(&[7; 1000])[..3].to_vec(), ""),
        (
            [zstd(b"x"), b"text".to_vec()].concat(),
            "what follows its zstd stream is none",
        ),
        (b"\xfd7zXZ\0".to_vec(), "xz"),
    ] {
        let lab = Lab::new();
        let put = lab
            .store
            .put(&blob[..], "one", Expected::default(), 1_000_000);
        match put {
            Err(error) => assert!(error.to_string().contains(said), "{error}"),
            // Three bytes are an archive that nobody can read, and that says its layer.
            Ok(_) => assert_eq!(blob.len(), 3),
        }
    }
    assert!(unpack::ratio_is_absurd(1 << 30, 1 << 19));
    assert!(!unpack::ratio_is_absurd(1 << 30, 1 << 22) && !unpack::ratio_is_absurd(1 << 20, 0));
}

#[test]
fn a_directory_and_an_archive_of_it_make_the_same_root() {
    let lab = Lab::new();
    let root = lab.path("root");
    fs::create_dir_all(root.join("d/e")).unwrap();
    fs::write(root.join("d/f"), "content".repeat(2000)).unwrap();
    fs::hard_link(root.join("d/f"), root.join("linked")).unwrap();
    symlink("/etc/passwd", root.join("s")).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(1 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"data", 500_000).unwrap();
    let mut builder = tar::Builder::new(fs::File::create(lab.path("root.tar")).unwrap());
    builder.follow_symlinks(false);
    builder.append_dir_all("", &root).unwrap();
    builder.finish().unwrap();
    let plain = |entries: Entries| -> Vec<_> {
        let plain = entries.into_iter().skip(1);
        plain
            .map(|(path, entry)| (path, entry.mode, entry.content))
            .collect()
    };
    let (_, directory, _) = lab.build("rootfs:@/root").unwrap();
    assert_eq!(directory[&b"/linked"[..]].same_as, b"/d/f");
    assert_eq!(directory[&b"/linked"[..]].links, 2);
    let (_, archive, _) = lab.build("tar:@/root.tar").unwrap();
    assert_eq!(plain(directory), plain(archive));
    let packed = gzip(&fs::read(lab.path("root.tar")).unwrap());
    fs::write(lab.path("root.tgz"), packed).unwrap();
    lab.build("tar:@/root.tgz").unwrap();
    assert_eq!(lab.stored(), 1);
    for source in [
        "rootfs:@/none",
        "rootfs:@/root.tar",
        "tar:@/none",
        "tar:@/root",
    ] {
        let text = lab.refused(source);
        assert!(
            text.starts_with("can't read ") && text.contains(&source[8..]),
            "{text}"
        );
    }
}

#[test]
fn sources_are_parsed_as_people_write_them() {
    let parse = |text: &str| RootSource::parse(OsStr::new(text));
    let layout = |reference: Option<&str>| RootSource::OciLayout {
        directory: Path::new("a/b").to_owned(),
        reference: reference.map(str::to_owned),
    };
    assert_eq!(parse("oci:a/b"), Ok(layout(None)));
    assert_eq!(parse("oci:a/b:name:tag"), Ok(layout(Some("name:tag"))));
    assert_eq!(parse("tar:a:b"), Ok(RootSource::Tar("a:b".into())));
    let image = parse("docker://127.0.0.1:5000/a/b:1").unwrap();
    assert_eq!(image.to_string(), "docker://127.0.0.1:5000/a/b:1");
    let text = parse("docker://A").unwrap_err().to_string();
    assert!(text.contains("\"library/A\" is no repository"), "{text}");
    for text in [
        "",
        "docker:x",
        "docker://",
        "docker://a b",
        "oci",
        "oci:",
        "oci::x",
        "oci:a:",
        "tar:",
        "zip:x",
        "/a/b",
    ] {
        assert!(parse(text).is_err(), "{text}");
    }
}

proptest::proptest! {
    #[test]
    fn documents_of_any_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
        fuzzed::fuzz(&bytes);
    }
}
