//! Brings together what `status` looks at: rows, files, secrets, the archive. Changes nothing, and needs no archive.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::{AccountFact, Broken, Declared, DriftFact, Drifted, Facts, Undecided};
use crate::app::Files;
use crate::archive::{Archive, ArchiveError};
use crate::fire::decide::{Facts as FireFacts, Pause, Verdict, decide};
use crate::fire::rule::Rules;
use crate::job::load::{Jobs, read, shown};
use crate::job::series_name;
use crate::job_set::{self, sha256};
use crate::request::Vendor;
use crate::run::store::attention::WindowOf;
use crate::run::store::job_set::JobSet;
use crate::run::store::ledger::SeriesRow;
use crate::run::store::{Instance, RunStore, StoreError};
use crate::settings::Settings;
use crate::telemetry::Chain;
use crate::worker::Accounts;
use crate::worker::open::{OpenError, stranger};
use crate::yaml::{Problem, Severity};

/// What is late is looked for so far back; what is older is for `coverage`.
const BACK: TimeDelta = TimeDelta::days(30);

/// An archive that is not looked through within this time is not compared with the database: one of millions of revisions.
const PATIENCE: Duration = Duration::from_secs(30);

/// Everything that `status` looks at. `folder` is where the job files are.
pub async fn gather(files: &Files, folder: &Path, store: &RunStore) -> Result<Facts, StoreError> {
    let settings = &files.settings;
    let (instance, set, now) = (store.instance().await?, store.job_set().await?, store.now().await?);
    // A machine that only follows the set has no folder, and needs none.
    let follows = set.version > 0 && !folder.exists();
    let followed = follows.then(|| job_set::compile(&set, &settings.connections, &settings.defaults, now));
    let jobs = followed.as_ref().unwrap_or(&files.jobs);
    let declared = declared(jobs);
    let series = store.all_series().await?;
    let broken = if follows { Vec::new() } else { broken_files(&files.jobs.problems, folder, &set) };
    let drift = if follows || set.version == 0 { Vec::new() } else { drift(folder, &set, &broken) };
    let late_after = late_after(&declared, &series);
    let seconds: Vec<(&str, &str, f64)> = late_after
        .iter()
        .map(|(row, after)| (row.job.as_str(), row.connection.as_str(), after.as_seconds_f64()))
        .collect();
    let archive = match archive_trouble(&settings.archive, &instance, store, PATIENCE).await {
        Ok(trouble) => trouble,
        Err(OpenError::Store(error)) => return Err(error),
        Err(error) => {
            tracing::warn!("archive and database were not compared, which `reportd coverage` does: {}", Chain(&error));
            None
        }
    };
    Ok(Facts {
        now,
        zones: settings.connections.iter().filter_map(|c| Some((c.name.clone(), c.zone?))).collect(),
        accounts: accounts(settings, &instance, &declared),
        drift,
        applied: set.applied_at.zip(set.applied_by.clone()),
        archive,
        paused: paused(store, &series, now).await?,
        replicas: store.replicas().await?,
        breakers: store.breakers_that_are_open().await?,
        live: store.live_runs().await?,
        held: store.held_runs().await?,
        failed: store.failed_windows().await?,
        late: store.late_windows(&seconds, BACK.to_std().unwrap_or_default(), false).await?,
        deliveries: store.deliveries_in_trouble().await?,
        undecided: undecided(store, jobs, &late_after, now).await?,
        broken,
        declared,
        series,
    })
}

async fn paused(store: &RunStore, series: &[SeriesRow], now: DateTime<Utc>) -> Result<Vec<String>, StoreError> {
    let ids: Vec<i64> = series.iter().map(|row| row.id).collect();
    let pauses = store.pauses(&ids, now).await?;
    let is_paused = |row: &&SeriesRow| pauses.iter().any(|pause| pause.series_id == row.id);
    Ok(series.iter().filter(is_paused).map(|row| series_name(&row.job, &row.connection)).collect())
}

fn declared(jobs: &Jobs) -> Vec<Declared> {
    let mut all = Vec::new();
    for job in &jobs.jobs {
        all.extend(job.series.iter().map(|series| Declared {
            job: job.name.clone(),
            connection: series.connection.clone(),
            vendor: job.vendor().as_str(),
            zone: series.zone,
            scheduled: !series.crons.is_empty(),
            late_after: job.policy.late_after,
            waivers: job.waivers.clone(),
        }));
    }
    all
}

