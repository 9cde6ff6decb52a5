//! `reportd fill`: runs for the windows that are missing, missed, paused or failed, and no others.
//!
//! Before anything is sent it says what it will do: how many windows of which series, how many mails that means, and how long
//! it takes under the accounts' limits.

use std::collections::{BTreeMap, HashMap, HashSet};

use clap::Args;
use uuid::Uuid;

use super::carry::{
    Carrying, Waiting, carry_all, deliver, mails, mails_the_shop, refuse_mail, report, stop_on_signal, worst,
};
use super::coverage::{Dates, note_clipped, too_many, words};
use super::text::{local, roughly};
use super::{Cx, Exit, Failure, note, say, say_json};
use crate::app::{App, ArchiveUse, Files, Selection};
use crate::coverage::Span;
use crate::coverage::cell::{Cell, State};
use crate::coverage::look::{BATCH, Calendar, Look};
use crate::coverage::pace::{Pace, Work, finish};
use crate::job::resolve::Mailing;
use crate::job::series_name;
use crate::plan::Planned;
use crate::request::Vendor;
use crate::request::window::Window;
use crate::run::Trigger;
use crate::view::PlanView;

#[derive(Debug, Args)]
pub(super) struct Fill {
    /// The job, for all its connections or one
    #[arg(value_name = "JOB[@CONN]")]
    selection: Option<Selection>,
    /// All jobs
    #[arg(long, conflicts_with = "selection")]
    all: bool,
    #[command(flatten)]
    dates: Dates,
    /// Print the exact requests and stop
    #[arg(long)]
    dry_run: bool,
    /// Let BIK mail the job's own addresses
    #[arg(long)]
    mail: bool,
    #[command(flatten)]
    waiting: Waiting,
}

/// What is to be fetched of one series.
struct Part {
    name: String,
    ids: Vec<i64>,
    fires: Vec<Planned>,
    /// The windows in words.
    ranges: Vec<String>,
}

impl Part {
    /// What makes a report anew.
    fn creating(&self) -> impl Iterator<Item = &Planned> {
        self.fires.iter().filter(|fire| !fire.goes_on)
    }
}

impl Fill {
    pub(super) async fn run(&self, cx: &Cx) -> Result<Exit, Failure> {
        if self.selection.is_none() && !self.all {
            return Err(Failure::Usage("say which: `reportd fill JOB`, `fill JOB@CONN`, or `fill --all`".into()));
        }
        let files = cx.good_files(self.selection.as_ref())?;
        let span = self.dates.span()?;
        let archive = if self.dry_run { ArchiveUse::Reads } else { ArchiveUse::Writes };
        let app = cx.app(&files.settings, archive).await?;
        let result = self.fill(cx, &app, &files, span).await;
        app.close().await;
        result
    }

    async fn fill(&self, cx: &Cx, app: &App, files: &Files, span: Span) -> Result<Exit, Failure> {
        if self.dry_run {
            app.worker.check_bond_to_read().await?;
        } else {
            app.worker.check_bond().await?;
        }
        app.worker.check_manifests().await?;
        let Looked { parts, attached, windows: looked_at, mut undone } = self.parts(app, files, span).await?;
        if self.dry_run {
            // What stays a person's is no trouble of a look at what would be sent.
            undone.retain(|exit| *exit == Exit::Usage);
        }
        if parts.is_empty() && (attached.is_empty() || self.dry_run) {
            let line = format!(
                "nothing to fill: {} looked at, and no gap that a run could close",
                words::counted(looked_at, "window")
            );
            if cx.json() {
                note(&format!("reportd: {line}"));
            } else {
                say(&line);
            }
            return Ok(worst(&undone));
        }
        if !parts.is_empty() {
            self.announce(app, files, &parts).await?;
        }
        if !attached.is_empty() {
            note(&format!(
                "reportd: {} of an earlier fill or run-job are carried on",
                words::counted(attached.len(), "run")
            ));
        }
        if !(self.mail || self.dry_run) {
            refuse_mail(files, parts.iter().flat_map(Part::creating))?;
        }
        let mut fires: Vec<Planned> = parts.into_iter().flat_map(|part| part.fires).collect();
        if self.dry_run {
            if !fires.iter().all(|fire| fire.request.is_some()) {
                undone.push(Exit::Usage);
            }
            for fire in &mut fires {
                if fire.goes_on {
                    fire.request = None;
                    fire.warnings
                        .push("nothing is sent: the window's last run goes on with the ticket that it has".into());
                }
                if cx.json() { say_json(&PlanView::of(fire)) } else { say(&super::plan::lines(fire)) }
            }
            return Ok(worst(&undone));
        }
        app.worker.archive.check_usable().await?;
        fires.extend(attached);
        let carrying = Carrying { trigger: Trigger::Fill, again: false, until: self.waiting.until() };
        let mut exits = undone;
        let mut outcomes = Vec::new();
        let stop = stop_on_signal();
        for result in carry_all(app, &fires, carrying, &stop).await {
            exits.push(match result {
                Ok(outcome) => {
                    report(cx, app, &outcome);
                    let exit = outcome.exit;
                    outcomes.push(outcome);
                    exit
                }
                Err(failure) => failure.complain(),
            });
        }
        deliver(app, &outcomes, &stop).await;
        Ok(worst(&exits))
    }

