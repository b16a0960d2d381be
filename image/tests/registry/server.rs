//! Debian's registry, on a port of its own.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use ironclaw_host::sys;

/// A registry that runs while this lives.
pub(crate) struct Server {
    child: Child,
    /// Its address: `127.0.0.1:PORT`.
    pub(crate) address: String,
}

impl Server {
    /// Starts a registry that keeps its images in `directory`; `more` is added to its configuration.
    pub(crate) fn start(directory: &Path, http: &str, more: &str) -> Self {
        let config = directory.join("registry.yml");
        let data = directory.join("registry");
        let text = format!(
            "version: 0.1\n\
             log: {{level: info, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"127.0.0.1:0\"{http}}}\n{more}",
            data.display()
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new("docker-registry");
        sys::bind_to_parent(&mut command);
        command.arg("serve").arg(&config).stdout(Stdio::null());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        let address = loop {
            let mut line = String::new();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "it ended: {said}");
            if let Some(at) = line.find("listening on ") {
                let rest = &line[at + "listening on ".len()..];
                break rest.split([',', '"']).next().unwrap().to_owned();
            }
            said += &line;
        };
        // It waits for who reads its log.
        thread::spawn(move || drop(log.read_to_end(&mut Vec::new())));
        Self { child, address }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
