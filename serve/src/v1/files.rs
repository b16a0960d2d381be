//! The files of a sandbox. Paths are absolute, and the guest's.

use std::path::Path;

use axum::Json;
use axum::body::Body as Content;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use ironclaw_orchestrator::vm::{ExtractSummary, FileInfo, FileKind, Owners, WriteOptions};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use utoipa::{IntoParams, ToSchema};

use super::api::Api;
use super::ask::{Asked, Named};
use super::exec::absolute;
use super::problem::{Kind, Problem};
use super::shapes::rfc3339;
use crate::sandbox::Live;

/// Bytes of a file that are sent at a time.
const CHUNK: usize = 64 * 1024;

/// Files of a list, at most: more are to be taken as an archive.
const MAX_FILES: usize = 10_000;

/// Directories within directories of a list, at most.
const MAX_DEPTH: u32 = 64;

type Answer<T> = Result<T, Problem>;

/// A file.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct File {
    path: String,
    /// `file`, `directory`, `symlink` or `other`, which is a device, a socket or a pipe.
    kind: &'static str,
    /// Permission bits.
    mode: u32,
    uid: u32,
    gid: u32,
    /// The name of its owner, if the guest has one.
    owner: String,
    group: String,
    size: u64,
    /// When its content changed last (RFC 3339).
    modified: String,
    /// What a symbolic link refers to.
    target: Option<String>,
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

impl From<FileInfo> for File {
    fn from(info: FileInfo) -> Self {
        Self {
            path: text(&info.path),
            kind: match info.kind {
                FileKind::File => "file",
                FileKind::Directory => "directory",
                FileKind::Link => "symlink",
                _ => "other",
            },
            mode: info.mode,
            uid: info.uid,
            gid: info.gid,
            owner: info.owner.to_string_lossy().into_owned(),
            group: info.group.to_string_lossy().into_owned(),
            size: info.size,
            modified: rfc3339(info.modified),
            target: info.target.as_deref().map(text),
        }
    }
}

/// A file, and who asks for it.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// Its absolute path.
    path: String,
    /// The user of the guest whose permissions hold; by default the sandbox's.
    user: Option<String>,
}

/// Finds the guest, and the user that a request acts as.
pub(super) async fn enter(api: &Api, id: &str, user: Option<String>) -> Answer<(Live, String)> {
    let (sandbox, live) = api.live(id).await?;
    let user = match user {
        Some(user) => user,
        None => sandbox.user(&live.vm).await?,
    };
    Ok((live, user))
}

/// Looks at a file.
#[utoipa::path(
    get, path = "/v1/sandboxes/{id}/files/info", tag = "files",
    params(("id" = String, Path, description = "The sandbox's id"), Which),
    responses(
        (status = 200, body = File),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn info(
    State(api): State<Api>,
    Named(id): Named<String>,
    Asked(Which { path, user }): Asked<Which>,
) -> Answer<Json<File>> {
    let (live, user) = enter(&api, &id, user).await?;
    let files = live.vm.files().as_user(user);
    let info = files.symlink_metadata(absolute(&path)?).await?;
    Ok(Json(info.into()))
}

/// A directory, and who asks for it.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Below {
    /// Its absolute path.
    path: String,
    /// The user of the guest whose permissions hold; by default the sandbox's.
    user: Option<String>,
    /// Directories within directories: 1, the default, lists what is in it alone.
    depth: Option<u32>,
}

