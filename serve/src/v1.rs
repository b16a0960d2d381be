//! IronClaw's own API. What it does is told by its OpenAPI document, which is made of this code.

mod api;
mod ask;
mod build_request;
mod builds;
mod checkpoints;
mod commands;
mod events;
mod exec;
mod file_content;
mod files;
mod listing;
mod logs;
mod node;
mod pools;
mod ports;
mod problem;
mod rest;
mod run;
mod sandboxes;
mod shapes;
mod snapshots;
mod socket;
mod templates;
mod watch;

use axum::extract::DefaultBodyLimit;
use axum::routing::get;
use axum::{Json, Router, middleware};
use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::builds::Builds;
use crate::keys::Keys;
use crate::sandboxes::Sandboxes;
use api::Api;
use problem::{Kind, Problem};

/// What the document says beside the calls.
#[derive(Debug, utoipa::OpenApi)]
#[openapi(
    info(
        title = "IronClaw",
        description = "Fresh, isolated microVMs in milliseconds. A key (`ironclaw key create`) is sent as \
                       `X-API-Key`, or as `Authorization: Bearer`; over the daemon's Unix socket none is needed. \
                       Failures are those of RFC 9457, with a `kind` for programs."
    ),
    components(schemas(run::Run, run::Said)),
    tags(
        (name = "sandboxes", description = "MicroVMs under ids that their clients keep"),
        (name = "commands", description = "What runs in them"),
        (name = "files", description = "What is on their disks"),
        (name = "ports", description = "Programs that listen in them"),
        (name = "templates", description = "What they are made of"),
        (name = "snapshots", description = "Memory on disk"),
        (name = "pools", description = "What has them ready"),
        (name = "node", description = "The machine"),
    ),
)]
struct Document;

/// The calls that need a key.
fn guarded() -> OpenApiRouter<Api> {
    let small = OpenApiRouter::new()
        .routes(routes!(sandboxes::create, listing::list))
        .routes(routes!(sandboxes::show, sandboxes::delete))
        .routes(routes!(sandboxes::extend))
        .routes(routes!(sandboxes::pause))
        .routes(routes!(sandboxes::resume))
        .routes(routes!(commands::exec))
        .routes(routes!(commands::start, commands::list))
        .routes(routes!(commands::attach))
        .routes(routes!(logs::read))
        .routes(routes!(commands::signal))
        .routes(routes!(commands::resize))
        .routes(routes!(commands::stdin))
        .routes(routes!(socket::open))
        .routes(routes!(run::open))
        .routes(routes!(ports::connect))
        .routes(routes!(files::list, files::remove))
        .routes(routes!(files::info))
        .routes(routes!(files::make_directory))
        .routes(routes!(files::rename))
        .routes(routes!(watch::watch))
        .routes(routes!(templates::list))
        .routes(routes!(templates::delete))
        .routes(routes!(builds::begin, builds::list))
        .routes(routes!(builds::show))
        .routes(routes!(builds::cancel))
        .routes(routes!(builds::log))
        .routes(routes!(checkpoints::create))
        .routes(routes!(checkpoints::fork))
        .routes(routes!(checkpoints::list))
        .routes(routes!(checkpoints::delete))
        .routes(routes!(snapshots::list))
        .routes(routes!(pools::list))
        .routes(routes!(pools::resize))
        .routes(routes!(pools::warm_up))
        .routes(routes!(pools::refresh))
        .routes(routes!(node::show))
        .routes(routes!(node::drain, node::undrain))
        // Bounded already.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn(api::whole));
    // Bounded by the guest's disk, and by the size of a template.
    let large = OpenApiRouter::new()
        .routes(routes!(file_content::read, file_content::write))
        .routes(routes!(file_content::archive, file_content::extract))
        .routes(routes!(builds::upload))
        .layer(DefaultBodyLimit::disable());
    small.merge(large)
}

/// The calls that need none.
fn open() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(node::health))
        .routes(routes!(node::ready))
        .routes(routes!(node::version))
}

/// Returns what the API is, as it is served.
fn document() -> OpenApi {
    open().merge(guarded()).into_openapi()
}

/// Creates the routes.
pub(crate) fn router(sandboxes: &Sandboxes, keys: &Keys, builds: &Builds) -> Router {
    let api = Api::new(sandboxes, keys, builds);
    let by_key = middleware::from_fn_with_state(api.clone(), api::by_key);
    let guarded = guarded()
        .layer(by_key)
        .layer(middleware::from_fn(rest::take_in));
    let (router, _) = open().merge(guarded).split_for_parts();
    let document = document();
    router
        .route("/v1/openapi.json", get(|| async move { Json(document) }))
        .fallback(|| async { Problem::new(Kind::NoCall, "there is no such call in /v1") })
        .method_not_allowed_fallback(|| async {
            Problem::new(Kind::NoMethod, "the call is not made by this method")
        })
        .with_state(api)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    fn committed() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json")
    }

    fn text() -> String {
        format!("{}\n", document().to_pretty_json().unwrap())
    }

    #[test]
    fn the_committed_document_is_that_of_the_code() {
        let known = fs::read_to_string(committed()).unwrap();
        assert!(
            known == text(),
            "docs/openapi.json is another: `cargo test -p ironclaw-serve --lib -- --ignored openapi` writes it"
        );
    }

    #[test]
    #[ignore = "writes docs/openapi.json"]
    fn openapi_is_written() {
        fs::write(committed(), text()).unwrap();
    }

    /// Two of a name would be one in the document, without a word.
    #[test]
    fn no_two_shapes_have_one_name() {
        let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/v1");
        let mut known = BTreeMap::new();
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            for derived in text.split("ToSchema)]\n").skip(1) {
                let words = derived.lines().find_map(|line| {
                    let words = line.trim_start_matches("pub(super) ");
                    words
                        .strip_prefix("struct ")
                        .or(words.strip_prefix("enum "))
                });
                let end = |c: char| !c.is_alphanumeric();
                let name = words.unwrap().split(end).next().unwrap().to_owned();
                let other = known.insert(name.clone(), path.clone());
                assert_eq!(other, None, "{name} is in {}, too", path.display());
            }
        }
        assert!(known.len() > 40, "{known:?}");
    }

    #[test]
    fn every_call_tells_its_failures() {
        let document = serde_json::to_value(document()).unwrap();
        let open = ["/v1/health", "/v1/version"];
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, call) in methods.as_object().unwrap() {
                let failure = &call["responses"]["default"]["content"];
                let tells = failure.get("application/problem+json").is_some();
                assert!(tells || open.contains(&path.as_str()), "{method} {path}");
                assert!(call.get("summary").is_some(), "{method} {path}");
            }
        }
    }
}
