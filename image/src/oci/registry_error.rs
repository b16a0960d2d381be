//! Errors of registries.

use std::path::PathBuf;

use thiserror::Error;

/// The reason why a registry did not give what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The program can't talk to registries.
    #[error("this program was built without the feature `registry`, which pulls images")]
    NotBuilt,
    /// There is no connection.
    #[error("{host} can't be reached: {reason}")]
    Unreachable {
        /// The host and its port.
        host: String,
        /// The reason.
        reason: String,
    },
    /// It does not prove who it is.
    #[error(
        "{host} does not prove to be itself: {reason}; if an authority of your own has signed its certificate, \
         name that in `registry_ca_file`, or put it into /etc/docker/certs.d/{host}/ca.crt"
    )]
    Untrusted {
        /// The host and its port.
        host: String,
        /// The reason.
        reason: String,
    },
    /// It speaks no TLS.
    #[error(
        "{host} speaks no TLS ({reason}); plain HTTP is for registries on this machine, and for those in \
         `registry_plain_http`"
    )]
    NoTls {
        /// The host and its port.
        host: String,
        /// The reason.
        reason: String,
    },
    /// A file with users, certificates or keys can't be used.
    #[error("{path} can't be used as {what}: {reason}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The program that keeps the users of registries does not answer.
    #[error("{program} has no user to give: {reason}")]
    Helper {
        /// The program.
        program: String,
        /// The reason.
        reason: String,
    },
    /// It leads to where nobody follows.
    #[error("{host} leads to {target:?}: {reason}")]
    Redirect {
        /// The host and its port.
        host: String,
        /// Where it leads to.
        target: String,
        /// Why nobody follows.
        reason: &'static str,
    },
    /// It has no such image, or says so to who may not see it.
    #[error("{host} has no {what}{said}")]
    NotFound {
        /// The host and its port.
        host: String,
        /// What it was asked for.
        what: String,
        /// What it says itself.
        said: String,
    },
    /// It wants another user, or one at all.
    #[error("{host} refuses access to {repository}{said}: {advice}")]
    Denied {
        /// The host and its port.
        host: String,
        /// The repository.
        repository: String,
        /// What it says itself.
        said: String,
        /// What to do.
        advice: String,
    },
    /// It answers with something else than what it was asked for.
    #[error("{host} answers {status} when asked for {what}{said}")]
    Status {
        /// The host and its port.
        host: String,
        /// The status of its answer.
        status: u16,
        /// What it was asked for.
        what: String,
        /// What it says itself.
        said: String,
    },
    /// What it sends makes no sense.
    #[error("{host} makes no sense: {reason}")]
    Protocol {
        /// The host and its port.
        host: String,
        /// What is wrong.
        reason: String,
    },
    /// A transfer broke off, again and again.
    #[error(
        "the transfer of {what} from {host} broke off at byte {at}, at the last of {attempts} attempts: {reason}"
    )]
    Interrupted {
        /// The host and its port.
        host: String,
        /// What was transferred.
        what: String,
        /// How far it came.
        at: u64,
        /// Attempts that brought next to nothing, one after the other.
        attempts: u32,
        /// The reason of the last one.
        reason: String,
    },
}
