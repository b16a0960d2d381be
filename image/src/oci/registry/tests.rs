use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::{LayerStore, RegistryAccess, RootBuilder, RootImage, RootSource};
use super::*;

/// A request: its path, and the first byte that it asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    host: String,
    path: String,
    form: String,
    from: usize,
    authorization: Option<String>,
}

/// An answer: the head without its length, the body, and how many bytes of that are sent.
struct Answer {
    head: String,
    body: Vec<u8>,
    sent: usize,
}

impl Answer {
    fn of(head: &str, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self {
            head: head.to_owned(),
            sent: body.len(),
            body,
        }
    }

    fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::of("200 OK", body)
    }
}

type Answers = dyn Fn(&Asked) -> Answer + Send + Sync;

/// A registry that answers as a test wants.
struct Server {
    address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    fn start(answers: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answers, log): (Arc<Answers>, _) = (Arc::new(answers), Arc::clone(&asked));
        // Ends with the process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (answers, log) = (Arc::clone(&answers), Arc::clone(&log));
                thread::spawn(move || serve(stream.unwrap(), &*answers, &log));
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

/// Serves a connection: one request, as far as it is one.
fn serve(stream: TcpStream, answers: &Answers, log: &Mutex<Vec<Asked>>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut lines = Vec::new();
    loop {
        let mut line = Vec::new();
        reader.read_until(b'\n', &mut line).ok()?;
        // It is not in TLS.
        let Ok(line) = String::from_utf8(line) else {
            (&stream)
                .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                .ok()?;
            return None;
        };
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let header = |name: &str| {
        lines.iter().find_map(|it| {
            let (key, value) = it.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then(|| value.to_owned())
        })
    };
    let range = header("range");
    let from = range.map_or(0, |it| it[6..it.len() - 1].parse().unwrap());
    let length = header("content-length").map_or(0, |it| it.parse().unwrap());
    let mut form = vec![0; length];
    reader.read_exact(&mut form).ok()?;
    let asked = Asked {
        host: header("host")?,
        form: String::from_utf8(form).unwrap(),
        path: lines.first()?.split(' ').nth(1)?.to_owned(),
        from,
        authorization: header("authorization"),
    };
    let Answer { head, body, sent } = answers(&asked);
    log.lock().unwrap().push(asked);
    let head = format!(
        "HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    (&stream).write_all(head.as_bytes()).ok()?;
    (&stream).write_all(&body[..sent.min(body.len())]).ok()
}

/// An image of one layer, whose archive no compression makes smaller.
struct Made {
    manifest: Vec<u8>,
    config: Vec<u8>,
    layer: Vec<u8>,
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", Sha256Digest::of(bytes))
}

impl Made {
    fn new() -> Self {
        let mut state = 1_u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        })
        .take(1 << 20)
        .collect();
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(noise.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, "noise", &*noise).unwrap();
        let archive = builder.into_inner().unwrap();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&archive).unwrap();
        let layer = encoder.finish().unwrap();
        let config = json!({
            "architecture": "amd64", "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [digest(&archive)]},
        });
        let config = config.to_string().into_bytes();
        let descriptor = |bytes: &[u8]| json!({"digest": digest(bytes), "size": bytes.len()});
        let manifest = json!({
            "schemaVersion": 2, "config": descriptor(&config), "layers": [descriptor(&layer)],
        });
        Self {
            manifest: manifest.to_string().into_bytes(),
            config,
            layer,
        }
    }

    /// The same with another size of its layer.
    fn with_size(mut self, size: usize) -> Self {
        let mut manifest: Value = serde_json::from_slice(&self.manifest).unwrap();
        manifest["layers"][0]["size"] = json!(size);
        self.manifest = manifest.to_string().into_bytes();
        self
    }