    /// What is to be fetched, and how many windows were looked at. Says what is left to a person.
    async fn parts(&self, app: &App, files: &Files, span: Span) -> Result<Looked, Failure> {
        let chosen = files.series(self.selection.as_ref()).map_err(Failure::Usage)?;
        note_clipped(&chosen, span);
        let names: HashSet<&str> = files.jobs.jobs.iter().map(|job| job.name.as_str()).collect();
        let now = app.worker.store.now().await?;
        let look = Look { worker: &app.worker, names: &names, span, verify: false, now };
        let (mut looked, mut left) = (Looked::default(), Vec::new());
        for batch in chosen.chunks(BATCH) {
            let calendars = look.at(batch).await?;
            let ids: Vec<i64> = calendars.iter().flat_map(|calendar| calendar.ids.iter().copied()).collect();
            let by_hand: HashSet<Uuid> = app.worker.store.by_hand_of(&ids).await?.into_iter().collect();
            // What a person asked for once is filled when he names the job.
            for mut calendar in calendars.into_iter().filter(|calendar| calendar.scheduled || !self.all) {
                if let Some(failure) = too_many(&calendar) {
                    looked.undone.push(failure.complain());
                    continue;
                }
                looked.windows += calendar.cells.len();
                if calendar.cells.iter().any(|cell| cell.state == State::NeedsYou) {
                    looked.undone.push(Exit::Held);
                }
                // An earlier fill that was interrupted: its runs are carried on, as `run-job` does.
                let (ours, others): (Vec<Cell>, Vec<Cell>) =
                    std::mem::take(&mut calendar.cells).into_iter().partition(|cell| {
                        cell.state == State::InFlight && cell.run.is_some_and(|run| by_hand.contains(&run))
                    });
                // Should one have ended by then, nothing is made in its place that was not announced.
                let attached = |cell: &Cell| Planned { goes_on: true, ..calendar.fire(cell, self.mailing()) };
                looked.attached.extend(ours.iter().map(attached));
                calendar.cells = others;
                left.extend(left_alone(&calendar));
                let (part, doubtful) = self.part(app, &mut calendar).await?;
                if !doubtful.is_empty() {
                    looked.undone.push(Exit::Held);
                }
                left.extend(doubtful);
                looked.parts.extend(part);
            }
        }
        for line in left.iter().take(LINES) {
            note(line);
        }
        if left.len() > LINES {
            note(&format!("reportd: and {} more like these: `reportd coverage` shows them", left.len() - LINES));
        }
        Ok(looked)
    }

    fn mailing(&self) -> Mailing {
        if self.mail { Mailing::Job } else { Mailing::Quiet }
    }

    /// What is to be fetched of a series, and a line for each gap that is left to a person.
    async fn part(&self, app: &App, calendar: &mut Calendar<'_>) -> Result<(Option<Part>, Vec<String>), Failure> {
        let mut fires = calendar.fires(self.mailing(), |_| true);
        let doubtful = app.worker.weigh(&mut fires, &calendar.ids, &calendar.asked()).await?;
        let doubt = |window: &Window| doubtful.iter().find(|one| one.is_of(window.start(), window.end()));
        let line = |fire: &Planned| {
            let window = fire.window?;
            Some(format!("reportd: {} {} is left alone: {}", calendar.name(), window.label(), doubt(&window)?.advice()))
        };
        let lines = fires.iter().filter_map(line).collect();
        fires.retain(|fire| fire.window.is_none_or(|window| doubt(&window).is_none()));
        calendar.cells.retain(|cell| !cell.state.is_gap() || doubt(&cell.window).is_none());
        if fires.is_empty() {
            return Ok((None, lines));
        }
        let gaps = words::gaps(calendar);
        let ranges = gaps.iter().filter(|gap| gap.state.is_gap());
        let ranges = ranges.map(|gap| format!("{} {}", gap.range(), gap.state)).collect();
        Ok((Some(Part { name: calendar.name(), ids: calendar.ids.clone(), fires, ranges }), lines))
    }

