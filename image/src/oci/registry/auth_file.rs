//! Files of registries' users, as docker and podman keep them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ironclaw_host::regular_file;
use serde::Deserialize;

use super::super::access::RegistryAccess;
use super::super::reference::ImageReference;
use super::super::registry_error::RegistryError;
use super::credentials::Credential;
use super::{endpoint, helper};

/// Limit of a file of users, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Names of Docker Hub in such files, the one that docker writes first.
const DOCKER_HUB: [&str; 3] = [
    "https://index.docker.io/v1/",
    "index.docker.io",
    "docker.io",
];

/// A file in the format of docker's `config.json` and podman's `auth.json`.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct File {
    auths: BTreeMap<String, Entry>,
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

/// Finds the user for an image, and the file that names him: the first that does.
pub(super) fn find(
    image: &ImageReference,
    access: &RegistryAccess,
) -> Result<Option<(Credential, PathBuf)>, RegistryError> {
    for path in &access.auth_files {
        let bytes = match regular_file::read(path, MAX_FILE) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(unusable(path, error.to_string())),
        };
        // What is wrong is told by its position alone: the text may hold a secret.
        let file = serde_json::from_slice::<File>(&bytes).map_err(|error| {
            let position = format!("line {}, column {}", error.line(), error.column());
            unusable(
                path,
                format!("it is not as docker or podman writes it: {position}"),
            )
        })?;
        if let Some(found) = file.find(image, path)? {
            return Ok(Some((found, path.clone())));
        }
    }
    Ok(None)
}

fn unusable(path: &Path, reason: String) -> RegistryError {
    RegistryError::File {
        path: path.to_owned(),
        what: "a file of users",
        reason,
    }
}

impl File {
    fn find(
        &self,
        image: &ImageReference,
        path: &Path,
    ) -> Result<Option<Credential>, RegistryError> {
        let registry = image.registry();
        let of_registry = |key: &&String| names(key, registry);
        let helper = self.cred_helpers.keys().find(of_registry);
        let helper = helper.and_then(|key| self.cred_helpers.get(key));
        let server = if is_docker_hub(registry) {
            DOCKER_HUB[0]
        } else {
            registry
        };
        if let Some(helper) = helper.or(self.creds_store.as_ref())
            && let Some(found) = helper::get(helper, server)?
        {
            return Ok(Some(found));
        }
        // A repository, and what is above it, before the registry.
        let whole = format!("{registry}/{}", image.repository());
        let slashes = whole.rmatch_indices('/').map(|(at, _)| &whole[..at]);
        let parts = std::iter::once(&*whole).chain(slashes.filter(|it| it.contains('/')));
        let exact = parts.into_iter().find_map(|part| self.auths.get(part));
        let by_host = || {
            let key = self.auths.keys().find(of_registry)?;
            self.auths.get(key)
        };
        let Some(entry) = exact.or_else(by_host) else {
            return Ok(None);
        };
        let bad = || {
            unusable(
                path,
                format!("what it has for {registry} is in no form of docker's"),
            )
        };
        entry.credential().ok_or_else(bad)
    }
}

impl Entry {
    /// Returns what it holds, which may be nothing; `None` if that makes no sense.
    fn credential(&self) -> Option<Option<Credential>> {
        let found = if !self.identitytoken.is_empty() {
            Credential::IdentityToken(self.identitytoken.clone())
        } else if !self.registrytoken.is_empty() {
            Credential::RegistryToken(self.registrytoken.clone())
        } else if !self.auth.is_empty() {
            let text = String::from_utf8(STANDARD.decode(self.auth.trim()).ok()?).ok()?;
            let (user, password) = text.split_once(':')?;
            // Docker pads the password.
            Credential::Basic(user.to_owned(), password.trim_end_matches('\0').to_owned())
        } else if !self.username.is_empty() {
            Credential::Basic(self.username.clone(), self.password.clone())
        } else {
            return Some(None);
        };
        Some(Some(found))
    }
}

