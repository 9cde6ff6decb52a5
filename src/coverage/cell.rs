//! A window x what is known of it -> its state. Pure.
//!
//! What the archive holds comes first, then what works on it, then what people said, then why it is not there. The order is
//! the meaning: a window that is held is held, whatever became of a later attempt.

use std::collections::{HashMap, HashSet};
use std::fmt;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::wanted::Wanted;
use crate::request::waiver::Waiver;
use crate::request::window::Window;
use crate::run;
use crate::run::store::calendar::{HeldRow, UnfiredRow, WindowRun};

/// What is there of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// The bytes in the archive are not those that were put there.
    Damaged,
    /// A run waits for a person.
    NeedsYou,
    /// The newest run failed.
    Failed,
    /// It was too late when somebody could decide.
    Missed,
    /// Nobody ever asked.
    Missing,
    /// The series was paused.
    Paused,
    /// A run works on it.
    InFlight,
    /// Held, and the job asks for something else today.
    Stale,
    /// Held, and its report may still change.
    Provisional,
    /// A person said that the gap will stay.
    Waived,
    /// Held: a well-formed report without rows.
    Empty,
    /// In the archive.
    Held,
}

impl State {
    /// Every state, what most needs a person first.
    pub const ALL: [State; 12] = [
        State::Damaged,
        State::NeedsYou,
        State::Failed,
        State::Missed,
        State::Missing,
        State::Paused,
        State::InFlight,
        State::Stale,
        State::Provisional,
        State::Waived,
        State::Empty,
        State::Held,
    ];

    /// The contract's word.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Damaged => "damaged",
            State::NeedsYou => "needs_you",
            State::Failed => "failed",
            State::Missed => "missed",
            State::Missing => "missing",
            State::Paused => "paused",
            State::InFlight => "in_flight",
            State::Stale => "stale",
            State::Provisional => "provisional",
            State::Waived => "waived",
            State::Empty => "empty",
            State::Held => "held",
        }
    }

    /// Whether nothing is lacking: the archive has it, or a person said that it will stay out.
    pub fn is_held(self) -> bool {
        matches!(self, State::Held | State::Empty | State::Provisional | State::Stale | State::Waived)
    }

    /// Whether `fill` fetches it.
    pub fn is_gap(self) -> bool {
        matches!(self, State::Missing | State::Missed | State::Paused | State::Failed)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One window with its state.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The window.
    pub window: Window,
    /// The instant that names it; `None` when no schedule does.
    pub fire_at: Option<DateTime<Utc>>,
    /// Its report may still change, by the rule.
    pub provisional: bool,
    /// What is there of it.
    pub state: State,
    /// The newest revision.
    pub held: Option<Box<HeldRow>>,
    /// The run that the state speaks of, where no revision is.
    pub run: Option<Uuid>,
    /// A run of it has ended.
    pub asked: bool,
}

impl Cell {
    /// The run that made what is held, or that the state speaks of.
    pub fn run_id(&self) -> Option<Uuid> {
        self.held.as_ref().map(|held| held.run_id).or(self.run)
    }
}

/// What is known of the windows of one series, under all its names.
#[derive(Debug, Default)]
pub struct Facts {
    /// Newest revisions.
    pub held: Vec<HeldRow>,
    /// Unfinished runs.
    pub live: Vec<WindowRun>,
    /// The newest run of each window that ended.
    pub ended: Vec<WindowRun>,
    /// Instants that did not fire.
    pub unfired: Vec<UnfiredRow>,
}

/// What the job file says today.
pub struct Today<'a> {
    /// Gaps that will stay.
    pub waivers: &'a [Waiver],
    /// The content hash of what the job asks for a window; `None` = it asks nothing for it.
    pub content_hash: &'a dyn Fn(&Window) -> Option<String>,
}

type Key = (DateTime<Utc>, DateTime<Utc>);

fn key(window: &Window) -> Key {
    (window.start(), window.end())
}

