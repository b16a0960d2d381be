//! What sandboxes are made of.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use ironclaw_orchestrator::template::{TemplateError, TemplateName, TemplateStore};
use serde::Serialize;
use tokio::task::spawn_blocking;
use utoipa::ToSchema;

use super::api::Api;
use super::ask::Named;
use super::problem::{Kind, Problem};
use super::shapes::rfc3339;

type Answer<T> = Result<T, Problem>;

/// A template.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Template {
    /// What it is, and no other is.
    hash: String,
    /// What leads to it.
    names: Vec<String>,
    /// Whether it is made of where no name is given.
    default: bool,
    /// When it was built (RFC 3339), if it can be used.
    built: Option<String>,
    /// Whether it can be used.
    usable: bool,
}

/// Runs what reads or changes the templates on disk.
async fn on_disk<T: Send + 'static>(
    api: &Api,
    work: impl FnOnce(&TemplateStore) -> Result<T, TemplateError> + Send + 'static,
) -> Answer<Result<T, TemplateError>> {
    let path = api.sandboxes().templates().config().template_path.clone();
    let done = spawn_blocking(move || TemplateStore::open(path).and_then(|store| work(&store)));
    done.await.map_err(|error| Problem::internal(&error))
}

/// Lists the templates.
#[utoipa::path(
    get, path = "/v1/templates", tag = "templates",
    responses(
        (status = 200, body = Vec<Template>),
        Problem,
    )
)]
pub(super) async fn list(State(api): State<Api>) -> Answer<Json<Vec<Template>>> {
    let listed = on_disk(&api, |store| {
        // A default that can't be used shows in its own row.
        let default = store.default_hash().ok().flatten();
        let names = store.names()?;
        let listed = store
            .list()?
            .into_iter()
            .filter(|listed| !listed.is_deleted);
        let rows = listed.map(|listed| {
            let of_this = names.iter().filter(|(_, hash)| *hash == listed.hash);
            let manifest = listed.template.as_ref().ok().map(|it| it.manifest());
            Template {
                hash: listed.hash.to_string(),
                names: of_this.map(|(name, _)| name.to_string()).collect(),
                default: default == Some(listed.hash),
                built: manifest.map(|it| {
                    let since = std::time::Duration::from_secs(it.created);
                    rfc3339(std::time::UNIX_EPOCH + since)
                }),
                usable: manifest.is_some(),
            }
        });
        Ok(rows.collect())
    });
    match listed.await? {
        Ok(rows) => Ok(Json(rows)),
        Err(error) => Err(Problem::internal(&error)),
    }
}

/// Deletes a template by its name. Sandboxes and checkpoints of it go on, and its files stay as long as
/// one of them needs it.
#[utoipa::path(
    delete, path = "/v1/templates/{name}", tag = "templates",
    params(("name" = String, Path, description = "The template's name")),
    responses(
        (status = 204),
        Problem,
    )
)]
pub(super) async fn delete(
    State(api): State<Api>,
    Named(text): Named<String>,
) -> Answer<StatusCode> {
    let none = || Problem::not_found(format!("there is no template {text:?}"));
    let name: TemplateName = text.parse().map_err(|_| none())?;
    let deleted = on_disk(&api, move |store| match store.named_hash(&name)? {
        Some(hash) => store.delete(&hash).map(Some),
        None => Ok(None),
    });
    match deleted.await? {
        Ok(Some(_)) => Ok(StatusCode::NO_CONTENT),
        Ok(None) | Err(TemplateError::NotFound { .. }) => Err(none()),
        Err(TemplateError::NotOurs { .. }) => Err(Problem::new(
            Kind::Forbidden,
            "the template is not one of this daemon's user",
        )),
        Err(error) => Err(Problem::internal(&error)),
    }
}