fn accounts(settings: &Settings, instance: &Instance, declared: &[Declared]) -> Vec<AccountFact> {
    let known = Accounts::new(settings, &instance.salt);
    let used: HashSet<(&str, &str)> = declared.iter().map(|d| (d.connection.as_str(), d.vendor)).collect();
    let mut accounts = Vec::new();
    for connection in &settings.connections {
        for vendor in Vendor::ALL {
            let Some((_, account)) = known.get(&connection.name, vendor) else { continue };
            accounts.push(AccountFact {
                connection: connection.name.clone(),
                vendor: vendor.as_str(),
                base_url: account.base_url.clone(),
                used: used.contains(&(connection.name.as_str(), vendor.as_str())),
                account: account.secrets().map(|s| s.account.clone()).map_err(|e| Chain(&e).to_string()),
            });
        }
    }
    accounts
}

/// Files with errors, one item each. `folder` itself may be the problem.
pub fn broken_files(problems: &[Problem], folder: &Path, set: &JobSet) -> Vec<Broken> {
    let mut by_file: BTreeMap<&str, Vec<&Problem>> = BTreeMap::new();
    for problem in problems.iter().filter(|problem| problem.severity == Severity::Error) {
        by_file.entry(&problem.file).or_default().push(problem);
    }
    let broken = |(file, problems): (&str, Vec<&Problem>)| {
        let first = problems.first()?;
        let path = Path::new(file);
        let in_folder = path.parent().is_some_and(|parent| shown(parent) == shown(folder));
        let job = path.file_stem().filter(|_| in_folder).map(|stem| stem.to_string_lossy().into_owned());
        let in_force = job.as_ref().is_some_and(|job| set.files.iter().any(|file| file.job == *job));
        Some(Broken {
            job,
            count: i64::try_from(problems.len()).unwrap_or(i64::MAX),
            first: format!("{file}:{}:{}: {}", first.line, first.column, first.message),
            in_force,
        })
    };
    by_file.into_iter().filter_map(broken).collect()
}

/// How the folder differs from the set. Broken files are told as such.
fn drift(folder: &Path, set: &JobSet, broken: &[Broken]) -> Vec<DriftFact> {
    let Ok(texts) = read(folder) else { return Vec::new() };
    let broken: HashSet<&str> = broken.iter().filter_map(|b| b.job.as_deref()).collect();
    let known: HashMap<&str, &str> = set.files.iter().map(|f| (f.job.as_str(), f.sha256.as_str())).collect();
    let mut drift = Vec::new();
    for text in texts.iter().filter(|text| !broken.contains(text.name.as_str())) {
        let Ok(bytes) = &text.bytes else { continue };
        let how = match known.get(text.name.as_str()) {
            Some(known) if *known == sha256(bytes) => continue,
            Some(_) => Drifted::Changed,
            None => Drifted::New,
        };
        drift.push(DriftFact { job: text.name.clone(), file: text.file.clone(), how });
    }
    let here: HashSet<&str> = texts.iter().map(|text| text.name.as_str()).collect();
    drift.extend(set.files.iter().filter(|file| !here.contains(file.job.as_str())).map(|file| DriftFact {
        job: file.job.clone(),
        file: file.file.clone(),
        how: Drifted::Gone,
    }));
    drift
}

