//! The device of KVM.

use std::fs::File;
use std::io;

/// Linux Documentation/virt/kvm/api.rst.
const DEVICE: &str = "/dev/kvm";

/// Whether this process may use KVM. That it may does not say that a guest runs.
///
/// # Errors
/// Why not, with the device's path: there is no such device, or no permission.
pub(crate) fn open() -> io::Result<()> {
    let opened = File::options().read(true).write(true).open(DEVICE);
    let said = |error: io::Error| {
        io::Error::new(error.kind(), format!("{DEVICE} can't be opened: {error}"))
    };
    opened.map(drop).map_err(said)
}
