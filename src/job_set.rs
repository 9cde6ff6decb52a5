//! The set of job files in force: what fires. `apply` and `serve` write a folder into it; every replica compiles its jobs from it.
//!
//! A file with errors never gets in, and never takes its last good version out. A file that is gone takes its series out of
//! force; their history stays.

mod renames;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::connection::Connection;
use crate::fire::decide::first_cursor;
use crate::fire::rule::{Rule, Rules};
use crate::job::load::{FileText, Jobs, compile_all};
use crate::job::{Defaults, Job, Series, series_name};
use crate::run::store::job_set::{Applying, JobSet, KnownSeries, SeriesChange, SetFile};
use crate::run::store::{RunStore, StoreError};
use renames::{Renames, moved_connections, renames};

/// What a folder did to the set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The version of the set now.
    pub version: i64,
    /// Jobs that are new in it.
    pub added: Vec<String>,
    /// Jobs whose file or connection changed.
    pub changed: Vec<String>,
    /// Jobs whose file is gone.
    pub removed: Vec<String>,
    /// Jobs whose file has errors, or may be there under a former name, and whose last good version stays.
    pub kept: Vec<String>,
    /// Series that fire no more although their job stays: its file, or the config, has no such connection any more.
    pub left_out: Vec<String>,
    /// What a change of names means for the history, where the files do not say it.
    pub histories: Vec<String>,
}

impl Applied {
    /// Whether nothing was changed.
    pub fn is_unchanged(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty() && self.left_out.is_empty()
    }
}

/// Why a folder could not be applied.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// It would take every job out of force: more likely a mount that is missing than a wish.
    #[error(
        "the job folder holds no job files, and {} in force: nothing is changed (to take everything out of force, run \
         `reportd apply --empty`)", jobs(*.0)
    )]
    Emptied(usize),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// sha256 of a file's text, as the set keeps it.
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// The jobs of the set, compiled against this process's connections.
pub fn compile(set: &JobSet, connections: &[Connection], defaults: &Defaults, now: DateTime<Utc>) -> Jobs {
    let texts: Vec<FileText> =
        set.files.iter().map(|file| FileText::stored(file.file.clone(), file.job.clone(), file.text.clone())).collect();
    compile_all(&texts, connections, defaults, now)
}

fn jobs(count: usize) -> String {
    if count == 1 { "1 job is".to_owned() } else { format!("{count} jobs are") }
}

/// Writes what was read of a folder, and compiled, into the set. A folder without files changes nothing, unless somebody says
/// that it `may_empty` the set.
pub async fn apply(store: &RunStore, texts: &[FileText], jobs: &Jobs, may_empty: bool) -> Result<Applied, ApplyError> {
    let mut applying = store.apply().await?;
    if texts.is_empty() && !applying.files.is_empty() && !may_empty {
        return Err(ApplyError::Emptied(applying.files.len()));
    }
    let mut good: HashMap<&str, &Job> = jobs.jobs.iter().map(|job| (job.name.as_str(), job)).collect();
    let seen: HashSet<&str> = texts.iter().map(|text| text.name.as_str()).collect();
    let mut removed: Vec<String> = applying.files.keys().filter(|job| !seen.contains(job.as_str())).cloned().collect();
    let mut kept: Vec<String> = applying
        .files
        .keys()
        .filter(|job| seen.contains(job.as_str()) && !good.contains_key(job.as_str()))
        .cloned()
        .collect();
    let renames = renames(&mut applying, texts, &good, &removed).await?;
    good.retain(|name, _| !renames.waiting.contains(*name));
    removed.retain(|job| !renames.staying.contains(job));
    kept.extend(renames.staying.iter().cloned());
    removed.sort();
    kept.sort();
    let put = changed_files(texts, &good, &applying.files);
    let series = changed_series(&mut applying, &good, &seen, &kept, &renames).await?;
    let names: Vec<String> = good.keys().map(|name| (*name).to_owned()).collect();
    applying.forget_former(&names).await?;
    let (mut added, mut changed): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    for file in &put {
        let list = if applying.files.contains_key(&file.job) { &mut changed } else { &mut added };
        list.push(file.job.clone());
    }
    let mut left_out = Vec::new();
    for (change, job, connection) in &series {
        // A series may change with its connection alone.
        if change.in_force && !added.contains(job) && !changed.contains(job) {
            changed.push(job.clone());
        }
        if !change.in_force && !removed.contains(job) {
            left_out.push(series_name(job, connection));
        }
    }
    let mut histories = renames.told;
    histories.extend(moved_connections(&series));
    let mut applied = Applied { version: applying.version, added, changed, removed, kept, left_out, histories };
    if put.is_empty() && applied.removed.is_empty() && series.is_empty() {
        // History that a former name still had, since its run was live at the change, has moved all the same.
        applying.unchanged().await?;
        return Ok(applied);
    }
    let series: Vec<SeriesChange> = series.into_iter().map(|(change, ..)| change).collect();
    applied.version = applying.finish(&put, &applied.removed, &series).await?;
    crate::crash::point("set-applied");
    Ok(applied)
}

