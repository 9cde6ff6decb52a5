//! An operator's word: retry, cancel, resolve. Every one records who said it.

use serde_json::Value;

use super::{RunStore, StoreError, doing};
use crate::run::state::{Event, sources};
use crate::run::{FailureClass, Run, State};

fn refused(run: &Run, verb: &str, hint: &str) -> StoreError {
    StoreError::Refused(format!("run {} is {}, and {verb} is for {hint}", run.id, run.state))
}

impl RunStore {
    /// Stops a run; what was made at the vendor keeps its row, and is not deleted there.
    pub async fn cancel(&self, run: &Run) -> Result<(), StoreError> {
        let done = sqlx::query(
            "WITH moved AS (
                 UPDATE runs SET state = 'cancelled', finished_at = reportd_now(), lease_token = NULL, lease_until = NULL,
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

    /// Whether the run's ticket may still lead to a report: the vendor made the task and never said that it ended.
    pub async fn ticket_alive(&self, run: &Run) -> Result<bool, StoreError> {
        if run.ticket.is_none() {
            return Ok(false);
        }
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM remote_tasks WHERE attempt_id = $1 AND outcome = 'created' AND finished_at IS NULL)",
        )
        .bind(run.attempt_id)
        .fetch_one(&self.pool)
        .await
        .map_err(doing("look up the task of a run"))
    }

    /// Starts an ended run again with the ticket it has.
    pub async fn retry_ticket(&self, run: &Run) -> Result<(), StoreError> {
        let done = sqlx::query(
            "WITH moved AS (
                 UPDATE runs SET state = 'waiting', finished_at = NULL, failure_class = NULL, failure = NULL, claims = 0,
                     errors = 0, errors_since = NULL, polled_s = 0, polls = 0, next_step_at = reportd_now(), note = NULL,
                     last_poll_at = NULL
                 WHERE id = $1 AND state = ANY ($2) AND ticket IS NOT NULL RETURNING id
             )
             INSERT INTO run_events (run_id, kind, who, detail) SELECT id, 'retried', $3, 'goes on with its ticket' FROM moved",
        )
        .bind(run.id)
        .bind(sources(Event::RetryTicket))
        .bind(&self.who.0)
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
    ) -> Result<(), StoreError> {
        let done = sqlx::query(
            "WITH moved AS (
                 UPDATE runs SET state = 'queued', finished_at = NULL, failure_class = NULL, failure = NULL, claims = 0,
                     errors = 0, errors_since = NULL, polled_s = 0, polls = 0, ticket = NULL, attempt_id = NULL,
                     revision = NULL, next_step_at = reportd_now(), note = NULL, request = $4::json, base_url = $5, account = $6
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
        .execute(&self.pool)
        .await
        .map_err(|e| live_twin(e, "retry a run"))?;
        if done.rows_affected() == 1 { Ok(()) } else { Err(refused(run, "retry", "failed and cancelled runs")) }
    }

    /// The operator found the report at the vendor: the held run polls with this ticket.
    pub async fn resolve_ticket(&self, run: &Run, remote_id: &str, ticket: &Value) -> Result<(), StoreError> {
        let what = "give a held run its ticket";
        let mut tx = self.pool.begin().await.map_err(doing(what))?;
        let task = sqlx::query(
            "UPDATE remote_tasks SET remote_id = $2, outcome = 'created', created_at = reportd_now() WHERE attempt_id = $1",
        )
        .bind(run.attempt_id)
        .bind(remote_id)
        .execute(&mut *tx)
        .await;
        match task {
            Err(sqlx::Error::Database(e)) if e.constraint() == Some("remote_tasks_remote_id_once") => {
                return Err(StoreError::Refused(format!(
                    "id {remote_id} belongs to another run of this connection already"
                )));
            }
            other => {
                other.map_err(doing(what))?;
            }
        }
        let done = sqlx::query(
            "WITH moved AS (
                 UPDATE runs SET state = 'waiting', ticket = $3, failure_class = NULL, failure = NULL, claims = 0, errors = 0,
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
                 UPDATE runs SET state = $3, failure_class = $4, failure = CASE WHEN $4 IS NULL THEN NULL ELSE $5 END,
                     finished_at = CASE WHEN $3 = 'failed' THEN reportd_now() END, next_step_at = reportd_now(), claims = 0,
                     errors = 0, errors_since = NULL
                 WHERE id = $1 AND state = ANY ($2) RETURNING id
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
    match &error {
        sqlx::Error::Database(e) if e.constraint() == Some("runs_one_live_per_window") => {
            StoreError::Refused("another run is working on this window already: see `reportd runs`".into())
        }
        _ => doing(what)(error),
    }
}
