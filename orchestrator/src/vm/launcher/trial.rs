//! What a launcher does with a guest that no pool has a part in.

use std::sync::Arc;

use super::blocking::blocking;
use super::clone::IDENTITY_TIMEOUT;
use super::fresh_guest::FreshGuest;
use super::warm_up::{Warmed, warm_up};
use super::{Booted, LaunchError, Launcher};
use crate::vm::guest::Guest;
use crate::vm::identity;
use crate::vm::vmm::Ram;

/// Where the guest's kernel tells of its memory, and the limit of what is read of that.
const MEMORY: &str = "/proc/meminfo";
const MAX_MEMORY_TEXT: u64 = 64 << 10;

impl Launcher {
    /// Boots a guest of the template. Removes what processes that were killed have left of theirs before.
    pub(crate) async fn fresh_guest(&self) -> Result<FreshGuest, LaunchError> {
        let vmm = Arc::clone(&self.0.vmm);
        blocking(move || vmm.prepare()).await?;
        let (vm, guest): Booted = self.boot(Ram::Private).await?;
        let new = identity::fresh(&identity::anonymous())?;
        guest.set_identity(new, IDENTITY_TIMEOUT).await?;
        Ok(FreshGuest::new(vm, guest))
    }

    /// Runs the template's warm-up programs in a guest of its own, and returns what they printed,
    /// and how many bytes of memory it had less after them.
    pub(crate) async fn try_warm_up(&self) -> Result<(Vec<Warmed>, u64), LaunchError> {
        let fresh = self.fresh_guest().await?;
        let tried = async {
            let before = free_memory(fresh.guest()).await?;
            let warmed = warm_up(fresh.guest(), self.template()).await?;
            let after = free_memory(fresh.guest()).await?;
            Ok((warmed, before.saturating_sub(after)))
        };
        let tried = tried.await;
        fresh.end().await;
        tried
    }
}

/// Returns how much memory of a guest nothing is in.
async fn free_memory(guest: &Guest) -> Result<u64, LaunchError> {
    let text = guest.get_file(MEMORY, MAX_MEMORY_TEXT).await?;
    Ok(free(&String::from_utf8_lossy(&text)).unwrap_or(0))
}

fn free(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemFree:"));
    let kib: u64 = line?.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_memory_is_read_from_what_linux_says_and_from_nothing_else() {
        let text = "MemTotal:     118524 kB\nMemFree:       62000 kB\nMemAvailable:  70000 kB\n";
        assert_eq!(free(text), Some(62_000 << 10));
        for text in [
            "",
            "MemFree:",
            "MemFree: x kB",
            "MemFree: 18446744073709551615 kB",
        ] {
            assert_eq!(free(text), None, "{text}");
        }
    }
}
