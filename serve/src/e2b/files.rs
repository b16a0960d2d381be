//! Transfers of files: `GET /files?path=` and `POST /files?path=`.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequest as _, Multipart, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use ironclaw_orchestrator::vm::{FileKind, GuestError, WriteOptions};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::access::{self, Entered, Refused, Target, enter, let_in};
use super::api::Api;
use super::failure::{Code, Failure, RpcFailure};
use super::gunzip::gunzip;
use super::metadata::{self, Metadata};
use super::rpc;
use super::signature::Signed;
use super::user_files::UserFiles;
use crate::sandbox::Sandbox;
use crate::streamed_body;

/// Files of one upload, at most.
const MAX_FILES: usize = 1000;

/// Permission bits of a file that is made.
const FILE_MODE: u32 = 0o644;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    path: Option<String>,
    username: Option<String>,
    signature: Option<String>,
    signature_expiration: Option<u64>,
}

/// A refusal in the form of these calls.
#[derive(Debug)]
pub(super) enum Refusal {
    Access(Refused),
    Failed(Failure),
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Failed(failure) => Self::Failed(failure.into()),
            unreachable => Self::Access(unreachable),
        }
    }
}

impl From<RpcFailure> for Refusal {
    fn from(failure: RpcFailure) -> Self {
        Self::Failed(failure.into())
    }
}

impl From<GuestError> for Refusal {
    fn from(error: GuestError) -> Self {
        RpcFailure::from(error).into()
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Access(refused) => refused.into_response(),
            Self::Failed(failure) => failure.into_response(),
        }
    }
}

fn read(asked: Result<Query<Asked>, QueryRejection>) -> Result<Asked, Refusal> {
    match asked {
        Ok(Query(asked)) => Ok(asked),
        Err(error) => Err(RpcFailure::invalid(error.body_text()).into()),
    }
}

/// Lets in who has the sandbox's token, or a URL signed by it.
async fn admit(
    api: &Api,
    headers: &HeaderMap,
    asked: &Asked,
    operation: &str,
) -> Result<Entered, Refusal> {
    let Some(signature) = &asked.signature else {
        let mut entered = enter(api, headers).await?;
        entered.user = asked.username.clone().or(entered.user);
        return Ok(entered);
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map(|since| since.as_secs()).unwrap_or_default();
    if asked.signature_expiration.is_some_and(|until| until < now) {
        let text = "signature is already expired";
        return Err(RpcFailure::new(Code::Unauthenticated, text).into());
    }
    let signed = Signed {
        path: asked.path.as_deref().unwrap_or_default(),
        operation,
        user: asked.username.as_deref().unwrap_or_default(),
        expiration: asked.signature_expiration,
    };
    let signs = |sandbox: &Sandbox| signed.is_signed_by(&sandbox.record.token, signature);
    let found = match Target::of(headers) {
        Some(_) => Some(access::find(api, headers)?).filter(|sandbox| signs(sandbox)),
        // A URL of a single host has no sandbox's id: the token tells it.
        None => api.0.sandboxes.find(signs),
    };
    let none = || RpcFailure::new(Code::Unauthenticated, "the signature is none of this file");
    let user = asked.username.clone();
    Ok(let_in(api, found.ok_or_else(none)?, user).await?)
}

pub(super) async fn download(
    State(api): State<Api>,
    asked: Result<Query<Asked>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let asked = read(asked)?;
    let entered = admit(&api, &headers, &asked, "read").await?;
    let user = entered.user().await?;
    let path = asked.path.unwrap_or_default();
    let path = rpc::path(&entered, &user, &path).await?;
    let files = UserFiles::of(&entered, &user);
    let info = files.metadata(&path).await?;
    if info.kind != FileKind::File {
        let text = format!("path {path:?} is not a regular file");
        return Err(RpcFailure::invalid(text).into());
    }
    let reader = files.reader(&path, 0, None).await?;
    let mut response = streamed_body::of_reader(reader).into_response();
    let binary = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, binary);
    Ok(response)
}

