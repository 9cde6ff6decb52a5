//! `reportd pause` and `reportd resume`: an operator's word, signed.

use std::collections::HashMap;

use chrono_tz::Tz;
use clap::Args;
use serde::Serialize;

use super::{Cx, Exit, Failure, say, say_json};
use crate::app::{Files, Selection};
use crate::fire::explain::shown;
use crate::fire::rule::Rule;
use crate::request::window::rfc3339_in;
use crate::run::store::RunStore;
use crate::run::store::pause::PausedRow;
use crate::selected::{SelectError, Selected, select};
use crate::yaml::is_unprintable;

#[derive(Debug, Args)]
pub(super) struct Pause {
    /// The job, for all its connections or one
    #[arg(value_name = "JOB[@CONN]")]
    selection: Selection,
    /// Why, for those who will wonder
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Resume {
    /// The job, for all its connections or one
    #[arg(value_name = "JOB[@CONN]")]
    selection: Selection,
}

/// One line of JSON: the state after the command; `since`, `reason` and `who` are the open pause's.
#[derive(Debug, Serialize)]
struct Line<'a> {
    job: &'a str,
    connection: &'a str,
    paused: bool,
    since: Option<String>,
    reason: Option<&'a str>,
    who: Option<&'a str>,
}

/// It is printed on other people's terminals.
fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    match () {
        () if text.is_empty() => Err("the reason is empty".to_owned()),
        () if text.chars().count() > 500 => Err("the reason is longer than 500 characters".to_owned()),
        () if text.chars().any(is_unprintable) => Err("the reason holds characters that cannot be printed".to_owned()),
        () => Ok(text.to_owned()),
    }
}

impl From<SelectError> for Failure {
    fn from(error: SelectError) -> Failure {
        match error {
            SelectError::Unknown(message) => Failure::Usage(message),
            SelectError::Broken(problems) => Failure::Problems(problems),
            SelectError::Store(error) => error.into(),
        }
    }
}

/// A series with what a pause is about.
struct Known<'a> {
    selected: Selected<'a>,
    id: i64,
    zone: Tz,
    /// The newest rule in force.
    rule: Option<Rule>,
}

/// The series that are named, made in the database where nothing asked for them before.
async fn known<'a>(files: &'a Files, store: &RunStore, selection: &Selection) -> Result<Vec<Known<'a>>, Failure> {
    let mut all = Vec::new();
    for selected in select(files, store, selection, false).await? {
        let id = match &selected.row {
            Some(row) => row.id,
            None => store.series(&selected.job, &selected.connection, &selected.vendor).await?,
        };
        let zone = selected.file.map_or(Tz::UTC, |(_, series)| series.zone);
        all.push(Known { selected, id, zone, rule: None });
    }
    let ids: Vec<i64> = all.iter().map(|one| one.id).collect();
    // In order of time, so the newest comes last.
    for version in store.versions(&ids).await? {
        for one in all.iter_mut().filter(|one| one.id == version.series_id) {
            one.rule = Rule::from_json(&version.rule).ok();
        }
    }
    for one in &mut all {
        if let (None, Some(rule)) = (one.selected.file, &one.rule) {
            one.zone = rule.zone;
        }
    }
    Ok(all)
}

fn by_series(rows: Vec<PausedRow>) -> HashMap<i64, PausedRow> {
    rows.into_iter().map(|row| (row.series_id, row)).collect()
}

fn print(cx: &Cx, one: &Known<'_>, open: Option<&PausedRow>, text: &str) {
    if cx.json() {
        say_json(&Line {
            job: &one.selected.job,
            connection: &one.selected.connection,
            paused: open.is_some(),
            since: open.map(|row| rfc3339_in(row.paused_at, one.zone)),
            reason: open.map(|row| row.reason.as_str()),
            who: open.map(|row| row.paused_by.as_str()),
        });
    } else {
        say(&format!("{}  {text}", one.selected.name()));
    }
}