/// The good files whose text differs from what is in force.
fn changed_files(texts: &[FileText], good: &HashMap<&str, &Job>, known: &HashMap<String, String>) -> Vec<SetFile> {
    let mut put = Vec::new();
    let mut taken = HashSet::new();
    for text in texts {
        let (Some(_), Ok(bytes)) = (good.get(text.name.as_str()), &text.bytes) else { continue };
        // Two files of one name are a problem of the second.
        if !taken.insert(text.name.as_str()) {
            continue;
        }
        let sha256 = sha256(bytes);
        if known.get(&text.name) != Some(&sha256) {
            put.push(SetFile {
                job: text.name.clone(),
                file: text.file.clone(),
                // A file that compiled is UTF-8.
                text: String::from_utf8_lossy(bytes).into_owned(),
                sha256,
            });
        }
    }
    put
}

/// What becomes of each series, with its job's and its connection's name; those that stay as they are are left out.
async fn changed_series(
    applying: &mut Applying<'_>,
    good: &HashMap<&str, &Job>,
    seen: &HashSet<&str>,
    kept: &[String],
    renames: &Renames,
) -> Result<Vec<(SeriesChange, String, String)>, StoreError> {
    let mut wanted: HashMap<(&str, &str), (&Job, &Series)> = HashMap::new();
    let mut former: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for job in good.values() {
        // A former name that is a job again is no former name.
        let is_its = |name: &&String| !seen.contains(name.as_str());
        let was = job.was.iter().chain(renames.also_was.get(&job.name).into_iter().flatten());
        let was: Vec<String> = was.filter(is_its).cloned().collect();
        if !was.is_empty() {
            former.insert(&job.name, was);
        }
        wanted
            .extend(job.series.iter().map(|series| ((job.name.as_str(), series.connection.as_str()), (*job, series))));
    }
    let names: Vec<String> = former.values().flatten().cloned().collect();
    let places = applying.connections_of(&names).await?;
    for (job, was) in &former {
        // Also where the job has no connection any more: it may have it again.
        let left = places.iter().filter(|(name, _)| was.contains(name)).map(|(_, connection)| connection.as_str());
        let mine = good[job].series.iter().map(|series| series.connection.as_str());
        for connection in left.chain(mine).collect::<BTreeSet<_>>() {
            applying.take_over(job, connection, was).await?;
        }
    }
    let rows: Vec<(String, String, &'static str)> = wanted
        .values()
        .map(|(job, series)| (job.name.clone(), series.connection.clone(), job.vendor().as_str()))
        .collect();
    let known = applying.series(&rows).await?;
    let mut changing = Vec::new();
    for row in &known {
        match wanted.get(&(row.job.as_str(), row.connection.as_str())) {
            Some((job, series)) => {
                let rule = Rule::of(job, series);
                if !row.in_force || row.rule.as_ref() != Some(&rule.to_json()) {
                    changing.push((row, rule, Some(*job)));
                }
            }
            None if row.in_force && !kept.contains(&row.job) => {
                // A rule that this reportd cannot read is replaced by one that names nothing either.
                let rule = row.rule.as_ref().and_then(|json| Rule::from_json(json).ok());
                changing.push((row, rule.map_or_else(Rule::nothing, |rule| rule.removed()), None));
            }
            None => {}
        }
    }
    let ids: Vec<i64> = changing.iter().map(|(row, ..)| row.id).collect();
    let history = applying.rules(&ids).await?;
    let now = applying.now;
    let change = |(row, rule, job): (&KnownSeries, Rule, Option<&Job>)| {
        let json = rule.to_json();
        // After a rebuilt database the archive knows how far the schedule had come.
        let first = |job: &Job| row.last_fire_at.unwrap_or_else(|| first_cursor(&rule, job.since, now));
        let first = job.filter(|_| row.cursor_at.is_none()).map(first);
        let cursor = row.cursor_at.or(first).unwrap_or(now).min(now);
        let mut rules =
            history.get(&row.id).and_then(|rows| Rules::from_rows(rows).ok()).unwrap_or_else(|| Rules::new(Vec::new()));
        let is_new_rule = row.rule.as_ref() != Some(&json);
        if is_new_rule {
            rules.then(now, rule);
        }
        let change = SeriesChange {
            id: row.id,
            in_force: job.is_some(),
            first_cursor: first,
            rule: is_new_rule.then_some(json),
            next_at: job.and_then(|_| rules.next(cursor)).map(|(fire_at, _)| fire_at),
        };
        (change, row.job.clone(), row.connection.clone())
    };
    Ok(changing.into_iter().map(change).collect())
}
