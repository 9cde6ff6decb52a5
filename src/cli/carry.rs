//! Runs that a command makes and carries on to their end: what `run-job` and `fill` share.
//!
//! Every run is carried to its end, whatever becomes of the others; accounts go on beside each other. A run that is
//! interrupted stays, and goes on with `serve` or the next command that attaches to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::StreamExt;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::coverage::words::counted;
use super::progress::Board;
use super::text::size;
use super::{Cx, Exit, Failure, note, say, say_json};
use crate::app::{App, Files};
use crate::plan::Planned;
use crate::request::{Request, Vendor};
use crate::run::short;
use crate::run::store::StoreError;
use crate::run::store::doubt::Doubtful;
use crate::run::store::revision::{ArtifactRow, RevisionRow};
use crate::run::{Run, State, Trigger};
use crate::view::RunView;
use crate::worker::drive::Driven;
use crate::worker::herald;
use crate::worker::open::Opening;
use crate::yaml::parse_duration;

/// Runs of one account that are carried on at once. Most of them wait at any time, and the accounts' own limits hold whatever
/// this is; it must be large, so that runs in trouble do not keep the others from their turn.
const AT_ONCE: usize = 200;

/// How long a command stays with its runs.
#[derive(Clone, Copy, Debug, Args)]
#[group(multiple = false)]
pub(super) struct Waiting {
    /// Wait at most this long (90s, 15m, 2h) [default: until it ends]
    #[arg(long, value_name = "D", value_parser = parse_duration)]
    wait: Option<Duration>,
    /// Make the run and leave it; `serve` or the next run-job of the same window carries it on
    #[arg(long)]
    no_wait: bool,
}

impl Waiting {
    /// When to stop waiting; `None` = not before the end.
    pub(super) fn until(self) -> Option<Instant> {
        match (self.no_wait, self.wait) {
            (true, _) => Some(Instant::now()),
            (false, wait) => wait.map(|wait| Instant::now() + wait),
        }
    }
}

/// How runs are made and carried on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Carrying {
    /// Why they are made.
    pub(super) trigger: Trigger,
    /// Also of held windows.
    pub(super) again: bool,
    /// When to stop waiting.
    pub(super) until: Option<Instant>,
}

/// How long a command waits for the notices of its runs.
const NOTICES: Duration = Duration::from_secs(20);

/// Tells of the runs that ended, and sends that. What is left, or went wrong, goes on with `serve`: it changes nothing of how the
/// runs ended.
pub(super) async fn deliver(app: &App, outcomes: &[Outcome], stop: &CancellationToken) {
    let ended =
        |outcome: &&Outcome| !outcome.was_held && matches!(outcome.exit, Exit::Done | Exit::Failed | Exit::Held);
    let runs: Vec<Uuid> =
        outcomes.iter().filter(ended).filter_map(|outcome| outcome.view.run_id.parse().ok()).collect();
    if runs.is_empty() || stop.is_cancelled() {
        return;
    }
    let told = async {
        let also = herald::tell_now(&app.worker.store, &runs).await?;
        let left = app.worker.deliver_of(&runs, &also, Instant::now() + NOTICES, stop).await?;
        Ok::<_, StoreError>((left, app.worker.store.deliveries_lost(&runs, &also).await?))
    };
    let told = told.await;
    if let Ok((_, lost @ 1..)) = told {
        note(&format!(
            "reportd: {} did not go out: `reportd deliveries` says why",
            counted(usize::try_from(lost).unwrap_or(0), "notice")
        ));
    }
    match told {
        Ok((0, _)) => {}
        Ok((left, _)) => note(&format!(
            "reportd: {} still to be sent: `reportd deliveries` says why; `reportd serve` goes on with it",
            counted(usize::try_from(left).unwrap_or(0), "notice")
        )),
        Err(error) => {
            note(&format!("reportd: the runs' notices wait for `reportd serve`: {}", crate::telemetry::Chain(&error)));
        }
    }
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

/// BIK mails somebody for each create. Runs by hand that would mail a shop's owner are refused, with how many mails they mean.
pub(super) fn refuse_mail<'a>(files: &Files, fires: impl IntoIterator<Item = &'a Planned>) -> Result<(), Failure> {
    let loud: Vec<&Planned> = fires.into_iter().filter(|fire| mails_the_shop(files, fire)).collect();
    let Some(first) = loud.first() else { return Ok(()) };
    Err(Failure::Usage(format!(
        "BIK sends every report it makes by mail: this would be {} and {}. Set quiet_emails on connection \
         {} (your own mailbox, used by runs that no schedule made), or say --mail",
        counted(loud.len(), "report"),
        counted(mails(loud.iter().copied()), "mail"),
        first.connection
    )))
}

