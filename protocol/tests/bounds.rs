//! Tests well-formed messages that either end refuses.

use ironclaw_protocol::file::{
    ChangeKind, EventKind, FileChange, FileEvent, FileKind, FileOperation, FileRequest,
};
use ironclaw_protocol::frame::encode;
use ironclaw_protocol::limits::{
    ARGUMENT_OVERHEAD, MAX_ARGUMENT, MAX_ARGUMENTS, MAX_CHUNK, MAX_HOSTNAME, MAX_LISTED, MAX_PATH,
    MAX_PROGRAM, MAX_TEXT, WINDOW,
};
use ironclaw_protocol::message::{
    CommandEnd, CommandInfo, Exec, ExecId, Existing, GetFile, Identity, Inherited, Kept, Outcome,
    PutFile, Request, RequestId, SetIdentity, Stderr, StdinAt, Stream, ToGuest, ToHost, UnixTime,
    bounded_text,
};

fn exec(argv: &[&str]) -> Exec {
    Exec {
        id: ExecId(u64::MAX),
        keep: false,
        user: None,
        tag: "".into(),
        terminal: None,
        program: None,
        inherited: Inherited::All,
        argv: argv.iter().map(|&argument| argument.into()).collect(),
        env: Vec::new(),
        cwd: None,
        stdin: false,
        stderr: Stderr::Apart,
        timeout_ms: None,
    }
}

fn restored(hostname: String) -> Request {
    Request::SetIdentity(SetIdentity {
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
    let named = |argv: &[&str], program: &str| {
        let program = Some(program.into());
        let exec = Exec {
            program,
            ..exec(argv)
        };
        Request::Exec(exec).validate()
    };
    assert!(named(&["", "x"], "true").is_ok());
    assert!(named(&["true"], "").is_err());
    assert!(named(&[], "true").is_err());
    assert!(named(&["true"], "a\0b").is_err());
}

#[test]
fn names_of_variables_that_are_left_out_are_as_bounded_as_those_that_are_set() {
    let without = |names: Vec<String>| {
        let names = names.into_iter().map(Into::into).collect();
        let inherited = Inherited::Except(names);
        Request::Exec(Exec {
            inherited,
            ..exec(&["true"])
        })
        .validate()
    };
    assert!(without(vec!["LANG".into()]).is_ok());
    for bad in ["", "A=b", "a\0b"] {
        assert!(without(vec![bad.into()]).is_err(), "{bad:?}");
    }
    assert!(without(vec!["x".repeat(MAX_ARGUMENT + 1)]).is_err());
    let least = MAX_ARGUMENTS / (1 + ARGUMENT_OVERHEAD);
    assert!(without(vec!["x".to_owned(); least + 1]).is_err());
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
            user: None,
            parents: false,
        })
    };
    assert!(put("/a", 0o644).validate().is_ok());
    assert!(put("a", 0o644).validate().is_err());
    assert!(put("/a", 0o10_0644).validate().is_err());
    let get = |path: String| {
        Request::GetFile(GetFile {
            path: path.into(),
            from: 0,
            length: None,
            user: None,
        })
    };
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
fn the_longest_list_of_commands_fits_into_a_frame_and_a_longer_one_is_refused() {
    let command = CommandInfo {
        tag: "".into(),
        exec: ExecId(u64::MAX),
        pid: u32::MAX,
        program: vec![0xff; MAX_PROGRAM].into(),
        keep: true,
        attached: true,
        end: Some(CommandEnd::Signaled(i32::MIN)),
        stdout: Kept {
            from: u64::MAX,
            to: u64::MAX,
        },
        stderr: Kept {
            from: u64::MAX,
            to: u64::MAX,
        },
    };
    let done = |commands| ToHost::Done {
        id: RequestId(u32::MAX),
        outcome: Outcome::Commands(commands),
    };
    let longest = done(vec![command.clone(); MAX_LISTED]);
    encode(&longest, &mut Vec::new()).unwrap();
    assert!(longest.validate().is_ok());
    assert!(
        done(vec![command.clone(); MAX_LISTED + 1])
            .validate()
            .is_err()
    );
    let mut long = command.clone();
    long.program = vec![b'x'; MAX_PROGRAM + 1].into();
    let mut backwards = command;
    backwards.stdout = Kept { from: 1, to: 0 };
    for bad in [long, backwards] {
        assert!(done(vec![bad]).validate().is_err());
    }
}