pub(super) async fn upload(
    State(api): State<Api>,
    asked: Result<Query<Asked>, QueryRejection>,
    request: Request,
) -> Result<Response, Refusal> {
    let asked = read(asked)?;
    let headers = request.headers().clone();
    let entered = admit(&api, &headers, &asked, "write").await?;
    let user = entered.user().await?;
    let content = headers.get(header::CONTENT_TYPE);
    let content = content
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let request = match headers.get(header::CONTENT_ENCODING) {
        None => request,
        Some(encoding) if encoding.as_bytes().eq_ignore_ascii_case(b"identity") => request,
        Some(encoding) if encoding.as_bytes().eq_ignore_ascii_case(b"gzip") => {
            request.map(|body| Body::from_stream(gunzip(body.into_data_stream())))
        }
        Some(_) => {
            let text = "of all compressed content, only that of gzip is taken";
            return Err(RpcFailure::invalid(text).into());
        }
    };
    let upload = Upload {
        entered: &entered,
        user: &user,
        metadata: metadata::of_upload(&headers)?,
    };
    let mut written = Vec::new();
    if content.starts_with("multipart/form-data") {
        let bad = |error: &dyn std::fmt::Display| {
            RpcFailure::invalid(format!("the form can't be read: {error}"))
        };
        let form = Multipart::from_request(request, &api).await;
        let mut form = form.map_err(|error| bad(&error))?;
        while let Some(field) = form.next_field().await.map_err(|error| bad(&error))? {
            if field.name() != Some("file") {
                continue;
            }
            if written.len() == MAX_FILES {
                let text = format!("one upload has {MAX_FILES} files at most");
                return Err(RpcFailure::invalid(text).into());
            }
            let path = match (&asked.path, field.file_name()) {
                (Some(path), _) => path.clone(),
                (None, Some(name)) => name.to_owned(),
                (None, None) => return Err(RpcFailure::invalid("a file has no path").into()),
            };
            written.push(upload.write(&path, field).await?);
        }
    } else {
        let none = || RpcFailure::invalid("no path is given");
        let path = asked.path.clone().ok_or_else(none)?;
        let body = request.into_body().into_data_stream();
        written.push(upload.write(&path, body).await?);
    }
    Ok(Json(written).into_response())
}

/// An upload of files that have a user and metadata in common.
struct Upload<'a> {
    entered: &'a Entered,
    user: &'a str,
    metadata: Metadata,
}

impl Upload<'_> {
    /// Writes a file, which belongs to the user then. One that is there keeps its mode and other names, as at
    /// E2B.
    async fn write<E: std::fmt::Display>(
        &self,
        path: &str,
        content: impl Stream<Item = Result<Bytes, E>>,
    ) -> Result<Value, Refusal> {
        let path = rpc::path(self.entered, self.user, path).await?;
        let files = UserFiles::of(self.entered, self.user);
        if let Ok(info) = files.metadata(&path).await
            && info.kind == FileKind::Directory
        {
            let text = format!("path is a directory: {path}");
            return Err(RpcFailure::invalid(text).into());
        }
        files.make_parent(&path).await?;
        let options = WriteOptions::new().mode(FILE_MODE).overwrite();
        let mut writer = files.writer(&path, options).await?;
        let mut content = std::pin::pin!(content);
        while let Some(piece) = content.next().await {
            let piece = piece
                .map_err(|error| RpcFailure::invalid(format!("the file can't be read: {error}")))?;
            if writer.write_all(&piece).await.is_err() {
                // The guest's reason comes with the end.
                break;
            }
        }
        writer.finish().await?;
        files.give(&path).await?;
        let metadata = metadata::write(&files, &path, &self.metadata).await?;
        let name = path.rsplit('/').next().unwrap_or_default();
        let mut written = json!({ "path": path, "name": name, "type": "file" });
        if !metadata.is_empty() {
            written["metadata"] = json!(metadata);
        }
        Ok(written)
    }
}