    /// Says what is about to be done.
    async fn announce(&self, app: &App, files: &Files, parts: &[Part]) -> Result<(), Failure> {
        let fires: usize = parts.iter().map(|part| part.fires.len()).sum();
        let word = if self.dry_run { "would fetch" } else { "fetches" };
        note(&format!("reportd: fill {word} {}:", words::counted(fires, "window")));
        let wide = parts.iter().map(|part| part.name.len()).max().unwrap_or(0);
        for part in parts.iter().take(LINES) {
            let shown = part.ranges.len().min(RANGES);
            let more = part.ranges.len() - shown;
            let more = if more > 0 { format!(", and {more} more stretches") } else { String::new() };
            let windows = part.fires.len();
            note(&format!("  {:<wide$}  {windows:>4}  {}{more}", part.name, part.ranges[..shown].join(", ")));
        }
        if parts.len() > LINES {
            note(&format!("  and {} more series", parts.len() - LINES));
        }
        let going_on = parts.iter().flat_map(|part| &part.fires).filter(|fire| fire.goes_on).count();
        if going_on > 0 {
            let windows = words::counted(going_on, "window");
            note(&format!("  without a new request, by the ticket that the last run has: {windows}"));
        }
        let bik = || parts.iter().flat_map(Part::creating).filter(|fire| fire.vendor == Vendor::Bik);
        if bik().next().is_some() {
            let mails = mails(bik());
            let whom = match bik().find(|fire| mails_the_shop(files, fire)) {
                _ if self.mail => "the jobs' own addresses".to_owned(),
                None => "quiet_emails".to_owned(),
                Some(fire) => {
                    format!("quiet_emails; {} has none, and its runs are refused without --mail", fire.connection)
                }
            };
            note(&format!("  BIK mails each report it makes: {}, to {whom}", words::counted(mails, "mail")));
        }
        self.tell_finish(app, files, parts).await
    }

    async fn tell_finish(&self, app: &App, files: &Files, parts: &[Part]) -> Result<(), Failure> {
        let ids: Vec<i64> = parts.iter().flat_map(|part| part.ids.iter().copied()).collect();
        let measured: HashMap<i64, _> =
            app.worker.store.pace_of(&ids).await?.into_iter().map(|row| (row.series_id, row)).collect();
        let mut work = Vec::new();
        let mut assumed: BTreeMap<String, Pace> = BTreeMap::new();
        for part in parts {
            let Some(first) = part.fires.iter().find(|fire| fire.request.is_some()) else { continue };
            let (Some(request), Some(connection)) =
                (&first.request, crate::job::connection(&files.settings.connections, &first.connection))
            else {
                continue;
            };
            let Some(limits) = connection.limits(first.vendor) else { continue };
            let pace = match part.ids.iter().find_map(|id| measured.get(id)) {
                Some(row) => Pace::measured(row),
                None => Pace::assumed(&request.shape),
            };
            if pace.measured_on == 0 {
                assumed.insert(series_name(&first.job, &first.connection), pace);
            }
            let runs = part.creating().count();
            work.push(Work { connection: &connection.name, vendor: first.vendor, limits, runs, pace });
        }
        let Some(finish) = finish(&work) else { return Ok(()) };
        let now = app.worker.store.now().await?;
        let zone = parts.first().and_then(|part| part.fires.first()).map_or(chrono_tz::UTC, |fire| fire.zone);
        let at = chrono::TimeDelta::from_std(finish.after).ok().and_then(|after| now.checked_add_signed(after));
        let at = at.map_or_else(String::new, |at| format!(", until {} {}", local(at, zone), zone.name()));
        let (connection, vendor) = &finish.slowest;
        let basis = match assumed.iter().next() {
            None => "by what the last runs took".to_owned(),
            Some((name, pace)) => format!(
                "assumed: {} and {:.0} calls a report, because no run of {name}{} has been archived yet",
                roughly(std::time::Duration::try_from_secs_f64(pace.seconds).unwrap_or_default()),
                pace.calls,
                if assumed.len() > 1 { " and others" } else { "" },
            ),
        };
        note(&format!(
            "  takes about {}{at}; {connection} at {vendor} takes longest under its limits ({basis})",
            roughly(finish.after)
        ));
        Ok(())
    }
}

/// What a look at the calendars found.
#[derive(Default)]
struct Looked {
    /// What is to be fetched.
    parts: Vec<Part>,
    /// Runs of an earlier fill or run-job, to be carried on.
    attached: Vec<Planned>,
    /// Windows looked at.
    windows: usize,
    /// What is not done whatever becomes of the rest: what only a person can end, or say more exactly.
    undone: Vec<Exit>,
}

/// Stretches of windows that are named for one series.
const RANGES: usize = 6;

/// Series that are named.
const LINES: usize = 40;

/// Which windows of a series no run is made for although they are not as they should be, one line for each state.
fn left_alone(calendar: &Calendar<'_>) -> Vec<String> {
    let gaps = words::gaps(calendar);
    let line = |state: State| {
        let gaps: Vec<_> = gaps.iter().filter(|gap| gap.state == state).collect();
        let first = gaps.first()?;
        let run = first.cells.first().and_then(Cell::run_id).map(crate::run::short).unwrap_or_default();
        let why = match state {
            State::NeedsYou => format!("a run waits for a person: `reportd show {run}`"),
            State::InFlight => "a run works on it".to_owned(),
            _ => "held, though the job asks for something else now: `run-job --again` fetches it".to_owned(),
        };
        let mut ranges: Vec<String> = gaps.iter().take(RANGES).map(|gap| gap.range()).collect();
        if gaps.len() > RANGES {
            ranges.push(format!("and {} more stretches", gaps.len() - RANGES));
        }
        Some(format!("reportd: {} {} is left alone: {why}", calendar.name(), ranges.join(", ")))
    };
    [State::NeedsYou, State::InFlight, State::Stale].into_iter().filter_map(line).collect()
}
