//! `reportd run-job`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{ArgGroup, Args};
use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;

use super::progress::Board;
use super::text::{self, size};
use super::{Cx, Exit, Failure, note, refuse_errors, say, say_json};
use crate::app::{App, ArchiveUse, Files, Selection};
use crate::archive::verify::hash_file;
use crate::connection::Connection;
use crate::job::resolve::Mailing;
use crate::job::{Job, Series};
use crate::plan::{Covering, Planned, planned};
use crate::rehearsal::Rehearsal;
use crate::request::Vendor;
use crate::request::window::{Each, WindowRule};
use crate::run::store::revision::{ArtifactRow, RevisionRow};
use crate::run::{State, Trigger};
use crate::view::{PlanView, RunView};
use crate::worker::drive::Driven;
use crate::worker::open::Opening;
use crate::worker::step::short;
use crate::yaml::parse_duration;

/// Runs that one call carries on at once. Most of them wait at any time, and the accounts' own limits hold whatever this
/// is; it must be large, so that runs in trouble do not keep the others from their turn.
const AT_ONCE: usize = 200;

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("waiting").args(["wait", "no_wait"]))]
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
    /// Wait at most this long (90s, 15m, 2h) [default: until it ends]
    #[arg(long, value_name = "D", value_parser = parse_duration)]
    wait: Option<Duration>,
    /// Make the run and leave it; the next run-job of the same window carries it on
    #[arg(long)]
    no_wait: bool,
    /// Also copy the files here, as JOB_CONNECTION_WINDOW.EXT
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Let BIK mail the job's own addresses
    #[arg(long)]
    mail: bool,
    /// Make no notices (this version makes none)
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

