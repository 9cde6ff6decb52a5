//! The set of job files in force: what fires. `apply` and `serve` write a folder into it; every replica compiles its jobs from it.
//!
//! A file with errors never gets in, and never takes its last good version out. A file that is gone takes its series out of
//! force; their history stays.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::connection::Connection;
use crate::fire::decide::first_cursor;
use crate::fire::rule::{Rule, Rules};
use crate::job::file::Words;
use crate::job::load::{FileText, Jobs, compile_all};
use crate::job::{Defaults, Job, Series, series_name};
use crate::run::store::job_set::{Applying, JobSet, KnownSeries, SeriesChange, SetFile};
use crate::run::store::{RunStore, StoreError};

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
    /// Jobs whose file has errors, and whose last good version stays.
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
    let good: HashMap<&str, &Job> = jobs.jobs.iter().map(|job| (job.name.as_str(), job)).collect();
    let seen: HashSet<&str> = texts.iter().map(|text| text.name.as_str()).collect();
    let put = changed_files(texts, &good, &applying.files);
    let mut removed: Vec<String> = applying.files.keys().filter(|job| !seen.contains(job.as_str())).cloned().collect();
    let mut kept: Vec<String> = applying
        .files
        .keys()
        .filter(|job| seen.contains(job.as_str()) && !good.contains_key(job.as_str()))
        .cloned()
        .collect();
    removed.sort();
    kept.sort();
    let returned = returned(&mut applying, texts, &good, &removed).await?;
    let series = changed_series(&mut applying, &good, &seen, &kept, &returned).await?;
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
    let mut histories: Vec<String> = returned
        .iter()
        .map(|(job, former)| {
            format!(
                "{job} was renamed to {} and is back: it takes that history along; a rebuilt database \
                 knows that only if it says `was`",
                former.join(", ")
            )
        })
        .collect();
    histories.extend(lost_histories(&put, &applying.files, &removed, &series, &returned));
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

/// New jobs that are a gone one's file but for its `was`, which names them: a rename that was taken back, by which nothing is to be
/// lost either. Of a folder with errors nobody knows what it is to be, and a history that a file claims is that file's.
async fn returned(
    applying: &mut Applying<'_>,
    texts: &[FileText],
    good: &HashMap<&str, &Job>,
    removed: &[String],
) -> Result<BTreeMap<String, Vec<String>>, StoreError> {
    let mut returned: BTreeMap<String, Vec<String>> = BTreeMap::new();
    if texts.iter().any(|text| !good.contains_key(text.name.as_str())) {
        return Ok(returned);
    }
    let claimed: HashSet<&String> = good.values().flat_map(|job| &job.was).collect();
    for (gone, text) in applying.texts(removed).await? {
        let Some((was, asks)) = apart(&text) else { continue };
        let is_back = |text: &&FileText| {
            was.contains(&text.name)
                && !applying.files.contains_key(&text.name)
                && text
                    .bytes
                    .as_ref()
                    .ok()
                    .and_then(|bytes| apart(std::str::from_utf8(bytes).ok()?))
                    .is_some_and(|now| now.1 == asks)
        };
        let back: Vec<&FileText> = texts.iter().filter(is_back).collect();
        if let ([one], false) = (back.as_slice(), claimed.contains(&gone)) {
            returned.entry(one.name.clone()).or_default().push(gone);
        }
    }
    Ok(returned)
}

/// The former names that a job file says, and the rest of it; `None` = this reportd cannot read it.
fn apart(text: &str) -> Option<(Vec<String>, serde_yaml::Value)> {
    let mut value: serde_yaml::Value = serde_yaml::from_str(text).ok()?;
    let was = value.as_mapping_mut()?.remove("was").unwrap_or_default();
    let Words(was) = serde_yaml::from_value::<Option<Words>>(was).ok()?.unwrap_or_default();
    Some((was, value))
}

/// New jobs that are a gone one's file under another name, and series that begin where their job's last one ends: without its history
/// every window of the past is asked for again.
fn lost_histories(
    put: &[SetFile],
    known: &HashMap<String, String>,
    removed: &[String],
    series: &[(SeriesChange, String, String)],
    returned: &BTreeMap<String, Vec<String>>,
) -> Vec<String> {
    const ANEW: &str = "what it held counts as missing and may be asked for again, at BIK with a mail each";
    let renamed = |file: &SetFile| {
        let former = removed.iter().find(|job| known.get(*job) == Some(&file.sha256))?;
        let job = Some(&file.job).filter(|job| !returned.contains_key(*job))?;
        Some(format!(
            "{job} is what {former} was, whose history it takes along with `was: [{former}]` only; else {ANEW}"
        ))
    };
    let moved = |(change, job, connection): &(SeriesChange, String, String)| {
        let ended = |(other, name, _): &&(SeriesChange, String, String)| !other.in_force && name == job;
        let (_, _, former) = series.iter().find(ended).filter(|_| change.in_force && change.first_cursor.is_some())?;
        let (new, old) = (series_name(job, connection), series_name(job, former));
        Some(format!("{new} begins and {old} ends: a connection that is renamed takes no history along; {ANEW}"))
    };
    put.iter().filter_map(renamed).chain(series.iter().filter_map(moved)).collect()
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
    returned: &BTreeMap<String, Vec<String>>,
) -> Result<Vec<(SeriesChange, String, String)>, StoreError> {
    let mut wanted: HashMap<(&str, &str), (&Job, &Series)> = HashMap::new();
    for job in good.values() {
        // A former name that is a job again is no former name.
        let was = job.was.iter().chain(returned.get(&job.name).into_iter().flatten());
        let was: Vec<String> = was.filter(|name| !seen.contains(name.as_str())).cloned().collect();
        for series in &job.series {
            wanted.insert((&job.name, &series.connection), (job, series));
            if !was.is_empty() {
                applying.take_over(&job.name, &series.connection, &was).await?;
            }
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
