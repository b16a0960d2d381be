use proptest::prelude::*;

use super::*;
use crate::recipe::Copy;

fn steps(text: &str) -> Result<Vec<Step>, DockerfileError> {
    steps_with(text, &[])
}

fn steps_with(text: &str, args: &[(&str, &str)]) -> Result<Vec<Step>, DockerfileError> {
    let args = args.iter();
    let args = args.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let args = args.collect();
    let env = [("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
    Dockerfile::parse(text, &args)?.steps(&env, "/")
}

fn actions(text: &str) -> Vec<Action> {
    steps(text)
        .unwrap()
        .into_iter()
        .map(|step| step.action)
        .collect()
}

fn run(argv: &[&str]) -> Action {
    Action::Run {
        argv: argv.iter().map(|&word| word.to_owned()).collect(),
        env: Vec::new(),
    }
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let pairs = pairs.iter();
    pairs
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn error(text: &str) -> String {
    let error = steps(text).unwrap_err();
    match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[test]
fn run_goes_through_the_shell_unless_it_is_an_array() {
    let text = r#"FROM debian
RUN apt-get update && \
    # a comment
    apt-get install -y "python3"
RUN ["/bin/echo", "a b"]
SHELL ["/bin/bash", "-ec"]
RUN echo $HOME
"#;
    let expected = [
        run(&[
            "/bin/sh",
            "-c",
            "apt-get update &&     apt-get install -y \"python3\"",
        ]),
        run(&["/bin/echo", "a b"]),
        run(&["/bin/bash", "-ec", "echo $HOME"]),
    ];
    assert_eq!(actions(text), expected);
}

#[test]
fn steps_are_told_with_their_line_and_text() {
    let steps = steps("# top\nFROM debian\n\nRUN a \\\n  b\nUSER me\n").unwrap();
    assert_eq!(steps[0].line, Some(4));
    assert_eq!(steps[0].text, "RUN a b");
    assert_eq!(steps[1].line, Some(6));
    assert_eq!(steps[1].text, "USER me");
}

#[test]
fn variables_are_expanded_from_the_environment_and_arguments() {
    let text = "ARG TAG=12\nFROM debian:${TAG}\nARG WHERE=/srv\nENV HOME_DIR=$WHERE/x PATH=/opt:$PATH\n\
                WORKDIR $HOME_DIR\nUSER ${NAME:-nobody}\n";
    let args = BTreeMap::new();
    assert_eq!(Dockerfile::parse(text, &args).unwrap().from(), "debian:12");
    let expected = [
        Action::Env(pairs(&[
            ("HOME_DIR", "/srv/x"),
            ("PATH", "/opt:/usr/bin:/bin"),
        ])),
        Action::Workdir("/srv/x".to_owned()),
        Action::User("nobody".to_owned()),
    ];
    assert_eq!(actions(text), expected);
}

#[test]
fn build_arguments_reach_run_unless_the_environment_hides_them() {
    let text = "FROM debian\nARG A=1\nARG B=1\nENV B=2\nRUN env\n";
    let steps = steps_with(text, &[("A", "given")]).unwrap();
    let expected = Action::Run {
        argv: ["/bin/sh", "-c", "env"].map(str::to_owned).to_vec(),
        env: pairs(&[("A", "given")]),
    };
    assert_eq!(steps.last().unwrap().action, expected);
}

#[test]
fn global_argument_is_seen_in_the_stage_only_when_declared_again() {
    let text = "ARG V=1\nFROM debian\nENV A=x$V\nARG V\nENV B=x$V\n";
    let expected = [
        Action::Env(pairs(&[("A", "x")])),
        Action::Env(pairs(&[("B", "x1")])),
    ];
    assert_eq!(actions(text), expected);
}

#[test]
fn argument_that_nothing_declares_is_refused() {
    let refused = steps_with("FROM debian\n", &[("NO", "1")]).unwrap_err();
    assert_eq!(refused.to_string(), "no ARG declares NO");
    steps_with("FROM debian\n", &[("HTTP_PROXY", "http://proxy")]).unwrap();
}

#[test]
fn environment_in_both_forms() {
    let text = "FROM debian\nENV A=\"b c\" D=e\\ f\nENV OLD some 'quoted' words\n";
    let expected = [
        Action::Env(pairs(&[("A", "b c"), ("D", "e f")])),
        Action::Env(pairs(&[("OLD", "some quoted words")])),
    ];
    assert_eq!(actions(text), expected);
}

#[test]
fn copy_is_seen_from_the_working_directory() {
    let text =
        "FROM debian\nWORKDIR /app\nCOPY a b dir/\nCOPY --chown=me:us --chmod=750 x /y\nADD z .\n";
    let context = |path: &str| CopySource::Context(path.to_owned());
    let expected = [
        Action::Workdir("/app".to_owned()),
        Action::Copy(Copy {
            sources: vec![context("a"), context("b")],
            to: "/app/dir/".to_owned(),
            owner: None,
            mode: None,
        }),
        Action::Copy(Copy {
            sources: vec![context("x")],
            to: "/y".to_owned(),
            owner: Some("me:us".to_owned()),
            mode: Some(0o750),
        }),
        Action::Copy(Copy::new("z".to_owned(), "/app/".to_owned())),
    ];
    assert_eq!(actions(text), expected);
}

#[test]
fn here_documents_are_scripts_and_files() {
    let text = "FROM debian\nENV A=1\nRUN <<EOF\necho \"$A\"\necho b\nEOF\n\
                COPY <<one.txt <<'two.txt' /etc/\nA is \"$A\"\none.txt\nA is $A\ntwo.txt\nRUN <<X cat > /y\nz\nX\nUSER me\n";
    let expected = [
        Action::Env(pairs(&[("A", "1")])),
        run(&["/bin/sh", "-c", "echo \"$A\"\necho b\n"]),
        Action::Copy(Copy {
            sources: vec![
                CopySource::Inline {
                    name: "one.txt".to_owned(),
                    content: "A is \"1\"\n".to_owned(),
                },
                CopySource::Inline {
                    name: "two.txt".to_owned(),
                    content: "A is $A\n".to_owned(),
                },
            ],
            to: "/etc/".to_owned(),
            owner: None,
            mode: None,
        }),
        run(&["/bin/sh", "-c", "<<X cat > /y\nz\nX"]),
        Action::User("me".to_owned()),
    ];
    assert_eq!(actions(text), expected);
}

#[test]
fn program_and_its_metadata() {
    let text = "FROM debian\nENTRYPOINT [\"/init\"]\nCMD serve $PORT\nEXPOSE 80 443/tcp\n\
                STOPSIGNAL SIGINT\nLABEL a=b \"c d\"=e\n";
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    let expected = [
        Action::Entrypoint(words(&["/init"])),
        Action::Cmd(words(&["/bin/sh", "-c", "serve $PORT"])),
        Action::Expose(words(&["80", "443/tcp"])),
        Action::StopSignal("SIGINT".to_owned()),
        Action::Label(pairs(&[("a", "b"), ("c d", "e")])),
    ];
    assert_eq!(actions(text), expected);
}

#[test]
fn unsupported_instructions_are_refused_by_name_and_line() {
    for (text, expected) in [
        ("HEALTHCHECK NONE", "line 2: HEALTHCHECK is not supported"),
        ("VOLUME /data", "line 2: VOLUME is not supported"),
        ("ONBUILD RUN x", "line 2: ONBUILD is not supported"),
        ("MAINTAINER me", "line 2: MAINTAINER is not supported"),
        (
            "RUN --mount=type=cache x",
            "line 2: RUN --mount is not supported",
        ),
        ("COPY --from=0 a /b", "line 2: COPY --from is not supported"),
        ("COPY --link a /b", "line 2: COPY --link is not supported"),
        (
            "ADD https://example.org/x /",
            "line 2: ADD of a URL is not supported",
        ),
        (
            "ADD a.tar.gz /",
            "line 2: ADD of an archive (COPY it, and RUN what unpacks it) is not supported",
        ),
        (
            "FROM two",
            "line 2: a second FROM (a build in stages) is not supported",
        ),
        (
            "RUN <<EOF\n#!/usr/bin/python3\nEOF",
            "line 2: a here-document with a #! line is not supported",
        ),
        (
            "RUN cat <<EOF > /x\nRUN y\nEOF",
            "line 2: a here-document that the RUN does not begin with is not supported",
        ),
        (
            "ENV A=${B%c}",
            "line 2 can't be expanded: ${B%c} is a form of substitution that is not supported",
        ),
    ] {
        assert_eq!(error(&format!("FROM one\n{text}\n")), expected);
    }
    let text = "FROM --platform=linux/arm64 one\n";
    assert_eq!(error(text), "line 1: FROM --platform is not supported");
}

#[test]
fn malformed_text_is_told_with_its_line() {
    for (text, expected) in [
        ("", "expected at least one FROM"),
        ("RUN x\n", "line 1"),
        ("FROM one\nNONSENSE x\n", "line 2"),
        ("FROM one\nCOPY a b c\n", "line 2"),
        ("FROM one\n\nENV A\n", "line 3"),
        ("FROM one\nCOPY --chmod=rwx a /\n", "line 2"),
    ] {
        let error = error(text);
        assert!(error.contains(expected), "{text:?}: {error}");
    }
}

#[test]
fn paths_are_made_absolute() {
    for (base, path, expected) in [
        ("/", "a/b", "/a/b"),
        ("/a", "../../b", "/b"),
        ("/a", "/b//./c/", "/b/c"),
        ("/a/", ".", "/a"),
    ] {
        assert_eq!(absolute(base, path), expected);
    }
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused(text in "(FROM a\n)?(([A-Z]{2,5}|RUN|ENV|COPY|ARG|ADD) [ -~]{0,30}\n|[ -~]{0,20}\n|<<E\n){0,8}") {
        drop(steps(&text));
    }
}

#[test]
fn the_last_instruction_needs_no_line_feed() {
    for text in [
        "FROM x\nRUN a\nRUN b",
        "FROM x\nRUN a\n\nRUN b",
        "FROM x\nRUN a\n\nRUN b\n",
        "FROM x\nRUN a\n# comment\nRUN b",
        "FROM x\nRUN a\n\n\n  RUN b",
        "FROM x\r\nRUN a\r\n\r\nRUN b",
    ] {
        let args = BTreeMap::new();
        let dockerfile = Dockerfile::parse(text, &args).unwrap();
        let steps = dockerfile.steps(&[], "/").unwrap();
        let shown: Vec<_> = steps.iter().map(|step| &*step.text).collect();
        assert_eq!(shown, ["RUN a", "RUN b"], "{text:?}");
    }
}