/// The cells of the wanted windows, and how many held windows nobody wants.
pub fn cells(wanted: Vec<Wanted>, facts: Facts, today: &Today<'_>) -> (Vec<Cell>, usize) {
    let mut held: HashMap<Key, HeldRow> = HashMap::new();
    for row in facts.held {
        // Under a former name and under this one: what was fetched last counts.
        let at = (row.window_start, row.window_end);
        if held.get(&at).is_none_or(|other| other.archived_at < row.archived_at) {
            held.insert(at, row);
        }
    }
    let runs = |rows: Vec<WindowRun>| -> HashMap<Key, WindowRun> {
        rows.into_iter().map(|row| ((row.window_start, row.window_end), row)).collect()
    };
    let (live, ended) = (runs(facts.live), runs(facts.ended));
    let unfired: HashMap<DateTime<Utc>, String> =
        facts.unfired.into_iter().map(|row| (row.fire_at, row.outcome)).collect();
    let mut cells = Vec::with_capacity(wanted.len());
    for one in wanted {
        let at = key(&one.window);
        let mut cell = Cell {
            window: one.window,
            fire_at: Some(one.fire_at),
            provisional: one.provisional,
            state: State::Missing,
            held: None,
            run: None,
            asked: ended.contains_key(&at),
        };
        // What was asked for too early stands for the report until that one could be had.
        let is_final = |row: &HeldRow| !row.provisional || one.provisional || !one.ripe;
        if let Some(row) = held.remove(&at).filter(is_final) {
            cell.state = held_state(&row, &one.window, one.provisional, today);
            cell.held = Some(Box::new(row));
        } else if let Some(run) = live.get(&at) {
            let person = run.state == run::State::Held || run.blocked;
            cell.state = if person { State::NeedsYou } else { State::InFlight };
            cell.run = Some(run.id);
        } else if !one.ripe {
            // Its instant has come, and its report is not final yet: nobody is late.
            continue;
        } else if today.waivers.iter().any(|waiver| waiver.covers(&one.window)) {
            cell.state = State::Waived;
        } else if let Some(run) = ended.get(&at).filter(|run| run.state == run::State::Failed) {
            cell.state = State::Failed;
            cell.run = Some(run.id);
        } else {
            cell.state = match unfired.get(&one.fire_at).map(String::as_str) {
                Some("missed") => State::Missed,
                Some("paused") => State::Paused,
                _ if one.paused => State::Paused,
                _ => State::Missing,
            };
        }
        cells.push(cell);
    }
    (cells, held.len())
}

/// The cells of a series that no schedule names windows of: what is held, what works on more, and what failed of what a person
/// asked for, where `is_asked_about`. What is not `ripe` may still change, and nobody is late.
pub fn by_hand_cells(
    facts: Facts,
    today: &Today<'_>,
    is_asked_about: impl Fn(&Window) -> bool,
    ripe: impl Fn(&Window) -> bool,
) -> Vec<Cell> {
    let held = facts.held.iter().map(|row| (row.window_start, row.window_end, &row.window_zone));
    let failed = facts.ended.iter().filter(|run| run.state == run::State::Failed);
    let runs = facts.live.iter().chain(failed).map(|run| (run.window_start, run.window_end, &run.window_zone));
    // No schedule wants a final report after an early one.
    let early: HashSet<Key> =
        facts.held.iter().filter(|row| row.provisional).map(|row| (row.window_start, row.window_end)).collect();
    let mut wanted: Vec<Wanted> = held
        .chain(runs)
        .filter_map(|(start, end, zone)| Window::new(start, end, zone.parse().unwrap_or_default()))
        .filter(is_asked_about)
        .map(|window| Wanted {
            window,
            fire_at: window.end(),
            provisional: early.contains(&key(&window)),
            paused: false,
            ripe: ripe(&window),
        })
        .collect();
    wanted.sort_by_key(|one| key(&one.window));
    wanted.dedup_by_key(|one| key(&one.window));
    let (mut cells, _) = cells(wanted, facts, today);
    for cell in &mut cells {
        cell.fire_at = None;
    }
    cells
}

