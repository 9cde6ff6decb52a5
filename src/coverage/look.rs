//! Reads what is known of many series at once, and puts the calendars together. It writes nothing.
//!
//! Some statements for a whole batch of series, never one for each. Whoever looks has made sure before that the database knows
//! all that the archive holds (`Worker::check_manifests`): `fill` would fetch the rest again.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use thiserror::Error;

use super::Span;
use super::cell::{Cell, Facts, State, Today, by_hand_cells, cells};
use super::verify::{Checked, hash};
use super::wanted::{Expectation, TooMany, Wanted};
use crate::connection::Connection;
use crate::fire::rule::{Rule, Rules};
use crate::job::resolve::Mailing;
use crate::job::{Job, Series, series_name};
use crate::plan::{Covering, Planned, planned};
use crate::request::window::Window;
use crate::run::store::StoreError;
use crate::run::store::calendar::{Range, SeriesRow, WindowRun};
use crate::worker::Worker;

/// Names, and those under which their history may stand as well, as the database knows.
type Beside = HashMap<String, Vec<String>>;

/// Series that are looked at in one go: enough that statements are few, few enough that memory stays flat.
pub const BATCH: usize = 200;

/// A series, as the job files have it.
pub type Chosen<'a> = (&'a Job, &'a Series, &'a Connection);

/// What is looked for.
#[derive(Clone, Debug)]
pub struct Look<'a> {
    /// Reads rows and files.
    pub worker: &'a Worker,
    /// Names of all jobs that there are: none of them is another's former name.
    pub names: &'a HashSet<&'a str>,
    /// The dates.
    pub span: Span,
    /// Hash the bytes again.
    pub verify: bool,
    /// The database's present instant.
    pub now: DateTime<Utc>,
}

/// The calendar of one series.
#[derive(Clone, Debug)]
pub struct Calendar<'a> {
    /// Its job.
    pub job: &'a Job,
    /// It.
    pub series: &'a Series,
    /// Its connection.
    pub connection: &'a Connection,
    /// Its rows in the database, the former names' too.
    pub ids: Vec<i64>,
    /// Some schedule names windows; else what is held is all there is to say.
    pub scheduled: bool,
    /// Its windows in order of time.
    pub cells: Vec<Cell>,
    /// Held windows in the same time that no schedule names.
    pub besides: usize,
    /// What is wrong with damaged windows.
    pub damage: Vec<(Window, String)>,
    /// What was hashed.
    pub checked: Checked,
    /// More windows than are looked at, so that none is here.
    pub too_many: Option<TooMany>,
}

impl Calendar<'_> {
    /// `job@connection`.
    pub fn name(&self) -> String {
        series_name(&self.job.name, &self.connection.name)
    }

    /// What fetches a cell's window.
    pub fn fire(&self, cell: &Cell, mailing: Mailing) -> Planned {
        let covering = Some(Covering::Window(cell.window));
        let fire_at = cell.fire_at.unwrap_or(cell.window.end());
        let fire = planned(self.job, self.series, self.connection, fire_at, covering, mailing);
        Planned { provisional: cell.provisional, ..fire }
    }

    /// What fetches those of its gaps, the oldest first.
    pub fn fires(&self, mailing: Mailing, which: impl Fn(&Cell) -> bool) -> Vec<Planned> {
        let gaps = self.cells.iter().filter(|cell| cell.state.is_gap() && which(cell));
        gaps.map(|cell| self.fire(cell, mailing)).collect()
    }

    /// Start and end of the windows of which a run has ended.
    pub fn asked(&self) -> HashSet<(DateTime<Utc>, DateTime<Utc>)> {
        let asked = self.cells.iter().filter(|cell| cell.asked);
        asked.map(|cell| (cell.window.start(), cell.window.end())).collect()
    }

    /// How many cells are in a state.
    pub fn count(&self, state: State) -> usize {
        self.cells.iter().filter(|cell| cell.state == state).count()
    }
}

/// Why nothing can be said.
#[derive(Debug, Error)]
pub enum LookError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A newer reportd wrote the rules.
    #[error("read the stored rules of {series}: {why}; this reportd may be older than the one that wrote them")]
    Rules {
        /// Whose.
        series: String,
        /// Why not.
        why: String,
    },
}

