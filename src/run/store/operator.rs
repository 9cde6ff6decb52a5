//! An operator's word: retry, cancel, resolve. Every one records who said it.

use serde_json::Value;
use uuid::Uuid;

use super::revision::standing;
use super::revive::{Revival, go_on, is_live_twin};
use super::{RunStore, StoreError, doing};
use crate::run::state::{Event, sources};
use crate::run::{FailureClass, Run, State};

/// What the creates of an ended run may still lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PastCreates {
    /// The vendor made a task and never said that it ended: this create's, which was sent with this account.
    Alive(Uuid, String),
    /// One of them may have taken effect, and nobody knows.
    Doubtful,
    /// None can lead to anything.
    None,
}

fn refused(run: &Run, verb: &str, hint: &str) -> StoreError {
    StoreError::Refused(format!("run {} is {}, and {verb} is for {hint}", run.id, run.state))
}

impl RunStore {
    /// Stops a run; what was made at the vendor keeps its row, and is not deleted there.
    pub async fn cancel(&self, run: &Run) -> Result<(), StoreError> {
        let done = sqlx::query(
            "WITH moved AS (
                 UPDATE runs SET state = 'cancelled', noticed = NULL, finished_at = reportd_now(), lease_token = NULL, lease_until = NULL,
                     failure_class = NULL, failure = NULL, note = NULL, blocked = false, errors = 0, errors_since = NULL
                 WHERE id = $1 AND state = ANY ($2) RETURNING id
             )
             INSERT INTO run_events (run_id, kind, who, detail) SELECT id, 'cancelled', $3, 'cancelled' FROM moved",
        )
        .bind(run.id)
        .bind(sources(Event::Cancel))
        .bind(&self.who.0)
        .execute(&self.pool)
        .await
        .map_err(doing("cancel a run"))?;
        if done.rows_affected() == 1 { Ok(()) } else { Err(refused(run, "cancel", "runs that have not ended")) }
    }

    /// What is known of the creates that an ended run made: every one counts, not only the last.
    pub async fn past_creates(&self, run: &Run) -> Result<PastCreates, StoreError> {
        // Doubt first: a ticket that comes in between is gone on with.
        let doubtful: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM remote_tasks WHERE run_id = $1 AND outcome IN ('intended', 'unknown'))",
        )
        .bind(run.id)
        .fetch_one(&self.pool)
        .await
        .map_err(doing("look up the tasks of a run"))?;
        let alive: Option<(Uuid, String)> = sqlx::query_as(
            "SELECT attempt_id, account FROM remote_tasks WHERE run_id = $1 AND outcome = 'created' AND finished_at IS NULL
             ORDER BY intended_at DESC LIMIT 1",
        )
        .bind(run.id)
        .fetch_optional(&self.pool)
        .await
        .map_err(doing("look up the tasks of a run"))?;
        if let Some((attempt, account)) = alive {
            return Ok(PastCreates::Alive(attempt, account));
        }
        Ok(if doubtful { PastCreates::Doubtful } else { PastCreates::None })
    }

    /// Starts an ended run again with the ticket of this create, from now on asked for as this account where one is named.
    pub async fn retry_ticket(&self, run: &Run, attempt: Uuid, account: Option<&str>) -> Result<(), StoreError> {
        let account = account.map(str::to_owned);
        let revival = Revival { run_id: run.id, attempt_id: attempt, account, notices: None };
        let done = go_on(&self.pool, &revival, &self.who.0).await;
        let done = done.map_err(|e| live_twin(e, "retry a run"))?;
        if done == 1 { Ok(()) } else { Err(refused(run, "retry", "failed and cancelled runs")) }
    }

    /// An ended run whose create may have taken effect, and may not be repeated, is held instead of sent again.
    pub async fn retry_doubt(&self, run: &Run, message: &str) -> Result<(), StoreError> {
        let done = sqlx::query(
            "WITH moved AS (
                 UPDATE runs SET state = 'held', noticed = NULL, finished_at = NULL, failure_class = $4, failure = left($5, 4000), claims = 0,
                     errors = 0, errors_since = NULL, note = NULL, ticket = NULL,
                     attempt_id = (SELECT attempt_id FROM remote_tasks WHERE run_id = $1 AND outcome IN ('intended', 'unknown')
                                   ORDER BY intended_at DESC LIMIT 1)
                 WHERE id = $1 AND state = ANY ($2) RETURNING id
             )
             INSERT INTO run_events (run_id, kind, who, detail) SELECT id, 'held', $3, left($5, 4000) FROM moved",
        )
        .bind(run.id)
        .bind(sources(Event::RetryDoubt))
        .bind(&self.who.0)
        .bind(FailureClass::UnknownCreate.as_str())
        .bind(message)
        .execute(&self.pool)
        .await
        .map_err(|e| live_twin(e, "retry a run"))?;
        if done.rows_affected() == 1 { Ok(()) } else { Err(refused(run, "retry", "failed and cancelled runs")) }
    }

    /// Starts an ended run again with a request resolved anew.
    pub async fn retry_fresh(
        &self,
        run: &Run,
        request: &Value,
        base_url: &str,
        account: &str,
        notices: Option<&Value>,
    ) -> Result<(), StoreError> {
        let what = "retry a run";
        let mut tx = self.pool.begin().await.map_err(doing(what))?;
        let done = sqlx::query(
            "WITH moved AS (
                 UPDATE runs SET state = 'queued', noticed = NULL, finished_at = NULL, failure_class = NULL, failure = NULL, claims = 0,
                     errors = 0, errors_since = NULL, polled_s = 0, polls = 0, ticket = NULL, attempt_id = NULL,
                     revision = NULL, next_step_at = reportd_now(), note = NULL, request = $4::json, base_url = $5, account = $6,
                     notices = $7::json
                 WHERE id = $1 AND state = ANY ($2) RETURNING id
             )
             INSERT INTO run_events (run_id, kind, who, detail)
             SELECT id, 'retried', $3, 'starts again with the request as the job file has it now' FROM moved",
        )
        .bind(run.id)
        .bind(sources(Event::RetryFresh))
        .bind(&self.who.0)
        .bind(request.to_string())
        .bind(base_url)
        .bind(account)
        .bind(notices.map(Value::to_string))
        .execute(&mut *tx)
        .await
        .map_err(|e| live_twin(e, what))?;
        if done.rows_affected() != 1 {
            return Err(refused(run, "retry", "failed and cancelled runs"));
        }
        // Asked when the run is live: no other run of the window can begin or end any more.
        if let Some(why) = needless_retry(&mut tx, run).await? {
            return Err(StoreError::Refused(why));
        }
        tx.commit().await.map_err(doing(what))
    }

    /// The operator found the report at the vendor: the held run polls with this ticket.
    pub async fn resolve_ticket(&self, run: &Run, remote_id: &str, ticket: &Value) -> Result<(), StoreError> {
        let what = "give a held run its ticket";
        let mut tx = self.pool.begin().await.map_err(doing(what))?;
        let task = sqlx::query(
            "UPDATE remote_tasks SET remote_id = $2, ticket = $3, outcome = 'created', created_at = reportd_now(),
                 finished_at = NULL, named_by = $4
             WHERE attempt_id = $1",
        )
        .bind(run.attempt_id)
        .bind(remote_id)
        .bind(ticket)
        .bind(&self.who.0)
        .execute(&mut *tx)
        .await;
        match task {
            Err(sqlx::Error::Database(e)) if e.constraint() == Some("remote_tasks_remote_id_once") => {
                return Err(StoreError::Refused(format!(
                    "id {remote_id} belongs to another run of this connection already"
                )));
            }
            other => {
                if other.map_err(doing(what))?.rows_affected() != 1 {
                    return Err(refused(run, "resolve --ticket", "held runs with a create of their own"));
                }
            }
        }
        let done = sqlx::query(
            "WITH moved AS (
                 UPDATE runs SET state = 'waiting', noticed = NULL, ticket = $3, failure_class = NULL, failure = NULL, claims = 0, errors = 0,
                     errors_since = NULL, polled_s = 0, polls = 0, next_step_at = reportd_now(), ticketed_at = reportd_now(),
                     last_poll_at = NULL, revision = COALESCE(revision, next_revision(series_id, window_label))
                 WHERE id = $1 AND state = ANY ($2) RETURNING id
             )
             INSERT INTO run_events (run_id, kind, who, detail) SELECT id, 'resolved', $4, $5 FROM moved",
        )
        .bind(run.id)
        .bind(sources(Event::ResolveTicket))
        .bind(ticket)
        .bind(&self.who.0)
        .bind(format!("the operator names ticket {remote_id}"))
        .execute(&mut *tx)
        .await
        .map_err(doing(what))?;
        if done.rows_affected() != 1 {
            return Err(refused(run, "resolve", "held runs"));
        }
        tx.commit().await.map_err(doing(what))
    }

    /// The operator looked: the vendor made nothing. The held run is sent again.
    pub async fn resolve_not_created(&self, run: &Run) -> Result<(), StoreError> {
        self.resolve(
            run,
            Event::ResolveNotCreated,
            State::Queued,
            None,
            "the operator says that the vendor made nothing: sent again",
        )
        .await
    }

    /// The operator gives the held run up.
    pub async fn resolve_give_up(&self, run: &Run) -> Result<(), StoreError> {
        let message = "given up by an operator; whether the vendor made the report is not known";
        self.resolve(run, Event::ResolveGiveUp, State::Failed, Some(FailureClass::GivenUp), message).await
    }

    async fn resolve(
        &self,
        run: &Run,
        event: Event,
        to: State,
        class: Option<FailureClass>,
        message: &str,
    ) -> Result<(), StoreError> {
        let done = sqlx::query(
            "WITH moved AS (
                 UPDATE runs SET state = $3, noticed = NULL, failure_class = $4, failure = CASE WHEN $4 IS NULL THEN NULL ELSE $5 END,
                     finished_at = CASE WHEN $3 = 'failed' THEN reportd_now() END, next_step_at = reportd_now(), claims = 0,
                     errors = 0, errors_since = NULL
                 WHERE id = $1 AND state = ANY ($2) RETURNING id
             ), task AS (
                 UPDATE remote_tasks SET outcome = 'not_created' FROM moved
                 WHERE run_id = moved.id AND outcome IN ('intended', 'unknown') AND $3 = 'queued'
             )
             INSERT INTO run_events (run_id, kind, who, detail) SELECT id, 'resolved', $6, $5 FROM moved",
        )
        .bind(run.id)
        .bind(sources(event))
        .bind(to.as_str())
        .bind(class.map(FailureClass::as_str))
        .bind(message)
        .bind(&self.who.0)
        .execute(&self.pool)
        .await
        .map_err(doing("resolve a held run"))?;
        if done.rows_affected() == 1 { Ok(()) } else { Err(refused(run, "resolve", "held runs")) }
    }
}

