//! Steps that make an image out of another one, given one by one or as a Dockerfile.
//!
//! Nothing here runs: a step says what to do, and all variables are expanded in it.
//! [`TemplateStore::build_recipe`](crate::TemplateStore::build_recipe) follows the steps of a [`Recipe`].

mod absolute;
mod apply;
mod base;
mod built_in;
mod context;
mod copied;
mod copy_into;
mod dockerfile;
mod expand;
#[cfg(feature = "fuzzing")]
mod fuzzed;
mod ignore;
mod owner;
mod plan;
mod step;

pub use apply::{Build, Left, StepError, StepFailure};
pub use base::{Base, NoBase};
pub use context::{Context, ContextError, Selected, SelectedKind};
pub use dockerfile::{Dockerfile, DockerfileError};
pub use expand::ExpandError;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub use fuzzed::fuzz;
pub use owner::{Owner, OwnerError};
pub use plan::{DockerfileSteps, Planned, Recipe};
pub use step::{Action, Copy, CopySource, Step};
