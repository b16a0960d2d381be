//! What is in the files of a sandbox: read, written, and as archives.

use axum::Json;
use axum::body::Body as Content;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use ironclaw_orchestrator::vm::{ExtractSummary, FileKind, Owners, WriteOptions};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt as _;
use utoipa::{IntoParams, ToSchema};

use super::api::Api;
use super::ask::{Asked, Named};
use super::exec::absolute;
use super::files::{Which, enter};
use super::problem::Problem;
use crate::streamed_body;

type Answer<T> = Result<T, Problem>;

/// Reads a file.
#[utoipa::path(
    get, path = "/v1/sandboxes/{id}/files/content", tag = "files",
    params(("id" = String, Path, description = "The sandbox's id"), Which),
    responses(
        (status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
        Problem,
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
    Ok((kind, streamed_body::of_reader(reader)).into_response())
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
        Problem,
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
        Problem,
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
    Ok((kind, streamed_body::of_reader(reader)).into_response())
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
        Problem,
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
