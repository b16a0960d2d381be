//! Tests files of a real guest, beyond their content.

use ironclaw_orchestrator::vm::{FileEventKind, FileKind, Owners, WriteOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::fixture::{sh, vm};

#[tokio::test(flavor = "multi_thread")]
async fn a_file_manager_finds_what_it_needs_as_the_user_of_its_choice() {
    let Some(vm) = vm("files").await else { return };
    let files = vm.files();
    let made = files.create_dir_all("/tmp/work/sub", 0o755).await.unwrap();
    assert_eq!(made, 2);
    let options = WriteOptions::new().mode(0o640);
    files.write("/tmp/work/a", options, b"12345").await.unwrap();
    files.symlink("a", "/tmp/work/link").await.unwrap();
    files.set_owner("/tmp/work/a", "nobody").await.unwrap();

    let listed = files.list("/tmp/work").await.unwrap();
    let shown: Vec<_> = listed
        .iter()
        .map(|file| (file.path.to_str().unwrap(), file.kind))
        .collect();
    let expected = [
        ("/tmp/work/a", FileKind::File),
        ("/tmp/work/link", FileKind::Link),
        ("/tmp/work/sub", FileKind::Directory),
    ];
    assert_eq!(shown, expected);
    let file = files.metadata("/tmp/work/link").await.unwrap();
    assert_eq!((file.mode, file.size), (0o640, 5));
    assert_eq!((file.uid, file.owner.to_str()), (65534, Some("nobody")));

    let others = vm.files().as_user("54321:54321");
    let refused = others.read("/tmp/work/a", 100).await.unwrap_err();
    assert!(refused.to_string().contains("ermission"), "{refused}");
    others.create_dir("/tmp/theirs", 0o700).await.unwrap();
    assert_eq!(
        sh(&vm, "stat -c %u:%g:%a /tmp/theirs").await,
        "54321:54321:700\n"
    );

    files
        .rename("/tmp/work/a", "/tmp/work/sub/b")
        .await
        .unwrap();
    assert_eq!(files.list_deep("/tmp/work", 2).await.unwrap().len(), 3);
    assert_eq!(files.remove_all("/tmp/work").await.unwrap(), 4);
    assert!(files.metadata("/tmp/work").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_streamed_in_both_directions() {
    let Some(vm) = vm("streams").await else {
        return;
    };
    let files = vm.files();
    let content: Vec<u8> = (0..2_000_000_u32).map(|at| at.to_le_bytes()[1]).collect();
    let options = WriteOptions::new().parents();
    let mut writer = files.writer("/tmp/new/file", options).await.unwrap();
    writer.write_all(&content).await.unwrap();
    writer.shutdown().await.unwrap();
    let mut read = Vec::new();
    let mut reader = files.reader("/tmp/new/file", 0, None).await.unwrap();
    reader.read_to_end(&mut read).await.unwrap();
    assert!(read == content);
    let part = files.read_range("/tmp/new/file", 999, 1000).await.unwrap();
    assert!(part == content[999..1999]);
    let dropped = files.writer("/tmp/new/half", WriteOptions::new()).await;
    drop(dropped.unwrap());
    vm.ping(std::time::Duration::from_secs(30)).await.unwrap();
    assert_eq!(sh(&vm, "ls -A /tmp/new").await, "file\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_below_a_directory_is_told_while_it_happens() {
    let Some(vm) = vm("watch").await else { return };
    let files = vm.files();
    files.create_dir("/tmp/watched", 0o755).await.unwrap();
    let mut watch = files.watch_recursive("/tmp/watched").await.unwrap();
    sh(
        &vm,
        "cd /tmp/watched && mkdir -p a/b && echo 1 > a/b/c && mv a z && rm -r z",
    )
    .await;
    let mut told = Vec::new();
    loop {
        let event = watch.next().await.unwrap().unwrap();
        let path = event.path.strip_prefix("/tmp/watched").unwrap().to_owned();
        let is_last = event.kind == FileEventKind::Removed && path.as_os_str() == "z";
        told.push((event.kind, path.to_str().unwrap().to_owned()));
        if is_last {
            break;
        }
    }
    for event in [
        (FileEventKind::Created, "a"),
        (FileEventKind::Created, "a/b"),
        (FileEventKind::Created, "a/b/c"),
        (FileEventKind::Renamed, "z"),
    ] {
        let event = (event.0, event.1.to_owned());
        assert!(told.contains(&event), "{event:?} of {told:?}");
    }
    files.remove("/tmp/watched").await.unwrap();
    while let Some(event) = watch.next().await.unwrap() {
        assert_eq!(event.kind, FileEventKind::Removed);
    }
    let missing = files.watch("/tmp/watched").await.unwrap_err();
    assert!(missing.to_string().contains("/tmp/watched"), "{missing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_of_one_directory_is_unpacked_in_another_as_its_user() {
    let Some(vm) = vm("archives").await else {
        return;
    };
    let files = vm.files();
    sh(
        &vm,
        "mkdir -p /tmp/from/d /tmp/to && chmod 777 /tmp/to && cd /tmp/from && \
         echo content > d/file && chmod 750 d && ln -s file d/link && ln d/file other",
    )
    .await;
    let user = files.clone().as_user("54321:54322");
    let mut archive = files.archive("/tmp/from").await.unwrap();
    let mut unpacked = user.extract("/tmp/to", Owners::OfUser).await.unwrap();
    tokio::io::copy(&mut archive, &mut unpacked).await.unwrap();
    assert_eq!(unpacked.finish().await.unwrap().files, 4);
    let found = sh(
        &vm,
        "cd /tmp/to && stat -c '%n %u %g %a' d d/file && cat d/link && stat -c %h other && stat -c %a .",
    )
    .await;
    assert_eq!(
        found,
        "d 54321 54322 750\nd/file 54321 54322 644\ncontent\n2\n777\n"
    );
    let mut broken = user.extract("/tmp/to", Owners::OfUser).await.unwrap();
    broken.write_all(b"no archive").await.unwrap();
    assert!(broken.finish().await.is_err());
}
