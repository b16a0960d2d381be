//! The users of a guest, as its `/etc/passwd` tells.

/// A user of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) home: String,
}

/// Finds a user in a `passwd(5)`, which the guest may have filled with anything: by name or number, as images
/// name theirs, whose group may follow behind a colon.
pub(crate) fn find(passwd: &str, user: &str) -> Option<Account> {
    let user = user.split(':').next()?;
    let is_number = !user.is_empty() && user.bytes().all(|byte| byte.is_ascii_digit());
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        if name != user && !(is_number && number == user) {
            return None;
        }
        // Gid, gecos.
        let home = fields.nth(2)?;
        home.starts_with('/').then(|| Account {
            home: home.to_owned(),
        })
    })
}

/// Returns the absolute path that a client means: relative ones begin in the user's home.
pub(crate) fn resolve(home: &str, path: &str) -> String {
    let home = home.trim_end_matches('/');
    match path {
        "" | "~" | "." => match home {
            "" => "/".to_owned(),
            home => home.to_owned(),
        },
        path if path.starts_with('/') => path.to_owned(),
        path => {
            let below = path.strip_prefix("~/").unwrap_or(path);
            let below = below.trim_start_matches("./");
            format!("{home}/{below}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/bash\nbroken\nuser:x:1000:1000::/home/user:/bin/sh\n";

    #[test]
    fn a_user_is_found_by_the_whole_name() {
        let home = |name| find(PASSWD, name).map(|account| account.home);
        assert_eq!(home("user").as_deref(), Some("/home/user"));
        assert_eq!(home("root").as_deref(), Some("/root"));
        assert_eq!(home("use"), None);
        assert_eq!(home("1000:50").as_deref(), Some("/home/user"));
        assert_eq!(home("root:user").as_deref(), Some("/root"));
        assert_eq!((home("1001"), home("")), (None, None));
        assert_eq!(home("broken"), None);
    }

    #[test]
    fn a_relative_path_begins_in_the_home() {
        for (path, expected) in [
            ("", "/home/user"),
            ("~", "/home/user"),
            ("a/b", "/home/user/a/b"),
            ("./a", "/home/user/a"),
            ("~/a", "/home/user/a"),
            ("/a", "/a"),
        ] {
            assert_eq!(resolve("/home/user/", path), expected);
        }
        assert_eq!(resolve("/", "~"), "/");
        assert_eq!(resolve("/", "a"), "/a");
    }
}
