//! The device of KVM.

use std::fs::File;
use std::io;

/// The device of KVM (Linux Documentation/virt/kvm/api.rst).
const DEVICE: &str = "/dev/kvm";

/// Checks that this process may use KVM. That does not mean that a guest runs.
///
/// # Errors
/// The reason with the device's path: there is no such device, or no permission.
pub(crate) fn open() -> io::Result<()> {
    let opened = File::options().read(true).write(true).open(DEVICE);
    let said = |error: io::Error| {
        io::Error::new(error.kind(), format!("{DEVICE} can't be opened: {error}"))
    };
    opened.map(drop).map_err(said)
}
