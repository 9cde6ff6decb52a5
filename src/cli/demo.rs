//! `reportd demo`: a newcomer's first run.
//!
//! Apart from everything else: its database and archive are in `.reportd/demo`, its vendors on loopback, and it starts clean
//! each time. It ignores DATABASE_URL and every credential.

use std::collections::BTreeMap;

use clap::Args;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use futures_util::StreamExt;

use super::carry::{Carrying, Outcome, run_one, stop_on_signal, worst};
use super::progress::Board;
use super::text::size;
use super::{Cx, Exit, Failure, note, refuse_errors, say, say_json};
use crate::app::{App, ArchiveUse, Files};
use crate::job::notice::Telling;
use crate::job::resolve::Mailing;
use crate::plan::{Planned, planned};
use crate::rehearsal::Rehearsal;
use crate::request::window::WindowRule;
use crate::run::Trigger;
use crate::settings::Settings;

#[derive(Debug, Args)]
pub(super) struct Demo {}

/// Runs at once: enough to see several go on, few enough to read.
const AT_ONCE: usize = 4;

/// A second shop beside `default`, so that a job for all connections shows what a series is.
const SECOND_SHOP: &str = "second-shop";

impl Demo {
    pub(super) async fn run(&self, cx: &Cx) -> Result<Exit, Failure> {
        let place = cx.place();
        let loaded =
            crate::settings::load(&place.config, place.config_named, cx.environment.clone(), crate::app::as_root());
        if loaded.broken() {
            return Err(Failure::Problems(loaded.problems));
        }
        let mut settings = loaded.settings;
        add_second_shop(&mut settings);
        let rehearsal = Rehearsal::start(&settings, "demo", cx.clock.clone()).await?;
        let result = demo(cx, &rehearsal, &place.jobs).await;
        rehearsal.stop().await;
        result
    }
}

/// Without a config file there is one connection, `default`; the demo adds another one like it.
fn add_second_shop(settings: &mut Settings) {
    if let [only] = settings.connections.as_slice()
        && only.name == "default"
    {
        let mut second = only.clone();
        SECOND_SHOP.clone_into(&mut second.name);
        settings.connections.push(second);
    }
}

async fn demo(cx: &Cx, rehearsal: &Rehearsal, jobs: &std::path::Path) -> Result<Exit, Failure> {
    let files = Files::with(rehearsal.settings.clone(), Vec::new(), jobs, &cx.clock);
    refuse_errors(&files, None)?;
    let series = files.series(None).map_err(Failure::Usage)?;
    if series.is_empty() {
        return Err(Failure::Usage(format!("there are no job files in {}", jobs.display())));
    }
    note(&format!(
        "The vendors of this demo are simulated, on http://{}: nothing leaves this machine.",
        rehearsal.sandbox.addr()
    ));
    let app = cx.app(&rehearsal.settings, ArchiveUse::Rehearses).await?;
    let result = async {
        app.worker.check_bond().await?;
        let now = super::text::instant(None, chrono_tz::UTC, &cx.clock).map_err(Failure::Usage)?;
        let fires: Vec<Planned> = series
            .iter()
            .map(|(job, series, connection)| {
                // A job by hand has no window of its own; yesterday is as good as any.
                let covering = job.window.is_none().then_some(crate::plan::Covering::Rule(WindowRule::Yesterday));
                let fire = planned(job, series, connection, now, covering, Mailing::Job);
                // A rehearsal tells nobody of what never happened.
                Planned { telling: Telling::default(), ..fire }
            })
            .collect();
        let (outcomes, exits) = run_all(&app, &fires).await;
        show(cx, &app, rehearsal, &outcomes);
        Ok(worst(&exits))
    }
    .await;
    app.close().await;
    result
}

async fn run_all(app: &App, fires: &[Planned]) -> (Vec<Outcome>, Vec<Exit>) {
    let stop = stop_on_signal();
    let board = Board::new();
    let carrying = Carrying { trigger: Trigger::Manual, again: false, until: None };
    let mut results = futures_util::stream::iter(fires)
        .map(|fire| run_one(app, fire, carrying, None, &stop, &board))
        .buffered(AT_ONCE);
    let (mut outcomes, mut exits) = (Vec::new(), Vec::new());
    while let Some(result) = results.next().await {
        match result {
            Ok(outcome) => {
                exits.push(outcome.exit);
                outcomes.push(outcome);
            }
            Err(failure) => exits.push(failure.complain()),
        }
    }
    board.end();
    (outcomes, exits)
}

fn show(cx: &Cx, app: &App, rehearsal: &Rehearsal, outcomes: &[Outcome]) {
    if cx.json() {
        for outcome in outcomes {
            say_json(&outcome.view);
        }
        return;
    }
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["SERIES", "VENDOR", "WINDOW", "TICKET", "STATE", "FILES", "SIZE"]);
    for Outcome { view, .. } in outcomes {
        let bytes: i64 = view.artifacts.iter().map(|a| a.bytes).sum();
        table.add_row([
            format!("{}@{}", view.job, view.connection),
            view.vendor.clone(),
            view.window.label.clone(),
            view.ticket.clone().unwrap_or_else(|| "-".into()),
            view.state.clone(),
            view.artifacts.len().to_string(),
            size(u64::try_from(bytes).unwrap_or(0)),
        ]);
    }
    say("");
    say(&table.trim_fmt());
    say("");
    say(&format!("{}/", app.worker.archive.root().display()));
    say(&tree(outcomes));
    for Outcome { view, .. } in outcomes {
        if let Some(failure) = &view.failure {
            say(&format!("{}@{}: {}: {}", view.job, view.connection, failure.class, failure.message));
        }
    }
    let mails = rehearsal.sandbox.mails().len();
    say(&format!(
        "\nThe vendors were simulated: the numbers in these files are made up, and their manifests say so (\"simulated\": true). The simulated BIK \"sent\" {mails} mails."
    ));
    say("To check every byte again: reportd archive verify .reportd/demo/archive");
    say("To fetch real reports, set the credentials you have, and run one job:");
    say("  BIK        export BIK_API_KEY=… BIK_API_SECRET=…      (or BIK_AUTH_TOKEN)");
    say("  LiveChat   export LIVECHAT_TOKEN=account_id:token     (LIVECHAT_AUTH=bearer for OAuth)");
    say("  JAICP      export JAICP_TOKEN=…");
    say("  reportd plan, then reportd run-job JOB");
}

/// The archive's files as a tree.
fn tree(outcomes: &[Outcome]) -> String {
    let mut folders: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for path in outcomes.iter().flat_map(|o| &o.view.artifacts).map(|a| a.path.as_str()) {
        let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
        folders.entry(folder).or_default().push(file);
    }
    let mut lines = Vec::new();
    for (folder, files) in folders {
        let shown = if files.len() > 4 { format!("{}  … {} files", files[0], files.len()) } else { files.join("  ") };
        lines.push(format!("  {folder}/  {shown}  manifest.json"));
    }
    lines.join("\n")
}
