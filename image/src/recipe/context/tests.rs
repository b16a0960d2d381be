use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use tempfile::TempDir;

use super::*;

/// A context with a few files.
fn context(ignore: &str) -> (TempDir, Context) {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fs::create_dir_all(root.join("src/deep")).unwrap();
    for (path, text) in [
        ("a.txt", "a"),
        ("b.txt", "bb"),
        ("src/main.py", "main"),
        ("src/deep/c.txt", "c"),
    ] {
        fs::write(root.join(path), text).unwrap();
    }
    symlink("../a.txt", root.join("src/link")).unwrap();
    symlink("/etc", root.join("etc")).unwrap();
    if !ignore.is_empty() {
        fs::write(root.join(IGNORE_FILE), ignore).unwrap();
    }
    let context = Context::open(root).unwrap();
    (directory, context)
}

fn selected(context: &Context, source: &str, to: &str) -> Vec<(String, &'static str)> {
    shown(
        &context
            .select(&Copy::new(source.to_owned(), to.to_owned()), false)
            .unwrap(),
    )
}

fn shown(selected: &[Selected]) -> Vec<(String, &'static str)> {
    let shown = selected.iter().map(|file| {
        let kind = match file.kind {
            SelectedKind::Directory => "directory",
            SelectedKind::File { .. } => "file",
            SelectedKind::Inline(_) => "inline",
            SelectedKind::Symlink(_) => "link",
        };
        (file.to.display().to_string(), kind)
    });
    shown.collect()
}

fn error(context: &Context, source: &str, to: &str) -> String {
    let copy = Copy::new(source.to_owned(), to.to_owned());
    context.select(&copy, false).unwrap_err().to_string()
}

fn named<'a>(files: &[(&str, &'a str)]) -> Vec<(String, &'a str)> {
    let files = files.iter();
    files
        .map(|(path, kind)| ((*path).to_owned(), *kind))
        .collect()
}

#[test]
fn file_goes_to_its_place_or_into_a_directory() {
    let (_directory, context) = context("");
    assert_eq!(selected(&context, "a.txt", "/x"), named(&[("/x", "file")]));
    assert_eq!(
        selected(&context, "/./a.txt", "/x/"),
        named(&[("/x/a.txt", "file")])
    );
    let copy = Copy::new("a.txt".to_owned(), "/x".to_owned());
    let into = context.select(&copy, true).unwrap();
    assert_eq!(shown(&into), named(&[("/x/a.txt", "file")]));
}

#[test]
fn content_of_a_directory_is_copied_and_links_stay_links() {
    let (_directory, context) = context("");
    let expected = [
        ("/app", "directory"),
        ("/app/deep", "directory"),
        ("/app/deep/c.txt", "file"),
        ("/app/link", "link"),
        ("/app/main.py", "file"),
    ];
    assert_eq!(selected(&context, "src", "/app"), named(&expected));
    assert_eq!(selected(&context, "src/", "/app/"), named(&expected));
}

#[test]
fn patterns_match_at_one_depth() {
    let (_directory, context) = context("");
    let expected = [("/x/a.txt", "file"), ("/x/b.txt", "file")];
    assert_eq!(selected(&context, "*.txt", "/x/"), named(&expected));
    let expected = [("/x/c.txt", "file")];
    assert_eq!(selected(&context, "src/*/c.txt", "/x/"), named(&expected));
    let several = error(&context, "*.txt", "/x");
    assert_eq!(
        several,
        "*.txt matches 2 files: the destination has to end in /"
    );
}

#[test]
fn ignored_files_are_not_copied() {
    let (_directory, context) = context("*.txt\n!b.txt\nsrc/deep\n");
    let expected = [
        ("/x", "directory"),
        ("/x/.dockerignore", "file"),
        ("/x/b.txt", "file"),
        ("/x/etc", "link"),
        ("/x/src", "directory"),
        ("/x/src/link", "link"),
        ("/x/src/main.py", "file"),
    ];
    let all: Vec<_> = selected(&context, ".", "/x")
        .into_iter()
        .filter(|(path, _)| path != "/x/src/deep")
        .collect();
    assert_eq!(all, named(&expected));
}

#[test]
fn ignored_source_is_told_as_such() {
    let (_directory, context) = context("a.txt\n");
    let error = error(&context, "a.txt", "/x");
    assert!(error.ends_with(": .dockerignore excludes it"), "{error}");
}

#[test]
fn nothing_outside_of_the_context_is_read() {
    let (_directory, context) = context("");
    for source in [
        "../a",
        "nothing",
        "src/nothing",
        "/etc/passwd",
        "etc/passwd",
    ] {
        let copy = Copy::new(source.to_owned(), "/x".to_owned());
        context.select(&copy, false).unwrap_err();
    }
    // The link itself may be copied: what it leads to is the guest's.
    assert_eq!(selected(&context, "etc", "/x"), named(&[("/x", "link")]));
    context.file(Path::new("etc/passwd")).unwrap_err();
    context.file(Path::new("../a")).unwrap_err();
    context.file(Path::new("src/link")).unwrap_err();
}

#[test]
fn special_files_are_refused() {
    let (directory, context) = context("");
    let _listener = UnixListener::bind(directory.path().join("socket")).unwrap();
    let error = error(&context, "socket", "/x");
    assert!(error.contains("neither a file"), "{error}");
}

#[test]
fn given_permissions_are_those_of_files() {
    let (_directory, context) = context("");
    let mut copy = Copy::new("src".to_owned(), "/x".to_owned());
    copy.mode = Some(0o4711);
    for file in context.select(&copy, false).unwrap() {
        assert_eq!(file.mode == 0o4711, file.kind != SelectedKind::Directory);
    }
}