/// What is wrong between archive and database, and what ends it. Unlike the check of a worker this one bonds nothing. The error
/// says why that is not known: the database failed, or the archive is too large to be looked through now.
pub async fn archive_trouble(
    folder: &Path,
    instance: &Instance,
    store: &RunStore,
    patience: Duration,
) -> Result<Option<(String, String)>, OpenError> {
    let place = folder.display();
    let archive = match Archive::attach(folder).await {
        Ok(archive) => archive,
        Err(error) => {
            return Ok(Some((
                format!("the archive cannot be opened: {}", Chain(&error)),
                "restore it, or correct `archive` in the config".to_owned(),
            )));
        }
    };
    let looked = match instance.archive_id {
        Some(id) if id == archive.id() => stranger(&archive, store, Some(patience)).await,
        None if !archive.id().is_nil() => {
            let keys = archive.manifest_keys(Some(patience)).await;
            keys.map_err(OpenError::Archive).map(|keys| {
                (!keys.is_empty())
                    .then(|| format!("the archive in {place} holds revisions, and the database knows none"))
            })
        }
        None => Ok(None),
        Some(_) if archive.id().is_nil() => {
            return Ok(Some((
                format!("the database belongs to an archive, and there is none in {place}"),
                "mount or restore it, or correct `archive` in the config".to_owned(),
            )));
        }
        Some(_) => {
            return Ok(Some((
                format!("the archive in {place} is not the one that the database belongs to"),
                "correct `archive` in the config; only if this is the restored copy: reportd archive rebuild"
                    .to_owned(),
            )));
        }
    };
    match looked {
        Ok(what) => Ok(what.map(|what| (what, "reportd archive rebuild, which fetches nothing".to_owned()))),
        Err(error @ (OpenError::Store(_) | OpenError::Archive(ArchiveError::TooLarge))) => Err(error),
        Err(error) => Ok(Some((
            format!("the archive cannot be read: {}", Chain(&error)),
            "restore it, or correct `archive` in the config".to_owned(),
        ))),
    }
}

/// The series that say when they are late.
fn late_after<'a>(declared: &[Declared], series: &'a [SeriesRow]) -> Vec<(&'a SeriesRow, TimeDelta)> {
    let by_name: HashMap<(&str, &str), &SeriesRow> =
        series.iter().map(|row| ((row.job.as_str(), row.connection.as_str()), row)).collect();
    let late = |declared: &Declared| {
        let row = by_name.get(&(declared.job.as_str(), declared.connection.as_str()))?;
        Some((*row, TimeDelta::from_std(declared.late_after?).ok()?))
    };
    declared.iter().filter_map(late).collect()
}

/// Instants of the last 30 days that are due, late, and decided by nobody, and whose windows nobody has.
async fn undecided(
    store: &RunStore,
    jobs: &Jobs,
    late_after: &[(&SeriesRow, TimeDelta)],
    now: DateTime<Utc>,
) -> Result<Vec<Undecided>, StoreError> {
    let behind: Vec<(&SeriesRow, TimeDelta, DateTime<Utc>)> = late_after
        .iter()
        .filter(|(row, _)| row.in_force)
        .filter_map(|(row, after)| Some((*row, *after, row.cursor_at?)))
        .filter(|(_, after, cursor)| *cursor < now - *after)
        .collect();
    if behind.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<i64> = behind.iter().map(|(row, ..)| row.id).collect();
    let mut versions: HashMap<i64, Vec<_>> = HashMap::new();
    for version in store.versions(&ids).await? {
        versions.entry(version.series_id).or_default().push((version.from_at, version.rule));
    }
    let mut pauses: HashMap<i64, Vec<Pause>> = HashMap::new();
    for row in store.pauses(&ids, now - BACK).await? {
        pauses.entry(row.series_id).or_default().push(crate::why::pause(&row));
    }
    let mut due = Vec::new();
    for (row, after, cursor) in behind {
        // A rule of a newer reportd is that one's to read.
        let Some(rules) = versions.get(&row.id).and_then(|rows| Rules::from_rows(rows).ok()) else { continue };
        let job = jobs.jobs.iter().find(|job| job.name == row.job);
        let facts = FireFacts {
            rules: &rules,
            cursor: cursor.max(now - BACK),
            catch_up: job.and_then(|job| job.policy.catch_up),
            since: job.and_then(|job| job.since),
            pauses: pauses.get(&row.id).map_or(&[][..], Vec::as_slice),
        };
        for decision in decide(&facts, now).decisions {
            let wanted = matches!(decision.verdict, Verdict::Fire(..) | Verdict::Missed(_));
            if let Some(window) = decision.window.filter(|_| wanted && decision.fire_at + after <= now) {
                let window = WindowOf { series: row.id, start: window.start(), end: window.end() };
                due.push(Undecided { fire_at: decision.fire_at, window });
            }
        }
    }
    let windows: Vec<WindowOf> = due.iter().map(|due| due.window).collect();
    let missing: HashSet<WindowOf> = store.not_there(&windows).await?.into_iter().collect();
    due.retain(|due| missing.contains(&due.window));
    Ok(due)
}
