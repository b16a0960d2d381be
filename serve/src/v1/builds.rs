//! Templates that are built.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body as Content;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use utoipa::{IntoParams, ToSchema};

use super::api::Api;
use super::ask::{Asked, Body, Named};
use super::build_request::BuildRequest;
use super::events::{EVENTS, line};
use super::problem::{Kind, Problem};
use super::shapes::rfc3339;
use crate::builds::{Build, BuildState};
use crate::caller::Caller;
use crate::sandbox_id::draw_text;
use crate::uploads::UploadError;

/// Begins the id of a build.
const PREFIX: char = 'b';

/// Lines of a log that are taken at a time.
const BATCH: usize = 100;

type Answer<T> = Result<T, Problem>;

/// How far a build is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum BuildStage {
    /// It was asked for, and is not begun yet: of E2B's API, whose files come then.
    Asked,
    /// Another one is being built.
    Waiting,
    Building,
    /// Its name leads to the template.
    Ready,
    /// There is no template of it.
    Failed,
    /// Somebody has ended it.
    Cancelled,
}

/// The reason why there is no template.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct BuildReason {
    /// The step of the request that failed, counted from 1.
    step: Option<usize>,
    message: String,
}

/// A build.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BuildInfo {
    #[schema(example = "babcdefghij2345678901")]
    id: String,
    /// The name that the template gets.
    name: String,
    state: BuildStage,
    /// When it was asked for (RFC 3339).
    asked: String,
    /// What its name leads to, once it is ready.
    template_hash: Option<String>,
    failure: Option<BuildReason>,
}

impl BuildInfo {
    fn of(build: &Build) -> Self {
        Self::at(build, build.state())
    }

    fn at(build: &Build, state: BuildState) -> Self {
        let (stage, failure) = match state {
            BuildState::Asked => (BuildStage::Asked, None),
            BuildState::Waiting => (BuildStage::Waiting, None),
            BuildState::Building => (BuildStage::Building, None),
            BuildState::Ready => (BuildStage::Ready, None),
            BuildState::Failed(failure) if failure.is_cancelled => (BuildStage::Cancelled, None),
            BuildState::Failed(failure) => {
                let (step, message) = (failure.step, failure.message);
                (BuildStage::Failed, Some(BuildReason { step, message }))
            }
        };
        Self {
            id: build.id.clone(),
            name: build.template.clone(),
            state: stage,
            asked: rfc3339(build.asked),
            template_hash: build.made.get().map(ToString::to_string),
            failure,
        }
    }
}

fn find(api: &Api, id: &str) -> Answer<Arc<Build>> {
    let found = api.builds().get(id);
    found.ok_or_else(|| Problem::not_found(format!("there is no build {id:?}")))
}

/// Begins to build a template. One is built at a time; the others wait.
///
/// Its commands run in VMs without a network. It goes on when its client goes away. A daemon that ends, ends it: the
/// steps that it has done are not done again by the next build of the same.
#[utoipa::path(
    post, path = "/v1/builds", tag = "templates",
    request_body = BuildRequest,
    responses(
        (status = 202, body = BuildInfo),
        Problem,
    )
)]
pub(super) async fn begin(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Body(request): Body<BuildRequest>,
) -> Answer<(StatusCode, Json<BuildInfo>)> {
    let name = request.name()?;
    let id = draw_text(PREFIX).map_err(|error| Problem::internal(&error))?;
    let served = api.clone();
    let planned = spawn_blocking(move || {
        let uploads = served.builds().uploads();
        request.plan(served.sandboxes().templates(), uploads)
    });
    let planned = planned.await.map_err(|error| Problem::internal(&error))??;
    let Some(build) = api.builds().begin_new(id, name, planned) else {
        return Err(Problem::new(
            Kind::TooManyBuilds,
            "as many templates are being built, or wait for it, as may be",
        ));
    };
    let (template, by) = (build.template.as_str(), &caller.0);
    tracing::info!(template, build = build.id, by, "a template is built");
    Ok((StatusCode::ACCEPTED, Json(BuildInfo::of(&build))))
}

/// Lists builds, the newest first: the daemon knows the last 100 since it has started.
#[utoipa::path(
    get, path = "/v1/builds", tag = "templates",
    responses(
        (status = 200, body = Vec<BuildInfo>),
        Problem,
    )
)]
pub(super) async fn list(State(api): State<Api>) -> Json<Vec<BuildInfo>> {
    let builds = api.builds().list();
    Json(builds.iter().map(|build| BuildInfo::of(build)).collect())
}

/// Looks at a build.
#[utoipa::path(
    get, path = "/v1/builds/{id}", tag = "templates",
    params(("id" = String, Path, description = "The build's id")),
    responses(
        (status = 200, body = BuildInfo),
        Problem,
    )
)]
pub(super) async fn show(
    State(api): State<Api>,
    Named(id): Named<String>,
) -> Answer<Json<BuildInfo>> {
    Ok(Json(BuildInfo::of(&*find(&api, &id)?)))
}

