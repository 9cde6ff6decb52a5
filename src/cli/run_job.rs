//! `reportd run-job`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::carry::{Carrying, Waiting, carry_all, deliver, refuse_mail, report, stop_on_signal, worst};
use super::text;
use super::{Cx, Exit, Failure, note, refuse_errors, say, say_json};
use crate::app::{App, ArchiveUse, Files, Selection};
use crate::archive::verify::hash_file;
use crate::connection::Connection;
use crate::job::notice::Telling;
use crate::job::resolve::Mailing;
use crate::job::{Job, Series};
use crate::plan::{Covering, Planned, planned};
use crate::rehearsal::Rehearsal;
use crate::request::window::{Each, WindowRule};
use crate::run::{State, Trigger};
use crate::view::{PlanView, RunView};

#[derive(Debug, Args)]
pub(super) struct RunJob {
    /// The job, for all its connections or one
    #[arg(value_name = "JOB[@CONN]")]
    selection: Selection,
    /// Another window than the job's: a window word, or local dates, both included, as 2026-03-01..2026-03-07
    #[arg(long, value_name = "W")]
    window: Option<WindowRule>,
    /// One run for each local day, week or month of the window
    #[arg(long, value_enum)]
    each: Option<EachArg>,
    /// As if it fired at this instant: RFC 3339, or local time in the series' zone
    #[arg(long, value_name = "T")]
    at: Option<String>,
    /// Print the exact requests and stop
    #[arg(long)]
    dry_run: bool,
    /// Fetch a held window again, as a new revision
    #[arg(long)]
    again: bool,
    #[command(flatten)]
    waiting: Waiting,
    /// Also copy the files here, as JOB_CONNECTION_WINDOW.EXT
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Let BIK mail the job's own addresses
    #[arg(long)]
    mail: bool,
    /// Tell nobody: no mail, webhook, copy, ticket or event is made for these runs
    #[arg(long)]
    no_deliver: bool,
    /// Rehearse against simulated vendors, apart from the real archive and database
    #[arg(long)]
    sandbox: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum EachArg {
    Day,
    Week,
    Month,
}

impl RunJob {
    pub(super) async fn run(&self, cx: &Cx) -> Result<Exit, Failure> {
        let mut files = cx.good_files(Some(&self.selection))?;
        let rehearsal = if self.sandbox {
            let rehearsal = Rehearsal::start(&files.settings, "sandbox", cx.clock.clone()).await?;
            files = Files::with(rehearsal.settings.clone(), Vec::new(), &cx.place().jobs, &cx.clock);
            refuse_errors(&files, Some(&self.selection))?;
            Some(rehearsal)
        } else {
            None
        };
        let mut fires = self.fires(cx, &files)?;
        if self.no_deliver || self.sandbox {
            // A rehearsal tells nobody of what never happened.
            for fire in &mut fires {
                fire.telling = Telling::default();
            }
        }
        if !(self.mail || self.sandbox || self.dry_run) {
            refuse_mail(&files, &fires)?;
        }
        if self.dry_run {
            for fire in &fires {
                if cx.json() { say_json(&PlanView::of(fire)) } else { say(&super::plan::lines(fire)) }
            }
            return Ok(if fires.iter().all(|f| f.request.is_some()) { Exit::Done } else { Exit::Usage });
        }
        if let Some(folder) = &self.out {
            // Before the vendor is asked: results that cannot be copied out are told now.
            std::fs::create_dir_all(folder)
                .map_err(|e| Failure::Usage(format!("--out {} cannot be made: {e}", folder.display())))?;
        }
        if let Some(rehearsal) = &rehearsal {
            note(&format!(
                "reportd: a rehearsal against simulated vendors; database and archive are in {}",
                rehearsal.folder.display()
            ));
        }
        let archive = if self.sandbox { ArchiveUse::Rehearses } else { ArchiveUse::Writes };
        let app = cx.app(&files.settings, archive).await?;
        let result = self.run_all(cx, &app, &fires).await;
        app.close().await;
        if let Some(rehearsal) = rehearsal {
            rehearsal.stop().await;
        }
        result
    }

    /// Every (connection, part of the window) that is asked for.
    fn fires(&self, cx: &Cx, files: &Files) -> Result<Vec<Planned>, Failure> {
        let mut fires = Vec::new();
        for (job, series, connection) in files.series(Some(&self.selection)).map_err(Failure::Usage)? {
            fires.extend(self.fires_of(cx, job, series, connection)?);
        }
        Ok(fires)
    }

