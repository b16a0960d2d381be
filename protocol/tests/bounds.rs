//! What either end refuses although it is well formed.

use ironclaw_protocol::limits::{MAX_ARGS, MAX_CHUNK, MAX_HOSTNAME, MAX_PATH, MAX_TEXT};
use ironclaw_protocol::message::{
    Exec, GetFile, Identity, PutFile, Request, RequestId, Restored, Stream, ToHost, UnixTime,
    bounded_text,
};

fn exec(argv: &[&str]) -> Exec {
    Exec {
        argv: argv.iter().map(ToString::to_string).collect(),
        env: Vec::new(),
        cwd: None,
        stdin: false,
        timeout_ms: None,
    }
}

fn restored(hostname: String) -> Request {
    Request::Restored(Restored {
        entropy: [0; 32],
        unix_time: UnixTime {
            seconds: 0,
            nanos: 0,
        },
        identity: Identity {
            machine_id: [0; 16],
            boot_id: [0; 16],
            hostname,
        },
    })
}

#[test]
fn a_command_needs_a_program() {
    assert!(Request::Exec(exec(&["true"])).validate().is_ok());
    assert!(Request::Exec(exec(&[])).validate().is_err());
    assert!(Request::Exec(exec(&["", "x"])).validate().is_err());
}

#[test]
fn a_command_is_bounded_and_without_nul_bytes() {
    assert!(
        Request::Exec(exec(&vec!["a"; MAX_ARGS + 1]))
            .validate()
            .is_err()
    );
    assert!(Request::Exec(exec(&["a", "b\0c"])).validate().is_err());
    for name in ["", "A=B", "A\0"] {
        let mut command = exec(&["a"]);
        command.env.push((name.into(), "value".into()));
        assert!(Request::Exec(command).validate().is_err(), "{name:?}");
    }
    let mut command = exec(&["a"]);
    command.cwd = Some("relative".into());
    assert!(Request::Exec(command).validate().is_err());
}

#[test]
fn a_file_needs_an_absolute_path_and_a_plain_mode() {
    let put = |path: &str, mode| {
        Request::PutFile(PutFile {
            path: path.into(),
            mode,
        })
    };
    assert!(put("/a", 0o644).validate().is_ok());
    assert!(put("a", 0o644).validate().is_err());
    assert!(put("/a", 0o10_0644).validate().is_err());
    let get = |path: String| Request::GetFile(GetFile { path });
    assert!(
        get(format!("/{}", "x".repeat(MAX_PATH)))
            .validate()
            .is_err()
    );
    assert!(get("/a\0b".into()).validate().is_err());
}

#[test]
fn a_host_name_is_a_host_name() {
    assert!(restored("task-1.example".into()).validate().is_ok());
    for name in ["", "a b", "a/b", &"x".repeat(MAX_HOSTNAME + 1)] {
        assert!(restored((*name).into()).validate().is_err(), "{name:?}");
    }
}

#[test]
fn a_guest_cannot_send_more_than_the_bounds() {
    let data = |len| ToHost::Data {
        id: RequestId(0),
        stream: Stream::Stdout,
        bytes: vec![0; len],
    };
    assert!(data(MAX_CHUNK).validate().is_ok());
    assert!(data(MAX_CHUNK + 1).validate().is_err());
    assert!(
        data(0).validate().is_err(),
        "an empty chunk costs nothing and could be endless"
    );
    let credit = |bytes| ToHost::Credit {
        id: RequestId(0),
        bytes,
    };
    assert!(credit(1).validate().is_ok());
    assert!(credit(0).validate().is_err());
    assert!(credit(u32::MAX).validate().is_err());
    assert!(
        ToHost::Fault {
            reason: "x".repeat(MAX_TEXT + 1)
        }
        .validate()
        .is_err()
    );
}

#[test]
fn a_bounded_text_is_cut_between_characters() {
    let text = bounded_text("ä".repeat(MAX_TEXT));
    assert!(text.len() <= MAX_TEXT && text.chars().all(|c| c == 'ä'));
}
