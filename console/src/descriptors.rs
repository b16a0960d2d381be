//! The limit of this process's open files.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one: each VM needs several descriptors of this process. The
/// usual soft limit of 1024 exists for programs that use select(2), which can't handle higher
/// numbers.
pub fn allow_most() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, most) {
        tracing::debug!(%error, "the limit of open files stays");
    }
}