fn is_docker_hub(registry: &str) -> bool {
    DOCKER_HUB.contains(&registry) || registry == endpoint::host("docker.io")
}

/// Returns whether a key is the name of a registry: docker once wrote whole URLs.
fn names(key: &str, registry: &str) -> bool {
    let host = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"));
    let host = host.map_or(key, |rest| rest.split('/').next().unwrap_or(rest));
    host == registry || (is_docker_hub(registry) && is_docker_hub(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(json: &str, image: &str) -> Result<Option<Credential>, RegistryError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        std::fs::write(&path, json).unwrap();
        let access = RegistryAccess {
            auth_files: vec![directory.path().join("none"), path],
            ..RegistryAccess::default()
        };
        let image = ImageReference::parse(image).unwrap();
        Ok(find(&image, &access)?.map(|(credential, _)| credential))
    }

    fn basic(user: &str, password: &str) -> Option<Credential> {
        Some(Credential::Basic(user.to_owned(), password.to_owned()))
    }

    #[test]
    fn users_are_found_as_docker_and_podman_keep_them() {
        let auth = STANDARD.encode("user:pass:word");
        let (host, image) = ("127.0.0.1:5000", "127.0.0.1:5000/team/app:1");
        for key in [host, "http://127.0.0.1:5000", "https://127.0.0.1:5000/v1/"] {
            let json = format!(r#"{{"auths": {{"{key}": {{"auth": "{auth}"}}}}}}"#);
            assert_eq!(
                found(&json, image).unwrap(),
                basic("user", "pass:word"),
                "{key}"
            );
            assert_eq!(found(&json, "127.0.0.1:5001/team/app").unwrap(), None);
        }
        let json = format!(
            r#"{{"auths": {{"{host}": {{"username": "a", "password": "b"}},
            "{host}/team": {{"username": "c", "password": "d"}},
            "{host}/other/app": {{"username": "e", "password": "f"}}}}}}"#
        );
        assert_eq!(found(&json, image).unwrap(), basic("c", "d"));
        assert_eq!(
            found(&json, "127.0.0.1:5000/other/app").unwrap(),
            basic("e", "f")
        );
        assert_eq!(
            found(&json, "127.0.0.1:5000/else/app").unwrap(),
            basic("a", "b")
        );
        for key in DOCKER_HUB {
            let json = format!(r#"{{"auths": {{"{key}": {{"identitytoken": "t"}}}}}}"#);
            let token = Some(Credential::IdentityToken("t".to_owned()));
            assert_eq!(found(&json, "debian").unwrap(), token, "{key}");
        }
        let json =
            format!(r#"{{"auths": {{"{host}": {{"registrytoken": "t"}}}}, "psFormat": "x"}}"#);
        let header = found(&json, image).unwrap().unwrap().header();
        assert_eq!(header.unwrap(), "Bearer t");
        // As docker leaves it where a helper has the secret.
        assert_eq!(
            found(&format!(r#"{{"auths": {{"{host}": {{}}}}}}"#), image).unwrap(),
            None
        );
        assert_eq!(found("{}", image).unwrap(), None);
    }

    #[test]
    fn a_damaged_file_is_named_and_no_secret_of_it_is() {
        let image = "127.0.0.1:5000/app";
        for json in [
            r#"{"auths": {"127.0.0.1:5000": {"auth": "c2VjcmV0"}}}"#,
            r#"{"auths": {"127.0.0.1:5000": {"auth": "c2VjcmV0" x}}}"#,
            r#"{"auths": "c2VjcmV0"}"#,
        ] {
            let text = found(json, image).unwrap_err().to_string();
            assert!(
                text.contains("config.json can't be used as a file of users: "),
                "{text}"
            );
            assert!(
                !text.contains("c2VjcmV0") && !text.contains("secret"),
                "{text}"
            );
        }
    }
}