/// A run cannot come back to life while another works on its window.
fn live_twin(error: sqlx::Error, what: &'static str) -> StoreError {
    if is_live_twin(&error) {
        return StoreError::Refused("another run is working on this window already: see `reportd runs`".into());
    }
    if matches!(&error, sqlx::Error::Database(e) if e.constraint() == Some("remote_tasks_remote_id_once")) {
        return StoreError::Refused("the account that the config has now has given this ticket to another run".into());
    }
    doing(what)(error)
}

/// Why a run that was just started anew is not to be sent: the archive holds its window, it was sent since its creates were looked
/// at, or BIK may have made, and mailed to whom this one is mailed, what another run of the window asked for.
async fn needless_retry(tx: &mut sqlx::PgTransaction<'_>, run: &Run) -> Result<Option<String>, StoreError> {
    let what = "look for other runs of a window";
    let (_, is_held) = standing(&mut **tx, run.id).await?;
    if is_held {
        let name = format!("{} of {}@{}", run.window_label, run.job, run.connection);
        return Ok(Some(format!(
            "the archive holds window {name}, which another run brought: run-job --again makes another report"
        )));
    }
    // Somebody else may have started it, and stopped it again, since its creates were looked at.
    let was_sent: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM remote_tasks WHERE run_id = $1 AND vendor = 'bik'
             AND (outcome IN ('intended', 'unknown') OR outcome = 'created' AND finished_at IS NULL))",
    )
    .bind(run.id)
    .fetch_one(&mut **tx)
    .await
    .map_err(doing(what))?;
    if was_sent {
        return Ok(Some(format!(
            "run {} was sent meanwhile: look again, with the same command",
            crate::run::short(run.id)
        )));
    }
    // Served by runs_of_window and remote_tasks_of_run.
    let other: Option<Uuid> = sqlx::query_scalar(
        "SELECT other.id FROM runs mine JOIN runs other ON other.series_id = mine.series_id
             AND other.window_start = mine.window_start AND other.window_end = mine.window_end AND other.id <> mine.id
         WHERE mine.id = $1 AND other.vendor = 'bik' AND other.state IN ('failed', 'cancelled')
           AND other.request->>'content_hash' = mine.request->>'content_hash'
           AND (other.request->'emails')::jsonb @> (mine.request->'emails')::jsonb
           AND EXISTS (SELECT 1 FROM remote_tasks WHERE run_id = other.id AND base_url = mine.base_url
               AND (outcome IN ('intended', 'unknown') AND mine.request->>'on_unknown' = 'hold'
                    OR outcome = 'created' AND finished_at IS NULL))
         ORDER BY other.created_at DESC LIMIT 1",
    )
    .bind(run.id)
    .fetch_optional(&mut **tx)
    .await
    .map_err(doing(what))?;
    Ok(other.map(|other| {
        let other = crate::run::short(other);
        format!(
            "run {other} of the same window may be made and mailed: reportd retry {other} goes on with that; run-job --again \
             makes another report, whatever there is"
        )
    }))
}
