//! Which sandbox is meant.

use anyhow::{Result, bail};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::client::{Client, Method};
use crate::refusal::ClientError;
use crate::shapes::{Page, Sandbox};

/// Makes a text a part of a path or query.
pub(super) fn quoted(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// Lists the sandboxes of a query, on all pages.
pub(super) async fn all(client: &Client, query: &str) -> Result<Vec<Sandbox>, ClientError> {
    let mut channel = client.connect().await?;
    let mut all = Vec::new();
    let mut after = String::new();
    loop {
        let path = format!("/v1/sandboxes?limit=1000{query}{after}");
        let page: Page = channel.call(Method::GET, &path, None::<&()>).await?;
        all.extend(page.sandboxes);
        match page.next {
            Some(next) => after = format!("&after={}", quoted(&next)),
            None => return Ok(all),
        }
    }
}

/// Finds a sandbox by its id, or by its name if one has it alone; returns its id.
pub(super) async fn id(client: &Client, text: &str) -> Result<String> {
    let by_id = format!("/v1/sandboxes/{}", quoted(text));
    match client
        .call::<Sandbox>(Method::GET, &by_id, None::<&()>)
        .await
    {
        Ok(sandbox) => return Ok(sandbox.id),
        Err(ClientError::Refused(refusal)) if refusal.kind == "not_found" => {}
        Err(error) => return Err(error.into()),
    }
    let named = all(client, &format!("&name={}", quoted(text))).await?;
    match named.as_slice() {
        [one] => Ok(one.id.clone()),
        [] => bail!("there is no sandbox {text:?}: `ironclaw ls` lists those that there are"),
        several => bail!(
            "there are {} sandboxes named {text:?}: name one by its id, which `ironclaw ls` shows",
            several.len()
        ),
    }
}