fn held_state(row: &HeldRow, window: &Window, provisional: bool, today: &Today<'_>) -> State {
    if row.provisional || provisional {
        State::Provisional
    } else if (today.content_hash)(window).is_some_and(|hash| hash != row.content_hash) {
        State::Stale
    } else if row.state == run::State::Empty {
        State::Empty
    } else {
        State::Held
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::NaiveDate;
    use chrono_tz::Tz;

    fn day(day: u32) -> Window {
        let date = NaiveDate::from_ymd_opt(2026, 11, day).expect("date");
        Window::days(date, date, Tz::UTC).expect("window")
    }

    fn wanted(day_of_month: u32) -> Wanted {
        let window = day(day_of_month);
        Wanted { window, fire_at: window.end(), provisional: false, paused: false, ripe: true }
    }

    fn held(window: &Window, revision: i32) -> HeldRow {
        HeldRow {
            series_id: 1,
            window_label: window.label(),
            revision,
            window_start: window.start(),
            window_end: window.end(),
            window_zone: "UTC".into(),
            provisional: false,
            state: run::State::Archived,
            run_id: Uuid::from_u128(7),
            content_hash: "today".into(),
            manifest_path: "m".into(),
            manifest_sha256: "s".into(),
            archived_at: window.end() + chrono::TimeDelta::hours(i64::from(revision)),
            sha256: Some("f".into()),
        }
    }

    fn run(window: &Window, state: run::State, blocked: bool) -> WindowRun {
        WindowRun {
            series_id: 1,
            window_start: window.start(),
            window_end: window.end(),
            window_zone: "UTC".into(),
            id: Uuid::from_u128(9),
            state,
            blocked,
            base_url: String::new(),
            account: String::new(),
        }
    }

    fn states(wanted: Vec<Wanted>, facts: Facts, waivers: &[Waiver]) -> Vec<State> {
        let today = Today { waivers, content_hash: &|_| Some("today".into()) };
        cells(wanted, facts, &today).0.iter().map(|cell| cell.state).collect()
    }

    #[test]
    fn what_is_held_comes_before_every_run_and_every_word() {
        let window = day(3);
        let waiver = Waiver {
            from: "2026-11-01".parse().expect("date"),
            to: "2026-11-30".parse().expect("date"),
            reason: "shop closed".into(),
        };
        let mut facts = Facts {
            held: vec![held(&window, 1)],
            live: vec![run(&window, run::State::Held, false)],
            ended: vec![run(&window, run::State::Failed, false)],
            unfired: vec![UnfiredRow { series_id: 1, fire_at: window.end(), outcome: "missed".into() }],
        };
        let again = |facts: &Facts| Facts {
            held: facts.held.clone(),
            live: facts.live.clone(),
            ended: facts.ended.clone(),
            unfired: facts.unfired.clone(),
        };
        let one = || vec![wanted(3)];
        let waivers = std::slice::from_ref(&waiver);
        assert_eq!(states(one(), again(&facts), waivers), [State::Held]);
        let paused = || vec![Wanted { paused: true, ..wanted(3) }];
        facts.held.clear();
        assert_eq!(states(one(), again(&facts), waivers), [State::NeedsYou]);
        facts.live.clear();
        assert_eq!(states(one(), again(&facts), waivers), [State::Waived]);
        assert_eq!(states(one(), again(&facts), &[]), [State::Failed]);
        facts.ended = vec![run(&window, run::State::Cancelled, false)];
        assert_eq!(states(paused(), again(&facts), &[]), [State::Missed], "the ledger knows better than the rule");
        facts.unfired[0].outcome = "paused".into();
        assert_eq!(states(one(), again(&facts), &[]), [State::Paused]);
        facts.unfired.clear();
        assert_eq!(states(paused(), again(&facts), &[]), [State::Paused]);
        assert_eq!(states(one(), again(&facts), &[]), [State::Missing], "a cancelled run leaves a gap");
    }

    #[test]
    fn held_windows_are_told_apart_by_what_is_wrong_with_them() {
        let window = day(3);
        let state_of = |row: HeldRow, provisional: bool| {
            let facts = Facts { held: vec![row], ..Facts::default() };
            states(vec![Wanted { provisional, ..wanted(3) }], facts, &[])[0]
        };
        let row = held(&window, 1);
        assert_eq!(state_of(row.clone(), false), State::Held);
        assert_eq!(state_of(HeldRow { state: run::State::Empty, ..row.clone() }, false), State::Empty);
        assert_eq!(state_of(HeldRow { content_hash: "then".into(), ..row.clone() }, false), State::Stale);
        let early = HeldRow { provisional: true, content_hash: "then".into(), ..row.clone() };
        assert_eq!(state_of(early.clone(), true), State::Provisional);
        assert_eq!(state_of(row, true), State::Provisional);
        // It stands for the final report until that one could be had.
        let facts = |live: Vec<WindowRun>| Facts { held: vec![early.clone()], live, ..Facts::default() };
        let unripe = Wanted { ripe: false, ..wanted(3) };
        assert_eq!(states(vec![unripe], facts(Vec::new()), &[]), [State::Provisional]);
        assert_eq!(states(vec![wanted(3)], facts(Vec::new()), &[]), [State::Missing]);
        let live = vec![run(&window, run::State::Queued, false)];
        assert_eq!(states(vec![wanted(3)], facts(live), &[]), [State::InFlight]);
    }

    #[test]
    fn live_runs_need_a_person_only_when_they_wait_for_one() {
        let window = day(3);
        let state_of = |state, blocked| {
            let facts = Facts { live: vec![run(&window, state, blocked)], ..Facts::default() };
            states(vec![wanted(3)], facts, &[])[0]
        };
        assert_eq!(state_of(run::State::Queued, false), State::InFlight);
        assert_eq!(state_of(run::State::Waiting, true), State::NeedsYou);
        assert_eq!(state_of(run::State::Held, false), State::NeedsYou);
    }

    #[test]
    fn a_waiver_must_cover_every_day_of_the_window() {
        let waiver = Waiver {
            from: "2026-11-03".parse().expect("date"),
            to: "2026-11-04".parse().expect("date"),
            reason: "moved".into(),
        };
        let days = vec![wanted(2), wanted(3), wanted(4), wanted(5)];
        let found = states(days, Facts::default(), std::slice::from_ref(&waiver));
        assert_eq!(found, [State::Missing, State::Waived, State::Waived, State::Missing]);
        let week = Window::days(waiver.from, "2026-11-05".parse().expect("date"), Tz::UTC).expect("window");
        let longer = vec![Wanted { window: week, ..wanted(3) }];
        assert_eq!(states(longer, Facts::default(), &[waiver]), [State::Missing]);
    }

    #[test]
    fn a_report_that_is_not_final_is_lacking_nowhere_and_seen_when_it_is_worked_on() {
        let unripe = Wanted { ripe: false, ..wanted(3) };
        assert_eq!(states(vec![unripe], Facts::default(), &[]), []);
        let facts = Facts { live: vec![run(&day(3), run::State::Queued, false)], ..Facts::default() };
        assert_eq!(states(vec![unripe], facts, &[]), [State::InFlight]);
    }

    #[test]
    fn of_two_names_the_newer_revision_counts_and_what_nobody_wants_is_counted() {
        let (third, fourth) = (day(3), day(4));
        let old = HeldRow { series_id: 2, run_id: Uuid::from_u128(1), ..held(&third, 1) };
        let facts = Facts { held: vec![held(&third, 2), old, held(&fourth, 1)], ..Facts::default() };
        let today = Today { waivers: &[], content_hash: &|_| None };
        let (found, besides) = cells(vec![wanted(3)], facts, &today);
        assert_eq!(found[0].held.as_ref().map(|row| row.revision), Some(2));
        assert_eq!(besides, 1);
    }
}
