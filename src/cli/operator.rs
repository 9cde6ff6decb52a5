//! `reportd retry`, `cancel` and `resolve`: an operator's word, signed.

use std::path::PathBuf;

use clap::{ArgGroup, Args};

use super::{Cx, Exit, Failure, note, say, say_json};
use crate::app::{App, ArchiveUse, Selection};
use crate::operator::{self, OperatorError};
use crate::request::window::Window;
use crate::run::State;
use crate::run::short;
use crate::view::RunView;

#[derive(Debug, Args)]
pub(super) struct Retry {
    /// The run's id, or its first digits
    run: String,
}

#[derive(Debug, Args)]
pub(super) struct Cancel {
    /// The run's id, or its first digits
    run: String,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("word").required(true).args(["ticket", "file", "not_created", "give_up"]))]
pub(super) struct Resolve {
    /// The run's id, or its first digits
    run: String,
    /// The vendor made it: poll with this reportHistoryId or taskId
    #[arg(long, value_name = "ID")]
    ticket: Option<String>,
    /// Here is the report: archive this file
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// The vendor made nothing: send it again
    #[arg(long)]
    not_created: bool,
    /// Nobody will find out: the run fails
    #[arg(long)]
    give_up: bool,
}

async fn finish(cx: &Cx, app: &App, id: uuid::Uuid, words: &str) -> Result<Exit, Failure> {
    let Some(run) = app.worker.store.run(id).await? else { return Ok(Exit::Failed) };
    if cx.json() {
        let files = super::runs::files_of(app, &run).await?;
        say_json(&RunView::of(&run, &files));
    } else {
        say(&format!("run {} {words}; it is {} now", short(id), run.state));
        let window = run.window_zone.parse().ok().and_then(|zone| Window::new(run.window_start, run.window_end, zone));
        let live = !run.state.is_terminal() && run.state != State::Held;
        if let Some(why) = app.worker.refuses(&run).filter(|_| live) {
            note(&format!("reportd: this reportd would not work on it: {why}"));
        } else if let Some((first, last)) = window.filter(|_| live).and_then(|w| w.whole_days())
            && !app.worker.store.is_served().await?
        {
            say(&format!("to carry it on: reportd run-job {}@{} --window {first}..{last}", run.job, run.connection));
        }
    }
    Ok(Exit::Done)
}

impl Retry {
    pub(super) async fn run(&self, cx: &Cx) -> Result<Exit, Failure> {
        let app = cx.app(&cx.settings()?, ArchiveUse::Writes).await?;
        let result = self.retry(cx, &app).await;
        app.close().await;
        result
    }

    async fn retry(&self, cx: &Cx, app: &App) -> Result<Exit, Failure> {
        let run = app.worker.store.by_prefix(&self.run).await?;
        let words = operator::retry(&app.worker, &run, async || {
            // Only a run that needs a new request needs its job file to be right.
            let selection = Selection { job: run.job.clone(), connection: Some(run.connection.clone()) };
            let files = cx.files();
            if let Some(problem) = files.errors_of(Some(&run.job)).first() {
                return Err(OperatorError::Refused(problem.text().trim_end().to_owned()));
            }
            let found = files.series(Some(&selection)).map_err(OperatorError::Refused)?;
            operator::retry_fresh(&app.worker, &run, &found).await
        })
        .await?;
        finish(cx, app, run.id, words).await
    }
}

impl Cancel {
    pub(super) async fn run(&self, cx: &Cx) -> Result<Exit, Failure> {
        let app = cx.app(&cx.settings()?, ArchiveUse::Reads).await?;
        let result = async {
            let run = app.worker.store.by_prefix(&self.run).await?;
            app.worker.store.cancel(&run).await?;
            if run.state == State::Held {
                let id = short(run.id);
                note(&format!(
                    "reportd: whether BIK made and mailed this report is still not known: fill leaves its window alone, and \
                     `reportd retry {id}` holds it again"
                ));
            }
            finish(cx, &app, run.id, "was cancelled").await
        }
        .await;
        app.close().await;
        result
    }
}

impl Resolve {
    pub(super) async fn run(&self, cx: &Cx) -> Result<Exit, Failure> {
        let app = cx.app(&cx.settings()?, ArchiveUse::Writes).await?;
        let result = self.resolve(cx, &app).await;
        app.close().await;
        result
    }

    async fn resolve(&self, cx: &Cx, app: &App) -> Result<Exit, Failure> {
        let store = &app.worker.store;
        let run = store.by_prefix(&self.run).await?;
        let words = if let Some(id) = &self.ticket {
            operator::resolve_ticket(&app.worker, &run, id).await?;
            "polls with the ticket you named"
        } else if let Some(path) = &self.file {
            operator::resolve_file(&app.worker, &run, path).await?;
            "holds the file you handed in"
        } else if self.not_created {
            store.resolve_not_created(&run).await?;
            "is sent again"
        } else {
            store.resolve_give_up(&run).await?;
            "was given up"
        };
        finish(cx, app, run.id, words).await
    }
}
