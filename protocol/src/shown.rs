//! What `Debug` shows of messages: no entropy, no values of variables, and no megabyte.

use core::fmt;

use crate::message::{Exec, SetIdentity};
use crate::os_bytes::OsBytes;

/// Limit of the bytes shown of a program's name.
const MAX_SHOWN: usize = 256;

impl fmt::Debug for SetIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            entropy: _,
            unix_time,
            identity,
        } = self;
        f.debug_struct("SetIdentity")
            .field("unix_time", unix_time)
            .field("identity", identity)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let program = self.argv.first().map_or(&[][..], OsBytes::as_bytes);
        let program = OsBytes::from(&program[..program.len().min(MAX_SHOWN)]);
        f.debug_struct("Exec")
            .field("id", &self.id)
            .field("program", &program)
            .field("arguments", &self.argv.len().saturating_sub(1))
            .field("variables", &self.env.len())
            .field("keep", &self.keep)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::String;

    use super::*;
    use crate::limits::ENTROPY;
    use crate::message::{Identity, UnixTime};

    #[test]
    fn entropy_is_not_shown() {
        let new = SetIdentity {
            entropy: [0xa7; ENTROPY],
            unix_time: UnixTime {
                seconds: 1,
                nanos: 2,
            },
            identity: Identity {
                machine_id: [1; 16],
                boot_id: [2; 16],
                hostname: String::from("vm"),
            },
        };
        let text = format!("{new:?}");
        assert!(text.contains("vm") && !text.contains("167"), "{text}");
        assert!(!text.to_lowercase().contains("a7"), "{text}");
    }
}
