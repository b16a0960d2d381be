//! What clients say of a file beside its content: texts by name, which are kept with it as extended
//! attributes.

use std::collections::BTreeMap;
use std::path::Path;

use axum::http::HeaderMap;
use ironclaw_orchestrator::vm::{FailureKind, Files, GuestError};

use super::failure::RpcFailure;

/// The beginning of the headers that have it.
const HEADER: &str = "x-metadata-";

/// The beginning of the names of the attributes.
const ATTRIBUTE: &str = "user.e2b.";

/// Limits of E2B's own agent, in bytes: of a name, and of all of a file's.
const MAX_KEY: usize = 255 - ATTRIBUTE.len();
const MAX_TOTAL: usize = 4096;

/// Texts by name.
pub(super) type Metadata = BTreeMap<String, String>;

/// Reads what an upload says of its files.
pub(super) fn of_upload(headers: &HeaderMap) -> Result<Metadata, RpcFailure> {
    let mut metadata = Metadata::new();
    let mut total = 0;
    for (name, value) in headers {
        // Names of headers are in lower case here.
        let Some(key) = name.as_str().strip_prefix(HEADER) else {
            continue;
        };
        // Takes printable ASCII, and tabs.
        let text = value.to_str().ok().filter(|text| !text.contains('\t'));
        let Some(text) = text else {
            let text = format!("the metadata {key:?} has more than printable ASCII");
            return Err(RpcFailure::invalid(text));
        };
        if key.is_empty() || key.len() > MAX_KEY {
            let text = format!("a name of metadata has 1 to {MAX_KEY} bytes");
            return Err(RpcFailure::invalid(text));
        }
        if metadata.contains_key(key) {
            continue;
        }
        total += ATTRIBUTE.len() + key.len() + text.len();
        metadata.insert(key.to_owned(), text.to_owned());
    }
    if total > MAX_TOTAL {
        let text = format!("the metadata of a file has more than {MAX_TOTAL} bytes");
        return Err(RpcFailure::invalid(text));
    }
    Ok(metadata)
}

/// Gives a file exactly this metadata, where its file system keeps any; returns what it has then.
pub(super) async fn write(
    files: &Files<'_>,
    path: &str,
    metadata: &Metadata,
) -> Result<Metadata, GuestError> {
    let before = read(files, Path::new(path)).await;
    for key in before.keys().filter(|key| !metadata.contains_key(*key)) {
        files
            .remove_attribute(path, format!("{ATTRIBUTE}{key}"))
            .await?;
    }
    for (key, text) in metadata {
        let name = format!("{ATTRIBUTE}{key}");
        match files.set_attribute(path, name, text.as_bytes()).await {
            Ok(()) => {}
            Err(error) if is_unsupported(&error) => return Ok(Metadata::new()),
            Err(error) => return Err(error),
        }
    }
    match metadata.is_empty() {
        true => Ok(Metadata::new()),
        false => Ok(read(files, Path::new(path)).await),
    }
}

/// Reads a file's metadata, as far as it is there and its user may read it.
pub(super) async fn read(files: &Files<'_>, path: &Path) -> Metadata {
    let attributes = files.attributes(path).await.unwrap_or_default();
    let ours = attributes.into_iter().filter_map(|(name, value)| {
        let key = name.to_str()?.strip_prefix(ATTRIBUTE)?.to_owned();
        Some((key, String::from_utf8(value).ok()?))
    });
    ours.collect()
}

/// Returns whether a file system keeps no attributes.
fn is_unsupported(error: &GuestError) -> bool {
    matches!(error, GuestError::Failed { kind, .. } if *kind == FailureKind::Unsupported)
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn of(all: &[(&str, &str)]) -> Result<Metadata, RpcFailure> {
        let headers = all.iter().map(|(name, value)| {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            (name.parse::<HeaderName>().unwrap(), value)
        });
        of_upload(&headers.collect())
    }

    #[test]
    fn metadata_is_read_from_its_headers_and_bounded() {
        let metadata = of(&[("X-Metadata-Author", "mish"), ("x-other", "1")]).unwrap();
        assert_eq!(metadata, Metadata::from([("author".into(), "mish".into())]));
        let (long, many) = ("k".repeat(MAX_KEY + 1), "v".repeat(MAX_TOTAL));
        for (name, value) in [
            ("x-metadata-", "empty"),
            ("x-metadata-a", "\u{e9}"),
            ("x-metadata-a", "a\tb"),
            ("x-metadata-a", many.as_str()),
            (&format!("x-metadata-{long}"), "v"),
        ] {
            assert!(of(&[(name, value)]).is_err(), "{name}: {value}");
        }
    }
}
