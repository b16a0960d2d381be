//! What a daemon says when it does not do what it is asked.

use std::io;
use std::path::PathBuf;

use serde::Deserialize;
use thiserror::Error;

use crate::address::Address;

/// A failure as the daemon tells it (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Error)]
#[error("{title}: {detail}")]
pub struct Refusal {
    /// The kind, for people.
    pub title: String,
    /// What happened this time.
    pub detail: String,
    /// The kind, for programs.
    pub kind: String,
    /// The status of the answer.
    pub status: u16,
}

/// The reason why a daemon did not do what it was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens there.
    #[error(
        "no daemon listens on {address}: `ironclaw serve` starts one, and --host names one elsewhere"
    )]
    NoDaemon {
        /// Where.
        address: Address,
        /// The reason.
        source: io::Error,
    },
    /// It could not be encrypted: who is at its other end is not known.
    #[error("the connection to {address} can't be trusted{advice}")]
    NotEncrypted {
        /// Where.
        address: Address,
        /// What to do about it, behind a colon.
        advice: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// The file of authorities can't be used.
    #[error("the certificates of {path} (--ca) can't be used: {what}")]
    BadAuthority {
        /// The file.
        path: PathBuf,
        /// The reason.
        what: String,
    },
    /// Nothing can be encrypted here.
    #[error("connections can't be encrypted: {0}")]
    NoTls(String),
    /// The connection was lost, or what came over it is no HTTP.
    #[error("the connection to the daemon on {address} is lost")]
    Lost {
        /// Where.
        address: Address,
        /// The reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What listens there is no such daemon.
    #[error("what listens on {address} is no daemon of IronClaw: {what}")]
    NotOurs {
        /// Where.
        address: Address,
        /// What it said.
        what: String,
    },
    /// It refused, or failed.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// The error of a command that could not be started, or whose end is not known: as the guest told it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}", text(.0))]
pub struct CommandFailed(pub Refusal);

/// Says it as it is said of a VM of one's own.
fn text(refusal: &Refusal) -> String {
    match refusal.kind.as_str() {
        "guest_lost" => "the VM ended while the command ran".to_owned(),
        "no_file" | "no_directory" | "forbidden" | "invalid" | "unsupported" | "guest"
        | "guest_full" | "conflict" => format!("the guest says: {}", refusal.detail),
        _ => refusal.detail.clone(),
    }
}
