//! `reportd apply`.

use clap::Args;
use serde::Serialize;

use super::{Cx, Exit, Failure, note, refuse_errors, say, say_json};
use crate::app::{ArchiveUse, Files};
use crate::job::load::{compile_all, read};
use crate::job_set::{self, Applied, ApplyError};

#[derive(Debug, Args)]
pub(super) struct Apply {
    /// Take every job out of force when the folder holds no job file
    #[arg(long)]
    empty: bool,
}

/// Names on one line for people.
const SHOWN: usize = 20;

#[derive(Serialize)]
struct Line<'a> {
    version: i64,
    added: &'a [String],
    changed: &'a [String],
    removed: &'a [String],
    left_out: &'a [String],
}

impl From<ApplyError> for Failure {
    fn from(error: ApplyError) -> Failure {
        match error {
            ApplyError::Store(store) => store.into(),
            ApplyError::Emptied(_) => Failure::Usage(error.to_string()),
        }
    }
}

impl Apply {
    pub(super) async fn run(&self, cx: &Cx) -> Result<Exit, Failure> {
        let settings = cx.settings()?;
        // Read once: what was checked is what is applied.
        let texts = read(&cx.place().jobs).map_err(|problem| Failure::Problems(vec![problem]))?;
        let jobs = compile_all(&texts, &settings.connections, &settings.defaults, cx.clock.now());
        let files = Files { settings, jobs, config_problems: Vec::new() };
        refuse_errors(&files, None)?;
        let app = cx.app(&files.settings, ArchiveUse::Reads).await?;
        let applied = job_set::apply(&app.worker.store, &texts, &files.jobs, self.empty).await;
        app.close().await;
        tell(cx, &applied?);
        Ok(Exit::Done)
    }
}

fn tell(cx: &Cx, applied: &Applied) {
    for history in &applied.histories {
        note(&format!("reportd: {history}"));
    }
    if cx.json() {
        say_json(&Line {
            version: applied.version,
            added: &applied.added,
            changed: &applied.changed,
            removed: &applied.removed,
            left_out: &applied.left_out,
        });
        return;
    }
    for (word, jobs) in [
        ("added", &applied.added),
        ("changed", &applied.changed),
        ("removed", &applied.removed),
        ("out of force, because their job has no such connection any more", &applied.left_out),
    ] {
        if !jobs.is_empty() {
            let more = jobs.len().saturating_sub(SHOWN);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            say(&format!("{word}: {}{more}", jobs[..jobs.len().min(SHOWN)].join(", ")));
        }
    }
    let nothing = if applied.is_unchanged() { "nothing changed; " } else { "" };
    say(&format!("{nothing}version {} of the jobs is in force", applied.version));
}
