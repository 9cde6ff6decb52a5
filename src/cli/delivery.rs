//! `reportd deliveries` and `reportd delivery`.

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use comfy_table::Table;
use comfy_table::presets::NOTHING;

use super::text::local;
use super::{Cx, Exit, Failure, note, say, say_json};
use crate::app::{ArchiveUse, Selection};
use crate::delivery::{Kind, State};
use crate::run::store::StoreError;
use crate::run::store::delivery::{DeliveryFilter, DeliveryRow};
use crate::view::delivery::DeliveryView;

/// How long `delivery retry` waits for the other side.
const PATIENCE: Duration = Duration::from_secs(90);

#[derive(Debug, Args)]
pub(super) struct Deliveries {
    /// Only about this job, or this series
    #[arg(value_name = "JOB[@CONN]")]
    selection: Option<Selection>,
    /// Only deliveries in this state: pending, sending, sent, failed, held, resolved
    #[arg(long, value_name = "S")]
    state: Option<State>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

#[derive(Debug, Args)]
pub(super) struct DeliveryCommand {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Send a delivery now, also one that was held, failed or sent
    Retry(Retry),
    /// End a delivery that is held, failed or waiting: it arrived, or is not wanted any more
    Resolve(Id),
}

#[derive(Debug, Args)]
struct Retry {
    #[command(flatten)]
    id: Id,
    /// Make a second BIK ticket or event of one that was made
    #[arg(long)]
    again: bool,
}

#[derive(Debug, Args)]
struct Id {
    /// The delivery's id, or its first digits
    id: String,
}

/// One line about a delivery, as `show` prints it.
pub(super) fn line(view: &DeliveryView) -> String {
    let words = view.words.as_deref().map_or(String::new(), |words| format!(": {words}"));
    let tries = if view.tries == 1 { "1 try".to_owned() } else { format!("{} tries", view.tries) };
    format!("{} {} to {}  {} ({}){words}", view.cause, view.kind, view.target, view.state, tries)
}

impl Deliveries {
    pub(super) async fn run(&self, cx: &Cx) -> Result<Exit, Failure> {
        let filter = DeliveryFilter {
            job: self.selection.as_ref().map(|s| s.job.clone()),
            connection: self.selection.as_ref().and_then(|s| s.connection.clone()),
            state: self.state.map(State::as_str),
            limit: i64::from(self.limit),
        };
        let files = cx.files_whose_config_is_good()?;
        let (db, store) = cx.database(&files.settings).await?;
        let rows = store.deliveries(&filter).await;
        let known = match &self.selection {
            Some(selection) => super::runs::known(&files, &store, selection).await,
            None => Ok(()),
        };
        db.close().await;
        known?;
        let rows = rows?;
        if cx.json() {
            for row in &rows {
                say_json(&DeliveryView::of(row));
            }
            return Ok(Exit::Done);
        }
        say(&if rows.is_empty() { "no deliveries".to_owned() } else { table(&rows) });
        Ok(Exit::Done)
    }
}

fn table(rows: &[DeliveryRow]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header([
        "DELIVERY",
        "MADE (UTC)",
        "ABOUT",
        "CAUSE",
        "KIND",
        "TO",
        "STATE",
        "TRIES",
        "",
    ]);
    for row in rows {
        let view = DeliveryView::of(row);
        let about = match &view.job {
            Some(job) => format!("{job}@{}", view.connection),
            None => view.connection.clone(),
        };
        let more = if view.count > 1 { format!(" and {} more", view.count - 1) } else { String::new() };
        table.add_row([
            row.id.simple().to_string()[..8].to_owned(),
            local(row.made_at, chrono_tz::UTC),
            format!("{about}{more}"),
            view.cause,
            view.kind,
            view.target,
            view.state,
            view.tries.to_string(),
            view.words.unwrap_or_default(),
        ]);
    }
    table.trim_fmt()
}

impl DeliveryCommand {
    pub(super) async fn run(&self, cx: &Cx) -> Result<Exit, Failure> {
        match &self.verb {
            Verb::Retry(args) => retry(cx, &args.id.id, args.again).await,
            Verb::Resolve(id) => resolve(cx, &id.id).await,
        }
    }
}

/// Sends it at once, in this process: `serve` need not run.
async fn retry(cx: &Cx, id: &str, again: bool) -> Result<Exit, Failure> {
    let app = cx.app(&cx.settings()?, ArchiveUse::Reads).await?;
    let result = async {
        let store = &app.worker.store;
        let row = store.delivery_by_prefix(id).await?;
        let kind = Kind::try_from(row.kind.clone()).map_err(Failure::Usage)?;
        if row.state == State::Sent.as_str() && !kind.repeatable() && !again {
            return Err(Failure::Usage("BIK made it already: say --again to have a second one made".into()));
        }
        if !store.retry_delivery(row.id, &row.state).await? {
            return Err(Failure::Usage("it is being sent at this moment, or was: see `reportd deliveries`".into()));
        }
        if row.state == State::Sent.as_str() || row.state == State::Resolved.as_str() {
            note(&format!("reportd: it was {} before: it goes out again", row.state));
        }
        app.worker.deliver_one(row.id, Instant::now() + PATIENCE).await?;
        Ok(store.delivery_by_prefix(&row.id.to_string()).await?)
    }
    .await;
    app.close().await;
    let row: DeliveryRow = result?;
    tell(cx, &row);
    Ok(match row.state.parse::<State>() {
        Ok(State::Sent) => Exit::Done,
        Ok(State::Held) => Exit::Held,
        Ok(State::Pending | State::Sending) => Exit::InFlight,
        _ => Exit::Failed,
    })
}

async fn resolve(cx: &Cx, id: &str) -> Result<Exit, Failure> {
    let (db, store) = cx.database(&cx.settings()?).await?;
    let result = async {
        let row = store.delivery_by_prefix(id).await?;
        if !store.resolve_delivery(row.id).await? {
            return Err(StoreError::Refused(format!(
                "delivery {} is {}: only pending, held and failed ones can be resolved",
                &row.id.simple().to_string()[..8],
                row.state
            )));
        }
        store.delivery_by_prefix(&row.id.to_string()).await
    }
    .await;
    db.close().await;
    tell(cx, &result?);
    Ok(Exit::Done)
}

fn tell(cx: &Cx, row: &DeliveryRow) {
    let view = DeliveryView::of(row);
    if cx.json() {
        say_json(&view);
        return;
    }
    say(&format!("{}  {}", &view.delivery_id[..8], line(&view)));
    let kind = Kind::try_from(row.kind.clone());
    if row.state == State::Held.as_str() && kind.is_ok_and(|kind| !kind.repeatable()) {
        note(
            "reportd: nobody knows whether BIK made it: look there; then `delivery resolve`, or `delivery retry` to send it again",
        );
    }
}
