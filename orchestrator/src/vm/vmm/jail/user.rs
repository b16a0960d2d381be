//! Claims the user ids of jailed VMMs, each unique on this host.

use std::io;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::claim::{self, Claim};

/// The default user ids of jailed processes: unassigned on Debian, below the range for containers
/// (systemd's docs/UIDS-GIDS.md).
pub const DEFAULT_USERS: RangeInclusive<u32> = 70_000..=99_999;

/// The place in a range of user ids at which the next search for a free one begins: behind the last
/// one that was found, since those before are probably in use, also by other processes.
#[derive(Debug, Default)]
pub(in crate::vm) struct Turn(AtomicUsize);

/// Claims a user id of `users` that no other VM has.
pub(in crate::vm) fn user(
    users: &RangeInclusive<u32>,
    turn: &Turn,
    run_path: &Path,
) -> io::Result<User> {
    user_in(users, turn, &claim::directory(run_path)?)
}

fn user_in(users: &RangeInclusive<u32>, turn: &Turn, claims: &Path) -> io::Result<User> {
    let count = users.clone().count();
    let first = turn.0.fetch_add(1, Ordering::Relaxed);
    let from_first = users
        .clone()
        .cycle()
        .skip(first.checked_rem(count).unwrap_or(0));
    for (tried, id) in from_first.take(count).enumerate() {
        if let Some(claim) = Claim::take(claims, &id.to_string())? {
            turn.0.fetch_add(tried, Ordering::Relaxed);
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
        let of = |users: RangeInclusive<u32>, first| {
            user_in(&users, &Turn(AtomicUsize::new(first)), run.path())
        };
        let (one, two) = (of(5..=6, 1).unwrap(), of(5..=6, 3).unwrap());
        assert_eq!((one.id(), two.id()), (6, 5));
        #[expect(clippy::reversed_empty_ranges, reason = "a caller may give one")]
        for users in [5..=6, 6..=5] {
            let error = of(users, 7).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded, "{error}");
        }
    }
    #[test]
    fn ids_that_another_process_has_are_tried_once_and_not_for_each_vm() {
        let run = tempfile::tempdir().unwrap();
        let (theirs, ours) = (Turn::default(), Turn::default());
        let users = 5..=1000;
        let of = |turn| user_in(&users, turn, run.path()).unwrap();
        let others: Vec<_> = (0..100).map(|_| of(&theirs)).collect();
        assert_eq!(others.last().map(User::id), Some(104));
        let own: Vec<_> = (0..3).map(|_| of(&ours)).collect();
        let ids: Vec<_> = own.iter().map(User::id).collect();
        assert_eq!(ids, [105, 106, 107]);
        assert_eq!(
            ours.0.into_inner(),
            103,
            "the next search begins behind them"
        );
    }
}
