//! How registries are reached.

use std::path::PathBuf;

/// What registries are trusted with, beyond what the system says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RegistryAccess {
    /// A file with certificates of authorities, in PEM, that sign those of registries, beside the system's.
    pub ca_file: Option<PathBuf>,
    /// The registries on other machines, as `HOST` or `HOST:PORT`, that are asked in plain HTTP. One on this
    /// machine is wherever it speaks no TLS.
    pub plain_http: Vec<String>,
}

impl RegistryAccess {
    /// Returns whether a registry is asked in plain HTTP, wherever it is.
    #[cfg(feature = "registry")]
    pub(super) fn is_plain(&self, registry: &str) -> bool {
        self.plain_http.iter().any(|plain| plain == registry)
    }
}
