//! Makes, lists, pauses, resumes and ends sandboxes.

use anyhow::Result;
use ironclaw_console::output;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::args::{Create, Fork, Ls, Pause, Resume, Rm};
use super::which::{self, quoted};
use crate::client::{Client, Method};
use crate::refusal::Refusal;
use crate::shapes::{NewSandbox, Sandbox};

pub(super) async fn create(client: &Client, task: Create, json: bool) -> Result<()> {
    let new = NewSandbox {
        template: task.template,
        name: task.name,
        metadata: task.metadata.into_iter().collect(),
        env: task.env.into_iter().collect(),
        user: task.user,
        lifetime_seconds: Some(task.lifetime.as_secs()),
        on_deadline: match task.pause_at_deadline {
            true => "pause",
            false => "kill",
        },
    };
    let made: Sandbox = client
        .call(Method::POST, "/v1/sandboxes", Some(&new))
        .await?;
    match json {
        true => output::json(&made),
        false => output::line(&made.id),
    }
}

pub(super) async fn list(client: &Client, task: Ls, json: bool) -> Result<()> {
    let all = which::all(client, "").await?;
    if json {
        return output::json(&all);
    }
    if task.quiet {
        return all.iter().try_for_each(|sandbox| output::line(&sandbox.id));
    }
    let rows = all.into_iter().map(|sandbox| {
        [
            sandbox.id,
            sandbox.name.unwrap_or_default(),
            sandbox.template,
            sandbox.state,
            sandbox.owner,
            sandbox.started,
            sandbox.end,
        ]
    });
    let header = [
        "SANDBOX", "NAME", "TEMPLATE", "STATE", "OWNER", "STARTED", "UNTIL",
    ];
    output::table(header, rows.collect())
}

/// What became of a sandbox.
#[derive(Debug, Serialize)]
struct Became {
    id: String,
    changed: bool,
}

fn told(all: &[Became], json: bool) -> Result<()> {
    match json {
        true => output::json(&all),
        false => all.iter().try_for_each(|became| output::line(&became.id)),
    }
}

#[derive(Debug, Deserialize)]
struct Changed {
    changed: bool,
}

/// Changes the state of each of these sandboxes.
async fn change(
    client: &Client,
    sandboxes: &[String],
    call: &str,
    body: Option<&serde_json::Value>,
    json: bool,
) -> Result<()> {
    let mut all = Vec::new();
    for text in sandboxes {
        let id = which::id(client, text).await?;
        let path = format!("/v1/sandboxes/{}/{call}", quoted(&id));
        let Changed { changed } = client.call(Method::POST, &path, body).await?;
        all.push(Became { id, changed });
    }
    told(&all, json)
}

pub(super) async fn pause(client: &Client, task: Pause, json: bool) -> Result<()> {
    change(client, &task.sandboxes, "pause", None, json).await
}

pub(super) async fn resume(client: &Client, task: Resume, json: bool) -> Result<()> {
    let body = json!({ "lifetime_seconds": task.lifetime.as_secs() });
    change(client, &task.sandboxes, "resume", Some(&body), json).await
}

/// A copy, or why there is none.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Copied {
    Sandbox(Sandbox),
    Problem(Refusal),
}

/// Prints the copies that were made, also if others could not be.
pub(super) async fn fork(client: &Client, task: Fork, json: bool) -> Result<()> {
    let id = which::id(client, &task.sandbox).await?;
    let path = format!("/v1/sandboxes/{}/fork", quoted(&id));
    let body = json!({ "count": task.count, "lifetime_seconds": task.lifetime.as_secs() });
    let all: Vec<Copied> = client.call(Method::POST, &path, Some(&body)).await?;
    let (mut made, mut failed) = (Vec::new(), None);
    for copy in all {
        match copy {
            Copied::Sandbox(sandbox) => made.push(sandbox),
            Copied::Problem(problem) => failed = Some(problem),
        }
    }
    match json {
        true => output::json(&made)?,
        false => made
            .iter()
            .try_for_each(|sandbox| output::line(&sandbox.id))?,
    }
    failed.map_or(Ok(()), |problem| Err(problem.into()))
}

pub(super) async fn remove(client: &Client, task: Rm, json: bool) -> Result<()> {
    let mut ids = Vec::new();
    match task.all {
        true => ids.extend(which::all(client, "").await?.into_iter().map(|it| it.id)),
        false => {
            for text in &task.sandboxes {
                ids.push(which::id(client, text).await?);
            }
        }
    }
    let mut all = Vec::new();
    for id in ids {
        let path = format!("/v1/sandboxes/{}", quoted(&id));
        client.perform(Method::DELETE, &path).await?;
        all.push(Became { id, changed: true });
    }
    told(&all, json)
}
