//! What decided about one instant of one or more series: the ledger, else the rules. Brings rows together; fire/explain.rs
//! has the sentences. Nothing is written, and no archive is needed.

use std::collections::HashMap;

use chrono::{DateTime, NaiveDateTime, Utc};
use chrono_tz::Tz;
use thiserror::Error;
use uuid::Uuid;

use crate::fire::decide::Pause;
use crate::fire::explain::{Known, clock_change, explain};
use crate::fire::rule::{Rule, Rules};
use crate::request::window::Window;
use crate::run::store::ledger::{FireRow, VersionRow};
use crate::run::store::pause::PausedRow;
use crate::run::store::{RunStore, StoreError};
use crate::selected::Selected;

/// One version of a rule, and where it comes from.
#[derive(Clone, Debug)]
pub struct Version {
    /// What it says.
    pub rule: Rule,
    /// In force from here; `None` = it stands in a file only.
    pub from: Option<DateTime<Utc>>,
    /// Who brought it into the set.
    pub applied_by: Option<String>,
}

/// The answer for one series.
#[derive(Clone, Debug)]
pub struct Why {
    /// Job name.
    pub job: String,
    /// Connection name.
    pub connection: String,
    /// The calendar in which it is told.
    pub zone: Tz,
    /// What was asked about.
    pub at: DateTime<Utc>,
    /// The instant, if the ledger has it or the schedule names it.
    pub fire_at: Option<DateTime<Utc>>,
    /// A word of the ledger, or of fire/explain.rs.
    pub outcome: String,
    /// Why.
    pub reason: Option<String>,
    /// What a daylight-saving change did to the time that was asked about.
    pub clock_change: Option<String>,
    /// What the instant covers.
    pub window: Option<Window>,
    /// The run that was made or that covers it, and where it stands if this database has it.
    pub run: Option<(Uuid, Option<String>)>,
    /// The newest revision that the archive holds of the window.
    pub revision: Option<i32>,
    /// The rule in force at the instant.
    pub version: Option<Version>,
    /// The file says something else than the newest rule in force.
    pub file_differs: bool,
    /// When it was decided.
    pub decided_at: Option<DateTime<Utc>>,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum WhyError {
    /// The instant cannot be read.
    #[error("{0}")]
    Instant(String),
    /// A newer reportd wrote it.
    #[error("the stored rule of {series} cannot be read by this reportd ({why}): use the newer one")]
    Rule {
        /// Whose.
        series: String,
        /// Why.
        why: String,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is asked about: a text that becomes an instant in a zone.
pub struct Asked<'a> {
    /// Reads it.
    pub read: &'a dyn Fn(Tz) -> Result<DateTime<Utc>, String>,
    /// The local time as it was written; `None` for RFC 3339.
    pub local: Option<NaiveDateTime>,
}

/// A series with its rules and the instant in its zone.
struct Subject<'a> {
    selected: &'a Selected<'a>,
    rules: Rules,
    versions: Vec<VersionRow>,
    at: DateTime<Utc>,
}

fn subject<'a>(
    selected: &'a Selected<'a>,
    versions: Vec<VersionRow>,
    asked: &Asked<'_>,
) -> Result<Subject<'a>, WhyError> {
    let rows: Vec<_> = versions.iter().map(|version| (version.from_at, version.rule.clone())).collect();
    let rules = match (rows.is_empty(), selected.file) {
        (true, Some((job, series))) => Rules::only(Rule::of(job, series)),
        _ => Rules::from_rows(&rows).map_err(|why| WhyError::Rule { series: selected.name(), why })?,
    };
    let zone = rules.newest().map_or(Tz::UTC, |rule| rule.zone);
    let mut at = (asked.read)(zone).map_err(WhyError::Instant)?;
    // Local time is that of the calendar in force then, which may be another than today's.
    if let Some(then) = rules.at(at).map(|rule| rule.zone).filter(|then| *then != zone) {
        at = (asked.read)(then).map_err(WhyError::Instant)?;
    }
    Ok(Subject { selected, rules, versions, at })
}

