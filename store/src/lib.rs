//! Artefacts on disk that any number of processes share: made in private, published by one rename,
//! immutable afterwards. What they are, an [`Artefact`] says; this package knows no VM.
//!
//! ```text
//! <root>/<name>/.ironclaw     the mark that it is ours
//!               …             what it consists of, and a manifest
//!        .staging-…/          one that is being made; locked while its maker lives
//!        .trash-…/            one that is being deleted
//! ```
//!
//! A directory's lock says who uses it, and ends with the process that holds it: exclusive while
//! an artefact is made, shared while it is [pinned](Store::pin). So nothing of a living owner is ever
//! removed, and whatever a killed process left is seen as such. Who holds a lock is asked of the
//! kernel ([`Owners`]). Locks are taken in one order: that of the [root](Store::lock), for the moment
//! of a look or a change, and then that of a directory.
//!
//! What is published is safely on disk. Nothing is removed that does not carry our mark, and nothing
//! that only reads removes anything. All functions block; asynchronous callers run them on a thread
//! for blocking work.

mod artefact;
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
pub use digest::{ParseDigestError, Sha256Digest};
pub use dir_lock::DirLock;
pub use error::StoreError;
pub use ironclaw_host::flock::Kind as LockKind;
pub use merge::complete;
pub use owner::{Owner, Owners};
pub use pass::{Passed, ZeroPages, over as pass_over};
pub use root_lock::{PATIENCE as ROOT_LOCK_TIMEOUT, RootLock, RootLockError};
pub use staging::{STAGING_PREFIX, Staging};
pub use store::{Pin, Store};
pub use sweep::Swept;
pub use timestamp::Timestamp;
pub use trash::Deletion;
