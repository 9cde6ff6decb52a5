//! `reportd why`.

use clap::Args;
use serde::Serialize;

use super::text::{self, local_and_utc};
use super::{Cx, Exit, Failure, say, say_json};
use crate::app::Selection;
use crate::fire::explain::shown;
use crate::fire::rule::Rule;
use crate::fire::span;
use crate::job::schedule::Schedule;
use crate::request::window::rfc3339_in;
use crate::run::short;
use crate::selected::select;
use crate::view::WindowView;
use crate::why::{self, Asked, WhyError};

#[derive(Debug, Args)]
pub(super) struct Why {
    /// The job, for all its connections or one
    #[arg(value_name = "JOB[@CONN]")]
    selection: Selection,
    /// The instant: RFC 3339, or local time in the series' zone
    #[arg(long, value_name = "T")]
    at: String,
}

/// One line of JSON.
#[derive(Debug, Serialize)]
struct Line {
    job: String,
    connection: String,
    at: String,
    fire_at: Option<String>,
    outcome: String,
    reason: Option<String>,
    window: Option<WindowView>,
    run_id: Option<String>,
    rule: Option<RuleLine>,
    decided_at: Option<String>,
}

#[derive(Debug, Serialize)]
struct RuleLine {
    crons: Vec<String>,
    zone: &'static str,
    window: Option<String>,
    from: Option<String>,
    applied_by: Option<String>,
}

impl From<WhyError> for Failure {
    fn from(error: WhyError) -> Failure {
        match error {
            WhyError::Instant(message) => Failure::Usage(message),
            WhyError::Store(error) => error.into(),
            rule @ WhyError::Rule { .. } => Failure::Failed(rule.into()),
        }
    }
}

fn crons(rule: &Rule) -> Vec<String> {
    rule.schedule.iter().flat_map(Schedule::crons).map(|cron| cron.resolved().to_owned()).collect()
}

impl Why {
    pub(super) async fn run(&self, cx: &Cx) -> Result<Exit, Failure> {
        let files = cx.files_whose_config_is_good()?;
        let (db, store) = cx.database(&files.settings).await?;
        let result = async {
            let selected = select(&files, &store, &self.selection, true).await?;
            let read = |zone| text::instant(Some(&self.at), zone, &cx.clock);
            let asked = Asked { read: &read, local: text::written_local(&self.at) };
            Ok::<_, Failure>(why::why(&store, &selected, &asked).await?)
        }
        .await;
        db.close().await;
        for (n, why) in result?.iter().enumerate() {
            if cx.json() {
                say_json(&line(why));
            } else {
                tell(why, n > 0);
            }
        }
        Ok(Exit::Done)
    }
}

fn line(why: &why::Why) -> Line {
    let text = |t| rfc3339_in(t, why.zone);
    let reason = match (&why.reason, &why.clock_change) {
        (Some(reason), Some(change)) => Some(format!("{reason}; {change}")),
        (reason, change) => reason.clone().or_else(|| change.clone()),
    };
    Line {
        job: why.job.clone(),
        connection: why.connection.clone(),
        at: text(why.at),
        fire_at: why.fire_at.map(text),
        outcome: why.outcome.clone(),
        reason,
        window: why.window.as_ref().map(WindowView::of),
        run_id: why.run.as_ref().map(|(id, _)| id.to_string()),
        rule: why.version.as_ref().map(|version| RuleLine {
            crons: crons(&version.rule),
            zone: version.rule.zone.name(),
            window: version.rule.window.map(|window| window.to_string()),
            from: version.from.map(text),
            applied_by: version.applied_by.clone(),
        }),
        decided_at: why.decided_at.map(text),
    }
}

/// What a word of the ledger means.
fn meaning(outcome: &str) -> Option<&'static str> {
    Some(match outcome {
        "fired" => "a run was made",
        "covered" => "no run was needed",
        "skipped" => "no run was made",
        "missed" => "nobody was there in time; `reportd fill` fetches it",
        "paused" => "it was not to fire; `reportd fill` fetches it",
        _ => return None,
    })
}

fn tell(why: &why::Why, again: bool) {
    if again {
        say("");
    }
    say(&format!("{}@{}  {}", why.job, why.connection, local_and_utc(why.at, why.zone)));
    let field = |name: &str, text: &str| say(&format!("  {name:<9}{text}"));
    let parts: Vec<&str> = meaning(&why.outcome).into_iter().chain(why.reason.as_deref()).collect();
    field(&why.outcome.replace('_', " "), &format!("   {}", parts.join(": ")));
    if let Some(change) = &why.clock_change {
        field("clock", &format!("   {change}"));
    }
    if let Some(decided) = why.decided_at {
        field("decided", &format!("   {}, {} after the instant", shown(decided, why.zone), span(decided - why.at)));
    }
    if let Some(window) = &why.window {
        let held = why.revision.map_or_else(
            || if why.decided_at.is_some() { ", not in the archive".to_owned() } else { String::new() },
            |revision| format!(", in the archive as r{revision}"),
        );
        field(
            "window",
            &format!("   {}  [{}, {}){held}", window.label(), window.start_rfc3339(), window.end_rfc3339()),
        );
    }
    if let Some((id, state)) = &why.run {
        field("run", &format!("   {}  {}", short(*id), state.as_deref().unwrap_or("not in this database")));
    }
    if let Some(version) = &why.version {
        let rule = &version.rule;
        let crons = match crons(rule) {
            none if none.is_empty() => "no schedule".to_owned(),
            crons => crons.iter().map(|cron| format!("\"{cron}\"")).collect::<Vec<_>>().join(", "),
        };
        let window = rule.window.map_or_else(|| "none".to_owned(), |window| window.to_string());
        field("rule", &format!("   {crons} in {}, window {window}", rule.zone.name()));
        match (version.from, &version.applied_by) {
            (Some(from), Some(by)) => field("", &format!("   in force since {}, by {by}", shown(from, why.zone))),
            _ => field("", "   as the job file says; it was never in force"),
        }
    }
    if why.file_differs {
        field(
            "",
            "   the job file says something else now, which is not in force: `reportd apply`, or `reportd serve`",
        );
    }
}
