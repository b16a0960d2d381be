//! What the daemon's API costs: sandboxes made, and their first commands, through HTTP, beside VMs of the
//! library in the same run.
//!
//! The ways are those of public benchmarks of sandboxes: one by one, one begun every 200 ms, and many at once.
//! The library and the daemon take turns, each with as many warm clones.

mod daemon;
mod sdk;
mod side;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use ironclaw_console::output;
use ironclaw_console::progress::Reporter;
use ironclaw_orchestrator::template::{TemplateChoice, TemplateName};
use ironclaw_orchestrator::vm::vmm::VmmIdentity;
use ironclaw_orchestrator::vm::{Config, Launcher, PoolOptions};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::host::{Host, Load};
use super::own::Own;
use super::report::Guest;
use super::text;
use crate::statistics::Spread;
use daemon::{Daemon, Idle};
use sdk::Commands;
use side::{Served, Side};

/// The time from one to the next that are staggered.
const STAGGER: Duration = Duration::from_millis(200);

/// What is measured.
#[derive(Debug, Clone)]
pub struct OfApi {
    /// The settings of this process's command line, `KEY=VALUE`, for a daemon of the same ones.
    pub settings: Vec<OsString>,
    /// Number of warm clones of each side.
    pub warm: usize,
    /// Number of sandboxes that are asked for at the same time, and listed then.
    pub at_once: usize,
    /// A Python with the official SDK, by which a command is run, too.
    pub sdk: Option<PathBuf>,
}

/// The figures.
#[derive(Debug, Serialize)]
struct Report {
    host: Host,
    vmm: VmmIdentity,
    guest: Guest,
    template: String,
    warm: usize,
    one_by_one: Way,
    staggered: Way,
    at_once: Way,
    #[serde(skip_serializing_if = "Option::is_none")]
    commands: Option<Commands>,
    /// Number of sandboxes that ran when they were listed, in one answer.
    listed: usize,
    list_ms: Spread<f64>,
    /// The daemon with its warm clones, before anybody asked for a sandbox.
    daemon: Idle,
    /// The same after all of that.
    daemon_after: Idle,
}

/// Sandboxes of both sides, made in one way.
#[derive(Debug, Serialize)]
struct Way {
    library: Times,
    api: Times,
    /// The API's median without the library's.
    create_added_ms: f64,
    first_command_added_ms: f64,
    /// The API's slowest, of the library's.
    slowest_of_library: f64,
}

#[derive(Debug, Serialize)]
struct Times {
    /// From the request to the sandbox.
    create_ms: Spread<f64>,
    /// From the request to the end of the sandbox's first command.
    first_command_ms: Spread<f64>,
}

impl Times {
    fn of(served: &[Served]) -> Result<Self> {
        let spread = |time: fn(&Served) -> Duration| {
            Spread::of_times(served.iter().map(time)).context("nothing was measured")
        };
        Ok(Self {
            create_ms: spread(|served| served.created)?,
            first_command_ms: spread(|served| served.answered)?,
        })
    }
}

impl Way {
    fn of(library: &[Served], api: &[Served]) -> Result<Self> {
        let (library, api) = (Times::of(library)?, Times::of(api)?);
        Ok(Self {
            create_added_ms: api.create_ms.p50 - library.create_ms.p50,
            first_command_added_ms: api.first_command_ms.p50 - library.first_command_ms.p50,
            slowest_of_library: api.first_command_ms.max / library.first_command_ms.max,
            library,
            api,
        })
    }
}

/// Measures, and prints.
pub(super) async fn run(
    config: &Config,
    options: &OfApi,
    rounds: usize,
    own: &Own,
    json: bool,
) -> Result<()> {
    let measure = async |reporter: &Reporter| measure(config, options, rounds, own, reporter).await;
    own.reported(measure, json, print).await
}

