//! `reportd runs` and `reportd show`.

use std::collections::HashMap;

use chrono_tz::Tz;
use clap::Args;
use comfy_table::Table;
use comfy_table::presets::NOTHING;

use super::text::{local, size};
use super::{Cx, Exit, Failure, progress, say, say_json, text};
use crate::app::{App, ArchiveUse, Files, Selection};
use crate::run::store::RunStore;
use crate::run::store::ledger::SeriesRow;
use crate::run::store::query::Filter;
use crate::run::store::revision::ArtifactRow;
use crate::run::{Run, State};
use crate::view::{RunView, ShowView};

#[derive(Debug, Args)]
pub(super) struct Runs {
    /// Only this job, or this series
    #[arg(value_name = "JOB[@CONN]")]
    selection: Option<Selection>,
    /// Only runs in this state
    #[arg(long, value_name = "S")]
    state: Option<State>,
    /// Only runs made at or after this instant (RFC 3339, or local time in the series' zone; in UTC where no job is named)
    #[arg(long, value_name = "T")]
    since: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// The run's id, or its first digits
    run: String,
}

/// The files of a run's revision; none for a run that has not ended in the archive.
pub(super) async fn files_of(app: &App, run: &Run) -> Result<Vec<ArtifactRow>, Failure> {
    match run.revision.filter(|_| run.state.is_held_in_archive()) {
        Some(revision) => Ok(app.worker.store.artifacts(run.series_id, &run.window_label, revision).await?),
        None => Ok(Vec::new()),
    }
}

impl Runs {
    pub(super) async fn run(&self, cx: &Cx) -> Result<Exit, Failure> {
        let files = cx.files_whose_config_is_good()?;
        let since = match &self.since {
            Some(text) => {
                let zone = self.selection.as_ref().and_then(|selection| zone_of(&files, selection));
                let zone = zone.unwrap_or(chrono_tz::UTC);
                Some(text::instant(Some(text), zone, &cx.clock).map_err(Failure::Usage)?)
            }
            None => None,
        };
        let filter = Filter {
            job: self.selection.as_ref().map(|s| s.job.clone()),
            connection: self.selection.as_ref().and_then(|s| s.connection.clone()),
            state: self.state,
            since,
            limit: i64::from(self.limit),
        };
        let app = cx.app(&files.settings, ArchiveUse::Reads).await?;
        let known = match &self.selection {
            Some(selection) => known(&files, &app.worker.store, selection).await,
            None => Ok(()),
        };
        let result = match known {
            Ok(()) => list(cx, &app, &filter).await,
            Err(unknown) => Err(unknown),
        };
        app.close().await;
        result
    }
}

/// The zone in which a person reads the times of what he names.
fn zone_of(files: &Files, selection: &Selection) -> Option<Tz> {
    files.series(Some(selection)).ok()?.first().map(|(_, series, _)| series.zone)
}

/// What a person names is in the job files, or the database knows it: a mistyped name is told, and has no history.
pub(super) async fn known(files: &Files, store: &RunStore, selection: &Selection) -> Result<(), Failure> {
    let Err(message) = files.series(Some(selection)) else { return Ok(()) };
    let rows = store.series_of_job(&selection.job).await?;
    let named = |row: &SeriesRow| selection.connection.as_ref().is_none_or(|name| *name == row.connection);
    if rows.iter().any(named) || !files.errors_of(Some(&selection.job)).is_empty() {
        return Ok(());
    }
    Err(Failure::Usage(message))
}

