//! Command lines that can be parsed, and ask for what nobody can do.

use ironclaw_orchestrator::template::TemplateName;
use thiserror::Error;

/// What is wrong with the words.
#[derive(Debug, Error)]
pub enum Misuse {
    /// A template of that name can't be built without a source.
    #[error(
        "a template named {0} needs a source: `ironclaw template build {0} --from SOURCE`, where SOURCE is an \
         image, an archive or a directory"
    )]
    NoSource(TemplateName),
    /// The template that is built where nothing is asked for keeps what it has.
    #[error("{0} is the template with a busybox in memory alone: give one with steps another name")]
    Taken(TemplateName),
    /// There are packages, and nothing that installs any.
    #[error(
        "--include adds packages to `--from debian:SUITE` and to the template `base`, and to nothing else"
    )]
    NothingToInclude,
}
