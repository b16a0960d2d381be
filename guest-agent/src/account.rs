//! The guest's users, as its own `/etc/passwd` and `/etc/group` have them.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ironclaw_protocol::limits::MAX_USER;
use ironclaw_protocol::message::{FailureKind, Outcome};
use ironclaw_protocol::os_bytes::OsBytes;
use thiserror::Error;

use crate::failure::{failed, refused};

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// Limit of the bytes read of each: a guest's programs may write anything there.
const MAX_TABLE: u64 = 4 << 20;

/// Limit of a user's supplementary groups (Linux: `NGROUPS_MAX`).
const MAX_GROUPS: usize = 65_536;

/// `PATH` of a login: the programs of the administrator are root's.
const ROOT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const USER_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games";

const DEFAULT_SHELL: &str = "/bin/sh";

/// A user to run a command as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The supplementary groups.
    pub(crate) groups: Vec<u32>,
    /// The name, or the uid of a user without one.
    name: OsString,
    home: PathBuf,
    shell: PathBuf,
}

/// The reason why there is no such user.
#[derive(Debug, Error, PartialEq, Eq)]
enum NoAccount {
    #[error("there is no such user in {PASSWD}")]
    User,
    #[error("there is no such group in {GROUP}")]
    Group,
}

impl Account {
    /// Finds the user of a request: a name or a uid, perhaps with a group.
    pub(crate) fn find(user: &OsBytes) -> Result<Self, Outcome> {
        let table = |path| {
            let unreadable = |error| {
                let attempt = format_args!("find the user {user}: read {path}");
                refused(attempt, &error, FailureKind::NoSuchUser)
            };
            read(path).map_err(unreadable)
        };
        let found = find(user.as_bytes(), &table(PASSWD)?, &table(GROUP)?);
        found.map_err(|missing| {
            let attempt = format_args!("find the user {user}: {missing}");
            failed(FailureKind::NoSuchUser, attempt)
        })
    }

    /// Finds the user of a request that names one.
    pub(crate) fn of_request(user: Option<&OsBytes>) -> Result<Option<Self>, Outcome> {
        user.map(Self::find).transpose()
    }

    /// Returns the home directory.
    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// Returns the variables that a login sets.
    pub(crate) fn variables(&self) -> [(&'static str, &OsStr); 5] {
        let path = if self.uid == 0 { ROOT_PATH } else { USER_PATH };
        [
            ("HOME", self.home.as_os_str()),
            ("USER", &self.name),
            ("LOGNAME", &self.name),
            ("SHELL", self.shell.as_os_str()),
            ("PATH", path.as_ref()),
        ]
    }
}

/// The names of the guest's users and groups, by their numbers.
#[derive(Debug, Default)]
pub(crate) struct Names {
    users: HashMap<u32, OsBytes>,
    groups: HashMap<u32, OsBytes>,
}

impl Names {
    /// Reads them. A table that can't be read has no names.
    pub(crate) fn read() -> Self {
        let (passwd, group) = (read(PASSWD), read(GROUP));
        Self::parse(&passwd.unwrap_or_default(), &group.unwrap_or_default())
    }

    fn parse(passwd: &[u8], group: &[u8]) -> Self {
        let mut names = Self::default();
        for entry in lines(passwd).filter_map(PasswdLine::parse) {
            add(&mut names.users, entry.uid, entry.name);
        }
        for [name, _, gid, _] in lines(group).filter_map(fields::<4>) {
            if let Some(gid) = number(gid) {
                add(&mut names.groups, gid, name);
            }
        }
        names
    }

    /// Returns the name of a user; empty if there is none.
    pub(crate) fn user(&self, uid: u32) -> OsBytes {
        self.users.get(&uid).cloned().unwrap_or_default()
    }

    /// Returns the name of a group; empty if there is none.
    pub(crate) fn group(&self, gid: u32) -> OsBytes {
        self.groups.get(&gid).cloned().unwrap_or_default()
    }
}

/// The first name counts; one that is too long for the protocol does not.
fn add(names: &mut HashMap<u32, OsBytes>, number: u32, name: &[u8]) {
    if name.len() <= MAX_USER {
        names.entry(number).or_insert_with(|| name.into());
    }
}

/// Reads a table; a missing one is empty.
fn read(path: &str) -> io::Result<Vec<u8>> {
    let mut table = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(MAX_TABLE).read_to_end(&mut table)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    Ok(table)
}

/// Finds a user in these tables, as container runtimes do: a name takes precedence over the same
/// number, a uid without an entry has the group 0, and a group that is asked for replaces all.
fn find(user: &[u8], passwd: &[u8], group: &[u8]) -> Result<Account, NoAccount> {
    let (user, asked_group) = match user.iter().position(|byte| *byte == b':') {
        Some(colon) => (&user[..colon], Some(&user[colon + 1..])),
        None => (user, None),
    };
    let entries = || lines(passwd).filter_map(PasswdLine::parse);
    let named = entries().find(|entry| entry.name == user);
    let found = named.or_else(|| {
        let uid = number(user)?;
        entries().find(|entry| entry.uid == uid)
    });
    let (uid, gid) = match &found {
        Some(entry) => (entry.uid, entry.gid),
        None => (number(user).ok_or(NoAccount::User)?, 0),
    };
    let (gid, groups) = match asked_group {
        Some(asked) => (group_id(asked, group)?, Vec::new()),
        None => {
            let name = found.as_ref().map(|entry| entry.name);
            (gid, name.map_or(Vec::new(), |name| groups_of(name, group)))
        }
    };
    let or = |field: Option<&[u8]>, default: &str| {
        let field = field.filter(|field| !field.is_empty());
        OsStr::from_bytes(field.unwrap_or(default.as_bytes())).to_owned()
    };
    let number = uid.to_string();
    Ok(Account {
        uid,
        gid,
        groups,
        name: or(found.as_ref().map(|entry| entry.name), &number),
        home: or(found.as_ref().map(|entry| entry.home), "/").into(),
        shell: or(found.as_ref().map(|entry| entry.shell), DEFAULT_SHELL).into(),
    })
}

fn group_id(asked: &[u8], group: &[u8]) -> Result<u32, NoAccount> {
    let named = lines(group).find_map(|line| {
        let fields = fields::<4>(line)?;
        (fields[0] == asked).then(|| number(fields[2])).flatten()
    });
    named.or_else(|| number(asked)).ok_or(NoAccount::Group)
}

fn groups_of(user: &[u8], group: &[u8]) -> Vec<u32> {
    let of = lines(group).filter_map(|line| {
        let fields = fields::<4>(line)?;
        let mut members = fields[3].split(|byte| *byte == b',');
        members
            .any(|member| member == user)
            .then(|| number(fields[2]))
            .flatten()
    });
    of.take(MAX_GROUPS).collect()
}

/// A line of `/etc/passwd`.
struct PasswdLine<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
    shell: &'a [u8],
}

