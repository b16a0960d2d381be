//! The JSON of the daemon's API, as far as it is used here.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// A request for a sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct NewSandbox {
    /// The name of a template.
    pub template: String,
    /// A name for people and lists.
    pub name: Option<String>,
    /// What its maker wants to find it by.
    pub metadata: BTreeMap<String, String>,
    /// Variables of each of its commands.
    pub env: BTreeMap<String, String>,
    /// The user that its commands run as.
    pub user: Option<String>,
    /// Seconds until its deadline.
    pub lifetime_seconds: Option<u64>,
    /// What becomes of it then: `kill` or `pause`.
    pub on_deadline: &'static str,
}

/// A sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: Option<String>,
    /// The template that its maker asked for.
    pub template: String,
    /// `running` or `paused`.
    pub state: String,
    /// What its maker wants to find it by.
    pub metadata: BTreeMap<String, String>,
    /// Who made it.
    pub owner: String,
    /// When it was made.
    pub started: String,
    /// Its deadline; when it was paused, if it is.
    pub end: String,
}

/// A page of sandboxes.
#[derive(Debug, Clone, Deserialize)]
pub struct Page {
    /// The sandboxes.
    pub sandboxes: Vec<Sandbox>,
    /// Where the next page begins.
    pub next: Option<String>,
}

/// A command.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Exec {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Its variables.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Its working directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// The user that it runs as.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Its time limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Whether standard input stays open.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub open_stdin: bool,
    /// The size of its terminal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tty: Option<Size>,
    /// Whether standard error goes to standard output.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stderr_to_stdout: bool,
}

/// The size of a terminal.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Size {
    /// Characters of a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// The end of a command with its output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The code that it exited with.
    pub exit_code: Option<u8>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether it was killed at its time limit.
    pub timed_out: bool,
    /// Whether the guest ran out of memory.
    pub out_of_memory: bool,
    /// Standard output.
    pub stdout: String,
    /// The same in base64, if it is no text.
    pub stdout_base64: Option<String>,
    /// Standard error.
    pub stderr: String,
    /// The same in base64, if it is no text.
    pub stderr_base64: Option<String>,
}

/// An event of a command.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Told {
    Start {
        pid: u32,
    },
    End(End),
    Lost {
        problem: crate::refusal::Refusal,
    },
    /// Of a later daemon.
    #[serde(other)]
    Other,
}

/// A line of a log.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Logged {
    Start {
        #[serde(flatten)]
        of: Of,
        argv: Vec<String>,
    },
    Stdout(Printed),
    Stderr(Printed),
    End {
        #[serde(flatten)]
        of: Of,
        #[serde(flatten)]
        end: End,
    },
    Lost {
        #[serde(flatten)]
        of: Of,
    },
    Missed {
        bytes: u64,
    },
    /// Of a later daemon.
    #[serde(other)]
    Other,
}

/// When, and of which command.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Of {
    pub(crate) at: String,
    pub(crate) pid: Option<u32>,
}

/// Output.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Printed {
    text: String,
    base64: Option<String>,
}

impl Printed {
    /// Returns the output as it was.
    pub(crate) fn bytes(self) -> Result<Vec<u8>, base64::DecodeError> {
        match self.base64 {
            Some(text) => STANDARD.decode(text),
            None => Ok(self.text.into_bytes()),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.timed_out, self.exit_code, self.signal) {
            (true, _, _) => f.write_str("timed out"),
            (_, Some(code), _) => write!(f, "exit code {code}"),
            (_, None, Some(signal)) => write!(f, "signal {signal}"),
            (_, None, None) => f.write_str("ended"),
        }
    }
}

/// The end of a command.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct End {
    pub(crate) exit_code: Option<u8>,
    pub(crate) signal: Option<i32>,
    pub(crate) timed_out: bool,
}
