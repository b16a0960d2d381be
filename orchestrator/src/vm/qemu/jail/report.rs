//! What a jail of QEMU enforces, and what it lacks, in words.

use super::{Jail, Strength};
use crate::sys::confine;

impl Jail {
    /// Lists the enforced restrictions.
    #[must_use]
    pub fn in_force(&self) -> Vec<&'static str> {
        let mut all = match self.strength {
            Strength::OwnUser => vec![
                "a user id of its own",
                "a root directory, PID, mount, network, IPC and UTS namespaces of its own",
            ],
            Strength::UserNamespace => vec![
                "a root directory, user, PID, mount, network, IPC and UTS namespaces of its own",
            ],
            Strength::Landlock => {
                let mut all = vec!["Landlock: files to read are listed, none can be written"];
                if confine::landlock_version() >= 4 {
                    all.push("no TCP");
                }
                if confine::landlock_version() >= 6 {
                    all.push("no signals to others");
                }
                all
            }
            Strength::Filters | Strength::Off => Vec::new(),
        };
        if self.strength != Strength::Off {
            all.extend([
                "no capabilities",
                "filtered system calls (QEMU's sandbox and ours)",
                "limits",
            ]);
        } else {
            all.push("QEMU's own sandbox");
        }
        if self.cgroups.is_some() {
            all.push("a control group");
        }
        all.push("its snapshot's memory read-only");
        all
    }

    /// Lists the restrictions that a stronger jail would have.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let mut all = Vec::new();
        if self.strength != Strength::OwnUser {
            all.push("a user id of its own");
        }
        if !self.strength.has_namespaces() {
            all.push("namespaces and a root directory of its own");
        }
        if self.strength == Strength::Off {
            all.extend(["our filters of system calls", "limits"]);
        }
        if self.cgroups.is_none() {
            all.push("a control group (memory, processor time, processes)");
        }
        all
    }
}
