//! Whose certificates are trusted, and which one is shown.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ironclaw_host::{regular_file, untrusted};
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use super::super::access::RegistryAccess;
use super::super::registry_error::RegistryError;

/// Limit of a file of certificates, in bytes: the system's has 200 KiB.
const MAX_CERTIFICATES: u64 = 4 << 20;
/// Limit of the files in a directory of certificates.
const MAX_FILES: usize = 256;

/// Returns how to talk TLS with a registry.
pub(super) fn config(registry: &str, access: &RegistryAccess) -> Result<TlsConfig, RegistryError> {
    // One that can't be read, or none at all, is told by the handshake that lacks it.
    let system = rustls_native_certs::load_native_certs().certs;
    let mut roots: Vec<_> = system
        .iter()
        .map(|certificate| Certificate::from_der(certificate).to_owned())
        .collect();
    if let Some(path) = &access.ca_file {
        roots.extend(certificates(path)?);
    }
    let mut shown = None;
    for directory in &access.certificate_directories {
        let files = files(&directory.join(registry))?;
        for path in files.iter().filter(|path| has_extension(path, "crt")) {
            roots.extend(certificates(path)?);
        }
        let own = files.iter().find(|path| has_extension(path, "cert"));
        if let (None, Some(path)) = (&shown, own) {
            let key = private_key(&path.with_extension("key"))?;
            shown = Some(ClientCert::new_with_certs(&certificates(path)?, key));
        }
    }
    let provider = rustls::crypto::ring::default_provider();
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::from(roots))
        .client_cert(shown)
        .unversioned_rustls_crypto_provider(Arc::new(provider))
        .build())
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|it| it == extension)
}

/// Lists the files of a directory, sorted; none, if it is not there.
fn files(directory: &Path) -> Result<Vec<PathBuf>, RegistryError> {
    let failed = |error: std::io::Error| RegistryError::File {
        path: directory.to_owned(),
        what: "a directory of certificates",
        reason: error.to_string(),
    };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        // A user may not look at what is none of his.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::PermissionDenied
            ) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(failed(error)),
    };
    let entries = entries.take(MAX_FILES).map(|entry| Ok(entry?.path()));
    let mut files: Vec<_> = entries.collect::<Result<_, _>>().map_err(failed)?;
    files.sort();
    Ok(files)
}

/// Reads the items of a kind in a file.
fn items<T>(
    path: &Path,
    what: &'static str,
    choose: impl Fn(PemItem<'static>) -> Option<T>,
) -> Result<Vec<T>, RegistryError> {
    let bad = |reason: String| RegistryError::File {
        path: path.to_owned(),
        what,
        reason,
    };
    let bytes = regular_file::read(path, MAX_CERTIFICATES).map_err(|it| bad(it.to_string()))?;
    let items = parse_pem(&bytes).map(|item| {
        let item = item.map_err(|error| bad(untrusted::message(&error.to_string())))?;
        Ok(choose(item))
    });
    let found: Vec<_> = items
        .filter_map(Result::transpose)
        .collect::<Result<_, _>>()?;
    if found.is_empty() {
        return Err(bad("there is none in PEM in it".to_owned()));
    }
    Ok(found)
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, RegistryError> {
    items(path, "certificates", |item| match item {
        PemItem::Certificate(certificate) => Some(certificate),
        _ => None,
    })
}

fn private_key(path: &Path) -> Result<PrivateKey<'static>, RegistryError> {
    let keys = items(path, "a private key", |item| match item {
        PemItem::PrivateKey(key) => Some(key),
        _ => None,
    });
    let first = keys?.into_iter().next();
    first.ok_or_else(|| RegistryError::File {
        path: path.to_owned(),
        what: "a private key",
        reason: "it holds none".to_owned(),
    })
}
