//! Copies files between here and a sandbox.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use ironclaw_console::output;
use ironclaw_console::signals::Signals;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::args::{Cp, Place};
use super::which::{self, quoted};
use crate::client::{Client, Method};
use crate::refusal::ClientError;
use crate::transfer::{Arriving, Pieces, arriving, body, pass};

/// The media type of an archive.
const TAR: &str = "application/x-tar";

/// Directories that come out of a sandbox at a time, at most.
const MAX_DIRECTORIES: usize = 1_000_000;

/// What became of a copy.
#[derive(Debug, Serialize, Deserialize)]
struct Copied {
    /// Files and directories, as far as they are counted.
    files: u64,
    /// Those that were left out.
    omitted: u64,
}

/// What is at a path of a sandbox.
#[derive(Debug, Deserialize)]
struct Info {
    kind: String,
    mode: u32,
}

/// The files of a sandbox.
#[derive(Debug)]
struct There<'a> {
    client: &'a Client,
    id: String,
    user: Option<String>,
    keep_owners: bool,
}

pub(super) async fn copy(client: &Client, task: Cp, json: bool) -> Result<()> {
    let mut signals = Signals::terminating()?;
    let Cp {
        source,
        destination,
        user,
        keep_owners,
        ..
    } = task;
    let open = async |sandbox: &str| {
        Ok::<_, anyhow::Error>(There {
            client,
            id: which::id(client, sandbox).await?,
            user: user.clone(),
            keep_owners,
        })
    };
    let copied = signals.until_first(async {
        match (source, destination) {
            (Place::Here(from), Place::There { sandbox, path }) => {
                open(&sandbox).await?.put(from, &path).await
            }
            (Place::Stream, Place::There { sandbox, path }) => {
                let there = open(&sandbox).await?;
                let print = |pieces: &mut Pieces| {
                    io::copy(&mut io::stdin().lock(), pieces)?;
                    Ok(())
                };
                there.unpack(&path, print).await
            }
            (Place::There { sandbox, path }, Place::Here(to)) => {
                open(&sandbox).await?.get(&path, to).await
            }
            (Place::There { sandbox, path }, Place::Stream) => {
                open(&sandbox).await?.print(&path).await
            }
            _ => bail!("one of both is in a sandbox, as SANDBOX:PATH, and the other one is not"),
        }
    });
    let copied = copied.await?;
    match json {
        true => output::json(&copied),
        false if copied.omitted > 0 => {
            eprintln!("ironclaw: {} files were left out", copied.omitted);
            Ok(())
        }
        false => Ok(()),
    }
}