async fn measure(
    config: &Config,
    options: &OfApi,
    rounds: usize,
    own: &Own,
    reporter: &Reporter,
) -> Result<Report> {
    let load_before = Load::now()?;
    // The daemon finds templates by their names.
    let name = match &config.template {
        TemplateChoice::Named(name) => name.clone(),
        TemplateChoice::Default => TemplateName::minimal(),
        other => bail!(
            "a daemon finds templates by their names, and this is {other}: build it by \
             `ironclaw template build NAME --from SOURCE`, then give --template NAME"
        ),
    };
    let template = name.to_string();
    let mut config = config.clone();
    config.template = name.into();
    let launcher = Launcher::open(&config, reporter.progress()).await?;
    drop(own.create_snapshot(&launcher).await?);
    reporter.stage("starting a daemon", true);
    let limit = options.at_once.max(rounds);
    let daemon = Daemon::start(&options.settings, &template, options.warm, limit).await?;
    let watched = rounds.try_into()?;
    reporter.stage("the daemon idles", true);
    let fresh = daemon.idle(watched).await?;
    let pool = PoolOptions::from(&config)
        .with_size(1)
        .with_refresh(Duration::MAX)
        .with_warm(options.warm);
    let measured = own.with_pool(&launcher, pool, async |pool| {
        let sides = [
            Side::Library(pool.clone()),
            Side::Api(daemon.client().clone(), template.clone()),
        ];
        let mut one_by_one = [Vec::new(), Vec::new()];
        for round in 1..=rounds {
            reporter.stage(&format!("one by one, {round} of {rounds}"), round == 1);
            for (side, served) in sides.iter().zip(&mut one_by_one) {
                warm_up(&sides).await?;
                served.push(side.serve().await?);
            }
        }
        let commands = match &options.sdk {
            None => None,
            Some(python) => {
                let measured = sdk::measure(python, pool, &daemon, &template, rounds, reporter);
                Some(measured.await?)
            }
        };
        let (mut staggered, mut at_once) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for (side, served) in sides.iter().zip(&mut staggered) {
            reporter.stage("staggered by 200 ms", true);
            warm_up(&sides).await?;
            *served = begun_in_turn(side, rounds).await?;
        }
        for (side, served) in sides.iter().zip(&mut at_once) {
            reporter.stage(&format!("{} at once", options.at_once), true);
            warm_up(&sides).await?;
            *served = begun_together(side, options.at_once).await?;
        }
        Ok((one_by_one, commands, staggered, at_once))
    });
    let measured = measured.await;
    let listed = async {
        let ([a, b], commands, [c, d], [e, f]) = measured?;
        let ways = (Way::of(&a, &b)?, Way::of(&c, &d)?, Way::of(&e, &f)?);
        reporter.stage(&format!("listing {} sandboxes", options.at_once), true);
        let list = daemon.listed(&template, options.at_once, rounds).await?;
        daemon.emptied().await?;
        daemon.warm_up(&template).await?;
        reporter.stage("the daemon idles", true);
        let idle = daemon.idle(watched).await?;
        Ok::<_, anyhow::Error>((ways, commands, list, idle))
    };
    let listed = listed.await;
    let ended = daemon.end().await;
    let ((one_by_one, staggered, at_once), commands, list, idle) = listed?;
    ended?;
    Ok(Report {
        host: Host::new(&launcher.requirements().host, load_before)?,
        vmm: launcher.vmm().clone(),
        guest: Guest::of(launcher.machine()),
        template,
        warm: options.warm,
        one_by_one,
        staggered,
        at_once,
        commands,
        listed: options.at_once,
        list_ms: Spread::of_times(list).context("nothing was measured")?,
        daemon: fresh,
        daemon_after: idle,
    })
}

/// Waits until neither side makes clones.
async fn warm_up(sides: &[Side]) -> Result<()> {
    for side in sides {
        side.warm_up().await?;
    }
    Ok(())
}

