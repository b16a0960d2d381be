//! Rebuilds the seeds in `fuzz/corpus` after a change of format:
//!
//! ```sh
//! cargo test -p ironclaw-orchestrator --lib fuzzing::seeds -- --ignored
//! ```

use std::fs;
use std::path::Path;

use ironclaw_protocol::file::{
    ChangeKind, EventKind, FileChange, FileEvent, FileInfo, FileKind, FileOperation, FileRequest,
    FileTime, Owners,
};
use ironclaw_protocol::frame::encode;
use ironclaw_protocol::message::{
    Attach, CommandEnd, CommandInfo, Exec, ExecId, Existing, Failure, FailureKind, GetFile,
    Inherited, Kept, Outcome, PutFile, Request, RequestId, Stderr, StdinAt, Stream, ToGuest,
    ToHost,
};
use ironclaw_protocol::records;

use super::identity;
use crate::template;

/// Returns a payload with its length in two bytes, as the targets take frames.
fn frame(message: &impl ironclaw_protocol::frame::Message, out: &mut Vec<u8>) {
    let mut frame = Vec::new();
    encode(message, &mut frame).unwrap();
    let payload = &frame[4..];
    out.extend(u16::try_from(payload.len()).unwrap().to_le_bytes());
    out.extend(payload);
}

/// Returns answers to the requests about files, which are asked last and one after the other.
fn of_files() -> Vec<ToHost> {
    let info = |path: &str| FileInfo {
        path: path.into(),
        kind: FileKind::Link,
        mode: 0o777,
        uid: 0,
        gid: 1000,
        owner: "root".into(),
        group: "".into(),
        size: 5,
        modified: FileTime {
            seconds: -1,
            nanos: 7,
        },
        target: Some("../x".into()),
    };
    let done = |id, outcome| ToHost::Done {
        id: RequestId(id),
        outcome,
    };
    let data = |id, bytes: &[u8]| ToHost::Data {
        id: RequestId(id),
        stream: Stream::File,
        bytes: bytes.to_vec(),
    };
    let mut listed = Vec::new();
    for path in ["/tmp/a", "/tmp/a/b"] {
        records::append(&info(path), &mut listed).unwrap();
    }
    let mut changes = Vec::new();
    let change = FileChange {
        path: "/tmp/a".into(),
        kind: ChangeKind::Removed,
        file: FileKind::File,
    };
    records::append(&change, &mut changes).unwrap();
    let mut events = Vec::new();
    let event = FileEvent {
        kind: EventKind::Renamed,
        path: "/tmp/b".into(),
        from: Some("/tmp/a".into()),
        is_directory: true,
    };
    records::append(&event, &mut events).unwrap();
    let (files, unread, omitted) = (2, 1, 1);
    let end_of_list = Outcome::Listed { files: 1, unread };
    vec![
        done(8, Outcome::FileInfo(Box::new(info("/tmp/a")))),
        done(9, Outcome::Attributes(vec![("user.a".into(), "b".into())])),
        data(10, &listed[..9]),
        data(10, &listed[9..]),
        done(10, Outcome::Listed { files, unread }),
        done(11, Outcome::Changed { files }),
        data(12, b"content"),
        done(12, Outcome::FileRead { mode: 0, bytes: 7 }),
        data(13, &changes),
        done(13, end_of_list),
        data(14, &[0; 1024]),
        done(14, Outcome::Archived { files, omitted }),
        ToHost::Opened { id: RequestId(15) },
        data(15, b"hello"),
        ToHost::Eof { id: RequestId(15) },
        done(15, Outcome::Disconnected),
        ToHost::Opened { id: RequestId(16) },
        data(16, &events),
        done(16, Outcome::Unwatched),
        done(17, Outcome::Extracted { files, omitted }),
    ]
}

