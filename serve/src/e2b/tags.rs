//! Tags of templates: `NAME:TAG` is a name of its own, and `NAME:default` is `NAME`.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use ironclaw_orchestrator::template::{TemplateError, TemplateHash, TemplateName, TemplateStore};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::api::Api;
use super::control::json as read;
use super::failure::Failure;
use super::shapes::{rfc3339, untagged};
use crate::caller::Caller;

/// The tag of a name without one.
const DEFAULT: &str = "default";

/// Tags of a request, at most.
const MAX_TAGS: usize = 100;

type Answer = Result<Response, Failure>;

/// Reads a name, which may have a tag.
pub(super) fn name(text: &str) -> Result<TemplateName, Failure> {
    let name = untagged(text).parse::<TemplateName>();
    name.map_err(|error| Failure::bad_request(error.to_string()))
}

/// Returns a name with a tag.
pub(super) fn tagged(base: &str, tag: &str) -> Result<TemplateName, Failure> {
    name(&format!("{base}:{tag}"))
}

/// Returns the tag of a name.
pub(super) fn tag(name: &TemplateName) -> &str {
    name.parts().1.unwrap_or(DEFAULT)
}

/// The failure of who wants another template to be the one that others begin with.
pub(super) fn minimal() -> Failure {
    Failure::bad_request(
        "the template \"minimal\" is what others begin with: give this one another name",
    )
}

/// Clients know a build by a UUID: here by the first bytes of its template's hash.
fn build_id(hash: &TemplateHash) -> String {
    let hex = hash.to_string();
    let part = |from, to| hex.get(from..to).unwrap_or_default();
    let parts = [
        part(0, 8),
        part(8, 12),
        part(12, 16),
        part(16, 20),
        part(20, 32),
    ];
    parts.join("-")
}

fn of_base(base: &str, tags: &[String]) -> Result<Vec<TemplateName>, Failure> {
    if tags.len() > MAX_TAGS {
        let text = format!("there are more than {MAX_TAGS} tags");
        return Err(Failure::bad_request(text));
    }
    tags.iter().map(|tag| tagged(base, tag)).collect()
}

/// Runs what reads or changes the templates on disk.
async fn on_disk<T: Send + 'static>(
    api: &Api,
    work: impl FnOnce(&TemplateStore) -> Result<T, TemplateError> + Send + 'static,
) -> Result<T, Failure> {
    let path = api.0.sandboxes.templates().config().template_path.clone();
    let done = spawn_blocking(move || TemplateStore::open(path).and_then(|store| work(&store)));
    let done = done.await;
    let done = done.map_err(|error| Failure::internal(&error, "the daemon ends"))?;
    done.map_err(|error| match error {
        TemplateError::NoSuchName { .. } | TemplateError::NotFound { .. } => {
            Failure::new(StatusCode::NOT_FOUND, "there is no such template or tag")
        }
        other => Failure::internal(&other, "the templates can't be used"),
    })
}

#[derive(Debug, Deserialize)]
pub(super) struct Assign {
    target: String,
    tags: Vec<String>,
}

/// Gives what a name leads to further tags.
pub(super) async fn assign(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Answer {
    let Assign { target, tags } = read(&body)?;
    let target = name(&target)?;
    let names = of_base(target.parts().0, &tags)?;
    if names.iter().any(TemplateName::is_minimal) {
        return Err(minimal());
    }
    let (led, given) = (target.clone(), Arc::new(names));
    let names = Arc::clone(&given);
    let hash = on_disk(&api, move |store| {
        let hash = store.named_hash(&led)?;
        let hash = hash.ok_or_else(|| store.no_such_name(&led))?;
        for name in names.iter() {
            store.set_name(name, &hash)?;
        }
        Ok(hash)
    });
    let hash = hash.await?;
    tracing::info!(template = %target, ?tags, by = caller.0, "a template is tagged");
    let tags: Vec<_> = given.iter().map(tag).collect();
    let answer = json!({ "tags": tags, "buildID": build_id(&hash) });
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

#[derive(Debug, Deserialize)]
pub(super) struct Remove {
    name: String,
    tags: Vec<String>,
}

/// Takes tags from a template, which stays.
pub(super) async fn remove(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Answer {
    let Remove { name: text, tags } = read(&body)?;
    let base = name(&text)?;
    let names = of_base(base.parts().0, &tags)?;
    if names.iter().any(|name| name.parts().1.is_none()) {
        return Err(Failure::bad_request(
            "the tag \"default\" is the template's name: `ironclaw template delete` deletes a template",
        ));
    }
    on_disk(&api, move |store| {
        for name in &names {
            store.remove_name(name)?;
        }
        Ok(())
    })
    .await?;
    tracing::info!(template = %base, ?tags, by = caller.0, "a template lost tags");
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Lists the tags of a template.
pub(super) async fn list(State(api): State<Api>, Path(text): Path<String>) -> Answer {
    let base = name(&text)?.parts().0.to_owned();
    let led = base.clone();
    let tags = on_disk(&api, move |store| {
        let names = store.names()?.into_iter();
        let of_base = names.filter(|(name, _)| name.parts().0 == led);
        let shown = of_base.map(|(name, hash)| {
            let created = Duration::from_secs(store.load(&hash)?.manifest().created);
            Ok(json!({
                "tag": tag(&name),
                "buildID": build_id(&hash),
                "createdAt": rfc3339(UNIX_EPOCH + created),
            }))
        });
        shown.collect::<Result<Vec<Value>, TemplateError>>()
    });
    let tags = tags.await?;
    if tags.is_empty() {
        let text = format!("there is no template {base:?}");
        return Err(Failure::new(StatusCode::NOT_FOUND, text));
    }
    Ok(Json(tags).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_a_name_of_its_own_and_the_default_none() {
        let name = tagged("a", "v1").unwrap();
        assert_eq!((name.as_str(), tag(&name)), ("a:v1", "v1"));
        let name = tagged("a", "default").unwrap();
        assert_eq!((name.as_str(), tag(&name)), ("a", "default"));
        for bad in ["", ":x", "x:", "b:c", "/"] {
            assert!(tagged("a", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_build_is_known_by_a_uuid() {
        let hash: TemplateHash = "0123456789abcdef".repeat(4).parse().unwrap();
        assert_eq!(build_id(&hash), "01234567-89ab-cdef-0123-456789abcdef");
    }
}
