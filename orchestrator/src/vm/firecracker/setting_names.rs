//! What Firecracker's settings are called: said where one can't be used, too.

/// The Firecracker binary.
pub const BINARY: &str = "IRONCLAW_FIRECRACKER";
/// The jailer binary.
pub const JAILER_BINARY: &str = "IRONCLAW_JAILER";
/// A drive that guests find as their root.
pub const ROOT_DRIVE: &str = "IRONCLAW_ROOT_DRIVE";
/// Tap devices, one for each VM.
pub const TAPS: &str = "IRONCLAW_TAPS";
/// A CPU template of Firecracker.
pub const CPU_TEMPLATE: &str = "IRONCLAW_CPU_TEMPLATE";