impl There<'_> {
    fn call(&self, what: &str, path: &str) -> String {
        let mut call = format!(
            "/v1/sandboxes/{}/files/{what}?path={}",
            quoted(&self.id),
            quoted(path)
        );
        if let Some(user) = &self.user {
            call += &format!("&user={}", quoted(user));
        }
        call
    }

    /// Looks at what is at a path, by a symbolic link or not; `None` if there is nothing.
    async fn look(&self, path: &str) -> Result<Option<Info>> {
        let info = async |path: &str| {
            let call = self.call("info", path);
            match self
                .client
                .call::<Info>(Method::GET, &call, None::<&()>)
                .await
            {
                Ok(info) => Ok(Some(info)),
                Err(ClientError::Refused(refusal)) if refusal.kind == "no_file" => Ok(None),
                Err(error) => Err(error),
            }
        };
        let found = info(path).await?;
        if found.as_ref().is_some_and(|found| found.kind == "symlink") {
            // What a link leads to is a directory if there is something in it.
            if let Ok(Some(below)) = info(&format!("{path}/.")).await {
                return Ok(Some(below));
            }
        }
        Ok(found)
    }

    /// Unpacks an archive that is written on another thread.
    async fn unpack<F>(&self, directory: &str, write: F) -> Result<Copied>
    where
        F: FnOnce(&mut Pieces) -> io::Result<()> + Send + 'static,
    {
        let mut call = self.call("archive", directory);
        if self.keep_owners {
            call += "&keep_owners=true";
        }
        let (mut pieces, content) = body();
        let writing = spawn_blocking(move || {
            write(&mut pieces)?;
            pieces.finish()
        });
        let sent = self.client.send::<Copied>(&call, TAR, content).await;
        match writing.await? {
            // The daemon has said why it takes no more.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe && sent.is_err() => {}
            written => written.context("can't read what is to be copied")?,
        }
        Ok(sent?)
    }

    /// Copies what is here to a path there.
    async fn put(&self, from: PathBuf, to: &str) -> Result<Copied> {
        let found = fs::metadata(&from);
        let found = found.with_context(|| format!("can't copy {}", from.display()))?;
        if !found.is_dir() && !found.is_file() {
            bail!("{} is no file and no directory", from.display());
        }
        let there = self.look(to).await?;
        let is_directory = there
            .as_ref()
            .is_some_and(|there| there.kind == "directory");
        if found.is_dir() && !is_directory && there.is_some() {
            bail!("{to} is no directory, and {} is one", from.display());
        }
        let (directory, name) = match is_directory {
            true => (to.to_owned(), own_name(&from)?),
            false => {
                if to.ends_with('/') && !found.is_dir() {
                    bail!("there is no directory {to} in the sandbox");
                }
                let (above, name) = split(to)?;
                (above.to_owned(), name.into())
            }
        };
        self.unpack(&directory, move |pieces| {
            let mut archive = tar::Builder::new(pieces);
            archive.follow_symlinks(false);
            match found.is_dir() {
                true => archive.append_dir_all(name, from)?,
                // The link that is named is followed, and none in a directory.
                false => archive.append_file(name, &mut File::open(from)?)?,
            }
            archive.finish()
        })
        .await
    }

    /// Copies what is there to a path here.
    async fn get(&self, from: &str, to: PathBuf) -> Result<Copied> {
        let Some(there) = self.look(from).await? else {
            bail!("there is no {from} in the sandbox");
        };
        let to = match to.is_dir() && !from.ends_with("/.") {
            true => to.join(split(from)?.1),
            false => to,
        };
        if there.kind == "directory" {
            return self
                .read(&self.call("archive", from), move |mut content| {
                    if !to.is_dir() {
                        fs::create_dir(&to)
                            .with_context(|| format!("can't make {}", to.display()))?;
                    }
                    let files = unpack(&mut content, &to)?;
                    let omitted = 0;
                    Ok(Copied { files, omitted })
                })
                .await;
        }
        let mode = there.mode & 0o777;
        self.read(&self.call("content", from), move |mut content| {
            let directory = to.parent().filter(|above| !above.as_os_str().is_empty());
            let directory = directory.unwrap_or(Path::new("."));
            // It gets its name when all of it is there.
            let mut file = tempfile::NamedTempFile::new_in(directory)
                .with_context(|| format!("can't make a file in {}", directory.display()))?;
            io::copy(&mut content, &mut file)?;
            file.as_file()
                .set_permissions(Permissions::from_mode(mode))?;
            let named = file.persist(&to);
            named.with_context(|| format!("can't write {}", to.display()))?;
            let (files, omitted) = (1, 0);
            Ok(Copied { files, omitted })
        })
        .await
    }

    /// Prints an archive of a directory there.
    async fn print(&self, from: &str) -> Result<Copied> {
        self.read(&self.call("archive", from), |mut content| {
            let mut stdout = io::stdout().lock();
            io::copy(&mut content, &mut stdout)?;
            stdout.flush()?;
            let (files, omitted) = (0, 0);
            Ok(Copied { files, omitted })
        })
        .await
    }

    /// Reads an answer on another thread.
    async fn read<F>(&self, call: &str, read: F) -> Result<Copied>
    where
        F: FnOnce(Arriving) -> Result<Copied> + Send + 'static,
    {
        let answer = self.client.open(Method::GET, call, Bytes::new()).await?;
        let (to, content) = arriving();
        let reading = spawn_blocking(move || read(content));
        pass(answer.into_body(), to).await;
        reading.await?
    }
}

/// Unpacks what comes out of a sandbox; returns how many files that were. They get no rights here: no owners,
/// and no bits of them. None leads out of the directory.
fn unpack(content: impl Read, to: &Path) -> Result<u64> {
    let mut archive = tar::Archive::new(content);
    let mut directories = Vec::new();
    let mut files = 0;
    for entry in archive.entries()? {
        let mut entry = entry?;
        files += 1;
        if entry.header().entry_type().is_dir() {
            // Their modes may not let others in.
            directories.push(entry);
            if directories.len() > MAX_DIRECTORIES {
                bail!("there are more than {MAX_DIRECTORIES} directories");
            }
        } else {
            unpack_one(&mut entry, to)?;
        }
    }
    for mut entry in directories.into_iter().rev() {
        unpack_one(&mut entry, to)?;
    }
    Ok(files)
}

fn unpack_one<R: Read>(entry: &mut tar::Entry<'_, R>, to: &Path) -> Result<()> {
    let shown = entry.path_bytes().escape_ascii().to_string();
    let unpacked = entry.unpack_in(to);
    match unpacked.with_context(|| format!("can't copy {shown}"))? {
        true => Ok(()),
        false => bail!("{shown} leads out of {}", to.display()),
    }
}

/// Returns the name under which a path here is copied into a directory; none if what is in it is meant.
fn own_name(path: &Path) -> Result<OsString> {
    let text = path.as_os_str().as_encoded_bytes();
    if text == b"." || text.ends_with(b"/.") {
        return Ok(".".into());
    }
    let name = match path.file_name() {
        Some(name) => Some(name.to_owned()),
        None => fs::canonicalize(path)?.file_name().map(ToOwned::to_owned),
    };
    name.with_context(|| format!("{} has no name of its own", path.display()))
}

/// Splits a path of a sandbox into the directory and the name.
fn split(path: &str) -> Result<(&str, &str)> {
    let trimmed = path.trim_end_matches('/');
    match trimmed.rsplit_once('/') {
        Some((_, "" | "." | "..")) => {
            bail!("{path} has no name of its own")
        }
        Some(("", name)) => Ok(("/", name)),
        Some((above, name)) => Ok((above, name)),
        None => bail!("{path} has no name of its own"),
    }
}
