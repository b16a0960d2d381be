//! Images from a real registry.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[macro_use]
extern crate ironclaw_test_harness;

#[path = "../container_tools/mod.rs"]
mod container_tools;
mod server;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use ironclaw_image::oci::{
    LayerStore, RegistryAccess, RootBuilder, RootImage, RootSource, RootStep, SourceError,
};
use ironclaw_store::Sha256Digest;
use ironclaw_test_harness::skipped;
use serde_json::{Value, json};
use tempfile::TempDir;

use container_tools::{make, missing, run};
use server::Server;

fn main() -> std::process::ExitCode {
    ironclaw_test_harness::main()
}

const TOOLS: [&str; 3] = ["docker-registry", "skopeo", "umoci"];

/// A registry, and an image in the OCI layout beside it.
struct Lab {
    server: Server,
    directory: TempDir,
}

/// A built root: what it is, and its image's bytes.
type Built = (RootImage, Vec<u8>);

impl Lab {
    /// `None` where the tools are missing, which it has said then.
    fn open(configure: impl Fn(&Path) -> (String, String)) -> Option<Self> {
        if let Some(reason) = missing(&TOOLS) {
            skipped(reason);
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        make(directory.path());
        let (http, more) = configure(directory.path());
        Some(Self {
            server: Server::start(directory.path(), &http, &more),
            directory,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn copy(&self, options: &[&str], from: &str, name: &str) {
        let to = format!("docker://{}/{name}", self.server.address);
        let fixed = ["--insecure-policy", "copy", "-q", "--dest-tls-verify=false"];
        let arguments = [&fixed[..], options, &[from, &to]].concat();
        run(self.directory.path(), "skopeo", &arguments);
    }

    fn pull(&self, name: &str) -> Result<Built, SourceError> {
        self.pull_with(name, RegistryAccess::default())
    }

    fn pull_with(&self, name: &str, access: RegistryAccess) -> Result<Built, SourceError> {
        let source = format!("docker://{}/{name}", self.server.address);
        build_with(self.directory.path(), "pulled", &source, access)
    }

    fn refused(&self, name: &str) -> String {
        self.pull(name).unwrap_err().to_string()
    }
}

fn build(directory: &Path, store: &str, source: &str) -> Result<Built, SourceError> {
    build_with(directory, store, source, RegistryAccess::default())
}

/// Builds a root with a layer store of its own.
fn build_with(
    directory: &Path,
    store: &str,
    source: &str,
    access: RegistryAccess,
) -> Result<Built, SourceError> {
    let store = LayerStore::open(&directory.join(store))?;
    let (source, out) = (RootSource::parse(OsStr::new(source)), directory.join("out"));
    drop(fs::remove_file(&out));
    let mut pulled = 0;
    let built = RootBuilder::new(store, 1 << 30).with_access(access).build(
        &source.unwrap(),
        &out,
        &mut |step| {
            if let RootStep::Pulling { bytes, size, .. } = step {
                assert!(bytes <= size.unwrap());
                pulled += 1;
            }
        },
    )?;
    Ok((built, fs::read(out).unwrap()))
}

#[test]
fn an_image_in_a_registry_becomes_the_root_that_its_layout_becomes() {
    let Some(lab) = Lab::open(plain) else { return };
    let layout = format!("oci:{}:app", lab.path("layout").display());
    let expected = build(lab.directory.path(), "local", &layout).unwrap();
    lab.copy(&[], "oci:layout:app", "team/app:1");
    let pulled = lab.pull("team/app:1").unwrap();
    assert_eq!(pulled, expected);
    // The same layers are there already, and the name is pinned by the digest.
    let digest = expected.0.digest.unwrap();
    assert_eq!(
        lab.pull(&format!("team/app@sha256:{digest}")).unwrap(),
        expected
    );

    let zstd = ["--dest-compress", "--dest-compress-format", "zstd"];
    let local = [
        "--insecure-policy",
        "copy",
        "-q",
        "oci:layout:app",
        "oci:zstd:app",
    ];
    run(
        lab.directory.path(),
        "skopeo",
        &[&local[..], &zstd].concat(),
    );
    lab.copy(&[], "oci:zstd:app", "app");
    let zstd = lab.pull("app").unwrap();
    assert_eq!(zstd.1, expected.1);
    assert_ne!(zstd.0.digest, expected.0.digest);

    let address = &lab.server.address;
    let text = lab.refused("team/app:2");
    assert!(
        text.starts_with(&format!(
            "{address}/team/app:2 can't be pulled: {address} has no manifests/2 in team/app \
             (MANIFEST_UNKNOWN: "
        )),
        "{text}"
    );
    let other = Sha256Digest::of(b"other");
    let text = lab.refused(&format!("team/app@sha256:{other}"));
    assert!(text.contains("has no manifests/sha256:"), "{text}");
    let text = lab.refused("nobody/app");
    assert!(
        text.contains("has no manifests/latest in nobody/app"),
        "{text}"
    );
}

/// A registry without users and without TLS.
fn plain(_: &Path) -> (String, String) {
    (String::new(), String::new())
}

/// Changes a document of a layout, and returns its new descriptor.
fn put(layout: &Path, document: &Value, kind: &str) -> Value {
    let bytes = document.to_string();
    let digest = Sha256Digest::of(&bytes);
    fs::write(layout.join(format!("blobs/sha256/{digest}")), &bytes).unwrap();
    let digest = format!("sha256:{digest}");
    let kind = format!("application/vnd.oci.image.{kind}.v1+json");
    json!({"mediaType": kind, "digest": digest, "size": bytes.len()})
}

fn document(layout: &Path, descriptor: &Value) -> Value {
    let digest = descriptor["digest"].as_str().unwrap();
    let path = layout
        .join(digest.replace(':', "/"))
        .components()
        .collect::<PathBuf>();
    let path = layout
        .join("blobs")
        .join(path.strip_prefix(layout).unwrap());
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn the_variant_for_this_machine_is_pulled_and_no_other() {
    let Some(lab) = Lab::open(plain) else { return };
    lab.copy(&[], "oci:layout:app", "one");
    let expected = lab.pull("one").unwrap();
    let layout = lab.path("layout");
    let index = fs::read(layout.join("index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    let mut ours = index["manifests"][0].clone();
    ours.as_object_mut().unwrap().remove("annotations");
    ours["platform"] = json!({"architecture": "amd64", "os": "linux"});
    let mut manifest = document(&layout, &ours);
    let mut config = document(&layout, &manifest["config"]);
    config["architecture"] = json!("arm64");
    manifest["config"] = put(&layout, &config, "config");
    let mut other = put(&layout, &manifest, "manifest");
    other["platform"] = json!({"architecture": "arm64", "os": "linux", "variant": "v8"});
    for (name, variants) in [
        ("both", &[other.clone(), ours][..]),
        ("other", &[other][..]),
    ] {
        let kind = "application/vnd.oci.image.index.v1+json";
        let list = json!({"schemaVersion": 2, "mediaType": kind, "manifests": variants});
        let mut list = put(&layout, &list, "index");
        list["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        let index = json!({"schemaVersion": 2, "manifests": [list]});
        fs::write(layout.join("index.json"), index.to_string()).unwrap();
        lab.copy(&["--all"], &format!("oci:layout:{name}"), name);
    }
    assert_eq!(lab.pull("both").unwrap(), expected);
    let text = lab.refused("other");
    assert!(
        text.contains("the image is not for linux/amd64, but for linux/arm64"),
        "{text}"
    );
}

/// A user `user` with the password `secret`, as `htpasswd -B` writes it.
const USERS: &str = "user:$2b$04$btDBvFmoSMBxnIgbU8i38ubijxIPJdzS6zEzE64989Wan/moT4SGS\n";

/// Writes a file of users as docker does it.
fn auth_file(lab: &Lab, name: &str, password: &str) -> PathBuf {
    let auth = match password {
        "secret" => "dXNlcjpzZWNyZXQ=",
        _ => "dXNlcjp3cm9uZw==",
    };
    let json = json!({"auths": {&lab.server.address: {"auth": auth}}});
    fs::write(lab.path(name), json.to_string()).unwrap();
    lab.path(name)
}

#[test]
fn a_registry_with_users_is_asked_as_the_one_that_docker_knows() {
    let users = |directory: &Path| {
        fs::write(directory.join("users"), USERS).unwrap();
        let path = directory.join("users").display().to_string();
        (
            String::new(),
            format!("auth: {{htpasswd: {{realm: test, path: {path}}}}}\n"),
        )
    };
    let Some(lab) = Lab::open(users) else { return };
    lab.copy(&["--dest-creds=user:secret"], "oci:layout:app", "app:1");
    let pull = |files: Vec<PathBuf>| {
        let mut access = RegistryAccess::default();
        access.auth_files = files;
        lab.pull_with("app:1", access)
    };
    let good = auth_file(&lab, "good.json", "secret");
    pull(vec![lab.path("none"), good.clone()]).unwrap();

    let address = &lab.server.address;
    let text = pull(vec![lab.path("none")]).unwrap_err().to_string();
    let said = format!("{address} refuses access to app (UNAUTHORIZED: ");
    let advice = format!(
        "log in by `docker login {address}` or `podman login {address}`, since none of {} has a user for it",
        lab.path("none").display()
    );
    assert!(text.contains(&said) && text.ends_with(&advice), "{text}");
    let bad = auth_file(&lab, "bad.json", "wrong");
    let text = pull(vec![bad.clone(), good]).unwrap_err().to_string();
    let advice = format!("since the user in {} may not do it", bad.display());
    assert!(
        text.contains("log in again by ") && text.ends_with(&advice),
        "{text}"
    );
    assert!(
        !text.contains("wrong") && !text.contains("dXNlcjp3cm9uZw"),
        "{text}"
    );
}

/// Makes an authority, and a certificate of 127.0.0.1 that it signed.
fn certify(directory: &Path) {
    let openssl = |arguments: &[&str]| run(directory, "openssl", arguments);
    openssl(&[
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=an authority",
        "-keyout",
        "ca.key",
        "-out",
        "ca.crt",
    ]);
    openssl(&[
        "req",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=registry",
        "-keyout",
        "own.key",
        "-out",
        "own.csr",
    ]);
    fs::write(directory.join("names"), "subjectAltName = IP:127.0.0.1\n").unwrap();
    openssl(&[
        "x509",
        "-req",
        "-in",
        "own.csr",
        "-CA",
        "ca.crt",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        "names",
        "-out",
        "own.crt",
    ]);
}

#[test]
fn a_registry_with_an_authority_of_its_own_is_trusted_if_that_is_named() {
    if let Some(reason) = missing(&["openssl"]) {
        return skipped(reason);
    }
    let with_tls = |directory: &Path| {
        certify(directory);
        let path = |name: &str| directory.join(name).display().to_string();
        let (certificate, key) = (path("own.crt"), path("own.key"));
        let http = format!(", tls: {{certificate: {certificate}, key: {key}}}");
        (http, String::new())
    };
    let Some(lab) = Lab::open(with_tls) else {
        return;
    };
    lab.copy(&[], "oci:layout:app", "app:1");
    let text = lab.refused("app:1");
    assert!(
        text.contains("does not prove to be itself: ") && text.contains("`registry_ca_file`"),
        "{text}"
    );
    let access = RegistryAccess::default().with_ca_file(Some(lab.path("ca.crt")));
    lab.pull_with("app:1", access).unwrap();

    let mut access = RegistryAccess::default();
    access.certificate_directories = vec![lab.path("none"), lab.path("certs.d")];
    let own = lab.path("certs.d").join(&lab.server.address);
    fs::create_dir_all(&own).unwrap();
    let text = lab
        .pull_with("app:1", access.clone())
        .unwrap_err()
        .to_string();
    assert!(text.contains("does not prove to be itself: "), "{text}");
    fs::copy(lab.path("ca.crt"), own.join("ca.crt")).unwrap();
    lab.pull_with("app:1", access.clone()).unwrap();
    fs::write(own.join("ca.crt"), "nothing").unwrap();
    let text = lab.pull_with("app:1", access).unwrap_err().to_string();
    assert!(
        text.contains("ca.crt can't be used as certificates: there is none in PEM in it"),
        "{text}"
    );
}
