//! What may be wrong with a kernel's modules.

use thiserror::Error;

/// The reason why a kernel's modules can't be used.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModuleError {
    /// A needed module is neither built in nor available.
    #[error("module {name} is neither built in nor present{}", dependent(.needed_by.as_deref()))]
    Missing {
        /// The module.
        name: String,
        /// The module that depends on it; `None` if the guest itself needs it.
        needed_by: Option<String>,
    },
    /// Modules depend on each other in a circle.
    #[error("modules depend on each other: {}", .names.join(" -> "))]
    Cycle {
        /// The names along the dependencies; the last is the first one again.
        names: Vec<String>,
    },
    /// A file named like a module is none.
    #[error("{name} is not a kernel module for x86-64")]
    NotAModule {
        /// The module.
        name: String,
    },
    /// A module belongs to another kernel.
    #[error("module {name} is for kernel {found}, the image is of kernel {expected}")]
    WrongRelease {
        /// The module.
        name: String,
        /// The release that it was built for.
        found: String,
        /// The release of the kernel image.
        expected: String,
    },
}

fn dependent(name: Option<&str>) -> String {
    name.map(|name| format!(" (needed by {name})"))
        .unwrap_or_default()
}