async fn list(cx: &Cx, app: &App, filter: &Filter) -> Result<Exit, Failure> {
    let runs = app.worker.store.list(filter).await?;
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["RUN", "SERIES", "WINDOW", "STATE", "MADE", "BY", "FILES"]);
    let ids: Vec<uuid::Uuid> = runs.iter().map(|run| run.id).collect();
    let mut by_run: HashMap<uuid::Uuid, Vec<ArtifactRow>> = HashMap::new();
    for (run, file) in app.worker.store.artifacts_of(&ids).await? {
        by_run.entry(run).or_default().push(file);
    }
    for run in &runs {
        let files = by_run.remove(&run.id).unwrap_or_default();
        if cx.json() {
            say_json(&RunView::of(run, &files));
            continue;
        }
        let zone = run.window_zone.parse().unwrap_or(chrono_tz::UTC);
        let bytes: i64 = files.iter().map(|f| f.bytes).sum();
        let files = match files.len() {
            0 => run.failure_class.clone().or_else(|| run.note.clone()).unwrap_or_default(),
            n => format!("r{} {n} × {}", run.revision.unwrap_or(0), size(u64::try_from(bytes).unwrap_or(0))),
        };
        table.add_row([
            run.id.simple().to_string()[..8].to_owned(),
            format!("{}@{}", run.job, run.connection),
            run.window_label.clone(),
            run.state.to_string(),
            local(run.created_at, zone),
            run.trigger.as_str().to_owned(),
            files,
        ]);
    }
    if !cx.json() {
        say(&if runs.is_empty() { "no runs".to_owned() } else { table.trim_fmt() });
    }
    Ok(Exit::Done)
}

impl Show {
    pub(super) async fn run(&self, cx: &Cx) -> Result<Exit, Failure> {
        let app = cx.app(&cx.settings()?, ArchiveUse::Reads).await?;
        let result = self.show(cx, &app).await;
        app.close().await;
        result
    }

    async fn show(&self, cx: &Cx, app: &App) -> Result<Exit, Failure> {
        let store = &app.worker.store;
        let run = store.by_prefix(&self.run).await?;
        let files = files_of(app, &run).await?;
        let tasks = store.tasks(run.id).await?;
        let events = store.events(run.id).await?;
        let deliveries = store.deliveries_of(run.id).await?;
        let view = ShowView::of(&run, &files, &tasks, &events, &deliveries);
        if cx.json() {
            say_json(&view);
            return Ok(Exit::Done);
        }
        say(&format!("run       {}", run.id));
        say(&format!("series    {}@{}  ({}, by {})", run.job, run.connection, run.vendor, run.trigger.as_str()));
        say(&format!("window    {}  [{}, {})", view.run.window.label, view.run.window.start, view.run.window.end));
        say(&format!("state     {}", progress::state_text(&run, tasks.last())));
        if let Some(failure) = &view.run.failure {
            say(&format!("failure   {}: {}", failure.class, failure.message));
        }
        if let Some(next) = view.next_step_at.as_ref().filter(|_| run.state != State::Held) {
            say(&format!("next look {next}"));
        }
        if let Ok(call) = serde_json::from_value(run.request.get("call").cloned().unwrap_or_default()) {
            say(text::request_lines(&call, "").trim_end());
        }
        for task in &view.remote_tasks {
            let id = task.remote_id.as_deref().unwrap_or("no id");
            let status = task.status.as_deref().unwrap_or("no status");
            let rows = task.rows_written.map_or(String::new(), |n| format!(", {n} rows"));
            say(&format!("task      {id}  {} ({status}{rows}), polled {} times", task.outcome, task.polls));
        }
        for file in &files {
            let bytes = size(u64::try_from(file.bytes).unwrap_or(0));
            let gone = app.worker.archive.was_pruned(&file.path);
            let marks = [(file.derived, "derived"), (file.simulated, "simulated"), (gone, "pruned")];
            let marks: Vec<&str> = marks.iter().filter(|(set, _)| *set).map(|(_, word)| *word).collect();
            say(&format!(
                "file      {}  {bytes}  {}  {}",
                app.worker.archive.path(&file.path).display(),
                file.sha256,
                marks.join(" ")
            ));
        }
        for delivery in &view.deliveries {
            say(&format!("notice    {}  {}", &delivery.delivery_id[..8], super::delivery::line(delivery)));
        }
        for event in &view.events {
            say(&format!("{}  {:<10} {}  [{}]", event.at, event.kind, event.detail, event.who));
        }
        Ok(Exit::Done)
    }
}
