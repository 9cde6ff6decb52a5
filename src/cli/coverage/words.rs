//! What is not held, in words, each with the command that ends it.

use chrono::NaiveDate;

use super::paint::Paint;
use crate::coverage::cell::{Cell, State};
use crate::coverage::look::Calendar;
use crate::request::window::Window;
use crate::run::short;
use crate::run::store::doubt::Doubtful;

/// Ranges of one state that are listed; more are counted.
const LISTED: usize = 8;

/// Why a calendar is empty.
pub(super) const NOTHING_EXPECTED: &str = "no window is expected: none was due in this time, or nobody has said where to begin (`since` in the job file, or --from)";

/// Windows of one state that follow each other.
#[derive(Clone, Debug)]
pub(crate) struct Gap<'a> {
    /// Their state.
    pub(crate) state: State,
    /// The windows.
    pub(crate) cells: &'a [Cell],
}

impl Gap<'_> {
    /// Which windows, from the first to the last.
    pub(crate) fn range(&self) -> String {
        match (self.cells.first(), self.cells.last()) {
            (Some(first), Some(last)) => range(&first.window, &last.window, self.cells.len()),
            _ => String::new(),
        }
    }
}

/// `2026-11-03`, or `2026-11-03 to 2026-11-07`; of weeks also how many.
fn range(first: &Window, last: &Window, count: usize) -> String {
    let (a, b) = (first.in_words(), last.in_words());
    match (first.whole_days(), last.whole_days()) {
        _ if count == 1 => a,
        // Weeks, whose names are ranges themselves.
        (Some((from, _)), Some((_, to))) if a.contains(" to ") || b.contains(" to ") => {
            format!("{from} to {to} ({count} windows)")
        }
        _ => format!("{a} to {b}"),
    }
}

/// `1 window`, `3 windows`.
pub(crate) fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// What is neither held nor empty, as ranges in order of time.
pub(crate) fn gaps<'a>(calendar: &'a Calendar<'_>) -> Vec<Gap<'a>> {
    // Of windows that no schedule names the next one need not be the neighbour.
    let follows = |a: &Cell, b: &Cell| calendar.scheduled || a.window.end() == b.window.start();
    let chunks = calendar.cells.chunk_by(|a, b| a.state == b.state && follows(a, b));
    let gaps = chunks.filter_map(|cells| Some(Gap { state: cells.first()?.state, cells }));
    gaps.filter(|gap| !matches!(gap.state, State::Held | State::Empty)).collect()
}

/// `ratings@north   yesterday, 30 6 * * * (Asia/Kolkata), from 2026-11-01`.
pub(super) fn title(calendar: &Calendar<'_>) -> String {
    let mut what: Vec<String> = Vec::new();
    what.extend(calendar.job.window.map(|window| window.to_string()));
    let crons: Vec<&str> = calendar.series.crons.iter().map(crate::job::schedule::Cron::text).collect();
    what.push(if crons.is_empty() { "by hand only".to_owned() } else { crons.join(" and ") });
    let since = calendar.job.since.map_or_else(String::new, |date| format!(", since {date}"));
    format!("{}   {} ({}){since}", calendar.name(), what.join(", "), calendar.series.zone.name())
}

/// Counts, and what is not held with the command that ends it.
pub(super) fn summary(calendar: &Calendar<'_>, doubtful: &[Doubtful]) -> String {
    let (all, held) = (calendar.cells.len(), calendar.cells.iter().filter(|cell| cell.state.is_held()).count());
    let or_waived = if calendar.count(State::Waived) > 0 { " or waived" } else { "" };
    let mut out = match (all, held) {
        (1, 1) => format!("the one window is held{or_waived}\n"),
        (all, held) if all == held => format!("all {all} windows are held{or_waived}\n"),
        (all, held) => format!("{held} of {all} windows are held{or_waived}\n"),
    };
    out.push_str(&remedies(calendar, doubtful));
    if calendar.besides > 0 {
        let besides = counted(calendar.besides, "window");
        out.push_str(&format!("\nheld besides: {besides} that the schedule does not name\n"));
    }
    out
}

/// What is not held, each state with the commands that end it.
fn remedies(calendar: &Calendar<'_>, doubtful: &[Doubtful]) -> String {
    let mut out = String::new();
    let gaps = gaps(calendar);
    for state in State::ALL {
        let gaps: Vec<_> = gaps.iter().filter(|gap| gap.state == state).collect();
        let Some(first) = gaps.first() else { continue };
        let count = calendar.count(state);
        let mut ranges: Vec<String> = gaps.iter().take(LISTED).map(|gap| gap.range()).collect();
        if gaps.len() > LISTED {
            ranges.push(format!("and {} more stretches", gaps.len() - LISTED));
        }
        out.push_str(&format!("\n{count} {}   {}\n", state.as_str().replace('_', " "), ranges.join(", ")));
        let of_state: Vec<&Cell> = calendar.cells.iter().filter(|cell| cell.state == state).collect();
        let left_alone = if state.is_gap() { left_alone(&of_state, doubtful) } else { Vec::new() };
        let can_fill = left_alone.len() < of_state.len();
        for line in what_to_do(calendar, state, first.cells, can_fill) {
            out.push_str(&format!("    {line}\n"));
        }
        for line in left_alone.iter().take(LISTED) {
            out.push_str(&format!("    {line}\n"));
        }
        if left_alone.len() > LISTED {
            out.push_str(&format!("    and {} more like these\n", left_alone.len() - LISTED));
        }
    }
    out
}

