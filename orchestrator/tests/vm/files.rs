//! Tests files of a real guest, beyond their content.

use ironclaw_orchestrator::vm::{FileKind, WriteOptions};
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
