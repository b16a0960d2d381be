//! SDKs that know sandboxes by host names below a domain, `PORT-ID.DOMAIN`, encrypted: those of the first major
//! version know nothing else.

use std::path::{Path, PathBuf};
use std::process::Command;

use ironclaw_test_harness::skipped;
use tempfile::TempDir;

use super::javascript::with_sdk;
use super::vm::runs;
use super::{Daemon, NEWEST, python, with_snapshot};

/// The last ones of the first major version.
const FIRST_PYTHON: &str = "e2b==1.11.1";
const FIRST_JAVASCRIPT: &str = "e2b@1.13.2";

/// The domain. A certificate for all names directly below `localhost` is none that clients take.
const DOMAIN: &str = "ironclaw.localhost";

/// A domain with a certificate authority of its own, on this machine alone.
struct Domain {
    home: TempDir,
    /// Resolves its names, by being preloaded.
    resolver: PathBuf,
}

impl Domain {
    /// Ignores the test if there is none to be had.
    fn make() -> Option<Self> {
        let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let resolver = home.path().join("localhost.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2b/localhost.c");
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-o"]).arg(&resolver);
        if !succeeds(compile.arg(source)) {
            skipped("cc compiles no resolver of names below localhost");
            return None;
        }
        let names = format!("subjectAltName=DNS:{DOMAIN},DNS:*.{DOMAIN}");
        let key = [
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ];
        let openssl = |arguments: &[&str]| {
            let mut openssl = Command::new("openssl");
            succeeds(openssl.args(arguments).args(key).current_dir(home.path()))
        };
        let authority = ["req", "-x509", "-days", "2", "-subj", "/CN=authority"];
        let signed = ["req", "-x509", "-days", "2", "-subj", "/CN=daemon"];
        let by_authority = [
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-addext",
            &names,
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ];
        let made = openssl(&[&authority[..], &["-keyout", "ca.key", "-out", "ca.pem"]].concat())
            && openssl(
                &[
                    &signed[..],
                    &by_authority,
                    &["-keyout", "key.pem", "-out", "cert.pem"],
                ]
                .concat(),
            );
        if !made {
            skipped("openssl makes no certificate");
            return None;
        }
        Some(Self { home, resolver })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn daemon(&self) -> Daemon {
        let state = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Daemon::start_by(with_snapshot(), state, |mut command| {
            command.arg("--tls-cert").arg(self.file("cert.pem"));
            command.arg("--tls-key").arg(self.file("key.pem"));
            command
        })
    }

    /// Runs a program with an SDK, by the domain alone; it has to say that all calls are served.
    fn run(&self, daemon: &Daemon, key: &str, program: &Path, script: &str, directory: &Path) {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2b");
        let authority = self.file("ca.pem");
        let output = Command::new(program)
            .arg(scripts.join(script))
            .current_dir(directory)
            .env_remove("E2B_API_URL")
            .env_remove("E2B_SANDBOX_URL")
            .env("E2B_API_KEY", key)
            .env("E2B_DOMAIN", format!("{DOMAIN}:{}", daemon.address.port()))
            .env("SSL_CERT_FILE", &authority)
            .env("NODE_EXTRA_CA_CERTS", &authority)
            .env("LD_PRELOAD", &self.resolver)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.ends_with("all calls are served\n"),
            "{script}: {output:?}"
        );
    }
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

#[test]
fn sdks_of_the_first_major_version_work_unmodified_by_a_domain() {
    let Some(domain) = runs().then(Domain::make).flatten() else {
        return;
    };
    let Some(python) = python(FIRST_PYTHON) else {
        return;
    };
    let daemon = domain.daemon();
    let key = daemon.new_key("test");
    let here = domain.home.path();
    domain.run(&daemon, &key, &python, "first_calls.py", here);
    domain.run(&daemon, &key, &python, "first_async_calls.py", here);
    daemon.end();
}

#[test]
fn the_sdk_of_the_first_major_version_for_javascript_works_unmodified_by_a_domain() {
    let Some(domain) = runs().then(Domain::make).flatten() else {
        return;
    };
    let Some(home) = with_sdk(FIRST_JAVASCRIPT) else {
        return;
    };
    let daemon = domain.daemon();
    let key = daemon.new_key("test");
    domain.run(&daemon, &key, Path::new("node"), "first_calls.mjs", &home);
    daemon.end();
}

#[test]
fn the_newest_sdk_works_unmodified_by_a_domain() {
    let Some(domain) = runs().then(Domain::make).flatten() else {
        return;
    };
    let Some(python) = python(NEWEST) else {
        return;
    };
    let daemon = domain.daemon();
    let key = daemon.new_key("test");
    let here = domain.home.path();
    domain.run(&daemon, &key, &python, "old_calls.py", here);
    if let Some(home) = with_sdk(NEWEST) {
        domain.run(&daemon, &key, Path::new("node"), "calls.mjs", &home);
    }
    daemon.end();
}
