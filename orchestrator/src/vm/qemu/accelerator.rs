//! QEMU's accelerators.

/// The way in which QEMU runs a guest's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Accelerator {
    /// Translation, on any machine.
    Tcg,
    /// The host's processor, through /dev/kvm.
    Kvm,
}

impl Accelerator {
    /// Returns QEMU's name for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcg => "tcg",
            Self::Kvm => "kvm",
        }
    }
}
