//! Which files a program may use, where Landlock says so (landlock(7)).

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, Scope, path_beneath_rules,
};

/// The newest version that is made use of.
const NEWEST: ABI = ABI::V6;

/// All that a program may do with files. As far as the kernel has them, it has no TCP then, no signals
/// to others, and no abstract sockets of others either.
#[derive(Debug, Default)]
pub struct FileAccess<'a> {
    /// Files to read and programs to execute, and directories with all of them below.
    pub read: Vec<&'a Path>,
    /// Devices and pipes to read, to write and to control.
    pub devices: Vec<&'a Path>,
    /// Directories in which it may make sockets.
    pub sockets: Vec<&'a Path>,
    /// Directories in which it may make files, and write to those that are there.
    pub written: Vec<&'a Path>,
}

impl FileAccess<'_> {
    /// As much of it as this kernel has; `None`: nothing.
    ///
    /// # Errors
    /// The kernel's, or one of a file that is not there.
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
        ];
        restricted(rules).map_err(io::Error::other)
    }
}

fn restricted(
    rules: [(&Vec<&Path>, BitFlags<AccessFs>); 4],
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
