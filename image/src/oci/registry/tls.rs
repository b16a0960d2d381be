//! Whose certificates are trusted, and which one is shown.

use std::path::Path;
use std::sync::Arc;

use ironclaw_host::{regular_file, untrusted};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use super::super::access::RegistryAccess;
use super::super::registry_error::RegistryError;

/// Limit of a file of certificates, in bytes: the system's has 200 KiB.
const MAX_CERTIFICATES: u64 = 4 << 20;

/// Returns how to talk TLS with a registry.
pub(super) fn config(access: &RegistryAccess) -> Result<TlsConfig, RegistryError> {
    // One that can't be read, or none at all, is told by the handshake that lacks it.
    let system = rustls_native_certs::load_native_certs().certs;
    let mut roots: Vec<_> = system
        .iter()
        .map(|certificate| Certificate::from_der(certificate).to_owned())
        .collect();
    if let Some(path) = &access.ca_file {
        roots.extend(certificates(path)?);
    }
    let provider = rustls::crypto::ring::default_provider();
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::from(roots))
        .unversioned_rustls_crypto_provider(Arc::new(provider))
        .build())
}

/// Reads the certificates in a file.
fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, RegistryError> {
    let bad = |reason: String| RegistryError::Certificate {
        path: path.to_owned(),
        what: "certificates",
        reason,
    };
    let bytes = regular_file::read(path, MAX_CERTIFICATES).map_err(|it| bad(it.to_string()))?;
    let items = parse_pem(&bytes).map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Ok(Some(certificate)),
        Ok(_) => Ok(None),
        Err(error) => Err(bad(untrusted::message(&error.to_string()))),
    });
    let found: Vec<_> = items
        .filter_map(Result::transpose)
        .collect::<Result<_, _>>()?;
    if found.is_empty() {
        return Err(bad("there is no certificate in PEM in it".to_owned()));
    }
    Ok(found)
}
