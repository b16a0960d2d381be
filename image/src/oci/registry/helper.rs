//! Programs that keep the users of registries: `docker-credential-NAME`.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use serde::Deserialize;

use super::super::child::Running;
use super::super::registry_error::RegistryError;
use super::credentials::{Credential, shown};

/// Time that a program has: it may ask the system's keyring, which may ask a person.
const HELPER_TIMEOUT: Duration = Duration::from_secs(60);
/// Limit of its output, in bytes.
const MAX_OUTPUT: u64 = 64 << 10;
/// What programs print about a registry that they know no user for.
const UNKNOWN: &str = "credentials not found";
/// The user of a secret that is an identity token.
const TOKEN_USER: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks a program for the user of a server; `None` if it knows none.
pub(super) fn get(name: &str, server: &str) -> Result<Option<Credential>, RegistryError> {
    let failed = |reason: String| RegistryError::Helper {
        program: format!("docker-credential-{name}"),
        reason,
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() || !name.bytes().all(is_name) {
        return Err(RegistryError::Helper {
            program: "docker-credential-...".to_owned(),
            reason: format!("{name:?} is no name of such a program"),
        });
    }
    let program = format!("docker-credential-{name}");
    let (status, output) = match run(&program, server, HELPER_TIMEOUT) {
        Ok(ended) => ended,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(failed("it is not on PATH".to_owned()));
        }
        Err(error) => return Err(failed(error.to_string())),
    };
    if !status.success() {
        let text = shown(&output);
        return if text.contains(UNKNOWN) {
            Ok(None)
        } else {
            Err(failed(format!("{status}: {text}")))
        };
    }
    // Its text is not shown: it holds a secret.
    let answer: Answer = serde_json::from_slice(&output)
        .map_err(|_| failed("it prints no user and secret in JSON".to_owned()))?;
    Ok(Some(if answer.username == TOKEN_USER {
        Credential::IdentityToken(answer.secret)
    } else {
        Credential::Basic(answer.username, answer.secret)
    }))
}

/// Runs `program get` with a text as its input, for so long.
fn run(program: &str, input: &str, limit: Duration) -> io::Result<(ExitStatus, Vec<u8>)> {
    let mut command = Command::new(program);
    command
        .arg("get")
        .stdin(Stdio::piped())
        .stderr(Stdio::null());
    let mut running = Running::start(&mut command, limit)?;
    if let Some(mut stdin) = running.stdin() {
        // Shorter than a pipe: it never waits. A program that ends without reading it answers by that.
        match stdin.write_all(input.as_bytes()) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
    }
    let mut output = Vec::new();
    let limit = MAX_OUTPUT + 1;
    running.by_ref().take(limit).read_to_end(&mut output)?;
    if output.len() as u64 > MAX_OUTPUT {
        let text = format!("it prints more than {MAX_OUTPUT} bytes");
        return Err(io::Error::other(text));
    }
    Ok((running.wait()?, output))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    fn script(directory: &std::path::Path, text: &str) -> String {
        let path = directory.join("docker-credential-test");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_program_that_hangs_or_never_ends_its_output_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        let program = script(directory.path(), "sleep 1000");
        let error = run(&program, "x", Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        let program = script(directory.path(), "sleep 1000 & wait");
        let error = run(&program, "x", Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        let program = script(directory.path(), "yes");
        let error = run(&program, "x", HELPER_TIMEOUT).unwrap_err();
        assert!(
            error.to_string().contains("more than 65536 bytes"),
            "{error}"
        );
        let program = script(directory.path(), "cat; exit 3");
        let (status, output) = run(&program, "host", HELPER_TIMEOUT).unwrap();
        assert_eq!((status.code(), &*output), (Some(3), &b"host"[..]));
    }

    #[test]
    fn a_name_leads_to_no_other_program() {
        for name in ["", "../x", "a/b", "a b"] {
            let text = get(name, "host").unwrap_err().to_string();
            assert!(text.contains("is no name of such a program"), "{text}");
        }
        let text = get("none-such", "host").unwrap_err().to_string();
        assert_eq!(
            text,
            "docker-credential-none-such has no user to give: it is not on PATH"
        );
    }
}
