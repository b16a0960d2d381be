//! Tests the commands that ask a daemon by TLS.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use ironclaw_test_harness::skipped;

use crate::run::{done, said};
use crate::vm::runs;
use crate::{Daemon, with_snapshot};

/// The certificates of an authority and of `localhost`, which it has signed, and the key of that.
const AUTHORITY: &str = "ca.pem";
const CERTIFICATE: &str = "cert.pem";
const KEY: &str = "key.pem";

/// Makes the certificates; returns whether it could.
fn certify(home: &Path) -> bool {
    fs::write(home.join("names"), "subjectAltName=DNS:localhost\n").unwrap();
    let steps = [
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority \
         -keyout ca-key.pem -out ca.pem",
        "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -keyout key.pem \
         -out request.pem",
        "x509 -req -in request.pem -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 2 -extfile names \
         -out cert.pem",
    ];
    steps.iter().all(|step| {
        let mut openssl = Command::new("openssl");
        let made = openssl.args(step.split_whitespace()).current_dir(home);
        made.output().is_ok_and(|made| made.status.success())
    })
}

#[test]
fn a_daemon_is_asked_by_tls_if_it_proves_to_be_itself() {
    if !runs() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    if !certify(home.path()) {
        return skipped("openssl makes no certificates");
    }
    let path = |name: &str| home.path().join(name).display().to_string();
    let state = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let daemon = Daemon::start_by(with_snapshot(), state, |mut command| {
        command.args(["--tls-cert", &path(CERTIFICATE), "--tls-key", &path(KEY)]);
        command
    });
    let key = daemon.new_key("test");
    let port = daemon.address.port();
    let host = format!("https://localhost:{port}");
    let asked = |host: &str, ca: Option<&str>, arguments: &[&str], input: &[u8]| -> Output {
        let mut command = daemon.apart.ironclaw(arguments);
        command.env("IRONCLAW_HOST", host);
        command.env("IRONCLAW_API_KEY", &key);
        if let Some(name) = ca {
            command.env("IRONCLAW_DAEMON_CA_FILE", path(name));
        }
        done(command, input)
    };
    let told = |arguments: &[&str], input: &[u8]| {
        let output = asked(&host, Some(AUTHORITY), arguments, input);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        said(&output.stdout).trim().to_owned()
    };
    // Requests, content, WebSockets and raw connections.
    let id = told(&["create", "--name", "one"], b"");
    assert!(told(&["ls", "--ca", &path(AUTHORITY)], b"").contains(&id));
    assert_eq!(told(&["exec", "-i", "one", "tr", "a", "b"], b"aa"), "bb");
    fs::write(home.path().join("file"), vec![b'x'; 1_000_000]).unwrap();
    told(&["cp", &path("file"), "one:/tmp/file"], b"");
    assert_eq!(
        told(&["exec", "one", "wc", "-c", "/tmp/file"], b""),
        "1000000 /tmp/file"
    );
    let input = vec![b'x'; 3_000_000];
    assert_eq!(told(&["run", "-i", "wc", "-c"], &input), "3000000");
    the_port_is_reached(&daemon, &host, &key, &path(AUTHORITY));

    let unsure = |host: &str, ca: Option<&str>| {
        let output = asked(host, ca, &["ls"], b"");
        assert_eq!(output.stdout, b"", "{output:?}");
        (output.status.code(), said(&output.stderr))
    };
    let (code, why) = unsure(&host, None);
    assert!(code == Some(125) && why.contains("--ca FILE"), "{why}");
    let (code, why) = unsure(&format!("https://127.0.0.1:{port}"), Some(AUTHORITY));
    assert!(code == Some(125) && why.contains("another name"), "{why}");
    let (code, why) = unsure(&host, Some("missing.pem"));
    assert!(code == Some(121) && why.contains("missing.pem"), "{why}");
    let (code, why) = unsure(&host, Some("names"));
    assert!(code == Some(121) && why.contains("no certificate"), "{why}");
    // One who speaks no TLS.
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = plain.local_addr().unwrap();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = plain.accept().unwrap();
        let mut hello = [0; 16];
        stream.read_exact(&mut hello).unwrap();
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .unwrap();
    });
    let (code, why) = unsure(&format!("https://{at}"), None);
    answering.join().unwrap();
    assert!(code == Some(125) && why.contains("http://"), "{why}");
    let run = asked(&host, None, &["run", "true"], b"");
    assert!(said(&run.stderr).contains("--ca FILE"), "{run:?}");
    daemon.end();
}

/// A port of a run leads to its sandbox.
fn the_port_is_reached(daemon: &Daemon, host: &str, key: &str, ca: &str) {
    let script = "cd /tmp && echo hello > file && httpd -p 127.0.0.1:80 && echo up && sleep 1000";
    let run = [
        "run", "--host", host, "--ca", ca, "-p", "0:80", "sh", "-c", script,
    ];
    let mut command = daemon.apart.ironclaw(&run);
    command.env("IRONCLAW_API_KEY", key);
    crate::run::web_of(command, |get| {
        assert!(get("/file").ends_with("\r\n\r\nhello\n"));
    });
}