/// Returns answers to the requests of `guest_to_host`, and more.
fn of_guests() -> [Vec<ToHost>; 6] {
    let [exec, streamed, get, put, ping, identity, list, attach] =
        [0, 1, 2, 3, 4, 5, 6, 7].map(RequestId);
    let data = |id, stream, bytes: &[u8]| ToHost::Data {
        id,
        stream,
        bytes: bytes.to_vec(),
    };
    let done = |id, outcome| ToHost::Done { id, outcome };
    [
        vec![
            data(exec, Stream::Stdout, b"out"),
            data(exec, Stream::Stderr, b"err"),
            ToHost::Credit {
                id: exec,
                bytes: 100,
            },
            done(exec, Outcome::Exited(3)),
            ToHost::ReaderWaits { id: streamed },
            ToHost::OutOfMemory { id: streamed },
            done(streamed, Outcome::Signaled(9)),
        ],
        vec![
            data(get, Stream::File, b"content"),
            done(
                get,
                Outcome::FileRead {
                    mode: 0o644,
                    bytes: 7,
                },
            ),
            done(put, Outcome::FileWritten { bytes: 2000 }),
            done(ping, Outcome::Pong),
            done(identity, Outcome::IdentitySet),
        ],
        of_files(),
        vec![
            done(
                exec,
                Outcome::Failed(Failure {
                    kind: FailureKind::NotFound,
                    message: "a\u{1b}[2Jb\n".to_owned(),
                }),
            ),
            done(get, Outcome::Pong),
        ],
        vec![ToHost::Fault {
            reason: "b\u{202e}c\n".to_owned(),
        }],
        vec![
            done(
                list,
                Outcome::Commands(vec![CommandInfo {
                    exec: ExecId(7),
                    pid: 12,
                    tag: "".into(),
                    program: b"a\x1b[2Jb"[..].into(),
                    keep: true,
                    attached: false,
                    end: Some(CommandEnd::Exited(3)),
                    stdout: Kept { from: 5, to: 9 },
                    stderr: Kept { from: 0, to: 0 },
                }]),
            ),
            ToHost::Attached {
                id: attach,
                stdout: 5,
                stderr: 0,
                stdin: Some(StdinAt {
                    received: 9,
                    taken: 7,
                }),
                keep: true,
            },
            data(attach, Stream::Stdout, b"last"),
            done(attach, Outcome::Exited(3)),
        ],
    ]
}

fn of_hosts() -> [Vec<ToGuest>; 4] {
    let request = |id, request| ToGuest::Request {
        id: RequestId(id),
        request,
    };
    let of_files = |id, operation| {
        let user = None;
        request(id, Request::File(FileRequest { user, operation }))
    };
    let exec = |id: u32, argv: &[&str], stdin| {
        let argv = argv.iter().map(|&word| word.into()).collect();
        let exec = Exec {
            id: ExecId(id.into()),
            argv,
            env: vec![("A".into(), "b".into())],
            cwd: Some("/tmp".into()),
            stdin,
            stderr: Stderr::Apart,
            timeout_ms: Some(5),
            keep: id == 3,
            user: None,
            tag: "".into(),
            terminal: None,
            program: None,
            inherited: Inherited::All,
        };
        request(id, Request::Exec(exec))
    };
    [
        vec![
            request(0, Request::Ping),
            request(1, Request::SetIdentity(identity())),
            exec(2, &["cat"], true),
            ToGuest::AwaitReader { id: RequestId(2) },
            ToGuest::Data {
                id: RequestId(2),
                bytes: b"hello".to_vec(),
            },
            ToGuest::Taken {
                id: RequestId(2),
                stream: Stream::Stdout,
                offset: 5,
            },
            ToGuest::Eof { id: RequestId(2) },
        ],
        vec![
            request(
                0,
                Request::PutFile(PutFile {
                    path: "/tmp/a".into(),
                    mode: 0o644,
                    existing: Existing::Replaced,
                    user: None,
                    parents: false,
                }),
            ),
            ToGuest::Data {
                id: RequestId(0),
                bytes: b"content".to_vec(),
            },
            ToGuest::Eof { id: RequestId(0) },
            request(
                1,
                Request::GetFile(GetFile {
                    path: "/tmp/a".into(),
                    from: 0,
                    length: None,
                    user: None,
                }),
            ),
            request(
                2,
                Request::File(FileRequest {
                    user: Some("user".into()),
                    operation: FileOperation::List {
                        path: "/tmp".into(),
                        depth: 2,
                    },
                }),
            ),
            request(3, Request::Connect { port: 80 }),
            of_files(4, FileOperation::ListChanges),
            of_files(5, FileOperation::ArchiveChanges),
            of_files(
                6,
                FileOperation::Watch {
                    path: "/tmp".into(),
                    recursive: true,
                },
            ),
            of_files(
                7,
                FileOperation::Extract {
                    path: "/tmp".into(),
                    owners: Owners::OfArchive,
                },
            ),
            ToGuest::Data {
                id: RequestId(7),
                bytes: vec![0; 1024],
            },
            ToGuest::Eof { id: RequestId(7) },
        ],
        vec![
            exec(0, &["sleep", "1000"], false),
            exec(1, &["flood", "1"], false),
            ToGuest::Signal {
                id: RequestId(0),
                signal: 15,
            },
            ToGuest::Cancel { id: RequestId(1) },
            exec(2, &["entropy"], false),
            exec(3, &["identity"], false),
            request(4, Request::Shutdown),
        ],
        vec![
            exec(3, &["count", "1"], true),
            ToGuest::Detach { id: RequestId(3) },
            request(0, Request::List),
            request(
                1,
                Request::Attach(Attach {
                    exec: ExecId(3),
                    stdout: 0,
                    stderr: 0,
                }),
            ),
            request(
                2,
                Request::Signal {
                    exec: ExecId(3),
                    signal: 17,
                },
            ),
            request(4, Request::Kill { exec: ExecId(3) }),
            ToGuest::Acknowledge { exec: ExecId(3) },
        ],
    ]
}

