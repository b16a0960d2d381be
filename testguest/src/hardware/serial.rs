//! Output on the first serial port, for people who look for what went wrong.

use core::fmt::{self, Write};

use super::port;

const DATA: u16 = 0x3f8;
const LINE_STATUS: u16 = DATA + 5;
const TRANSMITTER_EMPTY: u8 = 1 << 5;

/// Looks at the status this often before it gives a byte up: a port that is never ready must not
/// hang the guest.
const PATIENCE: u32 = 1000;

struct Serial;

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // SAFETY: the serial port changes no memory.
            unsafe {
                let ready = (0..PATIENCE).any(|_| port::read(LINE_STATUS) & TRANSMITTER_EMPTY != 0);
                if ready {
                    port::write(DATA, byte);
                }
            }
        }
        Ok(())
    }
}

/// Writes one line.
pub(crate) fn log(line: fmt::Arguments<'_>) {
    // `write_str` above does not fail.
    let _ = Serial.write_fmt(format_args!("testguest: {line}\n"));
}
