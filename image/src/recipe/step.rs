//! What a recipe consists of.

/// A step.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Step {
    /// Its line in the Dockerfile, counted from 1; `None` for a step given otherwise.
    pub line: Option<usize>,
    /// The step as it was written, on one line, for progress and errors.
    pub text: String,
    /// What it does.
    pub action: Action,
}

impl Step {
    /// Makes a step that is not of a Dockerfile; `text` shows it.
    #[must_use]
    pub fn new(text: String, action: Action) -> Self {
        Self {
            line: None,
            text,
            action,
        }
    }
}

/// What a step does. Later steps, and commands in VMs of the image, see the effects of earlier ones.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Runs a program in a VM of the image so far and keeps what it changed.
    Run {
        /// The program and its arguments.
        argv: Vec<String>,
        /// Variables for this program alone: build arguments.
        env: Vec<(String, String)>,
    },
    /// Copies files of the context into the image.
    Copy(Copy),
    /// Sets variables of the environment.
    Env(Vec<(String, String)>),
    /// Sets labels.
    Label(Vec<(String, String)>),
    /// Sets the user of programs: `USER[:GROUP]`, names or numbers.
    User(String),
    /// Sets the directory of programs, an absolute path, and creates it.
    Workdir(String),
    /// Sets the default program, or the arguments of the entry point.
    Cmd(Vec<String>),
    /// Sets the entry point; forgets a default program of the image that was begun with.
    Entrypoint(Vec<String>),
    /// Sets the signal that asks programs to end: a name or a number.
    StopSignal(String),
    /// Records ports, such as `80/tcp`, that programs listen on. Opens none.
    Expose(Vec<String>),
    /// Runs a program before the snapshot, and again in each clone.
    Warm(Vec<String>),
}

/// Files to be copied into an image.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Copy {
    /// The files.
    pub sources: Vec<CopySource>,
    /// Their place, an absolute path. A directory if it ends in `/`, or for more than one source.
    pub to: String,
    /// Their owner, `USER[:GROUP]`, names or numbers; root without.
    pub owner: Option<String>,
    /// Their permissions; as they are without.
    pub mode: Option<u32>,
}

impl Copy {
    /// Copies what `source` names in the context to the absolute path `to`.
    #[must_use]
    pub fn new(source: String, to: String) -> Self {
        Self {
            sources: vec![CopySource::Context(source)],
            to,
            owner: None,
            mode: None,
        }
    }
}

/// A source of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CopySource {
    /// A path or pattern relative to the context.
    Context(String),
    /// A file given in the Dockerfile itself.
    Inline {
        /// Its name.
        name: String,
        /// Its content.
        content: String,
    },
}
