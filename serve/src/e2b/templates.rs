//! Templates that the SDKs build: `Template.build`.

use axum::extract::{Path, Query, RawQuery, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use ironclaw_orchestrator::template::TemplateName;
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::Api;
use super::build_request::BuildRequest;
use super::control::json as read;
use super::failure::Failure;
use super::paging::pairs;
use super::shapes::{rfc3339, untagged};
use super::tags;
use crate::build_log::LogLine;
use crate::builds::{Build, BuildState};
use crate::caller::Caller;
use crate::peer::Scheme;
use crate::sandbox_id::draw_text;
use crate::templates::TemplateError;
use crate::uploads::{Files, UploadError};

/// Begins the id of a build.
const PREFIX: char = 'b';

/// Lines of a log in one answer, as in E2B's API.
const MAX_LINES: usize = 100;

type Answer = Result<Response, Failure>;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NewTemplate {
    name: Option<String>,
    alias: Option<String>,
    tags: Vec<String>,
}

/// Asks for a template, whose files may come then.
pub(super) async fn ask(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Answer {
    let NewTemplate { name, alias, tags } = read(&body)?;
    let asked = tags::name(&name.or(alias).unwrap_or_default())?;
    let (name, tag) = asked.parts();
    let mut names = match (tag, tags.is_empty()) {
        (None, false) => Vec::new(),
        _ => vec![asked.clone()],
    };
    for tag in &tags {
        let name = tags::tagged(name, tag)?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    if names.iter().any(TemplateName::is_minimal) {
        return Err(tags::minimal());
    }
    let id = draw_text(PREFIX);
    let id = id.map_err(|error| Failure::internal(&error, "no build can be made"))?;
    let shown: Vec<_> = names
        .iter()
        .map(|name| tags::tag(name).to_owned())
        .collect();
    let Some(build) = api.0.builds.ask(id, name.to_owned(), names) else {
        return Err(Failure::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too many templates are being built",
        ));
    };
    tracing::info!(
        template = name,
        build = build.id,
        by = caller.0,
        "a build is asked for"
    );
    let answer = json!({
        "templateID": name,
        "buildID": build.id,
        "public": false,
        "names": [name],
        "tags": shown,
        "aliases": [name],
    });
    Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
}

/// Tells whether files are there, and where they may be sent.
pub(super) async fn upload_place(
    State(api): State<Api>,
    Path((_, hash)): Path<(String, String)>,
    scheme: Option<Extension<Scheme>>,
    headers: HeaderMap,
) -> Answer {
    let bad = || Failure::bad_request("files are known by their SHA-256");
    let files = Files::parse(&hash).ok_or_else(bad)?;
    let uploads = &api.0.uploads;
    let present = uploads.has(&files);
    let secret = uploads.expect(files);
    let secret = secret.map_err(|error| Failure::internal(&error, "no upload can be made"))?;
    let Some(secret) = secret else {
        return Err(Failure::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too many uploads are waited for",
        ));
    };
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let host = host.ok_or_else(|| Failure::bad_request("the request has no header Host"))?;
    let scheme = match scheme {
        Some(Extension(Scheme::Https)) => "https",
        _ if is_forwarded_encrypted(&headers) => "https",
        _ => "http",
    };
    let url = format!("{scheme}://{host}/uploads?secret={}", secret.reveal());
    let answer = json!({ "present": present, "url": url });
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

/// Returns whether a request came encrypted to who passed it on. Anybody may say so: of the answer, which its client
/// alone gets, it changes nothing but the scheme of a URL to the same host.
fn is_forwarded_encrypted(headers: &HeaderMap) -> bool {
    let of_client = |value: &str| value.split(',').next().map(|first| first.trim().to_owned());
    let scheme = headers.get("x-forwarded-proto");
    let scheme = scheme.and_then(|value| of_client(value.to_str().ok()?));
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"))
}

#[derive(Debug, Deserialize)]
pub(super) struct Presented {
    secret: String,
}

/// Takes files from who has the secret for it.
pub(super) async fn upload(
    State(api): State<Api>,
    Query(Presented { secret }): Query<Presented>,
    request: Request,
) -> Answer {
    let uploads = &api.0.uploads;
    let unknown = || Failure::new(StatusCode::FORBIDDEN, "nothing is waited for here");
    let files = uploads.expected(&secret).ok_or_else(unknown)?;
    let failed = |error: UploadError| match &error {
        UploadError::Broken(reason) => Failure::bad_request(reason),
        UploadError::TooLarge(_) => Failure::new(StatusCode::PAYLOAD_TOO_LARGE, error.to_string()),
        UploadError::Io(_) => Failure::internal(&error, "the files can't be kept"),
    };
    let received = uploads.receive(request.into_body().into_data_stream());
    let (archive, _, _) = received.await.map_err(failed)?;
    let kept = uploads.keep(&files, archive);
    kept.map_err(|error| failed(error.into()))?;
    Ok(StatusCode::OK.into_response())
}

fn find(api: &Api, template: &str, id: &str) -> Result<std::sync::Arc<Build>, Failure> {
    let found = api.0.builds.find(untagged(template), id);
    found.ok_or_else(|| {
        let text = format!("template {template:?} has no build {id:?}");
        Failure::new(StatusCode::NOT_FOUND, text)
    })
}

/// Begins a build.
pub(super) async fn begin(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path((template, id)): Path<(String, String)>,
    body: Bytes,
) -> Answer {
    let request: BuildRequest = read(&body)?;
    let build = find(&api, &template, &id)?;
    let served = api.clone();
    let planned = tokio::task::spawn_blocking(move || {
        let served = &served.0;
        request.plan(&id, served.sandboxes.templates(), &served.uploads)
    });
    let planned = planned.await;
    let planned = planned.map_err(|error| Failure::internal(&error, "the daemon ends"))??;
    tracing::info!(
        template,
        build = build.id,
        by = caller.0,
        "a template is built"
    );
    match api.0.builds.begin(build, planned) {
        true => Ok(StatusCode::ACCEPTED.into_response()),
        false => Err(Failure::new(
            StatusCode::CONFLICT,
            "the build was begun before",
        )),
    }
}

/// Tells how far a build is, with what its log has from some line on.
pub(super) async fn status(
    State(api): State<Api>,
    Path((template, id)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Answer {
    let (mut offset, mut limit) = (0, MAX_LINES);
    for (name, value) in pairs(&query.unwrap_or_default()) {
        let number = || {
            let bad = |_| Failure::bad_request(format!("{name} is a number"));
            value.parse::<usize>().map_err(bad)
        };
        match name.as_str() {
            "logsOffset" => offset = number()?,
            "limit" => limit = number()?.min(MAX_LINES),
            _ => {}
        }
    }
    let build = find(&api, &template, &id)?;
    // Before the log, so that a build that is over has all of it.
    let state = build.state();
    let lines = build.log(offset, limit);
    let status = match &state {
        BuildState::Asked | BuildState::Waiting => "waiting",
        BuildState::Building => "building",
        BuildState::Ready => "ready",
        BuildState::Failed(_) => "error",
    };
    let mut answer = json!({
        "templateID": build.template,
        "buildID": build.id,
        "status": status,
        "logs": lines.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(),
        "logEntries": lines.iter().map(entry).collect::<Vec<_>>(),
    });
    if let BuildState::Failed(failure) = &state {
        answer["reason"] = json!({
            "message": failure.message,
            "step": failure.step.map_or("base".to_owned(), |step| step.to_string()),
            "logEntries": [],
        });
    }
    Ok(Json(answer).into_response())
}

fn entry(line: &LogLine) -> Value {
    json!({ "timestamp": rfc3339(line.at), "level": "info", "message": line.text })
}

/// Tells whether there is a template of this name.
pub(super) async fn alias(State(api): State<Api>, Path(alias): Path<String>) -> Answer {
    let name = untagged(&alias);
    match api.0.sandboxes.templates().base(name) {
        Ok(_) => Ok(Json(json!({ "templateID": name, "public": false })).into_response()),
        Err(error @ TemplateError::Unknown(_)) => {
            Err(Failure::new(StatusCode::NOT_FOUND, error.to_string()))
        }
        Err(error) => Err(Failure::internal(&error, "the template can't be looked up")),
    }
}
