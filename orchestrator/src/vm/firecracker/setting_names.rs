//! Firecracker's settings, which errors name where what they set can't be used.

use ironclaw_settings::DefaultValue::Described;
use ironclaw_settings::Setting;

/// The Firecracker binary.
pub const BINARY: Setting = Setting::text(
    "firecracker",
    Described("firecracker on PATH"),
    "path of the Firecracker binary",
);
/// The jailer binary.
pub const JAILER_BINARY: Setting = Setting::text(
    "jailer",
    Described("jailer on PATH"),
    "path of Firecracker's jailer",
);
/// Tap devices, one for each VM.
pub const TAPS: Setting = Setting::text(
    "taps",
    Described("none"),
    "tap devices, one for each VM, as tap0,tap1 or jailed /run/netns/vm0:tap0 (Firecracker)",
);
/// A CPU template of Firecracker.
pub const CPU_TEMPLATE: Setting = Setting::text(
    "cpu_template",
    Described("none"),
    "path of a custom CPU template in JSON (Firecracker)",
);