impl<'a> PasswdLine<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let [name, _, uid, gid, _, home, shell] = fields::<7>(line)?;
        Some(Self {
            name,
            uid: number(uid)?,
            gid: number(gid)?,
            home,
            shell,
        })
    }
}

fn lines(table: &[u8]) -> impl Iterator<Item = &[u8]> {
    table.split(|byte| *byte == b'\n')
}

/// Returns the fields of a line, if there are so many.
fn fields<const N: usize>(line: &[u8]) -> Option<[&[u8]; N]> {
    let fields: Vec<_> = line.split(|byte| *byte == b':').collect();
    fields.try_into().ok()
}

/// Parses a uid or gid. The highest one means "none" to the kernel.
fn number(text: &[u8]) -> Option<u32> {
    let digits = text.iter().all(u8::is_ascii_digit).then_some(text)?;
    let number = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (number != u32::MAX).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &[u8] = b"root:x:0:0:root:/root:/bin/bash\n\
        broken:x:y\n\
        user:x:1000:100:A User,,,:/home/user:/bin/zsh\n\
        bare:x:7:8:::\n\
        2000:x:3000:3000::/home/digits:/bin/sh";
    const GROUPS: &[u8] = b"root:x:0:\nusers:x:100:\nsudo:x:27:other,user\ndocker:x:999:user,x\n";

    fn found(user: &str) -> Account {
        find(user.as_bytes(), USERS, GROUPS).unwrap()
    }

    fn ids(user: &str) -> (u32, u32, Vec<u32>) {
        let Account {
            uid, gid, groups, ..
        } = found(user);
        (uid, gid, groups)
    }

    #[test]
    fn a_user_has_the_groups_that_list_it() {
        assert_eq!(ids("user"), (1000, 100, vec![27, 999]));
        assert_eq!(ids("1000"), ids("user"));
        assert_eq!(ids("root"), (0, 0, vec![]));
    }

    #[test]
    fn a_group_that_is_asked_for_replaces_all() {
        assert_eq!(ids("user:sudo"), (1000, 27, vec![]));
        assert_eq!(ids("1000:5"), (1000, 5, vec![]));
    }

    #[test]
    fn a_uid_needs_no_entry_and_a_name_does() {
        assert_eq!(ids("4711"), (4711, 0, vec![]));
        assert_eq!(ids("2000").0, 3000, "a name takes precedence");
        for missing in ["nobody-here", "", "-1", "4294967295", "0x1", "1 "] {
            assert_eq!(
                find(missing.as_bytes(), USERS, GROUPS),
                Err(NoAccount::User),
                "{missing}"
            );
        }
        for missing in ["user:", "user:nothing", "root:4294967295"] {
            assert_eq!(
                find(missing.as_bytes(), USERS, GROUPS),
                Err(NoAccount::Group)
            );
        }
    }

    #[test]
    fn numbers_have_the_names_of_their_first_entries() {
        let names = Names::parse(USERS, GROUPS);
        let of = |uid, gid| (names.user(uid).to_string(), names.group(gid).to_string());
        assert_eq!(of(1000, 27), ("user".into(), "sudo".into()));
        assert_eq!(of(4711, 4711), (String::new(), String::new()));
    }

    #[test]
    fn variables_are_those_of_a_login_also_where_the_entry_has_gaps() {
        let account = found("user");
        let of = |account: &Account, name| {
            let variables = account.variables();
            let found = variables.into_iter().find(|(of, _)| *of == name);
            found.unwrap().1.to_owned()
        };
        assert_eq!(of(&account, "HOME"), "/home/user");
        assert_eq!(of(&account, "SHELL"), "/bin/zsh");
        assert_eq!(of(&account, "LOGNAME"), "user");
        assert_eq!(of(&found("bare"), "HOME"), "/");
        assert_eq!(of(&found("bare"), "SHELL"), DEFAULT_SHELL);
        assert_eq!(of(&found("4711"), "USER"), "4711");
    }
}
