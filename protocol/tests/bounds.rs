//! What either end refuses although it is well formed.

use ironclaw_protocol::frame::encode;
use ironclaw_protocol::limits::{
    ARGUMENT_OVERHEAD, MAX_ARGUMENT, MAX_ARGUMENTS, MAX_CHUNK, MAX_HOSTNAME, MAX_PATH, MAX_TEXT,
};
use ironclaw_protocol::message::{
    Exec, Existing, GetFile, Identity, PutFile, Request, RequestId, Restored, Stderr, Stream,
    ToGuest, ToHost, UnixTime, bounded_text,
};

fn exec(argv: &[&str]) -> Exec {
    Exec {
        argv: argv.iter().map(|&argument| argument.into()).collect(),
        env: Vec::new(),
        cwd: None,
        stdin: false,
        stderr: Stderr::Apart,
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
fn a_command_takes_what_linux_takes_and_fits_into_a_frame() {
    let validate = |command: &Exec| Request::Exec(command.clone()).validate();
    let longest = "x".repeat(MAX_ARGUMENT);
    assert!(validate(&exec(&["echo", &longest])).is_ok());
    let error = validate(&exec(&["echo", &format!("{longest}x")])).unwrap_err();
    assert!(error.to_string().contains("131071 bytes"), "{error}");

    for length in [1, 3, 1000] {
        let argument = "x".repeat(length);
        let count = MAX_ARGUMENTS / (length + ARGUMENT_OVERHEAD);
        let mut most = exec(&vec![argument.as_str(); count]);
        assert!(validate(&most).is_ok(), "{count} of {length}");
        let id = RequestId(u32::MAX);
        let request = Request::Exec(most.clone());
        encode(&ToGuest::Request { id, request }, &mut Vec::new()).unwrap();
        most.env.push(("A".into(), argument.into()));
        let error = validate(&most).unwrap_err();
        assert!(error.to_string().contains("2 MiB"), "{error}");
    }
}

#[test]
fn a_command_is_bytes_but_no_nul_bytes() {
    let mut latin = exec(&["printf"]);
    latin.argv.push(b"caf\xe9"[..].into());
    latin.env.push((b"\xe9"[..].into(), b"\xff"[..].into()));
    latin.cwd = Some(b"/\xff"[..].into());
    assert!(Request::Exec(latin).validate().is_ok());
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
            existing: Existing::Replaced,
        })
    };
    assert!(put("/a", 0o644).validate().is_ok());
    assert!(put("a", 0o644).validate().is_err());
    assert!(put("/a", 0o10_0644).validate().is_err());
    let get = |path: String| Request::GetFile(GetFile { path: path.into() });
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
