//! Retention: what `archive prune` lets go, and letting it go.
//!
//! Removed is removed, so whatever is not known is kept: of a job that is in force and whose file is not in the folder, of a manifest that
//! cannot be used, and of a run whose notices may still need its files. Whose a revision is says the database, which knows renames that
//! the files do not say.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use thiserror::Error;

use crate::app::Files;
use crate::archive::ArchiveError;
use crate::archive::prune::{Keep, Prunable};
use crate::job::Retain;
use crate::run::store::StoreError;
use crate::telemetry::Chain;
use crate::worker::Worker;

/// What `retain` says of each job.
#[derive(Clone, Debug)]
pub struct Rules {
    /// By present and former names.
    jobs: HashMap<String, Retain>,
    /// Of jobs that have no file.
    others: Retain,
}

/// What went, or would go.
#[derive(Clone, Debug, Default)]
pub struct Pruned {
    /// Revisions whose files went.
    pub revisions: usize,
    /// Those files.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Events.
    pub events: u64,
    /// Revisions that a notice may still need.
    pub awaited: usize,
    /// Jobs in force whose file is not in the folder, of which everything is kept.
    pub without_file: Vec<String>,
    /// What could not be looked at or removed, with why.
    pub unusable: Vec<(String, String)>,
}

/// Why nothing more is let go.
#[derive(Debug, Error)]
pub enum RetentionError {
    /// The archive failed.
    #[error("look through the archive")]
    Archive(#[from] ArchiveError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Rules {
    /// What the files say. Give it a folder whose files are all good: what a broken one says is not known.
    pub fn of(files: &Files) -> Rules {
        let former = files.jobs.jobs.iter().flat_map(|job| job.was.iter().map(move |was| (was, job)));
        let present = files.jobs.jobs.iter().map(|job| (&job.name, job));
        Rules {
            jobs: former.chain(present).map(|(name, job)| (name.clone(), job.retain.clone())).collect(),
            others: files.settings.defaults.retain.clone(),
        }
    }

    /// Whether everything is kept for ever.
    pub fn keep_all(&self) -> bool {
        self.jobs.values().chain([&self.others]).all(|retain| *retain == Retain::default())
    }

    /// `None` = everything of that job is kept.
    fn of_job(&self, job: &str, without_file: &HashSet<String>) -> Option<&Retain> {
        if without_file.contains(job) { None } else { Some(self.jobs.get(job).unwrap_or(&self.others)) }
    }
}

/// Lets go what the rules let go, or only says what that is; `tell` hears of each revision. Ask before whether archive and database
/// know each other.
pub async fn prune(
    worker: &Worker,
    rules: &Rules,
    dry_run: bool,
    tell: impl Fn(&Prunable),
) -> Result<Pruned, RetentionError> {
    let now = worker.store.now().await?;
    let mut pruned = Pruned::default();
    // The jobs in force last: a name that an `apply` has given meanwhile is known to be one.
    let all_series = worker.store.all_series().await?;
    let of_manifests = worker.store.jobs_of_manifests().await?;
    let known: Vec<&str> = rules.jobs.keys().map(String::as_str).collect();
    pruned.without_file = worker.store.jobs_besides(&known).await?;
    let without_file: HashSet<String> = pruned.without_file.iter().cloned().collect();
    // A revision that the database does not know yet is about to be committed, and has no rule.
    let keep: HashMap<String, Keep> = of_manifests
        .into_iter()
        .filter_map(|(manifest, job)| {
            let retain = rules.of_job(&job, &without_file)?;
            Some((manifest, Keep { age: retain.artifacts, revisions: retain.revisions }))
        })
        .collect();
    for series in all_series {
        let age = rules.of_job(&series.job, &without_file).and_then(|retain| retain.events);
        let age = age.and_then(|age| TimeDelta::from_std(age).ok());
        let Some(before) = age.and_then(|age| now.checked_sub_signed(age)) else { continue };
        pruned.events += if dry_run {
            worker.store.old_events(series.id, before).await?
        } else {
            worker.store.prune_events(series.id, before).await?
        };
    }
    if worker.archive.is_there() {
        files(worker, keep, now, dry_run, tell, &mut pruned).await?;
    }
    Ok(pruned)
}

async fn files(
    worker: &Worker,
    keep: HashMap<String, Keep>,
    now: DateTime<Utc>,
    dry_run: bool,
    tell: impl Fn(&Prunable),
    pruned: &mut Pruned,
) -> Result<(), RetentionError> {
    let found = worker.archive.prunable(now, move |manifest| keep.get(manifest).copied().unwrap_or_default()).await?;
    let awaited = worker.store.runs_with_open_notices().await?;
    pruned.unusable = found.unusable;
    for one in &found.revisions {
        if awaited.contains(&one.manifest.run_id) {
            pruned.awaited += 1;
            continue;
        }
        if !dry_run && let Err(error) = worker.archive.prune(one, now, worker.store.signed()).await {
            pruned.unusable.push((one.folder.clone(), Chain(&error).to_string()));
            continue;
        }
        pruned.revisions += 1;
        pruned.files += one.files.len();
        pruned.bytes += one.files.iter().map(|file| file.bytes).sum::<u64>();
        tell(one);
    }
    Ok(())
}