/// Begins one after another, whether the one before is served or not.
async fn begun_in_turn(side: &Side, count: usize) -> Result<Vec<Served>> {
    let mut serving = JoinSet::new();
    let mut begin = tokio::time::interval(STAGGER);
    begin.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for _ in 0..count {
        begin.tick().await;
        let side = side.clone();
        serving.spawn(async move { side.serve().await });
    }
    all(serving).await
}

/// Begins all of them, and ends none before all are served.
async fn begun_together(side: &Side, count: usize) -> Result<Vec<Served>> {
    let begin = Instant::now();
    let mut serving = JoinSet::new();
    for _ in 0..count {
        let side = side.clone();
        serving.spawn(async move { side.serve_since(begin).await });
    }
    let mut served = Vec::new();
    let mut held = Vec::new();
    while let Some(one) = serving.join_next().await {
        let (times, vm) = one.context("a task failed")??;
        served.push(times);
        held.push(vm);
    }
    for vm in held {
        vm.end().await?;
    }
    Ok(served)
}

async fn all(mut serving: JoinSet<Result<Served>>) -> Result<Vec<Served>> {
    let mut served = Vec::new();
    while let Some(one) = serving.join_next().await {
        served.push(one.context("a task failed")??);
    }
    Ok(served)
}

fn print(report: &Report) -> Result<()> {
    output::line(&format!(
        "{}; {}; {} warm clones of each side; {}",
        report.guest.line(&report.vmm),
        report.template,
        report.warm,
        report.host.load()
    ))?;
    output::line("milliseconds to a sandbox, and to the end of its first command:")?;
    let ways = [
        ("one by one", &report.one_by_one),
        ("every 200 ms", &report.staggered),
        ("at once", &report.at_once),
    ];
    let rows = ways.into_iter().flat_map(|(name, way)| {
        [("library", &way.library), ("API", &way.api)].map(|(side, times)| {
            let Times {
                create_ms,
                first_command_ms,
            } = times;
            [
                name.to_owned(),
                side.to_owned(),
                create_ms.samples.to_string(),
                text::milliseconds(create_ms.p50),
                text::milliseconds(create_ms.p95),
                text::milliseconds(first_command_ms.p50),
                text::milliseconds(first_command_ms.p95),
                text::milliseconds(first_command_ms.max),
            ]
        })
    });
    output::table(
        [
            "WAY",
            "SIDE",
            "N",
            "CREATE P50",
            "P95",
            "FIRST COMMAND P50",
            "P95",
            "MAX",
        ],
        rows.collect(),
    )?;
    let rows = ways.map(|(name, way)| {
        [
            name.to_owned(),
            text::milliseconds(way.create_added_ms),
            text::milliseconds(way.first_command_added_ms),
            format!("{:.2}", way.slowest_of_library),
        ]
    });
    output::line("\nthe API's medians without the library's, and its slowest of the library's:")?;
    output::table(["WAY", "CREATE", "FIRST COMMAND", "SLOWEST"], rows.into())?;
    if let Some(commands) = &report.commands {
        commands.print()?;
    }
    output::line(&format!(
        "\n{} sandboxes listed in {} ms (median)\na daemon that idles: {}; after all of that: {}",
        report.listed,
        text::milliseconds(report.list_ms.p50),
        report.daemon,
        report.daemon_after
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_tells_what_the_api_adds() {
        let served = |created, answered| Served {
            created: Duration::from_millis(created),
            answered: Duration::from_millis(answered),
        };
        let library = [served(1, 10), served(2, 20), served(3, 30)];
        let api = [served(3, 13), served(4, 24), served(9, 60)];
        let way = Way::of(&library, &api).unwrap();
        assert!((way.create_added_ms - 2.0).abs() < 1e-9);
        assert!((way.first_command_added_ms - 4.0).abs() < 1e-9);
        assert!((way.slowest_of_library - 2.0).abs() < 1e-9);
    }
}