/// Who was to have BIK's mail and has none by this run.
fn not_mailed(fire: &Planned, run: &Run) -> Option<String> {
    let request = fire.request.as_ref().filter(|_| !fire.quiet)?;
    let mailed: Request = serde_json::from_value(run.request.clone()).ok()?;
    let missed: Vec<&str> =
        request.emails.iter().filter(|who| !mailed.emails.contains(who)).map(String::as_str).collect();
    (!missed.is_empty()).then(|| missed.join(", "))
}

/// Whether its mail goes to the job's own addresses unless somebody sets `quiet_emails`.
pub(super) fn mails_the_shop(files: &Files, fire: &Planned) -> bool {
    let connection = crate::job::connection(&files.settings.connections, &fire.connection);
    let quiet = connection.and_then(|c| c.bik.as_ref()).is_some_and(|bik| bik.quiet_emails.is_some());
    fire.vendor == Vendor::Bik && !quiet
}

/// How many mails BIK sends for these.
pub(super) fn mails<'a>(fires: impl Iterator<Item = &'a Planned>) -> usize {
    fires.filter_map(|fire| fire.request.as_ref()).map(|request| request.emails.len()).sum()
}

/// Makes the runs and carries them on, each account's beside the others', in the order given. Results are in that order too.
pub(super) async fn carry_all(
    app: &App,
    fires: &[Planned],
    carrying: Carrying,
    stop: &CancellationToken,
) -> Vec<Result<Outcome, Failure>> {
    let board = Board::new();
    let board = &board;
    let mut accounts: BTreeMap<(&str, Vendor), Vec<(usize, &Planned)>> = BTreeMap::new();
    for (n, fire) in fires.iter().enumerate() {
        accounts.entry((&fire.connection, fire.vendor)).or_default().push((n, fire));
    }
    let mut results = futures_util::stream::iter(accounts.into_values())
        .map(|fires| {
            let turn = Arc::new(Mutex::new(()));
            let run = move |(n, fire)| {
                let turn = Arc::clone(&turn);
                async move { (n, run_one(app, fire, carrying, Some(&turn), stop, board).await) }
            };
            Box::pin(futures_util::stream::iter(fires).map(run).buffer_unordered(AT_ONCE))
        })
        .flatten_unordered(None);
    // Every run is carried to its end, whatever becomes of the others: dropping one could drop a create under way.
    let mut ended = Vec::new();
    while let Some(result) = results.next().await {
        ended.push(result);
    }
    drop(results);
    board.end();
    ended.sort_by_key(|(n, _)| *n);
    ended.into_iter().map(|(_, result)| result).collect()
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
            let gone = if app.worker.archive.was_pruned(&file.path) { "  (pruned)" } else { "" };
            say(&format!(
                "  {}  {bytes}  sha256 {}{gone}",
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

/// Makes or attaches to one run and carries it on. Runs that share a `turn` are made one after the other, in the order in
/// which they ask: whoever claims them later finds the first ones due first.
pub(super) async fn run_one(
    app: &App,
    fire: &Planned,
    carrying: Carrying,
    turn: Option<&Mutex<()>>,
    stop: &CancellationToken,
    board: &Board,
) -> Result<Outcome, Failure> {
    let Carrying { trigger, again, until } = carrying;
    let worker = &app.worker;
    let label = fire.window.as_ref().map(crate::request::window::Window::label).unwrap_or_default();
    let name = format!("{}@{}  {label}", fire.job, fire.connection);
    let opening = {
        let _turn = match turn {
            Some(turn) => Some(turn.lock().await),
            None => None,
        };
        worker.open(fire, trigger, again).await?
    };
    let run = match opening {
        Opening::Held(row, files) => return Ok(held(fire, &row, &files)),
        Opening::Made(run, doubt) => {
            if let Some(doubt) = doubt {
                let earlier = short(doubt.run_id);
                board.say(
                    &name,
                    &format!("run {earlier} of this window may have been made and mailed too (show {earlier})"),
                );
            }
            run
        }
        Opening::LeftAlone(doubt) => return left_alone(app, &doubt).await,
        Opening::Attached(run) => {
            board.say(&name, &format!("attaches to run {}, which is {}", short(run.id), run.state));
            if let Some(missed) = not_mailed(fire, &run) {
                board.say(
                    &name,
                    &format!("that run mails others, not {missed}: --again, once it has ended, has it made for them"),
                );
            }
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

/// The earlier run, which stays as it is until a person says what became of its create.
async fn left_alone(app: &App, doubt: &Doubtful) -> Result<Outcome, Failure> {
    let run = app.worker.store.by_prefix(&doubt.run_id.to_string()).await?;
    let person = Some(format!("{} is left alone: {}", run.window_label, doubt.advice()));
    Ok(Outcome { view: RunView::of(&run, &[]), exit: Exit::Held, person, was_held: false })
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
    stop_saying("a call that may not be repeated is finished first (again to stop at once). Runs stay and go on later")
}

/// The same for a command that has no runs.
pub(super) fn stop_saying(words: &'static str) -> CancellationToken {
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        interrupted().await;
        note(&format!("reportd: stopping; {words}"));
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