#[test]
fn a_standard_input_is_behind_by_a_window_at_most_and_never_ahead() {
    let attached = |received, taken| ToHost::Attached {
        id: RequestId(0),
        stdout: 0,
        stderr: 0,
        stdin: Some(StdinAt { received, taken }),
        keep: false,
    };
    assert!(attached(5, 5).validate().is_ok());
    assert!(attached(u64::from(WINDOW), 0).validate().is_ok());
    assert!(attached(u64::from(WINDOW) + 1, 0).validate().is_err());
    assert!(attached(4, 5).validate().is_err());
}

#[test]
fn a_signal_from_any_session_is_one_of_the_31() {
    let exec = ExecId(1);
    for (signal, good) in [(0, false), (1, true), (31, true), (32, false), (-9, false)] {
        let of_any = Request::Signal { exec, signal };
        assert_eq!(of_any.validate().is_ok(), good, "{signal}");
    }
}

#[test]
fn a_bounded_text_is_cut_between_characters() {
    let text = bounded_text("ä".repeat(MAX_TEXT));
    assert!(text.len() <= MAX_TEXT && text.chars().all(|c| c == 'ä'));
}

#[test]
fn what_differs_from_the_image_is_roots_to_see() {
    let ask = |user: Option<&str>, operation| {
        let user = user.map(Into::into);
        Request::File(FileRequest { user, operation }).validate()
    };
    for operation in [FileOperation::ListChanges, FileOperation::ArchiveChanges] {
        assert!(ask(None, operation.clone()).is_ok());
        assert!(ask(Some("nobody"), operation).is_err());
    }
    let watch = |path: &str| FileOperation::Watch {
        path: path.into(),
        recursive: true,
    };
    assert!(ask(Some("nobody"), watch("/a")).is_ok());
    assert!(ask(None, watch("a")).is_err());
    assert!(Request::Connect { port: 0 }.validate().is_err());
    assert!(Request::Connect { port: u16::MAX }.validate().is_ok());
}

#[test]
fn a_change_and_an_event_lead_to_no_other_place_than_they_may() {
    let change = |path: &str| {
        let (kind, file) = (ChangeKind::Added, FileKind::File);
        let path = path.into();
        FileChange { path, kind, file }.validate()
    };
    assert!(change("/").is_ok() && change("/a/b").is_ok());
    for detour in [
        "",
        "a",
        "/a/",
        "/a/../b",
        "/a//b",
        "/.",
        &"/x".repeat(MAX_PATH),
    ] {
        assert!(change(detour).is_err(), "{detour}");
    }
    let event = |kind, path: &str, from: Option<&str>| {
        let (path, from) = (path.into(), from.map(Into::into));
        let is_directory = false;
        let event = FileEvent {
            kind,
            path,
            from,
            is_directory,
        };
        event.validate(&"/w".into())
    };
    assert!(event(EventKind::Overflow, "/w", None).is_ok());
    assert!(event(EventKind::Renamed, "/w/b", Some("/w/a")).is_ok());
    assert!(event(EventKind::Renamed, "/w/b", None).is_err());
    assert!(event(EventKind::Created, "/w/b", Some("/w/a")).is_err());
    for outside in ["/", "/x", "/w/../x", "/w/"] {
        assert!(
            event(EventKind::Created, outside, None).is_err(),
            "{outside}"
        );
        assert!(event(EventKind::Renamed, "/w/b", Some(outside)).is_err());
    }
}
