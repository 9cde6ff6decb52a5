//! `reportd coverage`: which windows are held, and which are not.
//!
//! ```text
//! paint.rs   a letter and a colour for each state; the legend
//! grid.rs    cells -> rows and columns of a calendar
//! words.rs   what is not held, in words, each with the command that ends it
//! ```

mod grid;
mod paint;
pub(super) mod words;

use std::collections::HashSet;
use std::io::IsTerminal;

use chrono::NaiveDate;
use clap::Args;

use super::text::{date, size};
use super::{Cx, Exit, Failure, note, say, say_json};
use crate::app::{App, ArchiveUse, Files, Selection};
use crate::connection::Connection;
use crate::coverage::Span;
use crate::coverage::cell::State;
use crate::coverage::look::{BATCH, Calendar, Look, LookError};
use crate::coverage::verify::Checked;
use crate::job::resolve::Mailing;
use crate::job::{Job, Series};
use crate::run::store::doubt::Doubtful;
use crate::view::CoverageView;
use paint::Paint;

#[derive(Debug, Args)]
pub(super) struct Coverage {
    /// Only this job, or this series, as a calendar
    #[arg(value_name = "JOB[@CONN]")]
    selection: Option<Selection>,
    #[command(flatten)]
    dates: Dates,
    /// Hash every held file again
    #[arg(long)]
    verify: bool,
    /// Exit 1 when a window is not held
    #[arg(long)]
    check: bool,
}

/// The dates that are looked at.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Dates {
    /// From this date on, local in the series' zone [default: `since`, else the first sight of the series]
    #[arg(long, value_name = "D", value_parser = date)]
    from: Option<NaiveDate>,
    /// Up to this date, included
    #[arg(long, value_name = "D", value_parser = date)]
    to: Option<NaiveDate>,
}

impl Dates {
    /// As a span; dates the wrong way round are refused.
    pub(super) fn span(self) -> Result<Span, Failure> {
        match (self.from, self.to) {
            (Some(from), Some(to)) if to < from => {
                Err(Failure::Usage(format!("--to {to} is before --from {from}: no date lies between them")))
            }
            (from, to) => Ok(Span { from, to }),
        }
    }
}

/// What was seen of all series.
#[derive(Default)]
struct Total {
    series: usize,
    with_gaps: usize,
    lacking: usize,
    checked: Checked,
}

impl From<LookError> for Failure {
    fn from(error: LookError) -> Failure {
        match error {
            LookError::Store(error) => error.into(),
            other @ LookError::Rules { .. } => Failure::Failed(other.into()),
        }
    }
}

/// Says which dates that were asked for lie before a job's `since`, and so are not expected.
pub(super) fn note_clipped(chosen: &[(&Job, &Series, &Connection)], span: Span) {
    let Some(from) = span.from else { return };
    let mut told = HashSet::new();
    for (job, _, _) in chosen {
        if let Some(since) = job.since.filter(|since| from < *since)
            && told.insert(&job.name)
        {
            note(&format!(
                "reportd: {} wants nothing before its `since`, {since}: earlier dates are left out",
                job.name
            ));
        }
    }
}

impl Coverage {
    pub(super) async fn run(&self, cx: &Cx) -> Result<Exit, Failure> {
        let files = cx.good_files(self.selection.as_ref())?;
        let span = self.dates.span()?;
        let app = cx.app(&files.settings, ArchiveUse::Reads).await?;
        let result = self.show(cx, &app, &files, span).await;
        app.close().await;
        result
    }

    async fn show(&self, cx: &Cx, app: &App, files: &Files, span: Span) -> Result<Exit, Failure> {
        app.worker.check_bond_to_read().await?;
        app.worker.check_manifests().await?;
        let chosen = files.series(self.selection.as_ref()).map_err(Failure::Usage)?;
        note_clipped(&chosen, span);
        let names: HashSet<&str> = files.jobs.jobs.iter().map(|job| job.name.as_str()).collect();
        let now = app.worker.store.now().await?;
        let look = Look { worker: &app.worker, names: &names, span, verify: self.verify, now };
        let colour = std::io::stdout().is_terminal() && cx.environment.get("NO_COLOR").is_none();
        let paint = Paint { colour };
        let mut total = Total::default();
        let mut strips = Strips::default();
        let mut refused = None;
        for batch in chosen.chunks(BATCH) {
            for calendar in look.at(batch).await? {
                if let Some(failure) = too_many(&calendar) {
                    refused = Some(failure.complain());
                    continue;
                }
                if cx.json() {
                    lines(&calendar);
                } else if self.selection.is_some() {
                    // What `fill` would ask by default.
                    let mut fires = calendar.fires(Mailing::Quiet, |cell| cell.asked);
                    let doubtful = app.worker.weigh(&mut fires, &calendar.ids, &calendar.asked()).await?;
                    say(&page(&calendar, &doubtful, paint, total.series > 0));
                } else {
                    strips.add(&calendar);
                }
                self.count(&calendar, &mut total);
            }
        }
        if !cx.json() && self.selection.is_none() && (total.series > 0 || refused.is_none()) {
            say(&strips.text(&total, paint));
        }
        if self.verify {
            let Checked { revisions, files, bytes } = total.checked;
            note(&format!("reportd: hashed {files} files of {revisions} revisions, {}", size(bytes)));
        }
        Ok(match refused {
            Some(exit) => exit,
            None if self.check && total.lacking > 0 => Exit::Failed,
            None => Exit::Done,
        })
    }

