//! The planner: at each pulse, due instants -> the ledger and runs. Every replica does it; there is no leader.
//!
//! It decides by the database's clock alone. A process whose own clock is far off, or whose archive is not the database's,
//! says so and decides nothing. A series that this process cannot decide (its connection is not in the config here) is left
//! to others and told.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};

use super::in_force::InForce;
use crate::connection::Connection;
use crate::fire::Outcome;
use crate::fire::decide::{Decision, Facts, IN_TIME, Pass, Pause, Verdict, decide};
use crate::fire::rule::{Rule, Rules};
use crate::job::policy::Overlap;
use crate::job::resolve::Mailing;
use crate::job::{Job, Series};
use crate::plan::{Covering, planned};
use crate::request::window::Window;
use crate::run::Trigger;
use crate::run::store::firing::{Decided, DueSeries, Made, Settled};
use crate::run::store::make::{NewRun, Wants};
use crate::run::store::serving::PulseRow;
use crate::run::store::{RunStore, StoreError};
use crate::worker::open::new_run;

/// Most series that one transaction takes.
const PAGE: i64 = 200;

/// Most instants that one transaction decides: it must be over long before the server ends one that is idle.
const INSTANTS: usize = 2000;

/// Most transactions of one pass, so that the loop turns.
const PAGES: usize = 5;

/// How far a process's clock may be from the database's.
const SKEW: TimeDelta = TimeDelta::minutes(5);

/// Why a pass decided nothing.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The set in force is another than the one that is loaded.
    #[error("the set of jobs in force was changed; it is loaded anew")]
    Changed,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// In all.
    pub made: Made,
    /// More is due.
    pub more: bool,
}

/// What keeps this process from planning; `None` = nothing.
pub fn trouble(row: &PulseRow, now: DateTime<Utc>, archive: uuid::Uuid) -> Option<String> {
    let skew = now - row.server_now;
    if skew.abs() > SKEW {
        return Some(format!(
            "this machine's clock differs from the database's by {} s: nothing is planned here until it is right",
            skew.num_seconds()
        ));
    }
    if row.archive_id != Some(archive) {
        return Some(
            "the database belongs to another archive than the one in the config: nothing is planned here".to_owned(),
        );
    }
    None
}

/// Decides instants, and remembers which series this process cannot decide.
#[derive(Debug, Default)]
pub struct Planner {
    /// Series left to others, with why; for one generation of what is loaded.
    unplannable: HashMap<i64, String>,
    generation: i64,
}

impl Planner {
    /// What keeps series from being planned here.
    pub fn complaint(&self) -> Option<String> {
        let first = self.unplannable.values().next()?;
        let more = self.unplannable.len() - 1;
        Some(if more == 0 { first.clone() } else { format!("{first} (and {more} more series)") })
    }