    /// What an honest registry answers.
    fn answer(&self, asked: &Asked) -> Answer {
        let name = |bytes: &[u8]| format!("/v2/app/blobs/{}", digest(bytes));
        let blobs = [&self.config, &self.layer];
        let content = match &*asked.path {
            "/v2/" => return Answer::ok("{}"),
            "/v2/app/manifests/1" => &self.manifest,
            path => match blobs.into_iter().find(|blob| name(blob) == path) {
                Some(blob) => blob,
                None => return Answer::of("404 Not Found", r#"{"errors":[{"code":"X"}]}"#),
            },
        };
        match asked.from {
            0 => Answer::ok(&content[..]),
            from => {
                let (last, length) = (content.len() - 1, content.len());
                let head =
                    format!("206 Partial Content\r\nContent-Range: bytes {from}-{last}/{length}");
                Answer::of(&head, &content[from..])
            }
        }
    }

    fn is_layer(&self, asked: &Asked) -> bool {
        asked.path.ends_with(&digest(&self.layer))
    }
}

/// Pulls `app:1` from a server.
fn pull_with(
    server: &Server,
    directory: &TempDir,
    access: RegistryAccess,
) -> Result<RootImage, SourceError> {
    let store = LayerStore::open(&directory.path().join("layers")).unwrap();
    let source = format!("docker://{}/app:1", server.address);
    let source = RootSource::parse(OsStr::new(&source)).unwrap();
    let builder = RootBuilder::new(store, 1 << 30).with_access(access);
    builder.build(&source, &directory.path().join("out"), &mut |_| {})
}

fn pull(server: &Server) -> Result<RootImage, SourceError> {
    let directory = tempfile::tempdir().unwrap();
    let pulled = pull_with(server, &directory, RegistryAccess::default());
    if pulled.is_err() {
        let left = fs::read_dir(directory.path().join("layers"))
            .unwrap()
            .count();
        assert_eq!(left, 0, "a refused layer leaves nothing");
    }
    pulled
}

fn refused(answers: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> String {
    pull(&Server::start(answers)).unwrap_err().to_string()
}

#[test]
fn a_transfer_that_breaks_off_goes_on_where_it_was() {
    let made = Made::new();
    let length = made.layer.len();
    let server = Server::start(move |asked| {
        let mut answer = made.answer(asked);
        if made.is_layer(asked) && asked.from < 400_000 {
            answer.sent = 200_000;
        }
        answer
    });
    assert_eq!(pull(&server).unwrap().files, 2);
    let ranges: Vec<_> = server
        .asked()
        .iter()
        .map(|it| it.from)
        .filter(|it| *it > 0)
        .collect();
    assert_eq!(ranges, [200_000, 400_000]);
    assert!(length > 400_000);
}

#[test]
fn a_registry_without_ranges_sends_it_again_from_the_beginning() {
    let made = Made::new();
    let server = Server::start(move |asked| {
        let whole = Asked {
            from: 0,
            ..asked.clone()
        };
        let mut answer = made.answer(&whole);
        if made.is_layer(asked) && asked.from == 0 {
            answer.sent = 300_000;
        }
        answer
    });
    assert_eq!(pull(&server).unwrap().files, 2);
}

#[test]
fn a_transfer_that_never_gets_on_is_given_up() {
    let made = Made::new();
    let text = refused(move |asked| {
        let mut answer = made.answer(asked);
        if made.is_layer(asked) {
            answer.sent = 1000;
        }
        answer
    });
    assert!(
        text.contains("broke off at byte 5000, at the last of 5 attempts: "),
        "{text}"
    );
}

#[test]
fn a_busy_registry_is_asked_again_as_it_wishes() {
    let made = Made::new();
    let failures = Mutex::new(vec!["503 Busy", "429 Slow down\r\nRetry-After: 0"]);
    let server = Server::start(move |asked| match failures.lock().unwrap().pop() {
        Some(head) if asked.path != "/v2/" => Answer::of(head, ""),
        _ => made.answer(asked),
    });
    pull(&server).unwrap();
    let text = refused(|asked| match &*asked.path {
        "/v2/" => Answer::ok(""),
        _ => Answer::of(
            "418 Teapot",
            "{\"errors\":[{\"code\":\"BAD\",\"message\":\"a\\u001b[2Jb\"}]}",
        ),
    });
    assert!(
        text.ends_with("answers 418 when asked for manifests/1 in app (BAD: a [2Jb)"),
        "{text}"
    );
}

#[test]
fn sizes_are_those_that_the_image_says() {
    for change in [-1, 1] {
        let made = Made::new();
        let (length, name) = (made.layer.len(), digest(&made.layer));
        let size = length.checked_add_signed(change).unwrap();
        let made = made.with_size(size);
        let text = refused(move |asked| made.answer(asked));
        let said = format!("blobs/{name}: it has {length} bytes, and its image says {size}");
        assert!(text.ends_with(&said), "{text}");
    }
}

#[test]
fn content_that_is_not_its_digest_is_refused() {
    for damaged in ["layer", "config"] {
        let made = Made::new();
        let text = refused(move |asked| {
            let mut answer = made.answer(asked);
            let is_blob = asked.path.contains("/blobs/");
            if is_blob && made.is_layer(asked) == (damaged == "layer") {
                let last = answer.body.len() - 1;
                answer.body[last] ^= 1;
            }
            answer
        });
        assert!(text.contains(damaged), "{text}");
    }
}

#[test]
fn endless_documents_are_refused() {
    let text = refused(|asked| match &*asked.path {
        "/v2/" => Answer::ok(""),
        _ => Answer::ok(vec![b' '; 5 << 20]),
    });
    assert!(text.contains("it has more than 4194304 bytes"), "{text}");
}

#[test]
fn redirections_are_followed_as_far_as_they_may_lead() {
    let made = Arc::new(Made::new());
    let other = Arc::clone(&made);
    let elsewhere = Server::start(move |asked| other.answer(asked));
    let redirect =
        |to: String| move |_: &Asked| Answer::of(&format!("307 There\r\nLocation: {to}"), "");
    let to = format!("http://{}", elsewhere.address);
    let server = Server::start(move |asked| match made.is_layer(asked) {
        true => redirect(format!("{to}{}", asked.path))(asked),
        false => made.answer(asked),
    });
    pull(&server).unwrap();
    assert_eq!(elsewhere.asked().len(), 1);
    for (to, said) in [
        ("/v2/app/manifests/1", "one redirection after the other"),
        ("http://registry.example/", "plain HTTP is for this machine"),
        ("file:///etc/passwd", "it is no URL"),
        ("gopher://registry.example/", "it is no URL of HTTP"),
        ("http://[", "it is no URL"),
        ("", "one redirection after the other"),
    ] {
        let text = refused(redirect(to.to_owned()));
        assert!(text.contains(said), "{to}: {text}");
    }
}

#[test]
fn who_is_not_there_is_told_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let asked = Arc::default();
    let text = pull(&Server { address, asked }).unwrap_err().to_string();
    assert!(
        text.contains("can't be reached: Connection refused"),
        "{text}"
    );
}

/// Answers as a registry that wants a token of its own address, which `token` gives.
fn guarded(
    made: Made,
    realm: &'static str,
    token: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
) -> Server {
    Server::start(move |asked| match &*asked.path {
        path if path.starts_with("/token") => token(asked),
        "/v2/" => Answer::ok(""),
        _ if asked.authorization.as_deref() == Some("Bearer good") => made.answer(asked),
        _ => {
            let realm = realm.replace('@', &asked.host);
            let head = "401 Unauthorized\r\nWWW-Authenticate: Bearer realm=";
            Answer::of(&format!("{head}\"{realm}\",service=\"s p\""), "")
        }
    })
}

/// Pulls as the user in a file of users for the server.
fn pull_as(server: &Server, entry: &Value) -> Result<RootImage, SourceError> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("auth.json");
    let json = json!({"auths": {&server.address: entry}});
    fs::write(&file, json.to_string()).unwrap();
    let access = RegistryAccess {
        auth_files: vec![file],
        ..RegistryAccess::default()
    };
    pull_with(server, &directory, access)
}