fn told(row: &PausedRow, zone: Tz) -> String {
    format!("since {}, by {}: {}", shown(row.paused_at, zone), row.paused_by, row.reason)
}

/// The selection as it is typed.
fn typed(selection: &Selection) -> String {
    let Selection { job, connection } = selection;
    connection.as_ref().map_or_else(|| job.clone(), |connection| crate::job::series_name(job, connection))
}

impl Pause {
    pub(super) async fn run(&self, cx: &Cx) -> Result<Exit, Failure> {
        let files = cx.files_whose_config_is_good()?;
        let (db, store) = cx.database(&files.settings).await?;
        let result = self.pause(cx, &files, &store).await;
        db.close().await;
        result
    }

    async fn pause(&self, cx: &Cx, files: &Files, store: &RunStore) -> Result<Exit, Failure> {
        let all = known(files, store, &self.selection).await?;
        let ids: Vec<i64> = all.iter().map(|one| one.id).collect();
        let made = by_series(store.pause(&ids, self.reason.as_deref().unwrap_or("no reason given")).await?);
        let open = by_series(store.pauses(&ids, store.now().await?).await?);
        for one in &all {
            // Who resumes it at this very moment has the last word.
            let row = made.get(&one.id).or_else(|| open.get(&one.id).filter(|row| row.resumed_at.is_none()));
            let text = match (made.contains_key(&one.id), row) {
                (true, _) => "paused".to_owned(),
                (false, Some(row)) => format!("was paused already, {}", told(row, one.zone)),
                (false, None) => "was paused already, and somebody resumed it just now".to_owned(),
            };
            print(cx, one, row, &text);
        }
        if !cx.json() && !made.is_empty() {
            let name = typed(&self.selection);
            say("Instants from now on are recorded as paused and make no run; runs that were made go on.");
            say(&format!("To end it: reportd resume {name}, and then for what it left out: reportd fill {name}"));
        }
        Ok(Exit::Done)
    }
}

impl Resume {
    pub(super) async fn run(&self, cx: &Cx) -> Result<Exit, Failure> {
        let files = cx.files_whose_config_is_good()?;
        let (db, store) = cx.database(&files.settings).await?;
        let result = self.resume(cx, &files, &store).await;
        db.close().await;
        result
    }

    async fn resume(&self, cx: &Cx, files: &Files, store: &RunStore) -> Result<Exit, Failure> {
        let all = known(files, store, &self.selection).await?;
        for one in &all {
            refuse_file(one)?;
        }
        let ids: Vec<i64> = all.iter().map(|one| one.id).collect();
        let ended = by_series(store.resume(&ids).await?);
        for one in &all {
            let text = ended.get(&one.id).map_or_else(
                || "was not paused".to_owned(),
                |row| format!("resumed; it was paused {}", told(row, one.zone)),
            );
            print(cx, one, None, &text);
        }
        if !cx.json() && !ended.is_empty() {
            say("Instants from now on fire again.");
            say(&format!("For what the pause left out: reportd fill {}", typed(&self.selection)));
        }
        Ok(Exit::Done)
    }
}

/// What a job file pauses, only the file resumes.
fn refuse_file(one: &Known<'_>) -> Result<(), Failure> {
    let (job, name) = (&one.selected.job, one.selected.name());
    let in_file = one.selected.file.and_then(|(job, _)| job.paused.as_deref());
    let in_force = one.rule.as_ref().and_then(|rule| rule.paused.as_deref());
    match (in_file, in_force) {
        (Some(reason), _) => Err(Failure::Usage(format!(
            "the file of job {job} says paused: {reason}, and no command overrules a file: remove `paused` from it to resume {name}"
        ))),
        (None, Some(reason)) if one.selected.row.as_ref().is_some_and(|row| row.in_force) => {
            Err(Failure::Usage(format!(
                "the job set in force says paused: {reason}, and no command overrules it: the job's file here does not say so, so \
             `reportd apply` it (or let `reportd serve` take it) to resume {name}"
            )))
        }
        _ => Ok(()),
    }
}
