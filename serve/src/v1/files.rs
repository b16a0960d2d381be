//! The files of a sandbox. Paths are absolute, and the guest's.

use std::path::Path;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use ironclaw_orchestrator::vm::{FileInfo, FileKind};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::api::Api;
use super::ask::{Asked, Named};
use super::exec::absolute;
use super::problem::{Kind, Problem};
use super::shapes::rfc3339;
use crate::sandbox::Live;

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
    pub(super) path: String,
    /// The user of the guest whose permissions hold; by default the sandbox's.
    pub(super) user: Option<String>,
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
        Problem,
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
        Problem,
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

/// Makes a directory, and those above it that are missing.
#[utoipa::path(
    post, path = "/v1/sandboxes/{id}/files/directory", tag = "files",
    params(("id" = String, Path, description = "The sandbox's id"), Which),
    responses(
        (status = 204),
        Problem,
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
        Problem,
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
        Problem,
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
