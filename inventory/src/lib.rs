//! What `ironclaw template`, `ironclaw snapshot` and `ironclaw pool` do: the command's side of what is on disk.

#![forbid(unsafe_code)]

mod each;
mod help;
mod misuse;
mod outcome;
mod pool;
mod pool_args;
mod snapshot;
mod snapshot_args;
mod steps;
mod template;
mod template_args;
mod which;

pub use misuse::Misuse;
pub use outcome::Outcome;
pub use pool::perform as pool;
pub use pool_args::PoolTask;
pub use snapshot::perform as snapshot;
pub use snapshot_args::SnapshotTask;
pub use template::perform as template;
pub use template_args::TemplateTask;
pub use which::{TemplateOptions, Which};