#[test]
fn a_token_is_fetched_where_the_registry_says_and_as_the_user() {
    let good = || Answer::ok(r#"{"access_token": "good"}"#);
    let server = guarded(Made::new(), "http://@/token?x=1", move |asked| {
        assert_eq!(
            asked.path,
            "/token?x=1&scope=repository%3Aapp%3Apull&service=s%20p"
        );
        assert_eq!(asked.authorization, None);
        good()
    });
    pull(&server).unwrap();
    let tokens = server
        .asked()
        .into_iter()
        .filter(|it| it.path.starts_with("/token"));
    assert_eq!(tokens.count(), 1);

    let server = guarded(Made::new(), "http://@/token", move |asked| {
        assert_eq!(
            asked.authorization.as_deref(),
            Some("Basic dXNlcjpzZWNyZXQ=")
        );
        good()
    });
    pull_as(&server, &json!({"auth": "dXNlcjpzZWNyZXQ="})).unwrap();

    let server = guarded(Made::new(), "/token", move |asked| {
        let expected = "grant_type=refresh_token&client_id=ironclaw&refresh_token=a%2Bb&\
                        scope=repository%3Aapp%3Apull&service=s%20p";
        assert_eq!((&*asked.path, &*asked.form), ("/token", expected));
        good()
    });
    pull_as(&server, &json!({"identitytoken": "a+b"})).unwrap();
    let server = guarded(Made::new(), "/token", |_| unreachable!("it has a token"));
    pull_as(&server, &json!({"registrytoken": "good"})).unwrap();
}

#[test]
fn a_token_that_has_ended_is_fetched_anew() {
    let made = Made::new();
    let given = Mutex::new(0);
    let good_for = Mutex::new(0);
    let server = Server::start(move |asked| {
        let (mut given, mut good_for) = (given.lock().unwrap(), good_for.lock().unwrap());
        let expected = format!("Bearer {given}");
        match &*asked.path {
            "/v2/" => Answer::ok(""),
            path if path.starts_with("/token") => {
                (*given, *good_for) = (*given + 1, 1);
                Answer::ok(format!("{{\"token\": \"{given}\"}}"))
            }
            _ if *good_for > 0 && asked.authorization == Some(expected) => {
                *good_for -= 1;
                made.answer(asked)
            }
            _ => Answer::of("401 No\r\nWWW-Authenticate: Bearer realm=/token", ""),
        }
    });
    pull(&server).unwrap();
}

#[test]
fn users_and_tokens_go_to_nobody_else() {
    // Where the registry wants to have them sent.
    let server = guarded(Made::new(), "http://auth.example/token", |_| unreachable!());
    let text = pull_as(&server, &json!({"auth": "dXNlcjpzZWNyZXQ="}))
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("leads to \"http://auth.example/token\": plain HTTP is for"),
        "{text}"
    );
    // Where it redirects to.
    let made = Arc::new(Made::new());
    let other = Arc::clone(&made);
    let elsewhere = Server::start(move |asked| {
        assert_eq!(asked.authorization, None);
        other.answer(asked)
    });
    let to = format!("http://{}", elsewhere.address);
    let server = Server::start(move |asked| match &asked.authorization {
        _ if asked.path == "/v2/" => Answer::ok(""),
        None => Answer::of("401 No\r\nWWW-Authenticate: Basic realm=x", ""),
        Some(_) if made.is_layer(asked) => {
            Answer::of(&format!("307 There\r\nLocation: {to}{}", asked.path), "")
        }
        Some(_) => made.answer(asked),
    });
    pull_as(&server, &json!({"auth": "dXNlcjpzZWNyZXQ="})).unwrap();
    assert_eq!(elsewhere.asked().len(), 1);
}

#[test]
fn endless_and_senseless_tokens_are_refused() {
    for (answer, said) in [
        (vec![b'x'; 300 << 10], "its token is endless, or breaks off"),
        (b"{}".to_vec(), "it gives no token"),
        (br#"{"token": "a\r\nb"}"#.to_vec(), "it gives no token"),
    ] {
        let server = guarded(Made::new(), "/token", move |_| Answer::ok(answer.clone()));
        let text = pull(&server).unwrap_err().to_string();
        assert!(text.ends_with(said), "{text}");
    }
    let server = guarded(Made::new(), "/token", |_| Answer::of("403 No", ""));
    let text = pull(&server).unwrap_err().to_string();
    assert!(
        text.contains("refuses access to app: log in by `docker login "),
        "{text}"
    );
}