/// The gaps that `fill` leaves to a person, one line each.
fn left_alone(cells: &[&Cell], doubtful: &[Doubtful]) -> Vec<String> {
    let line = |cell: &&Cell| {
        let doubt = doubtful.iter().find(|one| one.is_of(cell.window.start(), cell.window.end()))?;
        Some(format!("{}: {}", cell.window.label(), doubt.advice()))
    };
    cells.iter().filter_map(line).collect()
}

/// The commands that end a state; `can_fill`: a `fill` fetches any of its windows.
fn what_to_do(calendar: &Calendar<'_>, state: State, cells: &[Cell], can_fill: bool) -> Vec<String> {
    let name = calendar.name();
    let fill = |why: &str| can_fill.then(|| format!("reportd fill {name}{why}"));
    let run = cells.first().and_then(Cell::run_id).map(short).unwrap_or_default();
    match state {
        State::Missing | State::Missed => fill("").into_iter().collect(),
        State::Paused => {
            let reason = calendar.job.paused.as_ref().map(|reason| format!("its file says paused: {reason}"));
            let resume = match reason {
                Some(reason) => reason,
                None => format!("reportd resume {name}   (fires again, if it is still paused)"),
            };
            std::iter::once(resume).chain(fill("   (fetches what was paused)")).collect()
        }
        State::Failed => {
            let waive = "waive: in the job file   (if it is to stay a gap)".to_owned();
            let why = std::iter::once(format!("reportd show {run}   (why)"));
            why.chain(fill("   (once more)")).chain([waive]).collect()
        }
        State::NeedsYou => {
            vec![format!("reportd show {run}   (what for)"), "reportd status   (what ends it)".to_owned()]
        }
        State::InFlight => vec![format!("reportd show {run}")],
        State::Damaged => {
            let mut lines: Vec<String> = calendar.damage.iter().take(LISTED).map(|(_, why)| why.clone()).collect();
            lines.push("restore it from a copy of the archive, or fetch a new revision:".to_owned());
            lines.extend(again(&name, cells));
            lines
        }
        State::Stale => {
            again(&name, cells).into_iter().map(|line| format!("{line}   (asks as the job says now)")).collect()
        }
        State::Waived => {
            let waivers = calendar.job.waivers.iter();
            waivers.map(|waiver| format!("{} to {}: {}", waiver.from, waiver.to, waiver.reason)).collect()
        }
        State::Provisional | State::Empty | State::Held => Vec::new(),
    }
}

/// How the first of these windows, or all of them, are fetched once more.
fn again(name: &str, cells: &[Cell]) -> Option<String> {
    let days = |cell: &Cell| cell.window.whole_days();
    let (first, _) = days(cells.first()?)?;
    let (_, last) = days(cells.last()?)?;
    let each_a_day = cells.iter().filter_map(days).all(|(from, to): (NaiveDate, NaiveDate)| from == to);
    match (cells.len(), each_a_day) {
        (1, _) => Some(format!("reportd run-job {name} --window {first}..{last} --again")),
        (_, true) => Some(format!("reportd run-job {name} --window {first}..{last} --each day --again")),
        _ => {
            let (_, end) = days(cells.first()?)?;
            Some(format!("reportd run-job {name} --window {first}..{end} --again   (and so on)"))
        }
    }
}

/// The end of a strip: `complete`, or what is not held.
pub(super) fn verdict(calendar: &Calendar<'_>) -> String {
    let all = calendar.cells.len();
    let held = calendar.cells.iter().filter(|cell| cell.state.is_held()).count();
    let lacking = lacking(calendar);
    match (all, lacking.is_empty()) {
        _ if !calendar.scheduled => {
            let counts: Vec<String> = std::iter::once(format!("{held} held")).chain(lacking).collect();
            format!("by hand only, {}", counts.join(", "))
        }
        (0, _) => "nothing expected".to_owned(),
        (all, true) => format!("{all} of {all}, complete"),
        (all, false) => format!("{held} of {all}: {}", lacking.join(", ")),
    }
}

/// How many windows are in each state that is none of what is held.
fn lacking(calendar: &Calendar<'_>) -> Vec<String> {
    let states = State::ALL.into_iter().filter(|state| !state.is_held());
    let counts = states.map(|state| (state, calendar.count(state))).filter(|(_, count)| *count > 0);
    counts.map(|(state, count)| format!("{count} {}", state.as_str().replace('_', " "))).collect()
}

/// What is there of a series that no schedule names windows of.
pub(super) fn held(calendar: &Calendar<'_>, doubtful: &[Doubtful], paint: Paint) -> String {
    if calendar.cells.is_empty() {
        return "nothing is held, and nothing is expected: the job has no schedule\n".to_owned();
    }
    let names: Vec<String> = calendar.cells.iter().map(|cell| cell.window.in_words()).collect();
    let wide = names.iter().map(String::len).max().unwrap_or(0);
    let mut out = String::new();
    for (cell, name) in calendar.cells.iter().zip(names) {
        let state = paint.text(cell.state, cell.state.as_str());
        let space = " ".repeat(12 - cell.state.as_str().len());
        let revision = cell.held.as_ref().map_or_else(|| "- ".to_owned(), |held| format!("r{}", held.revision));
        let run = cell.run_id().map(short).unwrap_or_default();
        out.push_str(&format!("  {name:<wide$}  {state}{space}  {revision}  run {run}\n"));
    }
    let held = counted(calendar.cells.iter().filter(|cell| cell.state.is_held()).count(), "window");
    let counts: Vec<String> = std::iter::once(held).chain(lacking(calendar)).collect();
    out.push_str(&format!("held: {}; nothing more is expected, because the job has no schedule\n", counts.join(", ")));
    out.push_str(&remedies(calendar, doubtful));
    out
}
