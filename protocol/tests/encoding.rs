//! Pins how messages are encoded: guests of one version outlive the host program that was built with
//! it. A change of any of these bytes takes another version.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use ironclaw_protocol::VERSION;
use ironclaw_protocol::file::{
    ChangeKind, EventKind, FileChange, FileEvent, FileKind, FileOperation, FileRequest, Owners,
};
use ironclaw_protocol::frame::{Message, encode};
use ironclaw_protocol::message::{
    Exec, ExecId, Failure, FailureKind, Inherited, Outcome, Request, RequestId, Stderr, ToGuest,
    ToHost,
};
use ironclaw_protocol::records;

fn bytes(message: &impl Message) -> Vec<u8> {
    let mut frame = Vec::new();
    assert_eq!(encode(message, &mut frame), Ok(()));
    frame.split_off(4)
}

fn request(request: Request) -> ToGuest {
    ToGuest::Request {
        id: RequestId(1),
        request,
    }
}

fn of_files(operation: FileOperation) -> Vec<u8> {
    let user = None;
    let request = request(Request::File(FileRequest { user, operation }));
    let bytes = bytes(&request);
    // A request, its number, about files, of no user.
    assert_eq!(bytes[..4], [1, 1, 10, 0]);
    bytes[4..].to_vec()
}

#[test]
fn requests_are_encoded_as_ever() {
    assert_eq!(VERSION, 5);
    let hello = ToGuest::Hello {
        version: VERSION,
        session: 1,
    };
    assert_eq!(bytes(&hello), [0, 5, 1]);
    assert_eq!(bytes(&request(Request::Ping)), [1, 1, 0]);
    let connect = request(Request::Connect { port: 80 });
    assert_eq!(bytes(&connect), [1, 1, 12, 80]);
    assert_eq!(of_files(FileOperation::ListChanges), [10]);
    assert_eq!(of_files(FileOperation::ArchiveChanges), [11]);
    let path = || "/a".into();
    let archive = FileOperation::Archive { path: path() };
    assert_eq!(of_files(archive), [12, 2, b'/', b'a']);
    let extract = FileOperation::Extract {
        path: path(),
        owners: Owners::OfArchive,
    };
    assert_eq!(of_files(extract), [13, 2, b'/', b'a', 1]);
    let watch = FileOperation::Watch {
        path: path(),
        recursive: true,
    };
    assert_eq!(of_files(watch), [14, 2, b'/', b'a', 1]);
}

#[test]
fn commands_are_encoded_as_ever() {
    let exec = Exec {
        id: ExecId(3),
        argv: vec!["sh".into(), "-l".into()],
        program: Some("ash".into()),
        env: vec![("A".into(), "b".into())],
        inherited: Inherited::Except(vec!["C".into()]),
        cwd: None,
        stdin: true,
        stderr: Stderr::ToStdout,
        timeout_ms: Some(5),
        keep: false,
        user: None,
        tag: "t".into(),
        terminal: None,
    };
    let arguments = [2, 2, b's', b'h', 2, b'-', b'l', 1, 3, b'a', b's', b'h'];
    let variables = [1, 1, b'A', 1, b'b', 1, 1, 1, b'C'];
    let rest = [0, 1, 1, 1, 5, 0, 0, 1, b't', 0];
    let expected = [&[1, 1, 2, 3], &arguments[..], &variables, &rest].concat();
    assert_eq!(bytes(&request(Request::Exec(exec))), expected);
}

#[test]
fn answers_are_encoded_as_ever() {
    let id = RequestId(1);
    let done = |outcome| bytes(&ToHost::Done { id, outcome });
    assert_eq!(bytes(&ToHost::Opened { id }), [8, 1]);
    assert_eq!(bytes(&ToHost::Eof { id }), [9, 1]);
    let (files, omitted) = (3, 2);
    assert_eq!(done(Outcome::Pong), [3, 1, 0]);
    assert_eq!(done(Outcome::Archived { files, omitted }), [3, 1, 16, 3, 2]);
    assert_eq!(done(Outcome::Disconnected), [3, 1, 17]);
    assert_eq!(done(Outcome::Unwatched), [3, 1, 18]);
    let refused = Failure {
        kind: FailureKind::Refused,
        message: "x".into(),
    };
    assert_eq!(done(Outcome::Failed(refused)), [3, 1, 8, 13, 1, b'x']);
}

#[test]
fn records_are_encoded_as_ever() {
    let mut bytes = Vec::new();
    let change = FileChange {
        path: "/a".into(),
        kind: ChangeKind::Removed,
        file: FileKind::Link,
    };
    records::append(&change, &mut bytes).unwrap();
    assert_eq!(bytes, [5, 0, 0, 0, 2, b'/', b'a', 2, 2]);
    let event = FileEvent {
        kind: EventKind::Renamed,
        path: "/b".into(),
        from: Some("/a".into()),
        is_directory: false,
    };
    bytes.clear();
    records::append(&event, &mut bytes).unwrap();
    assert_eq!(bytes, [9, 0, 0, 0, 4, 2, b'/', b'b', 1, 2, b'/', b'a', 0]);
}