    fn fires_of(&self, cx: &Cx, job: &Job, series: &Series, connection: &Connection) -> Result<Vec<Planned>, Failure> {
        let fire_at = text::instant(self.at.as_deref(), series.zone, &cx.clock).map_err(Failure::Usage)?;
        let mailing = if self.mail || self.sandbox { Mailing::Job } else { Mailing::Quiet };
        let Some(rule) = self.window.or(job.window) else {
            return Err(Failure::Usage(format!("job '{}' has no window: give one with --window", job.name)));
        };
        let Some(window) = rule.at(fire_at, series.zone, job.policy.week_start) else {
            return Err(Failure::Usage(format!(
                "the window '{rule}' is empty at {}",
                text::local_and_utc(fire_at, series.zone)
            )));
        };
        // Whatever --at says: of days to come a vendor has no report, and what it answers would be held as theirs.
        if window.end() > fire_at.min(cx.clock.now()) {
            let why = format!(
                "the window {} is not over yet (it ends at {}): use --window today or month_to_date for what there is so far",
                window.label(),
                window.end_rfc3339()
            );
            if !self.dry_run {
                return Err(Failure::Usage(why));
            }
            note(&format!("reportd: it would be refused: {why}"));
        }
        let parts = match self.each {
            None => return Ok(vec![planned(job, series, connection, fire_at, Some(Covering::Rule(rule)), mailing)]),
            Some(EachArg::Day) => window.parts(Each::Day, job.policy.week_start),
            Some(EachArg::Week) => window.parts(Each::Week, job.policy.week_start),
            Some(EachArg::Month) => window.parts(Each::Month, job.policy.week_start),
        };
        let one = |part| planned(job, series, connection, fire_at, Some(Covering::Window(part)), mailing);
        Ok(parts.into_iter().map(one).collect())
    }

    async fn run_all(&self, cx: &Cx, app: &App, fires: &[Planned]) -> Result<Exit, Failure> {
        app.worker.check_bond().await?;
        app.worker.archive.check_usable().await?;
        let carrying = Carrying { trigger: Trigger::Manual, again: self.again, until: self.waiting.until() };
        let mut exits = Vec::new();
        let mut outcomes = Vec::new();
        let stop = stop_on_signal();
        for result in carry_all(app, fires, carrying, &stop).await {
            exits.push(match result {
                Ok(outcome) => {
                    report(cx, app, &outcome);
                    let exit = match (&self.out, state_of(&outcome.view)) {
                        (Some(folder), State::Archived | State::Empty) => match copy_out(app, folder, &outcome.view) {
                            Ok(()) => outcome.exit,
                            Err(failure) => failure.complain(),
                        },
                        _ => outcome.exit,
                    };
                    outcomes.push(outcome);
                    exit
                }
                Err(failure) => failure.complain(),
            });
        }
        if !self.no_deliver {
            deliver(app, &outcomes, &stop).await;
        }
        Ok(worst(&exits))
    }
}

fn state_of(view: &RunView) -> State {
    view.state.parse().unwrap_or(State::Queued)
}

/// Copies a run's files out of the archive under names that tell what they are. An existing copy is replaced.
fn copy_out(app: &App, folder: &Path, view: &RunView) -> Result<(), Failure> {
    for file in &view.artifacts {
        if app.worker.archive.was_pruned(&file.path) {
            return Err(Failure::Failed(anyhow::anyhow!(
                "{} was pruned, as `retain` says: run-job --again fetches the report anew",
                file.path
            )));
        }
        let name = file.path.rsplit('/').next().unwrap_or(&file.path);
        let stem = format!("{}_{}_{}", view.job, view.connection, view.window.label);
        let target = match name.strip_prefix("report") {
            Some(ending) if view.artifacts.len() == 1 => format!("{stem}{ending}"),
            _ => format!("{stem}_{name}"),
        };
        let target = folder.join(target);
        let copied = std::fs::copy(app.worker.archive.path(&file.path), &target).and_then(|_| hash_file(&target));
        match copied {
            Ok((_, sha256)) if sha256 == file.sha256 => {}
            Ok(_) => {
                let path = &file.path;
                return Err(Failure::Failed(anyhow::anyhow!(
                    "{path} is damaged (see archive verify); its copy is too"
                )));
            }
            Err(e) => return Err(Failure::Usage(format!("copy to {}: {e}", target.display()))),
        }
    }
    Ok(())
}
