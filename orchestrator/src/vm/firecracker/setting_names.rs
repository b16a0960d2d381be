//! The names of Firecracker's settings, which errors mention, too.

/// The path of the Firecracker binary.
pub const BINARY: &str = "IRONCLAW_FIRECRACKER";
/// The path of the jailer.
pub const JAILER_BINARY: &str = "IRONCLAW_JAILER";
/// The image of a drive that guests mount as their root.
pub const ROOT_DRIVE: &str = "IRONCLAW_ROOT_DRIVE";
/// The tap devices, one for each VM.
pub const TAPS: &str = "IRONCLAW_TAPS";
/// The file of a CPU template.
pub const CPU_TEMPLATE: &str = "IRONCLAW_CPU_TEMPLATE";