    /// Decides what is due, in pages.
    pub async fn pass(&mut self, store: &RunStore, in_force: &InForce) -> Result<Passed, PassError> {
        if self.generation != in_force.generation {
            self.unplannable.clear();
            self.generation = in_force.generation;
        }
        let (mut passed, mut page) = (Passed::default(), PAGE);
        for _ in 0..PAGES {
            let skip: Vec<i64> = self.unplannable.keys().copied().collect();
            let firing = store.due(&skip, page).await?;
            if firing.due.is_empty() {
                return Ok(passed);
            }
            if firing.version != in_force.version {
                return Err(PassError::Changed);
            }
            let now = firing.now;
            let (mut settled, before) = (Vec::new(), self.unplannable.len());
            let mut instants = 0;
            for due in &firing.due {
                if instants >= INSTANTS {
                    break;
                }
                match settle(in_force, due, now) {
                    Ok(one) => {
                        instants += one.decided.len();
                        settled.push(one);
                    }
                    Err(why) => {
                        tracing::warn!(job = %due.job, connection = %due.connection, "a due series is not planned here: {why}");
                        let name = crate::job::series_name(&due.job, &due.connection);
                        self.unplannable.insert(due.id, format!("{name}: {why}"));
                    }
                }
            }
            let alone = firing.due.first().filter(|_| firing.due.len() == 1).map(|due| (due.id, due.job.clone()));
            let settles = !settled.is_empty();
            match firing.settle(settled).await {
                Ok(page) => {
                    crate::crash::point("fires-committed");
                    if page.instants > 0 {
                        tracing::info!(instants = page.instants, runs = page.runs, "instants were decided");
                    }
                    passed.made.instants += page.instants;
                    passed.made.runs += page.runs;
                    if !settles && self.unplannable.len() == before {
                        return Ok(passed);
                    }
                }
                // One row that the database refuses must not keep all others from their turn.
                Err(error) if error.is_refusal() => match alone {
                    None => page = 1,
                    Some((id, job)) => {
                        let why = crate::telemetry::Chain(&error).to_string();
                        tracing::error!(job = %job, "the database refuses the decision about a series: {why}");
                        self.unplannable.insert(id, format!("{job}: {why}"));
                    }
                },
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Passed { more: true, ..passed })
    }
}

/// The decisions about one series.
fn settle(in_force: &InForce, due: &DueSeries, now: DateTime<Utc>) -> Result<Settled, String> {
    let (job, series, connection) = in_force.series(&due.job, &due.connection)?;
    let rules = Rules::from_rows(&due.rules.0)?;
    let pauses: Vec<Pause> =
        due.pauses.0.iter().map(|(from, until, who, why)| Pause::new(*from, *until, who, why)).collect();
    let facts = Facts {
        rules: &rules,
        cursor: due.cursor_at,
        catch_up: job.policy.catch_up,
        since: job.since,
        pauses: &pauses,
    };
    let Pass { decisions, cursor, next } = decide(&facts, now);
    let decided = decisions.iter().map(|decision| one(in_force, job, series, connection, decision, now)).collect();
    Ok(Settled { id: due.id, cursor_at: cursor, next_at: next, decided })
}

fn one(
    in_force: &InForce,
    job: &Job,
    series: &Series,
    connection: &Connection,
    decision: &Decision<'_>,
    now: DateTime<Utc>,
) -> Decided {
    let fire_at = decision.fire_at;
    let says = |outcome: Outcome, reason: String| Decided {
        fire_at,
        outcome: outcome.as_str(),
        reason: Some(reason),
        window: decision.window.map(|w| (w.start(), w.end())),
        run: None,
        // What is caught up comes all at once, and its runs did not overlap when they were due.
        alone: job.policy.overlap == Overlap::Skip && now - fire_at <= IN_TIME,
    };
    match &decision.verdict {
        Verdict::CoveredByNewer => {
            says(Outcome::Covered, "catch_up is latest: a newer instant stands for it".to_owned())
        }
        Verdict::Skipped(why) => says(Outcome::Skipped, why.clone()),
        Verdict::Missed(why) => says(Outcome::Missed, why.clone()),
        Verdict::Paused(why) => says(Outcome::Paused, why.clone()),
        Verdict::Fire(window, rule) => match scheduled(in_force, job, series, connection, fire_at, window, rule) {
            Ok(run) => Decided { run: Some(Box::new(run)), reason: None, ..says(Outcome::Fired, String::new()) },
            Err(why) => says(Outcome::Skipped, why),
        },
    }
}

fn scheduled(
    in_force: &InForce,
    job: &Job,
    series: &Series,
    connection: &Connection,
    fire_at: DateTime<Utc>,
    window: &Window,
    rule: &Rule,
) -> Result<NewRun, String> {
    let plan = planned(job, series, connection, fire_at, Some(Covering::Window(*window)), Mailing::Job);
    let (_, account) = in_force
        .worker
        .accounts
        .get(&connection.name, plan.vendor)
        .ok_or_else(|| format!("connection {} has no {} account", connection.name, plan.vendor))?;
    // Without the secret nobody knows whose account it is: whoever has the secret later may work on the run.
    let account = account.secrets().map(|secrets| secrets.account.clone()).unwrap_or_default();
    let delay = TimeDelta::from_std(job.policy.delay).unwrap_or_default();
    Ok(NewRun {
        provisional: rule.provisional(),
        not_before: window.end().checked_add_signed(delay),
        wants: if job.refetch { Wants::Another } else { Wants::Report },
        ..new_run(&plan, Trigger::Schedule, &account)?
    })
}
