//! Restricts a program's access to files by Landlock (landlock(7)).

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, Scope, path_beneath_rules,
};

/// The newest version whose features are used.
const NEWEST: ABI = ABI::V6;

/// The files that a program may access. As far as the kernel supports it, the program is also
/// refused TCP, signals to others, and abstract sockets of others.
#[derive(Debug, Default)]
pub struct FileAccess<'a> {
    /// Files to read and programs to execute, and directories with everything below them.
    pub read: Vec<&'a Path>,
    /// Devices and pipes to read, write and control.
    pub devices: Vec<&'a Path>,
    /// Directories in which it may create sockets.
    pub sockets: Vec<&'a Path>,
    /// Directories in which it may create and write files.
    pub written: Vec<&'a Path>,
    /// Directories in which it may write to the files that are there.
    pub changed: Vec<&'a Path>,
}

impl FileAccess<'_> {
    /// Builds the ruleset, as far as this kernel supports it; `None` if it does not support any.
    ///
    /// # Errors
    /// An error of the kernel, or of a file that does not exist.
    pub fn ruleset(&self) -> io::Result<Option<OwnedFd>> {
        let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
        let written = AccessFs::ReadFile
            | AccessFs::WriteFile
            | AccessFs::MakeReg
            | AccessFs::Truncate
            | AccessFs::ReadDir;
        let rules = [
            (&self.read, AccessFs::from_read(NEWEST)),
            (&self.devices, device),
            (&self.sockets, AccessFs::MakeSock.into()),
            (&self.written, written),
            (&self.changed, AccessFs::ReadFile | AccessFs::WriteFile),
        ];
        restricted(rules).map_err(io::Error::other)
    }
}

fn restricted(
    rules: [(&Vec<&Path>, BitFlags<AccessFs>); 5],
) -> Result<Option<OwnedFd>, landlock::RulesetError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    for (paths, access) in rules {
        ruleset = ruleset.add_rules(path_beneath_rules(paths, access))?;
    }
    Ok(ruleset.into())
}