/// What became of one window.
pub(super) struct Outcome {
    pub(super) view: RunView,
    pub(super) exit: Exit,
    /// What only a person can change.
    pub(super) person: Option<String>,
    /// Nothing was fetched: the archive had it.
    pub(super) was_held: bool,
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
        let fires = self.fires(cx, &files)?;
        self.refuse_mail(&files, &fires)?;
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
        if window.end() > fire_at.min(cx.clock.now()) && !self.dry_run {
            return Err(Failure::Usage(format!(
                "the window {} is not over yet (it ends at {}): use --window today or month_to_date for what there is so far",
                window.label(),
                window.end_rfc3339()
            )));
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

    /// BIK mails somebody for each create. A run by hand that would mail a shop's owner says so first.
    fn refuse_mail(&self, files: &Files, fires: &[Planned]) -> Result<(), Failure> {
        if self.mail || self.sandbox || self.dry_run {
            return Ok(());
        }
        let quiet = |fire: &&Planned| {
            let connection = crate::job::connection(&files.settings.connections, &fire.connection);
            connection.and_then(|c| c.bik.as_ref()).is_some_and(|bik| bik.quiet_emails.is_some())
        };
        let loud: Vec<&Planned> = fires.iter().filter(|f| f.vendor == Vendor::Bik && !quiet(f)).collect();
        let Some(first) = loud.first() else { return Ok(()) };
        let mails: usize = loud.iter().filter_map(|f| f.request.as_ref()).map(|r| r.emails.len()).sum();
        Err(Failure::Usage(format!(
            "BIK sends every report it makes by mail: this would be {} reports and {mails} mails. Set quiet_emails on connection \
             {} (your own mailbox, used by runs that no schedule made), or say --mail",
            loud.len(),
            first.connection
        )))
    }

    async fn run_all(&self, cx: &Cx, app: &App, fires: &[Planned]) -> Result<Exit, Failure> {
        app.worker.check_bond().await?;
        let stop = stop_on_signal();
        let until = match (self.no_wait, self.wait) {
            (true, _) => Some(Instant::now()),
            (false, wait) => wait.map(|wait| Instant::now() + wait),
        };
        let board = Board::new();
        let (stop, board) = (&stop, &board);
        let mut results = futures_util::stream::iter(fires.iter().enumerate())
            .map(async |(n, fire)| (n, run_one(app, fire, Trigger::Manual, self.again, until, stop, board).await))
            .buffer_unordered(AT_ONCE);
        // Every run is carried to its end, whatever becomes of the others: dropping one could drop a create under way.
        let mut ended = Vec::new();
        while let Some(result) = results.next().await {
            ended.push(result);
        }
        board.end();
        ended.sort_by_key(|(n, _)| *n);
        let mut exits = Vec::new();
        for (_, result) in ended {
            exits.push(match result {
                Ok(outcome) => {
                    report(cx, app, &outcome);
                    match (&self.out, state_of(&outcome.view)) {
                        (Some(folder), State::Archived | State::Empty) => match copy_out(app, folder, &outcome.view) {
                            Ok(()) => outcome.exit,
                            Err(failure) => failure.complain(),
                        },
                        _ => outcome.exit,
                    }
                }
                Err(failure) => failure.complain(),
            });
        }
        Ok(worst(&exits))
    }
}

fn state_of(view: &RunView) -> State {
    view.state.parse().unwrap_or(State::Queued)
}

/// Prints one result.
pub(super) fn report(cx: &Cx, app: &App, outcome: &Outcome) {
    let view = &outcome.view;
    if cx.json() {
        say_json(view);
    } else {
        let held = if outcome.was_held { " (held already)" } else { "" };
        say(&format!(
            "{}@{}  {}  {}{held}  run {}",
            view.job,
            view.connection,
            view.window.label,
            view.state,
            &view.run_id[..8]
        ));
        for file in &view.artifacts {
            let bytes = size(u64::try_from(file.bytes).unwrap_or(0));
            say(&format!(
                "  {}  {bytes}  sha256 {}",
                app.worker.archive.path(&file.path).display(),
                &file.sha256[..12]
            ));
        }
        if let Some(failure) = &view.failure {
            say(&format!("  {}: {}", failure.class, failure.message));
        }
    }
    if let Some(person) = &outcome.person {
        note(&format!("reportd: {person}"));
    }
    if outcome.exit == Exit::InFlight && outcome.person.is_none() {
        note(&format!(
            "reportd: run {} is still in flight; run-job of the same window attaches to it and carries it on",
            &view.run_id[..8]
        ));
    }
}

/// Makes or attaches to one run and carries it on.
pub(super) async fn run_one(
    app: &App,
    fire: &Planned,
    trigger: Trigger,
    again: bool,
    until: Option<Instant>,
    stop: &CancellationToken,
    board: &Board,
) -> Result<Outcome, Failure> {
    let worker = &app.worker;
    let label = fire.window.as_ref().map(crate::request::window::Window::label).unwrap_or_default();
    let name = format!("{}@{}  {label}", fire.job, fire.connection);
    let run = match worker.open(fire, trigger, again).await? {
        Opening::Held(row, files) => return Ok(held(fire, &row, &files)),
        Opening::Made(run) => {
            if fire.vendor == Vendor::Bik
                && let Some(earlier) = worker.store.doubtful_before(&run).await?
            {
                let earlier = short(earlier);
                board.say(
                    &name,
                    &format!("run {earlier} of this window may have been made and mailed too (show {earlier})"),
                );
            }
            run
        }
        Opening::Attached(run) => {
            board.say(&name, &format!("attaches to run {}, which is {}", short(run.id), run.state));
            run
        }
    };
    let driven = worker.drive(run.id, until, stop, &|update| board.show(&name, &update)).await?;
    let (run, exit, person) = match driven {
        Driven::Ended(run) => {
            let exit = match run.state {
                State::Archived | State::Empty => Exit::Done,
                State::Held => Exit::Held,
                _ => Exit::Failed,
            };
            (run, exit, None)
        }
        Driven::NeedsPerson(run, why) => (run, Exit::InFlight, Some(why)),
        Driven::TimedOut(run) => (run, Exit::InFlight, None),
        Driven::Interrupted(run) => (run, Exit::Interrupted, None),
    };
    let files = match run.revision.filter(|_| run.state.is_held_in_archive()) {
        Some(revision) => worker.store.artifacts(run.series_id, &run.window_label, revision).await?,
        None => Vec::new(),
    };
    Ok(Outcome { view: RunView::of(&run, &files), exit, person, was_held: false })
}

fn held(fire: &Planned, row: &RevisionRow, files: &[ArtifactRow]) -> Outcome {
    let view = RunView::of_revision(&fire.job, &fire.connection, fire.vendor.as_str(), row, files);
    Outcome { view, exit: Exit::Done, person: None, was_held: true }
}

/// The exit code of several runs: what most needs a person.
pub(super) fn worst(exits: &[Exit]) -> Exit {
    let order = [Exit::Interrupted, Exit::Usage, Exit::Failed, Exit::Held, Exit::InFlight];
    order.into_iter().find(|exit| exits.contains(exit)).unwrap_or(Exit::Done)
}

/// A token that the first Ctrl-C or SIGTERM cancels; the second ends the process at once.
pub(super) fn stop_on_signal() -> CancellationToken {
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        interrupted().await;
        note(
            "reportd: stopping; a call that may not be repeated is finished first (again to stop at once). Runs stay and go on later",
        );
        token.cancel();
        interrupted().await;
        std::process::exit(i32::from(Exit::Interrupted.code()));
    });
    stop
}

async fn interrupted() {
    let terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
    let terminated = async {
        match terminate {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
    }
}

/// Copies a run's files out of the archive under names that tell what they are. An existing copy is replaced.
fn copy_out(app: &App, folder: &Path, view: &RunView) -> Result<(), Failure> {
    for file in &view.artifacts {
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