/// Lists a directory: 10,000 files at most.
#[utoipa::path(
    get, path = "/v1/sandboxes/{id}/files", tag = "files",
    params(("id" = String, Path, description = "The sandbox's id"), Below),
    responses(
        (status = 200, body = Vec<File>),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(
    State(api): State<Api>,
    Named(id): Named<String>,
    Asked(Below { path, user, depth }): Asked<Below>,
) -> Answer<Json<Vec<File>>> {
    let depth = depth.unwrap_or(1);
    if !(1..=MAX_DEPTH).contains(&depth) {
        let text = format!("depth is a number from 1 to {MAX_DEPTH}");
        return Err(Problem::invalid(text));
    }
    let (live, user) = enter(&api, &id, user).await?;
    let files = live.vm.files().as_user(user);
    let mut listing = files.walk(absolute(&path)?, depth).await?;
    let mut all = Vec::new();
    while let Some(info) = listing.next().await? {
        if all.len() == MAX_FILES {
            let text = format!("there are more than {MAX_FILES} files; take an archive");
            return Err(Problem::new(Kind::TooLarge, text));
        }
        all.push(info.into());
    }
    Ok(Json(all))
}

/// Sends what a reader has.
fn stream_of(reader: impl AsyncRead + Unpin + Send + 'static) -> Content {
    let pieces = stream::unfold(Some(reader), |reader| async move {
        let mut reader = reader?;
        let mut chunk = vec![0; CHUNK];
        match reader.read(&mut chunk).await {
            Ok(0) => None,
            Ok(count) => {
                chunk.truncate(count);
                Some((Ok(Bytes::from(chunk)), Some(reader)))
            }
            // Ends the connection, so that a part is not taken for all of it.
            Err(error) => Some((Err(error), None)),
        }
    });
    Content::from_stream(pieces)
}

/// Reads a file.
#[utoipa::path(
    get, path = "/v1/sandboxes/{id}/files/content", tag = "files",
    params(("id" = String, Path, description = "The sandbox's id"), Which),
    responses(
        (status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn read(
    State(api): State<Api>,
    Named(id): Named<String>,
    Asked(Which { path, user }): Asked<Which>,
) -> Answer<Response> {
    let (live, user) = enter(&api, &id, user).await?;
    let files = live.vm.files().as_user(user);
    let path = absolute(&path)?;
    if files.metadata(path).await?.kind != FileKind::File {
        return Err(Problem::invalid(format!("{path:?} is no regular file")));
    }
    let reader = files.reader(path, 0, None).await?;
    let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
    Ok((kind, stream_of(reader)).into_response())
}

/// How a file is written.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    /// Its absolute path.
    path: String,
    /// The user of the guest whose permissions hold; by default the sandbox's.
    user: Option<String>,
    /// Permission bits of a file that is made, in octal: 644 by default.
    mode: Option<String>,
    /// Make the directories that are missing.
    #[serde(default)]
    parents: bool,
}

/// A file that was written.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Wrote {
    path: String,
    bytes: u64,
}

/// Writes a file, which gets its name when all of it is there.
#[utoipa::path(
    put, path = "/v1/sandboxes/{id}/files/content", tag = "files",
    params(("id" = String, Path, description = "The sandbox's id"), Written),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 200, body = Wrote),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn write(
    State(api): State<Api>,
    Named(id): Named<String>,
    Asked(written): Asked<Written>,
    content: Content,
) -> Answer<Json<Wrote>> {
    let Written {
        path,
        user,
        mode,
        parents,
    } = written;
    let bad = |_| Problem::invalid("mode has permission bits in octal, such as 755");
    let mode = mode.map(|mode| u32::from_str_radix(&mode, 8).map_err(bad));
    let mut options = WriteOptions::new();
    if let Some(mode) = mode.transpose()? {
        options = options.mode(mode);
    }
    if parents {
        options = options.parents();
    }
    let (live, user) = enter(&api, &id, user).await?;
    let files = live.vm.files().as_user(user);
    let mut writer = files.writer(absolute(&path)?, options).await?;
    let mut bytes = 0;
    let mut pieces = std::pin::pin!(whole(content));
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        bytes += piece.len() as u64;
        if writer.write_all(&piece).await.is_err() {
            // The guest's reason comes with the end.
            break;
        }
    }
    writer.finish().await?;
    Ok(Json(Wrote { path, bytes }))
}

fn whole(content: Content) -> impl Stream<Item = Answer<Bytes>> {
    content.into_data_stream().map(|piece| {
        piece.map_err(|error| Problem::invalid(format!("the body can't be read: {error}")))
    })
}

/// Reads a directory as a tar stream.
#[utoipa::path(
    get, path = "/v1/sandboxes/{id}/files/archive", tag = "files",
    params(("id" = String, Path, description = "The sandbox's id"), Which),
    responses(
        (status = 200, body = Vec<u8>, content_type = "application/x-tar"),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn archive(
    State(api): State<Api>,
    Named(id): Named<String>,
    Asked(Which { path, user }): Asked<Which>,
) -> Answer<Response> {
    let (live, user) = enter(&api, &id, user).await?;
    let files = live.vm.files().as_user(user);
    let reader = files.archive(absolute(&path)?).await?;
    let kind = [(header::CONTENT_TYPE, "application/x-tar")];
    Ok((kind, stream_of(reader)).into_response())
}

/// Where an archive is unpacked.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Unpacked {
    /// The absolute path of a directory.
    path: String,
    /// The user of the guest whose permissions hold, and whose the files are; by default the sandbox's.
    user: Option<String>,
    /// Give files the owners of the archive, by number: for root.
    #[serde(default)]
    keep_owners: bool,
}

