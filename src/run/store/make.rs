//! Making runs: once per window, attached to when there is one already.

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::doubt::{Doubtful, doubtful};
use super::revision::RevisionRow;
use super::revive::{go_on, is_live_twin, revivable};
use super::{RunStore, StoreError, doing};
use crate::run::{Run, Trigger};

/// What a new run is made of.
#[derive(Clone, Debug)]
pub struct NewRun {
    /// Job name.
    pub job: String,
    /// Connection name.
    pub connection: String,
    /// Vendor word.
    pub vendor: &'static str,
    /// Why.
    pub trigger: Trigger,
    /// Start of the window.
    pub window_start: DateTime<Utc>,
    /// Open end of the window.
    pub window_end: DateTime<Utc>,
    /// Zone of the window.
    pub window_zone: &'static str,
    /// Name of the window.
    pub window_label: String,
    /// The report may still change.
    pub provisional: bool,
    /// The instant it is made for.
    pub fire_at: DateTime<Utc>,
    /// Not to be worked on before.
    pub not_before: Option<DateTime<Utc>>,
    /// The frozen request.
    pub request: Value,
    /// BIK's mail is for no reader of it: a report that was mailed to others serves as well.
    pub quiet: bool,
    /// What a second report of the window does while the first may be under way.
    pub second: Second,
    /// Base URL it may be worked with.
    pub base_url: String,
    /// Account fingerprint it may be worked with.
    pub account: String,
    /// Whom it tells; `None` = nobody.
    pub notices: Option<Value>,
    /// What the window is to have.
    pub wants: Wants,
}

/// What a second report of a window does while the first may be under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Second {
    /// It harms nobody.
    Harmless,
    /// It is mailed once more, and the job bears that where nobody knows what became of the first (`on_unknown: resubmit`).
    Borne,
    /// It is mailed once more: a schedule and `fill` send none while an earlier one is in doubt.
    Mailed,
}

/// What the window of a new run is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// A report, if the archive holds none; its last run goes on with its ticket if it can.
    Report,
    /// Another one, although the archive may hold it.
    Another,
    /// No new run: its last one goes on with its ticket.
    GoingOn,
}

/// A run for the window: made now, or already live; or what the archive holds.
#[derive(Clone, Debug)]
pub enum Opened {
    /// No run is needed: this revision is held, and final unless the new run would be provisional too.
    Held(RevisionRow),
    /// Made by this call, although an earlier report of the window may be made and mailed as well.
    Made(Run, Option<Doubtful>),
    /// Made earlier and not finished, or ended meanwhile when it was to go on.
    Attached(Run),
    /// None is made by `fill`: an earlier report of the window may be made and mailed.
    LeftAlone(Doubtful),
}

impl RunStore {
    /// Makes a run for the window, attaches to the one that is live or can go on with its ticket, or says what is held. Callers
    /// at once agree: either one makes the run and the others attach, or all are told what it left. `fill` makes none for what is
    /// in doubt.
    pub async fn open(&self, new: &NewRun) -> Result<Opened, StoreError> {
        let what = "make a run";
        let series = self.series(&new.job, &new.connection, new.vendor).await?;
        // The other caller's run may end between our statements; then the next time round tells what it left.
        for _ in 0..10 {
            if new.wants != Wants::Another
                && let Some(row) = held(&self.pool, series, new).await?
            {
                return Ok(Opened::Held(row));
            }
            self.revive(series, new).await?;
            if new.wants != Wants::GoingOn {
                let mut tx = self.pool.begin().await.map_err(doing(what))?;
                if let Some(run) = self.insert(&mut tx, series, new).await? {
                    // The run that was live a moment ago may have ended since we looked: these statements see it.
                    let is_held = new.wants != Wants::Another && held(&mut *tx, series, new).await?.is_some();
                    // Doubt first: a ticket that comes in between is gone on with.
                    let doubt = doubtful(&mut *tx, &[(series, new)]).await?.pop();
                    if !is_held && revivable(&mut *tx, &[(series, new)]).await?.is_empty() {
                        if let Some(doubt) = doubt.filter(|_| new.trigger == Trigger::Fill) {
                            return Ok(Opened::LeftAlone(doubt));
                        }
                        tx.commit().await.map_err(doing(what))?;
                        return Ok(Opened::Made(run, doubt));
                    }
                }
                tx.rollback().await.map_err(doing(what))?;
            }
            let live: Option<Run> = sqlx::query_as(
                "SELECT * FROM runs
                 WHERE series_id = $1 AND window_start = $2 AND window_end = $3 AND finished_at IS NULL",
            )
            .bind(series)
            .bind(new.window_start)
            .bind(new.window_end)
            .fetch_optional(&self.pool)
            .await
            .map_err(doing("look up the live run of a window"))?;
            if let Some(run) = live {
                return Ok(Opened::Attached(run));
            }
            if new.wants == Wants::GoingOn {
                let last = self.newest_of_window(series, new).await?;
                return last.map(Opened::Attached).ok_or_else(|| {
                    StoreError::Refused(format!("{} has no run that could go on: look again", new.window_label))
                });
            }
        }
        Err(StoreError::Refused("runs of this window come and go too fast to attach to one: try again".into()))
    }

