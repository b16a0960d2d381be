//! Reads what is asked: bodies of JSON, queries and ids, with failures of the API's own form.

use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::problem::{Kind, Problem};

/// A body of JSON, of which nothing is an empty object.
#[derive(Debug)]
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let bytes = Bytes::from_request(request, state).await.map_err(|error| {
            let kind = match error.status().as_u16() {
                413 => Kind::TooLarge,
                _ => Kind::Invalid,
            };
            Problem::new(kind, error.body_text())
        })?;
        read(&bytes).map(Self)
    }
}

/// Reads a body of JSON.
pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let bytes = match bytes.trim_ascii() {
        [] => b"{}".as_slice(),
        bytes => bytes,
    };
    serde_json::from_slice(bytes)
        .map_err(|error| Problem::invalid(format!("the body is not the JSON expected: {error}")))
}

/// A query.
#[derive(Debug)]
pub(super) struct Asked<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(asked)) => Ok(Self(asked)),
            Err(error) => Err(Problem::invalid(error.body_text())),
        }
    }
}

/// What a path has in its place of parameters.
#[derive(Debug)]
pub(super) struct Named<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Named<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(named)) => Ok(Self(named)),
            Err(error) => Err(Problem::not_found(error.body_text())),
        }
    }
}
