//! The owner of copied files, by the image's own users and groups.

use thiserror::Error;

use crate::tree::{FileTree, Kind, Reader};

/// Size limit of `/etc/passwd` and `/etc/group`, in bytes.
const MAX_DATABASE: u64 = 4 << 20;

/// The numbers of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// The reason why an owner is none in an image.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OwnerError {
    /// The image has no such user or group.
    #[error("{database} of the image has no {name:?}")]
    Unknown {
        /// The file that was searched.
        database: &'static str,
        /// The name.
        name: String,
    },
    /// The file with the names can't be read.
    #[error("can't read {database} of the image: {reason}")]
    Database {
        /// The file.
        database: &'static str,
        /// The reason.
        reason: String,
    },
}

impl Owner {
    /// Finds `USER[:GROUP]`, names or numbers. Without a group it is the user's own, or the one with
    /// the user's number if the image does not know the user.
    ///
    /// # Errors
    /// [`OwnerError`].
    pub fn find(tree: &FileTree, owner: &str) -> Result<Self, OwnerError> {
        let (user, group) = match owner.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (owner, None),
        };
        let (uid, own_group) = match user.parse() {
            Ok(uid) => (uid, None),
            Err(_) => lookup(tree, "/etc/passwd", user)?,
        };
        let gid = match group {
            None => own_group.unwrap_or(uid),
            Some(group) => match group.parse() {
                Ok(gid) => gid,
                Err(_) => lookup(tree, "/etc/group", group)?.0,
            },
        };
        Ok(Self { uid, gid })
    }
}

/// Returns the number of `name`, and the one after it: a user's group.
fn lookup(
    tree: &FileTree,
    database: &'static str,
    name: &str,
) -> Result<(u32, Option<u32>), OwnerError> {
    let failed = |reason: String| OwnerError::Database { database, reason };
    let id = tree.resolve(database.as_bytes());
    let id = id.map_err(|error| failed(error.to_string()))?;
    let Kind::File(content) = &tree.node(id).kind else {
        return Err(failed("it is no file".to_owned()));
    };
    if content.size() > MAX_DATABASE {
        return Err(failed(format!("it has more than {MAX_DATABASE} bytes")));
    }
    let mut bytes = vec![0; usize::try_from(content.size()).unwrap_or_default()];
    let mut reader = Reader::new(tree);
    reader
        .read_at(content, 0, &mut bytes)
        .map_err(|error| failed(error.to_string()))?;
    let text = String::from_utf8_lossy(&bytes);
    for line in text.lines() {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            continue;
        }
        if let Some(Ok(number)) = fields.nth(1).map(str::parse) {
            return Ok((number, fields.next().and_then(|gid| gid.parse().ok())));
        }
    }
    Err(OwnerError::Unknown {
        database,
        name: name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{Context, Copy, CopySource};

    fn image() -> FileTree {
        let directory = tempfile::tempdir().unwrap();
        let context = Context::open(directory.path()).unwrap();
        let mut copy = Copy::new(String::new(), "/etc/".to_owned());
        copy.sources = [
            (
                "passwd",
                "root:x:0:0:root:/root:/bin/sh\nbad\nme:x:1000:100:Me:/home/me:\n",
            ),
            ("group", "root:x:0:\nstaff:x:50:me\n"),
        ]
        .map(|(name, content)| CopySource::Inline {
            name: name.to_owned(),
            content: content.to_owned(),
        })
        .into();
        let mut tree = FileTree::new();
        context
            .copy_into(&mut tree, &copy, Owner::default())
            .unwrap();
        tree
    }

    #[test]
    fn names_are_those_of_the_image_and_numbers_need_none() {
        let tree = image();
        for (owner, uid, gid) in [
            ("me", 1000, 100),
            ("me:staff", 1000, 50),
            ("7", 7, 7),
            ("7:staff", 7, 50),
            ("root:9", 0, 9),
        ] {
            assert_eq!(Owner::find(&tree, owner), Ok(Owner { uid, gid }), "{owner}");
        }
        Owner::find(&FileTree::new(), "1:2").unwrap();
    }

    #[test]
    fn unknown_name_is_told_with_its_file() {
        let tree = image();
        let error = Owner::find(&tree, "you").unwrap_err();
        assert_eq!(error.to_string(), "/etc/passwd of the image has no \"you\"");
        let error = Owner::find(&tree, "me:bad").unwrap_err();
        assert_eq!(error.to_string(), "/etc/group of the image has no \"bad\"");
        let error = Owner::find(&FileTree::new(), "me").unwrap_err();
        assert!(error.to_string().starts_with("can't read /etc/passwd"));
    }
}