/// As the release before checkpoints wrote it.
const SNAPSHOT_OF_FORMAT_2: &str = r#"{"format":2,"id":"0192f0c1-7a2b-7c3d-8e4f-5a6b7c8d9e0f","generation":3,
"template":"abababababababababababababababababababababababababababababababab",
"vmm":{"kind":"qemu","version":"7.2.19","accelerator":"tcg"},
"machine":{"memory_mib":1,"vcpus":2},
"host":{"cpu_model":"Some CPU","kernel_release":"6.1.0-test","tsc_khz":2000000},
"boot_id":"6f0b1c7e-2f43-4f5a-9d3c-0a1b2c3d4e5f",
"created":{"unix_seconds":1764000000,"nanoseconds":5},
"files":{"memory":{"bytes":1048576,
"sha256_of_blocks":"30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58"},
"vmstate":{"bytes":7,
"sha256_of_blocks":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}}}"#;

const CHECKPOINT: &str = r#""kind":{"checkpoint":{"owner":"somebody","of":"vm-1",
"keep_until":{"unix_seconds":1764000100,"nanoseconds":6}}},
"parent":"0192f0c1-7a2b-7c3d-8e4f-000000000000""#;
const DISK: &str = r#""files":{"disk-root":{"bytes":9,
"sha256_of_blocks":"30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58"},
"#;

const TEMPLATE: &str = r#"{"format":1,"protocol":PROTOCOL,
"hash":"abababababababababababababababababababababababababababababababab",
"kernel":{"package":{"name":"linux-image-cloud-amd64","version":"6.1.27-1"},"release":"6.1.0-9",
"sha256":"30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58","size":5},
"initramfs":{"busybox":null,
"agent_sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
"sha256":"30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58","size":7},
"boot_args":"console=ttyS0 quiet","created":1764000000}"#;

const QMP: [(&str, &str); 3] = [
    (
        "migration",
        "{\"QMP\":{\"version\":{\"qemu\":{\"micro\":19,\"minor\":2,\"major\":7}},\"capabilities\":[\"oob\"]}}\r\n\
         {\"return\":{}}\r\n{\"timestamp\":{\"seconds\":1,\"microseconds\":2},\"event\":\"MIGRATION\",\
         \"data\":{\"status\":\"completed\"}}\r\n{\"return\":{}}\r\n{\"return\":{}}\r\n",
    ),
    (
        "refusal",
        "{\"QMP\":{}}\n{\"return\":{}}\n{\"error\":{\"class\":\"GenericError\",\"desc\":\"no\\u001b[2J\\nt\"}}\n\
         {\"event\":\"RESUME\"}\n{\"return\":[]}\n",
    ),
    ("event", "{\"event\":\"MIGRATION\",\"data\":[]}\n"),
];

