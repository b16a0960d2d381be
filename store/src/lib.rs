//! Artefacts on disk, shared by any number of processes: made in private, published by one rename,
//! immutable afterwards. An [`Artefact`] defines their kind; this package knows no VM.
//!
//! ```text
//! <root>/<name>/.ironclaw     the mark that it is ours
//!               …             what it consists of, and a manifest
//!        .staging-…/          one that is being made; locked while its maker lives
//!        .trash-…/            one that is being deleted
//! ```
//!
//! A directory's lock shows who uses it, and ends with the process that holds it: exclusive while
//! an artefact is made, shared while it is [pinned](Store::pin). So nothing of a living owner is
//! ever removed, and the leftovers of a killed process are recognized. The kernel tells who holds a
//! lock ([`Owners`]). Locks are taken in one order: that of the [root](Store::lock), for a short
//! check or change, and then that of a directory.
//!
//! A published artefact is safely on disk. Only directories with our mark are removed, and reading
//! operations remove nothing. All functions block; asynchronous callers have to run them on a
//! thread for blocking work.

mod artefact;
mod copy;
mod digest;
mod dir_lock;
mod error;
pub mod file;
mod merge;
mod owner;
mod pass;
mod root_lock;
mod sparse;
mod staging;
mod store;
mod sweep;
#[cfg(test)]
mod tests;
mod timestamp;
mod trash;

pub use artefact::{Artefact, StoreName};
pub use copy::copy_file;
pub use digest::{ParseDigestError, Sha256Digest};
pub use dir_lock::DirLock;
pub use error::StoreError;
pub use ironclaw_host::flock::Kind as LockKind;
pub use merge::complete;
pub use owner::{Owner, Owners};
pub use pass::{Passed, ZeroPages, hash_and_punch_holes};
pub use root_lock::{ROOT_LOCK_TIMEOUT, RootLock, RootLockError};
pub use staging::{STAGING_PREFIX, Staging};
pub use store::{Pin, Store};
pub use sweep::Swept;
pub use timestamp::Timestamp;
pub use trash::Deletion;
