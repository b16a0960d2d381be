//! The service `filesystem.Filesystem`: the files of a sandbox.

use std::time::SystemTime;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use ironclaw_orchestrator::vm::{FailureKind, FileInfo, FileKind, Files, GuestError};
use serde::Deserialize;
use serde_json::{Value, json};

use super::access::{Entered, enter};
use super::api::Api;
use super::failure::{Code, RpcFailure};
use super::rpc;
use super::shapes::rfc3339;

/// Permission bits of a directory that is made.
const DIRECTORY_MODE: u32 = 0o755;

pub(super) async fn call(
    State(api): State<Api>,
    Path(call): Path<String>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let entered = match enter(&api, &parts.headers).await {
        Ok(entered) => entered,
        Err(refused) => return refused.into_response(),
    };
    let answer = async {
        let message = rpc::whole(body).await?;
        answer(&call, &entered, &parts.headers, &message).await
    };
    match answer.await {
        Ok(answer) => Json(answer).into_response(),
        Err(failure) => failure.into_response(),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct At {
    path: String,
    depth: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Move {
    source: String,
    destination: String,
}

async fn answer(
    call: &str,
    entered: &Entered,
    headers: &HeaderMap,
    message: &Bytes,
) -> Result<Value, RpcFailure> {
    rpc::check_content(headers, rpc::UNARY)?;
    let user = entered.user().await?;
    let files = entered.live.vm.files().as_user(&user);
    if call == "Move" {
        let Move {
            source,
            destination,
        } = rpc::read(message)?;
        let source = rpc::path(entered, &user, &source).await?;
        let destination = rpc::path(entered, &user, &destination).await?;
        make_parent(&files, &destination).await?;
        files.rename(&source, &destination).await?;
        return entry(&files, &destination).await;
    }
    let At { path, depth } = rpc::read(message)?;
    let path = rpc::path(entered, &user, &path).await?;
    match call {
        "Stat" => entry(&files, &path).await,
        "MakeDir" => match files.create_dir_all(&path, DIRECTORY_MODE).await? {
            0 => Err(RpcFailure::new(
                Code::AlreadyExists,
                format!("directory already exists: {path}"),
            )),
            _ => entry(&files, &path).await,
        },
        "ListDir" => list(&files, &path, depth.unwrap_or(1)).await,
        "Remove" => match files.remove_all(&path).await {
            // Nothing is what was wanted.
            Err(GuestError::Failed {
                kind: FailureKind::NotFound,
                ..
            })
            | Ok(_) => Ok(json!({})),
            Err(error) => Err(error.into()),
        },
        _ => Err(RpcFailure::new(
            Code::Unimplemented,
            format!("filesystem.Filesystem has no call {call:?} here"),
        )),
    }
}

async fn make_parent(files: &Files<'_>, path: &str) -> Result<(), RpcFailure> {
    if let Some((parent, _)) = path
        .rsplit_once('/')
        .filter(|(parent, _)| !parent.is_empty())
    {
        files.create_dir_all(parent, DIRECTORY_MODE).await?;
    }
    Ok(())
}

async fn entry(files: &Files<'_>, path: &str) -> Result<Value, RpcFailure> {
    let info = files.symlink_metadata(path).await?;
    Ok(json!({ "entry": shown(files, &info).await }))
}

async fn list(files: &Files<'_>, path: &str, depth: u32) -> Result<Value, RpcFailure> {
    let of = files.metadata(path).await?;
    if of.kind != FileKind::Directory {
        let text = format!("path is not a directory: {path}");
        return Err(RpcFailure::invalid(text));
    }
    let found = files.list_deep(path, depth.max(1)).await?;
    let mut entries = Vec::with_capacity(found.len());
    for info in &found {
        entries.push(shown(files, info).await);
    }
    Ok(match entries.is_empty() {
        true => json!({}),
        false => json!({ "entries": entries }),
    })
}

/// Writes a file's properties; those of what a link refers to, as its kind.
async fn shown(files: &Files<'_>, info: &FileInfo) -> Value {
    let kind = match (&info.target, info.kind) {
        (Some(_), _) => match files.metadata(&info.path).await {
            Ok(target) => target.kind,
            Err(_) => info.kind,
        },
        (None, kind) => kind,
    };
    let name = info.path.file_name().unwrap_or(info.path.as_os_str());
    let mut shown = json!({
        "name": name.to_string_lossy(),
        "type": match kind {
            FileKind::File => "FILE_TYPE_FILE",
            FileKind::Directory => "FILE_TYPE_DIRECTORY",
            _ => "FILE_TYPE_UNSPECIFIED",
        },
        "path": info.path.to_string_lossy(),
        // 64 bits are texts in the JSON of protobuf.
        "size": info.size.to_string(),
        "mode": info.mode,
        "permissions": permissions(info),
        "owner": owner(&info.owner, info.uid),
        "group": owner(&info.group, info.gid),
        "modifiedTime": rfc3339(info.modified.max(SystemTime::UNIX_EPOCH)),
    });
    if let Some(target) = &info.target {
        shown["symlinkTarget"] = json!(target.to_string_lossy());
    }
    shown
}

fn owner(name: &std::ffi::OsStr, number: u32) -> String {
    match name.is_empty() {
        true => number.to_string(),
        false => name.to_string_lossy().into_owned(),
    }
}

/// Writes a mode as Go's `fs.FileMode` does.
fn permissions(info: &FileInfo) -> String {
    let kind = match info.kind {
        FileKind::Directory => 'd',
        FileKind::Link => 'L',
        FileKind::Fifo => 'p',
        FileKind::Socket => 'S',
        FileKind::BlockDevice | FileKind::CharacterDevice => 'D',
        _ => '-',
    };
    let bits = (0..9).rev().map(|bit| match info.mode >> bit & 1 {
        0 => '-',
        _ => ['x', 'w', 'r'][bit % 3],
    });
    std::iter::once(kind).chain(bits).collect()
}