/// Has a build end that is not over. A command of a step is killed at once; what is fetched from a registry, or
/// written, at the moment is finished first.
#[utoipa::path(
    post, path = "/v1/builds/{id}/cancel", tag = "templates",
    params(("id" = String, Path, description = "The build's id")),
    responses(
        (status = 202, body = BuildInfo),
        Problem,
    )
)]
pub(super) async fn cancel(
    State(api): State<Api>,
    Named(id): Named<String>,
) -> Answer<(StatusCode, Json<BuildInfo>)> {
    let build = find(&api, &id)?;
    match build.cancel() {
        true => Ok((StatusCode::ACCEPTED, Json(BuildInfo::of(&build)))),
        false => Err(Problem::new(Kind::Conflict, "the build is over")),
    }
}

/// What of a log is read.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Range {
    /// How many lines are left out at its beginning.
    #[serde(default)]
    offset: usize,
    /// Wait for what comes, until the build is over.
    #[serde(default)]
    follow: bool,
}

/// A line of the answer.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum BuildLogged {
    /// A step that begins, or what its command prints, without control characters.
    Line {
        /// When it came (RFC 3339).
        at: String,
        text: String,
    },
    /// The last one, if the build is over.
    End { build: BuildInfo },
}

/// Reads the log of a build, a JSON object a line.
///
/// Of what commands print 10,000 lines and 4 MiB are kept, as long as the build is known.
#[utoipa::path(
    get, path = "/v1/builds/{id}/log", tag = "templates",
    params(("id" = String, Path, description = "The build's id"), Range),
    responses(
        (status = 200, body = BuildLogged, content_type = "application/x-ndjson"),
        Problem,
    )
)]
pub(super) async fn log(
    State(api): State<Api>,
    Named(id): Named<String>,
    Asked(range): Asked<Range>,
) -> Answer<Response> {
    let build = find(&api, &id)?;
    let lines = Lines {
        news: build.news(),
        build,
        range,
        ready: VecDeque::new(),
        is_over: false,
    };
    let lines = stream::unfold(lines, |mut lines| async move {
        let logged = lines.next().await?;
        Some((Ok::<_, Infallible>(line(&logged)), lines))
    });
    let content = Content::from_stream(lines);
    Ok(([(header::CONTENT_TYPE, EVENTS)], content).into_response())
}

/// The lines of an answer.
struct Lines {
    build: Arc<Build>,
    news: watch::Receiver<bool>,
    range: Range,
    ready: VecDeque<BuildLogged>,
    is_over: bool,
}

impl Lines {
    async fn next(&mut self) -> Option<BuildLogged> {
        loop {
            if let Some(logged) = self.ready.pop_front() {
                return Some(logged);
            }
            if self.is_over {
                return None;
            }
            self.news.mark_unchanged();
            // Before the log, so that a build that is over has all of it.
            let state = self.build.state();
            let lines = self.build.log(self.range.offset, BATCH);
            self.range.offset = self.range.offset.saturating_add(lines.len());
            let has_all = lines.is_empty();
            self.ready
                .extend(lines.into_iter().map(|line| BuildLogged::Line {
                    at: rfc3339(line.at),
                    text: line.text,
                }));
            if !has_all {
                continue;
            }
            self.is_over = state.is_over() || !self.range.follow;
            if state.is_over() {
                let build = BuildInfo::at(&self.build, state);
                self.ready.push_back(BuildLogged::End { build });
            } else if self.range.follow && self.news.changed().await.is_err() {
                return None;
            }
        }
    }
}

/// An upload.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Upload {
    /// What it is known by: the SHA-256 of its bytes.
    id: String,
    bytes: u64,
}

impl From<UploadError> for Problem {
    fn from(error: UploadError) -> Self {
        match &error {
            UploadError::Broken(_) => Self::invalid(format!("the body can't be read: {error}")),
            UploadError::TooLarge(_) => Self::new(Kind::TooLarge, error.to_string()),
            UploadError::Io(_) => Self::internal(&error),
        }
    }
}

/// Sends the files of a build, as a tar stream, which may be compressed by gzip. They are kept for an hour, or until a
/// build uses them.
#[utoipa::path(
    post, path = "/v1/uploads", tag = "templates",
    request_body(content = Vec<u8>, content_type = "application/x-tar"),
    responses(
        (status = 201, body = Upload),
        Problem,
    )
)]
pub(super) async fn upload(
    State(api): State<Api>,
    content: Content,
) -> Answer<(StatusCode, Json<Upload>)> {
    let uploads = api.builds().uploads();
    let (archive, files, bytes) = uploads.receive(content.into_data_stream()).await?;
    uploads.keep(&files, archive).map_err(UploadError::from)?;
    let id = files.as_str().to_owned();
    Ok((StatusCode::CREATED, Json(Upload { id, bytes })))
}