const FIRECRACKER: [(&str, &str); 4] = [
    (
        "version",
        "HTTP/1.1 200 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\
         Content-Type: application/json\r\nContent-Length: 32\r\n\r\n{\"firecracker_version\":\"1.16.1\"}",
    ),
    (
        "instance",
        "HTTP/1.1 200 \r\nContent-Length: 84\r\n\r\n{\"id\":\"a\",\"state\":\"Not started\",\
         \"vmm_version\":\"1.16.1\",\"app_name\":\"Firecracker\"}   ",
    ),
    (
        "refusal",
        "HTTP/1.1 400 \r\nContent-Length: 32\r\n\r\n{\"fault_message\":\"no\\u001b[2J\\nt\"}",
    ),
    ("nothing", "HTTP/1.1 204 \r\nConnection: keep-alive\r\n\r\n"),
];

const TEXTS: [(&str, &str); 8] = [
    (
        "firecracker",
        "Firecracker v1.16.1\n\nSupported snapshot data format versions: v9.0.0\n",
    ),
    (
        "qemu",
        "QEMU emulator version 7.2.19 (Debian 1:7.2+dfsg-7+deb12u16)\nCopyright (c) 2003-2022\n",
    ),
    (
        "stat",
        "7 (a) S 1 1) S 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24\n",
    ),
    (
        "locks",
        "1: FLOCK  ADVISORY  WRITE 3187 fe:00:10 0 EOF\n1: -> FLOCK  ADVISORY  WRITE 3188 fe:00:10 0 EOF\n",
    ),
    (
        "mounts",
        "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu,cpuacct 0 0\n\
         cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\ncgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\n",
    ),
    (
        "cpuinfo",
        "processor\t: 0\nmodel\t\t: 1\nmodel name\t: Some CPU @ 2: fast\n",
    ),
    (
        "package",
        "Package: linux-image-cloud-amd64\nVersion: 6.1.27-1\nDepends: linux-image-6.1.0-9-cloud-amd64 (= 6.1.27-1)\n\
         SHA256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n\nbin/sh\nsbin/init\n",
    ),
    (
        "groups",
        "root:x:0:\nme:x:1000:me\n\nroot:x:0:0:root:/root:/bin/sh\nme:x:1000:1000::/home/me:/bin/sh\n",
    ),
];

#[test]
#[ignore = "writes to the source tree"]
fn write_the_seeds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let write = |target: &str, name: &str, bytes: &[u8]| {
        let directory = corpus.join(target);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(name), bytes).unwrap();
    };
    for (messages, name) in of_guests().iter().zip([
        "commands",
        "files",
        "file_requests",
        "failures",
        "fault",
        "attached",
    ]) {
        let mut bytes = vec![0x7f];
        messages
            .iter()
            .for_each(|message| frame(message, &mut bytes));
        write("guest_to_host", name, &bytes);
    }
    let mut stream = vec![0xff];
    for message in &of_guests()[1] {
        encode(message, &mut stream).unwrap();
    }
    write("guest_to_host", "stream", &stream);
    for (messages, name) in of_hosts()
        .iter()
        .zip(["commands", "files", "cancelled", "attached"])
    {
        let mut bytes = vec![0];
        messages
            .iter()
            .for_each(|message| frame(message, &mut bytes));
        write("host_to_guest", name, &bytes);
    }
    for (name, text) in QMP {
        write("qmp", name, text.as_bytes());
    }
    for (name, text) in FIRECRACKER {
        write("firecracker_answers", name, text.as_bytes());
    }
    for (name, text) in TEXTS {
        write("texts", name, text.as_bytes());
    }
    let base = SNAPSHOT_OF_FORMAT_2
        .replace("\"format\":2", "\"format\":3")
        .replace(
            "\"generation\"",
            "\"kind\":\"base\",\"parent\":null,\"generation\"",
        );
    let checkpoint = base
        .replace("\"kind\":\"base\",\"parent\":null", CHECKPOINT)
        .replace("\"files\":{", DISK);
    for (name, text) in [
        ("snapshot", &*base),
        ("checkpoint", &*checkpoint),
        ("snapshot_format2", SNAPSHOT_OF_FORMAT_2),
    ] {
        write("manifests", name, text.as_bytes());
    }
    let protocol = ironclaw_protocol::VERSION.to_string();
    let template = TEMPLATE.replace("PROTOCOL", &protocol);
    write("manifests", "template", template.as_bytes());
    for (name, bytes) in template::fuzz::seeds() {
        write("kernel_image", name, &bytes);
        if bytes.starts_with(b"\x7fELF") {
            write("elf", name, &bytes);
        }
    }
}