    /// The run of the window that was made last.
    async fn newest_of_window(&self, series: i64, new: &NewRun) -> Result<Option<Run>, StoreError> {
        // Served by runs_of_window.
        sqlx::query_as(
            "SELECT * FROM runs WHERE series_id = $1 AND window_start = $2 AND window_end = $3
             ORDER BY created_at DESC LIMIT 1",
        )
        .bind(series)
        .bind(new.window_start)
        .bind(new.window_end)
        .fetch_optional(&self.pool)
        .await
        .map_err(doing("look up the last run of a window"))
    }

    /// Lets the window's last run go on with its ticket, if it can; it is then live.
    async fn revive(&self, series: i64, new: &NewRun) -> Result<(), StoreError> {
        for found in revivable(&self.pool, &[(series, new)]).await? {
            match go_on(&self.pool, &found.revival, &self.who.0).await {
                Err(error) if !is_live_twin(&error) => return Err(doing("take up a run again")(error)),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    }

    async fn insert(
        &self,
        tx: &mut sqlx::PgTransaction<'_>,
        series: i64,
        new: &NewRun,
    ) -> Result<Option<Run>, StoreError> {
        sqlx::query_as(
            "WITH made AS (
                 INSERT INTO runs (id, series_id, job, connection, vendor, trigger, state, window_start, window_end,
                                   window_zone, window_label, provisional, fire_at, request, base_url, account, next_step_at,
                                   notices, again)
                 VALUES ($1, $2, $3, $4, $5, $6, 'queued', $7, $8, $9, $10, $11, $12, $13::json, $14, $15,
                         GREATEST(reportd_now(), $16), $18::json, $19)
                 ON CONFLICT (series_id, window_start, window_end) WHERE finished_at IS NULL DO NOTHING
                 RETURNING *
             ), told AS (
                 INSERT INTO run_events (run_id, kind, who, detail)
                 SELECT id, 'made', $17, 'made by ' || trigger || ' for ' || window_label FROM made
             )
             SELECT * FROM made",
        )
        .bind(Uuid::new_v4())
        .bind(series)
        .bind(&new.job)
        .bind(&new.connection)
        .bind(new.vendor)
        .bind(new.trigger.as_str())
        .bind(new.window_start)
        .bind(new.window_end)
        .bind(new.window_zone)
        .bind(&new.window_label)
        .bind(new.provisional)
        .bind(new.fire_at)
        .bind(new.request.to_string())
        .bind(&new.base_url)
        .bind(&new.account)
        .bind(new.not_before)
        .bind(&self.who.0)
        .bind(new.notices.as_ref().map(Value::to_string))
        .bind(new.wants == Wants::Another)
        .fetch_optional(&mut **tx)
        .await
        .map_err(doing("make a run"))
    }
}

/// The newest revision of the window that makes a new run needless.
async fn held(
    executor: impl sqlx::PgExecutor<'_>,
    series: i64,
    new: &NewRun,
) -> Result<Option<RevisionRow>, StoreError> {
    let newest: Option<RevisionRow> = sqlx::query_as(
        "SELECT * FROM revisions WHERE series_id = $1 AND window_start = $2 AND window_end = $3
         ORDER BY revision DESC LIMIT 1",
    )
    .bind(series)
    .bind(new.window_start)
    .bind(new.window_end)
    .fetch_optional(executor)
    .await
    .map_err(doing("look up what is held of a window"))?;
    Ok(newest.filter(|row| new.provisional || !row.provisional))
}