/// The answers, one a series.
pub async fn why(store: &RunStore, selected: &[Selected<'_>], asked: &Asked<'_>) -> Result<Vec<Why>, WhyError> {
    let ids: Vec<i64> = selected.iter().filter_map(|s| s.row.as_ref()).map(|row| row.id).collect();
    let mut versions: HashMap<i64, Vec<VersionRow>> = HashMap::new();
    for row in store.versions(&ids).await? {
        versions.entry(row.series_id).or_default().push(row);
    }
    let mut subjects = Vec::new();
    for one in selected {
        let versions = one.row.as_ref().and_then(|row| versions.remove(&row.id)).unwrap_or_default();
        subjects.push(subject(one, versions, asked)?);
    }
    let instants: Vec<(i64, DateTime<Utc>)> =
        subjects.iter().filter_map(|s| Some((s.selected.row.as_ref()?.id, s.at))).collect();
    let mut fires: HashMap<i64, FireRow> =
        store.fires_at(&instants).await?.into_iter().map(|fire| (fire.series_id, fire)).collect();
    let earliest = subjects.iter().map(|s| s.at).min().unwrap_or_default();
    let mut pauses: HashMap<i64, Vec<Pause>> = HashMap::new();
    for row in store.pauses(&ids, earliest).await? {
        pauses.entry(row.series_id).or_default().push(pause(&row));
    }
    let (now, last_pass) = (store.now().await?, store.last_pass().await?);
    Ok(subjects
        .into_iter()
        .map(|subject| {
            let id = subject.selected.row.as_ref().map(|row| row.id);
            let fire = id.and_then(|id| fires.remove(&id));
            let pauses = id.and_then(|id| pauses.remove(&id)).unwrap_or_default();
            answer(&subject, fire, &pauses, now, last_pass, asked)
        })
        .collect())
}

/// A stored pause, in the planner's words.
pub fn pause(row: &PausedRow) -> Pause {
    Pause::new(row.paused_at, row.resumed_at, &row.paused_by, &row.reason)
}

/// The version in force at an instant; the first also counts before.
fn version_at(subject: &Subject<'_>) -> Option<Version> {
    let rule = subject.rules.at(subject.at)?.clone();
    let index = subject.versions.partition_point(|version| version.from_at <= subject.at).saturating_sub(1);
    let row = subject.versions.get(index);
    Some(Version { rule, from: row.map(|row| row.from_at), applied_by: row.map(|row| row.applied_by.clone()) })
}

fn answer(
    subject: &Subject<'_>,
    fire: Option<FireRow>,
    pauses: &[Pause],
    now: DateTime<Utc>,
    last_pass: Option<DateTime<Utc>>,
    asked: &Asked<'_>,
) -> Why {
    let Subject { selected, rules, versions, at } = subject;
    let version = version_at(subject);
    let zone = version.as_ref().map_or(Tz::UTC, |version| version.rule.zone);
    let change = version.as_ref().and_then(|version| clock_change(&version.rule, *at, asked.local));
    let in_file = selected.file.map(|(job, series)| Rule::of(job, series).to_json());
    let file_differs = !versions.is_empty()
        && in_file.is_some_and(|in_file| rules.newest().is_none_or(|newest| newest.to_json() != in_file));
    let mut why = Why {
        job: selected.job.clone(),
        connection: selected.connection.clone(),
        zone,
        at: *at,
        fire_at: Some(*at),
        outcome: String::new(),
        reason: None,
        clock_change: change,
        window: None,
        run: None,
        revision: None,
        version,
        file_differs,
        decided_at: None,
    };
    if let Some(fire) = fire {
        why.outcome = fire.outcome;
        why.reason = fire.reason;
        let window = fire.window_start.zip(fire.window_end);
        why.window = window.and_then(|(start, end)| Window::new(start, end, zone));
        why.run = fire.run_id.map(|id| (id, fire.run_state));
        why.revision = fire.revision;
        why.decided_at = Some(fire.decided_at);
        return why;
    }
    let row = selected.row.as_ref();
    let known = Known {
        rules,
        in_force: row.is_some_and(|row| row.in_force),
        first_seen: row.and_then(|row| row.first_seen_at),
        cursor: row.and_then(|row| row.cursor_at),
        since: selected.file.and_then(|(job, _)| job.since),
        catch_up: selected.file.and_then(|(job, _)| job.policy.catch_up),
        pauses,
        now,
        last_pass,
    };
    let told = explain(&known, *at);
    why.fire_at = told.fire_at;
    told.outcome.clone_into(&mut why.outcome);
    why.window = told.window;
    why.reason = Some(told.reason);
    why
}
