use super::*;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, lchown, symlink};

fn directory() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().canonicalize().unwrap();
    (directory, path)
}

fn allow(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn exposed(found: Result<StatePath, PathError>) -> Exposed {
    match found {
        Err(PathError::Exposed(exposed)) => exposed,
        other => panic!("{other:?}"),
    }
}

fn us() -> u32 {
    geteuid().as_raw()
}

#[test]
fn missing_directories_are_created_with_mode_0700_and_found_again() {
    let (_directory, root) = directory();
    let path = root.join("a/b");
    let missing = find(&path).unwrap_err();
    assert!(matches!(missing, PathError::Io(error) if error.kind() == ErrorKind::NotFound));
    assert!(!root.join("a").exists());
    for found in [
        make(&path),
        make(&path),
        find(&path),
        find(&root.join("a/../a/./b")),
    ] {
        let found = found.unwrap();
        assert_eq!((&found.path, found.owner), (&path, us()));
    }
    assert_eq!(fs::metadata(root.join("a")).unwrap().mode() & 0o7777, 0o700);
    fs::write(root.join("file"), "").unwrap();
    for path in ["file", "file/below"] {
        let PathError::Io(error) = make(&root.join(path)).unwrap_err() else {
            panic!("{path} is no directory");
        };
        assert_eq!(error.kind(), ErrorKind::NotADirectory, "{path}");
    }
}

#[test]
fn a_directory_that_others_may_write_to_is_refused_wherever_it_is_on_the_way() {
    let (_directory, root) = directory();
    let path = root.join("a/b");
    make(&path).unwrap();
    allow(&root.join("a"), 0o777);
    let refused = exposed(find(&path));
    assert_eq!(refused.component, root.join("a"));
    assert!(refused.to_string().contains("0777"), "{refused}");
    assert_eq!(exposed(make(&root.join("a/new"))).component, root.join("a"));
    assert!(!root.join("a/new").exists());
    // Sticky, like /tmp.
    allow(&root.join("a"), 0o1777);
    find(&path).unwrap();
    allow(&path, 0o1777);
    assert!(exposed(find(&path)).is_last);
    allow(&path, 0o770);
    assert!(exposed(find(&path)).is_last);
}

#[test]
fn links_of_ours_lead_on_and_what_they_lead_to_is_looked_at() {
    let (_directory, root) = directory();
    let path = root.join("real/leaf");
    make(&path).unwrap();
    symlink("real", root.join("relative")).unwrap();
    symlink(root.join("relative/../relative"), root.join("absolute")).unwrap();
    assert_eq!(find(&root.join("absolute/leaf")).unwrap().path, path);
    symlink("round", root.join("round")).unwrap();
    assert!(matches!(find(&root.join("round")), Err(PathError::Io(_))));
    allow(&root.join("real"), 0o777);
    let refused = exposed(find(&root.join("absolute/leaf")));
    assert_eq!(refused.component, root.join("real"));
}

#[test]
fn a_component_owned_by_another_user_is_refused() {
    if us() != 0 {
        return;
    }
    let (_directory, root) = directory();
    let path = root.join("theirs/leaf");
    make(&path).unwrap();
    chown(root.join("theirs"), Some(12345), None).unwrap();
    let refused = exposed(find(&path));
    assert_eq!(
        (refused.component, refused.owner),
        (root.join("theirs"), 12345)
    );

    let sticky = root.join("sticky");
    make(&sticky.join("ours")).unwrap();
    allow(&sticky, 0o1777);
    symlink("ours", sticky.join("link")).unwrap();
    find(&sticky.join("link")).unwrap();
    lchown(sticky.join("link"), Some(12345), None).unwrap();
    let refused = exposed(find(&sticky.join("link")));
    assert_eq!(refused.component, sticky.join("link"));
    assert!(refused.to_string().contains("link"), "{refused}");
    make(&sticky.join("theirs")).unwrap();
    chown(sticky.join("theirs"), Some(12345), None).unwrap();
    assert!(exposed(find(&sticky.join("theirs"))).is_last);
}

#[test]
fn a_group_with_nobody_else_in_it_may_write_and_no_other() {
    let users = "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/:/bin/sh\nbob:x:1001:1001::/:\n";
    let groups = "root:x:0:\nann:x:1000:\nbob:x:1001:ann\nteam:x:50:ann,bob\nalone:x:51:ann\n";
    let private = |group| is_private(group, 1000, groups, users);
    assert!(private(1000) && private(51) && private(0));
    for group in [50, 1001, 7777] {
        assert!(!private(group), "{group}");
    }
    assert!(
        !is_private(1000, 1000, "", ""),
        "what is unknown is no private one"
    );
}
