//! Tests `ironclaw run -p`.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;

use rustix::process::{Signal, kill_process};

use crate::apart::pid;
use crate::command::{ironclaw, text};
use crate::vm::{TIMEOUT, runs};

fn get(at: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.write_all(b"GET /file HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    (!answer.is_empty()).then_some(answer)
}

#[test]
fn a_port_leads_to_the_guest_while_the_command_runs() {
    if !runs() {
        return;
    }
    let script = "cd /tmp && echo hello > file && httpd -p 127.0.0.1:80 && echo up && sleep 1000";
    let mut run = ironclaw(&["run", "-p", "0:80", "-p", "0:81", "--", "sh", "-c", script]);
    run.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = run.spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut address = || {
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        let address = line.split_whitespace().find_map(|word| word.parse().ok());
        address.unwrap_or_else(|| panic!("{line}"))
    };
    let (web, nobody): (SocketAddr, SocketAddr) = (address(), address());
    assert!(web.ip().is_loopback());
    let mut up = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut up).unwrap();
    assert_eq!(up, "up\n");
    let all: Vec<_> = (0..20)
        .map(|_| std::thread::spawn(move || get(web)))
        .collect();
    for answer in all {
        assert!(answer.join().unwrap().unwrap().ends_with("\r\n\r\nhello\n"));
    }
    assert_eq!(get(nobody), None, "nobody listens there");
    kill_process(pid(child.id()), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(TcpStream::connect(web).is_err(), "its port is closed");
}

#[test]
fn a_port_that_others_have_is_said_before_anything_is_started() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap();
    let port = format!("{}:80", at.port());
    let output = ironclaw(&["run", "-p", &port, "--", "true"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let said = text(&output.stderr);
    assert!(
        said.contains(&at.to_string()) && said.contains("in use"),
        "{said}"
    );
}

#[test]
fn changes_of_a_root_in_memory_are_refused_before_there_is_a_vm() {
    if !runs() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("out.tar");
    let file = file.to_str().unwrap();
    let output = ironclaw(&["run", "--changes", file, "--", "true"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains("--from SOURCE"), "{said}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}