/// An archive that was unpacked.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Extracted {
    /// Entries that were made.
    files: u64,
    /// Entries that were left out: devices, if owners are not kept.
    omitted: u64,
}

/// Unpacks a tar stream in a directory, and replaces what has the names of its files. Nothing outside of the
/// directory is touched.
#[utoipa::path(
    put, path = "/v1/sandboxes/{id}/files/archive", tag = "files",
    params(("id" = String, Path, description = "The sandbox's id"), Unpacked),
    request_body(content = Vec<u8>, content_type = "application/x-tar"),
    responses(
        (status = 200, body = Extracted),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn extract(
    State(api): State<Api>,
    Named(id): Named<String>,
    Asked(unpacked): Asked<Unpacked>,
    content: Content,
) -> Answer<Json<Extracted>> {
    let Unpacked {
        path,
        user,
        keep_owners,
    } = unpacked;
    let owners = match keep_owners {
        true => Owners::OfArchive,
        false => Owners::OfUser,
    };
    let (live, user) = enter(&api, &id, user).await?;
    let files = live.vm.files().as_user(user);
    let mut archive = files.extract(absolute(&path)?, owners).await?;
    let mut pieces = std::pin::pin!(whole(content));
    while let Some(piece) = pieces.next().await {
        if archive.write_all(&piece?).await.is_err() {
            // The guest's reason comes with the end.
            break;
        }
    }
    let ExtractSummary { files, omitted, .. } = archive.finish().await?;
    Ok(Json(Extracted { files, omitted }))
}

/// Makes a directory, and those above it that are missing.
#[utoipa::path(
    post, path = "/v1/sandboxes/{id}/files/directory", tag = "files",
    params(("id" = String, Path, description = "The sandbox's id"), Which),
    responses(
        (status = 204),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn make_directory(
    State(api): State<Api>,
    Named(id): Named<String>,
    Asked(Which { path, user }): Asked<Which>,
) -> Answer<StatusCode> {
    let (live, user) = enter(&api, &id, user).await?;
    let files = live.vm.files().as_user(user);
    files.create_dir_all(absolute(&path)?, 0o755).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a file gets for a name.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Renamed {
    /// Its absolute path.
    path: String,
    /// Its new one.
    to: String,
    /// The user of the guest whose permissions hold; by default the sandbox's.
    user: Option<String>,
}

/// Gives a file another path.
#[utoipa::path(
    post, path = "/v1/sandboxes/{id}/files/rename", tag = "files",
    params(("id" = String, Path, description = "The sandbox's id"), Renamed),
    responses(
        (status = 204),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn rename(
    State(api): State<Api>,
    Named(id): Named<String>,
    Asked(Renamed { path, to, user }): Asked<Renamed>,
) -> Answer<StatusCode> {
    let (live, user) = enter(&api, &id, user).await?;
    let files = live.vm.files().as_user(user);
    files.rename(absolute(&path)?, absolute(&to)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What is removed.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Removed {
    /// Its absolute path.
    path: String,
    /// The user of the guest whose permissions hold; by default the sandbox's.
    user: Option<String>,
    /// Remove a directory with all that is in it.
    #[serde(default)]
    recursive: bool,
}

/// Removes a file or directory.
#[utoipa::path(
    delete, path = "/v1/sandboxes/{id}/files", tag = "files",
    params(("id" = String, Path, description = "The sandbox's id"), Removed),
    responses(
        (status = 204),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn remove(
    State(api): State<Api>,
    Named(id): Named<String>,
    Asked(Removed {
        path,
        user,
        recursive,
    }): Asked<Removed>,
) -> Answer<StatusCode> {
    let (live, user) = enter(&api, &id, user).await?;
    let files = live.vm.files().as_user(user);
    match recursive {
        true => drop(files.remove_all(absolute(&path)?).await?),
        false => files.remove(absolute(&path)?).await?,
    }
    Ok(StatusCode::NO_CONTENT)
}
