//! Encryption of connections, and whom a daemon has to prove to be.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{self, CertificateError, ClientConfig, RootCertStore};

use crate::address::Address;
use crate::refusal::ClientError;

/// What is spoken below.
const HTTP: &[u8] = b"http/1.1";

/// Whom connections trust.
#[derive(Clone)]
pub(crate) struct Tls(Arc<ClientConfig>);

/// Without what it is made of.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    /// Trusts the system's authorities, and those of a file.
    pub(crate) fn new(ca: Option<&Path>) -> Result<Self, ClientError> {
        let mut roots = RootCertStore::empty();
        // One that can't be read, or none at all, is told by the handshake that lacks it.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(path) = ca {
            let bad = |what: String| ClientError::BadAuthority {
                path: path.to_owned(),
                what,
            };
            let all =
                CertificateDer::pem_file_iter(path).map_err(|error| bad(error.to_string()))?;
            let mut is_empty = true;
            for certificate in all {
                let certificate = certificate.map_err(|error| bad(error.to_string()))?;
                let added = roots.add(certificate);
                added.map_err(|error| bad(error.to_string()))?;
                is_empty = false;
            }
            if is_empty {
                return Err(bad("there is no certificate in it".to_owned()));
            }
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions();
        let config = config.map_err(|error| ClientError::NoTls(error.to_string()))?;
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![HTTP.to_vec()];
        Ok(Self(Arc::new(config)))
    }

    /// Encrypts a connection, whose other end proves to be this host.
    pub(crate) async fn encrypt(
        &self,
        address: &Address,
        host: &str,
        stream: TcpStream,
    ) -> Result<Box<TlsStream<TcpStream>>, ClientError> {
        let failed = |advice: &'static str, source: io::Error| ClientError::NotEncrypted {
            address: address.clone(),
            advice,
            source,
        };
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let name = name
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let name =
            ServerName::try_from(name).map_err(|error| failed("", io::Error::other(error)))?;
        let connector = TlsConnector::from(Arc::clone(&self.0));
        let encrypted = connector.connect(name, stream).await;
        let encrypted = encrypted.map_err(|error| failed(advice(&error), error))?;
        Ok(Box::new(encrypted))
    }
}

/// Says what to do about a handshake that failed.
fn advice(error: &io::Error) -> &'static str {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    let Some(rustls::Error::InvalidCertificate(why)) = cause else {
        return match cause {
            Some(rustls::Error::InvalidMessage(_)) => {
                ": it speaks no TLS there, so that its address begins with http://"
            }
            _ => "",
        };
    };
    match why {
        CertificateError::UnknownIssuer => {
            ": this machine knows nobody who signed its certificate; --ca FILE names the certificate of a \
             private authority, or the daemon's own"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            ": its certificate is for another name"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            ": its certificate has expired"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            ": its certificate is not valid yet"
        }
        CertificateError::Other(_) => {
            ": its certificate is of no use here; one that signs others (CA:TRUE) is none for a daemon"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(error: impl Into<rustls::Error>) -> &'static str {
        advice(&io::Error::new(io::ErrorKind::InvalidData, error.into()))
    }

    #[test]
    fn it_is_said_what_to_do_about_a_certificate() {
        assert!(of(CertificateError::UnknownIssuer).contains("--ca FILE"));
        assert!(of(CertificateError::NotValidForName).contains("another name"));
        assert!(of(CertificateError::Expired).contains("expired"));
        assert_eq!(of(rustls::Error::DecryptError), "");
        assert_eq!(advice(&io::ErrorKind::ConnectionReset.into()), "");
    }

    #[test]
    fn a_file_without_certificates_is_refused_by_name() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("ca.pem");
        let told = || Tls::new(Some(&path)).unwrap_err().to_string();
        assert!(told().contains("ca.pem"));
        std::fs::write(&path, "no certificate").unwrap();
        assert!(told().contains("there is no certificate in it"));
    }
}
