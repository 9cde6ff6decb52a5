//! `reportd archive prune`.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use clap::Args;
use serde::Serialize;

use super::text::size;
use super::{Cx, Exit, Failure, note, say, say_json};
use crate::app::{App, ArchiveUse, Files};
use crate::archive::prune::{Keep, Prunable};
use crate::job::Retain;
use crate::telemetry::Chain;
use crate::view::WindowView;

#[derive(Debug, Args)]
pub(super) struct Prune {
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
}

/// A revision whose bytes are taken away.
#[derive(Serialize)]
struct Line<'a> {
    job: &'a str,
    connection: &'a str,
    window: WindowView,
    revision: i32,
    run_id: String,
    reason: &'a str,
    files: Vec<FileLine>,
}

#[derive(Serialize)]
struct FileLine {
    path: String,
    bytes: u64,
}

/// What `retain` says of each job, by present and former names; what the config says counts for jobs that have no file.
struct Rules {
    jobs: HashMap<String, Retain>,
    others: Retain,
}

impl Rules {
    fn of(files: &Files) -> Rules {
        let former = files.jobs.jobs.iter().flat_map(|job| job.was.iter().map(move |was| (was, job)));
        let present = files.jobs.jobs.iter().map(|job| (&job.name, job));
        Rules {
            jobs: former.chain(present).map(|(name, job)| (name.clone(), job.retain.clone())).collect(),
            others: files.settings.defaults.retain.clone(),
        }
    }

    fn of_job(&self, job: &str) -> &Retain {
        self.jobs.get(job).unwrap_or(&self.others)
    }

    fn is_empty(&self) -> bool {
        self.jobs.values().chain([&self.others]).all(|retain| *retain == Retain::default())
    }
}

/// What goes, or would go.
#[derive(Default)]
struct Total {
    revisions: usize,
    files: usize,
    bytes: u64,
    waiting: usize,
    events: u64,
}

impl Prune {
    pub(super) async fn run(&self, cx: &Cx) -> Result<Exit, Failure> {
        // All files: the age of what a broken one names is not known.
        let files = cx.good_files(None)?;
        let rules = Rules::of(&files);
        if rules.is_empty() {
            note("reportd: neither the config nor a job says `retain`: everything is kept for ever");
            return Ok(Exit::Done);
        }
        let app = cx.app(&files.settings, ArchiveUse::Reads).await?;
        let result = self.prune(cx, &app, rules).await;
        app.close().await;
        result
    }

    async fn prune(&self, cx: &Cx, app: &App, rules: Rules) -> Result<Exit, Failure> {
        app.worker.check_bond_to_read().await?;
        app.worker.check_manifests().await?;
        let store = &app.worker.store;
        let now = store.now().await?;
        let mut total = Total::default();
        for series in store.all_series().await? {
            let age = rules.of_job(&series.job).events.and_then(|age| chrono::Duration::from_std(age).ok());
            let Some(before) = age.and_then(|age| now.checked_sub_signed(age)) else { continue };
            total.events += if self.dry_run {
                store.old_events(series.id, before).await?
            } else {
                store.prune_events(series.id, before).await?
            };
        }
        let unusable =
            if app.worker.archive.is_there() { self.files(cx, app, rules, now, &mut total).await? } else { Vec::new() };
        for (key, why) in &unusable {
            note(&format!("reportd: {key}: {why}; its files stay"));
        }
        self.sum_up(cx, &total);
        Ok(if unusable.is_empty() { Exit::Done } else { Exit::Failed })
    }

    /// Takes files away; returns the manifests that could not be used.
    async fn files(
        &self,
        cx: &Cx,
        app: &App,
        rules: Rules,
        now: DateTime<Utc>,
        total: &mut Total,
    ) -> Result<Vec<(String, String)>, Failure> {
        let archive = &app.worker.archive;
        let keep = move |job: &str| {
            let retain = rules.of_job(job);
            Keep { age: retain.artifacts, revisions: retain.revisions }
        };
        let mut found = archive.prunable(now, keep).await?;
        let awaited = app.worker.store.runs_with_open_notices().await?;
        for one in &found.revisions {
            if awaited.contains(&one.manifest.run_id) {
                total.waiting += 1;
                continue;
            }
            if !self.dry_run
                && let Err(error) = archive.prune(one, now, app.worker.store.signed()).await
            {
                found.unusable.push((one.folder.clone(), Chain(&error).to_string()));
                continue;
            }
            total.revisions += 1;
            total.files += one.files.len();
            total.bytes += one.files.iter().map(|file| file.bytes).sum::<u64>();
            tell(cx, one);
        }
        Ok(found.unusable)
    }

    fn sum_up(&self, cx: &Cx, total: &Total) {
        let removed = if self.dry_run { "would be removed" } else { "removed" };
        let summary = format!(
            "{} files of {} revisions, {}, and {} events {removed}; manifests stay",
            total.files,
            total.revisions,
            size(total.bytes),
            total.events
        );
        if cx.json() {
            note(&summary);
        } else {
            say(&summary);
        }
        if total.waiting > 0 {
            note(&format!("reportd: {} revisions stay until their notices are out: see deliveries", total.waiting));
        }
    }
}

fn tell(cx: &Cx, one: &Prunable) {
    let Some(window) = one.manifest.window.window() else { return };
    let bytes: u64 = one.files.iter().map(|file| file.bytes).sum();
    if cx.json() {
        let file = |name: &str, bytes| FileLine { path: format!("{}/{name}", one.folder), bytes };
        say_json(&Line {
            job: &one.manifest.job,
            connection: &one.manifest.connection,
            window: WindowView::of(&window),
            revision: one.manifest.revision,
            run_id: one.manifest.run_id.to_string(),
            reason: &one.reason,
            files: one.files.iter().map(|one| file(&one.name, one.bytes)).collect(),
        });
    } else {
        say(&format!("{}  {} files, {}: {}", one.folder, one.files.len(), size(bytes), one.reason));
    }
}