/// One series on its way to a calendar.
struct Begun<'a> {
    chosen: Chosen<'a>,
    rows: Vec<SeriesRow>,
    scheduled: bool,
    wanted: Vec<Wanted>,
    too_many: Option<TooMany>,
    facts: Facts,
}

impl<'a> Look<'a> {
    /// The calendars of some series, in their order. Ask for at most [`BATCH`] at a time.
    pub async fn at(&self, chosen: &[Chosen<'a>]) -> Result<Vec<Calendar<'a>>, LookError> {
        let mut begun = self.begin(chosen).await?;
        self.read(&mut begun).await?;
        let mut calendars: Vec<Calendar<'a>> = begun.into_iter().map(|one| self.calendar(one)).collect();
        if self.verify {
            for calendar in &mut calendars {
                hash(self.worker, calendar).await?;
            }
        }
        Ok(calendars)
    }

    /// The names under which a series' history may stand, its own first: those that the file says, and what the database knows of
    /// them, which the set in force may not.
    fn names_of(&self, job: &'a Job, beside: &Beside) -> Vec<String> {
        let mut names = vec![job.name.clone()];
        for name in std::iter::once(&job.name).chain(&job.was) {
            let known = beside.get(name.as_str()).into_iter().flatten();
            names
                .extend(std::iter::once(name).chain(known).filter(|name| !self.names.contains(name.as_str())).cloned());
        }
        let mut seen = HashSet::new();
        names.retain(|name| seen.insert(name.clone()));
        names
    }

    async fn begin(&self, chosen: &[Chosen<'a>]) -> Result<Vec<Begun<'a>>, LookError> {
        let mut beside = Beside::new();
        for (former, _, holder) in self.worker.store.former_names().await? {
            beside.entry(former.clone()).or_default().push(holder.clone());
            beside.entry(holder).or_default().push(former);
        }
        let names: Vec<(String, String)> = chosen
            .iter()
            .flat_map(|(job, series, _)| {
                self.names_of(job, &beside).into_iter().map(|name| (name, series.connection.clone()))
            })
            .collect();
        let mut rows: HashMap<(String, String), SeriesRow> = HashMap::new();
        for row in self.worker.store.series_named(&names).await? {
            rows.insert((row.job.clone(), row.connection.clone()), row);
        }
        let ids: Vec<i64> = rows.values().map(|row| row.id).collect();
        let mut versions: HashMap<i64, Vec<_>> = HashMap::new();
        for row in self.worker.store.versions(&ids).await? {
            versions.entry(row.series_id).or_default().push((row.from_at, row.rule));
        }
        let mut begun = Vec::with_capacity(chosen.len());
        for (job, series, connection) in chosen.iter().copied() {
            let found = |name: String| rows.get(&(name, series.connection.clone())).cloned();
            let rows: Vec<SeriesRow> = self.names_of(job, &beside).into_iter().filter_map(found).collect();
            // Of versions that begin at one instant the last counts: the own name's.
            let stored: Vec<_> = rows.iter().rev().filter_map(|row| versions.get(&row.id)).flatten().cloned().collect();
            let named = || series_name(&job.name, &series.connection);
            let rules = Rules::from_rows(&stored).map_err(|why| LookError::Rules { series: named(), why })?;
            let rules = with_today(rules, Rule::of(job, series), self.now);
            let expectation = Expectation {
                rules: &rules,
                zone: series.zone,
                since: job.since,
                first_seen: rows.iter().filter_map(|row| row.first_seen_at).min(),
                earliest_held: rows.iter().filter_map(|row| row.earliest_held).min(),
                span: self.span,
                delay: TimeDelta::from_std(job.policy.delay).unwrap_or(TimeDelta::MAX),
                now: self.now,
            };
            let (wanted, too_many) = match expectation.windows() {
                Ok(wanted) => (wanted, None),
                Err(too_many) => (Vec::new(), Some(too_many)),
            };
            let scheduled = expectation.is_scheduled();
            let chosen = (job, series, connection);
            begun.push(Begun { chosen, rows, scheduled, wanted, too_many, facts: Facts::default() });
        }
        Ok(begun)
    }

    /// Fills in the facts of all of them.
    async fn read(&self, begun: &mut [Begun<'a>]) -> Result<(), StoreError> {
        let (mut windows, mut fires, mut ids) = (Vec::new(), Vec::new(), Vec::new());
        let mut place: HashMap<i64, usize> = HashMap::new();
        for (n, one) in begun.iter().enumerate() {
            let Some((from, until)) = self.starts(one) else { continue };
            for row in &one.rows {
                place.insert(row.id, n);
                windows.push(Range { series: row.id, from, until });
                if let (Some(first), Some(last)) = (one.wanted.first(), one.wanted.last()) {
                    let until = last.fire_at + TimeDelta::seconds(1);
                    fires.push(Range { series: row.id, from: first.fire_at, until });
                }
                ids.push(row.id);
            }
        }
        let store = &self.worker.store;
        for row in store.held_in(&windows).await? {
            begun[place[&row.series_id]].facts.held.push(row);
        }
        for mut row in store.live_of(&ids).await? {
            let one = &mut begun[place[&row.series_id]];
            row.blocked |= self.is_another_accounts(&row, one.chosen);
            one.facts.live.push(row);
        }
        for row in store.ended_in(&windows).await? {
            begun[place[&row.series_id]].facts.ended.push(row);
        }
        for row in store.unfired_in(&fires).await? {
            begun[place[&row.series_id]].facts.unfired.push(row);
        }
        Ok(())
    }

    /// Whether no process with this config may work on a run: it was made for another account, or another place.
    fn is_another_accounts(&self, run: &WindowRun, (job, _, connection): Chosen<'_>) -> bool {
        let Some((_, account)) = self.worker.accounts.get(&connection.name, job.vendor()) else { return true };
        let mine = account.secrets().map(|secrets| secrets.account.clone()).unwrap_or_default();
        let other = run.account != mine && !run.account.is_empty() && !mine.is_empty();
        run.base_url != account.base_url || other
    }

    /// Between which instants the windows start that are looked at; `None` = there are none.
    fn starts(&self, one: &Begun<'_>) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
        if !one.scheduled {
            let ever = "0001-01-01T00:00:00Z".parse().unwrap_or(DateTime::<Utc>::UNIX_EPOCH);
            return Some((ever, self.span.end(one.chosen.1.zone).unwrap_or(self.now)));
        }
        let first = one.wanted.iter().map(|one| one.window.start()).min()?;
        let last = one.wanted.iter().map(|one| one.window.start()).max()?;
        Some((first, last + TimeDelta::seconds(1)))
    }

    fn calendar(&self, one: Begun<'a>) -> Calendar<'a> {
        let Begun { chosen: (job, series, connection), rows, scheduled, wanted, too_many, facts } = one;
        // What is asked depends on the window by its zone alone.
        let hashes: RefCell<HashMap<Tz, String>> = RefCell::default();
        let content_hash = |window: &Window| {
            if let Some(hash) = hashes.borrow().get(&window.zone()) {
                return Some(hash.clone());
            }
            let covering = Some(Covering::Window(*window));
            let hash = planned(job, series, connection, window.end(), covering, Mailing::Quiet).request?.content_hash;
            hashes.borrow_mut().insert(window.zone(), hash.clone());
            Some(hash)
        };
        let today = Today { waivers: &job.waivers, content_hash: &content_hash };
        let (mut cells, besides) = if scheduled {
            cells(wanted, facts, &today)
        } else {
            let delay = TimeDelta::from_std(job.policy.delay).unwrap_or(TimeDelta::MAX);
            let ripe = |window: &Window| window.end().checked_add_signed(delay).is_some_and(|ripe| ripe <= self.now);
            (by_hand_cells(facts, &today, |window| self.span.overlaps(window, series.zone), ripe), 0)
        };
        cells.sort_by_key(|cell| (cell.window.end(), cell.window.start()));
        Calendar {
            job,
            series,
            connection,
            ids: rows.iter().map(|row| row.id).collect(),
            scheduled,
            cells,
            besides,
            damage: Vec::new(),
            checked: Checked::default(),
            too_many,
        }
    }
}

/// The stored rules with the job file's on top: what nobody applied yet counts from now on, or for all time where nothing is
/// stored.
fn with_today(mut stored: Rules, today: Rule, now: DateTime<Utc>) -> Rules {
    match stored.newest() {
        None => return Rules::only(today),
        Some(newest) if newest.to_json() == today.to_json() => {}
        Some(_) => stored.then(now, today),
    }
    stored
}
