//! `reportd archive prune`: what retention lets go, told.

use clap::Args;
use serde::Serialize;

use super::text::size;
use super::{Cx, Exit, Failure, note, say, say_json};
use crate::app::{App, ArchiveUse};
use crate::archive::prune::Prunable;
use crate::retention::{self, Pruned, RetentionError, Rules};
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

impl From<RetentionError> for Failure {
    fn from(error: RetentionError) -> Failure {
        Failure::Failed(error.into())
    }
}

impl Prune {
    pub(super) async fn run(&self, cx: &Cx) -> Result<Exit, Failure> {
        // All files: the age of what a broken one names is not known, nor that of any job when there are none.
        let files = cx.good_files(None)?;
        if files.jobs.jobs.is_empty() {
            return Err(Failure::Usage(
                "the job folder holds no job files, so what they say of `retain` is not known: nothing is removed"
                    .into(),
            ));
        }
        let rules = Rules::of(&files);
        if rules.keep_all() {
            note("reportd: neither the config nor a job says `retain`: everything is kept for ever");
            return Ok(Exit::Done);
        }
        let app = cx.app(&files.settings, ArchiveUse::Reads).await?;
        let result = self.prune(cx, &app, &rules).await;
        app.close().await;
        result
    }

    async fn prune(&self, cx: &Cx, app: &App, rules: &Rules) -> Result<Exit, Failure> {
        app.worker.check_bond_to_read().await?;
        app.worker.check_manifests().await?;
        let pruned = retention::prune(&app.worker, rules, self.dry_run, |one| tell(cx, one)).await?;
        self.sum_up(cx, &pruned);
        Ok(if pruned.unusable.is_empty() { Exit::Done } else { Exit::Failed })
    }

    fn sum_up(&self, cx: &Cx, pruned: &Pruned) {
        for (key, why) in &pruned.unusable {
            note(&format!("reportd: {key} is left as it is: {why}"));
        }
        for job in &pruned.without_file {
            note(&format!("reportd: {job} is in force and not in the job folder: everything of it is kept"));
        }
        if pruned.awaited > 0 {
            let count = pruned.awaited;
            note(&format!("reportd: {count} revisions stay until their notices are out: see deliveries"));
        }
        let removed = if self.dry_run { "would be removed" } else { "removed" };
        let summary = format!(
            "{} files of {} revisions, {}, and {} events {removed}; manifests stay",
            pruned.files,
            pruned.revisions,
            size(pruned.bytes),
            pruned.events
        );
        if cx.json() {
            note(&summary);
        } else {
            say(&summary);
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