    /// Adds a series to the total; with `--check` says what it lacks.
    fn count(&self, calendar: &Calendar<'_>, total: &mut Total) {
        let lacking = calendar.cells.iter().filter(|cell| !cell.state.is_held()).count();
        total.series += 1;
        total.lacking += lacking;
        total.with_gaps += usize::from(calendar.cells.iter().any(|cell| cell.state.is_gap()));
        total.checked.revisions += calendar.checked.revisions;
        total.checked.files += calendar.checked.files;
        total.checked.bytes += calendar.checked.bytes;
        if self.check {
            for gap in words::gaps(calendar).iter().filter(|gap| !gap.state.is_held()) {
                note(&format!("reportd: {}: {} is not held: {}", calendar.name(), gap.range(), gap.state));
            }
        }
        if self.verify {
            for (window, why) in &calendar.damage {
                note(&format!("reportd: {}: {} is damaged: {why}", calendar.name(), window.label()));
            }
        }
    }
}

/// A schedule that names more windows than are looked at keeps nobody from seeing the other series.
pub(super) fn too_many(calendar: &Calendar<'_>) -> Option<Failure> {
    let too_many = calendar.too_many.as_ref()?;
    Some(Failure::Usage(format!("{}: {too_many}", calendar.name())))
}

fn lines(calendar: &Calendar<'_>) {
    for cell in &calendar.cells {
        say_json(&CoverageView::of(&calendar.job.name, &calendar.connection.name, cell));
    }
}

/// One series: its calendar, the legend, and what is not held.
fn page(calendar: &Calendar<'_>, doubtful: &[Doubtful], paint: Paint, further: bool) -> String {
    let mut out = if further { "\n".to_owned() } else { String::new() };
    out.push_str(&words::title(calendar));
    out.push('\n');
    if !calendar.scheduled {
        out.push_str(&words::held(calendar, doubtful, paint));
        return out.trim_end().to_owned();
    }
    if calendar.cells.is_empty() {
        out.push_str(words::NOTHING_EXPECTED);
        return out;
    }
    out.push('\n');
    out.push_str(&grid::grid(&calendar.cells, calendar.series.zone, paint));
    out.push('\n');
    out.push_str(&paint.legend(calendar.cells.iter().map(|cell| cell.state)));
    out.push_str("\n\n");
    out.push_str(&words::summary(calendar, doubtful));
    out.trim_end().to_owned()
}

/// Newest windows that a strip shows.
const STRIP: usize = 60;

/// All series, one line each; printed together, so that their ends stand below each other.
#[derive(Default)]
struct Strips {
    lines: Vec<(String, Vec<State>, String)>,
}

impl Strips {
    fn add(&mut self, calendar: &Calendar<'_>) {
        let newest = &calendar.cells[calendar.cells.len().saturating_sub(STRIP)..];
        let states = newest.iter().map(|cell| cell.state).collect();
        self.lines.push((calendar.name(), states, words::verdict(calendar)));
    }

    fn text(&self, total: &Total, paint: Paint) -> String {
        let wide = self.lines.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
        let longest = self.lines.iter().map(|(_, states, _)| states.len()).max().unwrap_or(0);
        let mut out = String::new();
        for (name, states, verdict) in &self.lines {
            // The newest at the right end of every line, so that one date stands below the other where periods are alike.
            let space = " ".repeat(longest - states.len());
            let strip = paint.letters(states.iter().copied());
            out.push_str(&format!("{name:<wide$}  {space}{strip}  {verdict}\n"));
        }
        let legend = paint.legend(self.lines.iter().flat_map(|(_, states, _)| states.iter().copied()));
        if !legend.is_empty() {
            out.push_str(&format!("\n{legend}   (the newest {longest} windows, the last at the right)\n"));
        }
        out.push_str(&match (total.series, total.with_gaps, total.lacking) {
            (0, ..) => "no job files".to_owned(),
            (_, 0, 0) if longest == 0 => format!("\n{}", words::NOTHING_EXPECTED),
            (_, 0, 0) => "\nevery window is held".to_owned(),
            (_, 0, lacking) => {
                format!("\n{} not held, and none of them for `reportd fill`", words::counted(lacking, "window"))
            }
            (series, gaps, _) => {
                format!("\n{gaps} of {series} series have gaps; what would fetch them: reportd fill --all --dry-run")
            }
        });
        out
    }
}
