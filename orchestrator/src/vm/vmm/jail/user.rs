//! Claims the user ids of jailed VMMs, each unique on this host.

use std::io;
use std::ops::RangeInclusive;
use std::path::Path;

use super::claim::{self, Claim};

/// The default user ids of jailed processes: unassigned on Debian, below the range for containers
/// (systemd's docs/UIDS-GIDS.md).
pub const DEFAULT_USERS: RangeInclusive<u32> = 70_000..=99_999;

/// Claims a user id of `users` that no other VM has; tries the `turn`th first.
pub(in crate::vm) fn user(
    users: &RangeInclusive<u32>,
    turn: usize,
    run_path: &Path,
) -> io::Result<User> {
    user_in(users, turn, &claim::directory(run_path)?)
}

fn user_in(users: &RangeInclusive<u32>, turn: usize, claims: &Path) -> io::Result<User> {
    let count = users.clone().count();
    for id in users
        .clone()
        .cycle()
        .skip(turn.checked_rem(count).unwrap_or(0))
        .take(count)
    {
        if let Some(claim) = Claim::take(claims, &id.to_string())? {
            return Ok(User { id, _claim: claim });
        }
    }
    Err(io::Error::new(
        io::ErrorKind::QuotaExceeded,
        format!("all {count} user ids of jailed VMs are in use: widen `jail_users`"),
    ))
}

/// A claimed user id.
#[derive(Debug)]
pub(in crate::vm) struct User {
    id: u32,
    _claim: Claim,
}

impl User {
    pub(in crate::vm) fn id(&self) -> u32 {
        self.id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_vm_has_a_user_of_its_own_until_there_is_none() {
        let run = tempfile::tempdir().unwrap();
        let of = |users: RangeInclusive<u32>, turn| user_in(&users, turn, run.path());
        let (one, two) = (of(5..=6, 1).unwrap(), of(5..=6, 3).unwrap());
        assert_eq!((one.id(), two.id()), (6, 5));
        #[expect(clippy::reversed_empty_ranges, reason = "a caller may give one")]
        for users in [5..=6, 6..=5] {
            let error = of(users, 7).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded, "{error}");
        }
    }
}
