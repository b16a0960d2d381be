//! Arguments for the guest's kernel that do not depend on the VMM.

/// What every VMM passes to the kernel.
pub(super) const BOOT_ARGS: &str = "console=ttyS0 quiet reboot=t panic=-1";
