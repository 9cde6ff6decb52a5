//! What a worker writes as its run goes on. Every statement is fenced; see mod.rs.

use std::time::Duration;

use serde_json::Value;
use sqlx::{FromRow, Row};
use uuid::Uuid;

use super::claim::Claimed;
use super::{RunStore, StoreError, doing, fenced};
use crate::request::Seen;
use crate::run::state::{Event, State, next, sources};
use crate::run::{FailureClass, Lease, Run};

/// What became of a create's call, for its row in `remote_tasks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The vendor said a clear no.
    Refused,
    /// It never left.
    NotSent,
    /// Nobody knows.
    Unknown,
    /// The vendor asked us to wait (429, 503 with Retry-After).
    Waited,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Outcome::Refused => "refused",
            Outcome::NotSent => "not_sent",
            Outcome::Unknown => "unknown",
            Outcome::Waited => "waited",
        }
    }
}

/// How a step ends that leaves the run where it is or queues it again.
#[derive(Clone, Debug)]
pub struct Later<'a> {
    /// When to look again.
    pub after: Duration,
    /// What it waits for.
    pub note: &'a str,
    /// Counts as a transient error.
    pub error: bool,
    /// Goes on only after a person did something; what went wrong before does not count any more.
    pub blocked: bool,
    /// Time in which nobody tried, to be left out of the time of trouble.
    pub idle: Duration,
    /// Kind of the event; `None` = no event, for the ordinary poll.
    pub kind: Option<&'a str>,
}

impl RunStore {
    /// Records the ticket of a create by its attempt: even without the lease, because a ticket that is lost may mean a
    /// second mail. Returns whether the run now waits with it; `Refused` when another run has the vendor's id already.
    pub async fn ticket(
        &self,
        attempt: Uuid,
        remote_id: &str,
        ticket: &Value,
        seen: &Seen,
        first_poll: Duration,
    ) -> Result<bool, StoreError> {
        let what = "record a ticket";
        let mut tx = self.pool.begin().await.map_err(doing(what))?;
        let recorded = sqlx::query(
            "UPDATE remote_tasks SET remote_id = $2, outcome = 'created', created_at = reportd_now(), status_word = $3,
                 rows_written = $4, rows_total = $5, ticket = $6
             WHERE attempt_id = $1 AND remote_id IS NULL",
        )
        .bind(attempt)
        .bind(remote_id)
        .bind(&seen.status)
        .bind(seen.written)
        .bind(seen.total)
        .bind(ticket)
        .execute(&mut *tx)
        .await;
        match recorded {
            Err(sqlx::Error::Database(e)) if e.constraint() == Some("remote_tasks_remote_id_once") => {
                return Err(StoreError::Refused(format!(
                    "the vendor answered id {remote_id}, which an earlier report of this connection already has"
                )));
            }
            other => {
                other.map_err(doing(what))?;
            }
        }
        let moved = sqlx::query(
            "WITH moved AS (
                 UPDATE runs SET state = 'waiting', ticket = $2, next_step_at = reportd_now() + make_interval(secs => $3),
                     lease_token = NULL, lease_until = NULL, claims = 0, polls = 0, polled_s = 0, errors = 0,
                     errors_since = NULL, note = $6, blocked = false, failure_class = NULL, failure = NULL,
                     ticketed_at = reportd_now(), last_poll_at = NULL, noticed = NULL,
                     revision = COALESCE(revision, next_revision(series_id, window_label))
                 WHERE id = (SELECT run_id FROM remote_tasks WHERE attempt_id = $1)
                   AND attempt_id = $1 AND ticket IS NULL AND state = ANY ($4)
                 RETURNING id
             )
             INSERT INTO run_events (run_id, kind, who, detail) SELECT id, 'ticket', $5, $7 FROM moved",
        )
        .bind(attempt)
        .bind(ticket)
        .bind(first_poll.as_secs_f64())
        .bind(sources(Event::Ticketed))
        .bind(&self.who.0)
        .bind(&seen.status)
        .bind(format!("the vendor gave ticket {remote_id}"))
        .execute(&mut *tx)
        .await
        .map_err(doing(what))?;
        tx.commit().await.map_err(doing(what))?;
        Ok(moved.rows_affected() == 1)
    }

    /// Ends a step without a result: a query or create goes back to `queued`, a ticket stays `waiting`. `outcome` closes
    /// the row of a create.
    pub async fn later(
        &self,
        lease: &Lease,
        event: Event,
        later: &Later<'_>,
        outcome: Option<Outcome>,
    ) -> Result<(), StoreError> {
        let to = if event == Event::Poll { State::Waiting } else { State::Queued };
        debug_assert!(sources(event).iter().all(|s| s.parse().ok().and_then(|s| next(s, event)) == Some(to)));
        let done = sqlx::query(
            "WITH moved AS (
                 UPDATE runs SET state = $3, next_step_at = reportd_now() + make_interval(secs => $4), note = left($5, 1000),
                     lease_token = NULL, lease_until = NULL, claims = 0, blocked = $11,
                     errors = CASE WHEN $11 THEN 0 WHEN $6 THEN errors + 1 ELSE errors END,
                     errors_since = CASE WHEN $11 THEN NULL
                                         WHEN $6 THEN COALESCE(errors_since + make_interval(secs => $12), reportd_now())
                                         ELSE errors_since END
                 WHERE id = $1 AND lease_token = $2 AND state = ANY ($7)
                 RETURNING id, attempt_id
             ), task AS (
                 UPDATE remote_tasks SET outcome = $8 FROM moved
                 WHERE remote_tasks.attempt_id = moved.attempt_id AND remote_tasks.outcome = 'intended' AND $8 IS NOT NULL
             ), told AS (
                 INSERT INTO run_events (run_id, kind, who, detail)
                 SELECT id, $9, $10, left($5, 4000) FROM moved WHERE $9 IS NOT NULL
             )
             SELECT id FROM moved",
        )
        .bind(lease.run)
        .bind(lease.token)
        .bind(to.as_str())
        .bind(later.after.as_secs_f64())
        .bind(later.note)
        .bind(later.error)
        .bind(sources(event))
        .bind(outcome.map(Outcome::as_str))
        .bind(later.kind)
        .bind(&self.who.0)
        .bind(later.blocked)
        .bind(later.idle.as_secs_f64())
        .execute(&self.pool)
        .await
        .map_err(doing("put a run off"))?;
        fenced(done.rows_affected())
    }

    /// A poll that the vendor answered "not yet": counts the time in which we could poll, and clears transient errors.
    pub async fn polled(
        &self,
        lease: &Lease,
        seen: &Seen,
        counted: Duration,
        next_poll: Duration,
    ) -> Result<(), StoreError> {
        let done = sqlx::query(
            "WITH moved AS (
                 UPDATE runs SET next_step_at = reportd_now() + make_interval(secs => $3), note = $4, claims = 0, blocked = false,
                     lease_token = NULL, lease_until = NULL, polls = polls + 1, polled_s = polled_s + $5,
                     last_poll_at = reportd_now(), errors = 0, errors_since = NULL
                 WHERE id = $1 AND lease_token = $2 AND state = ANY ($6)
                 RETURNING attempt_id
             ), task AS (
                 UPDATE remote_tasks SET status_word = $4, rows_written = COALESCE($7, rows_written),
                     rows_total = COALESCE($8, rows_total), last_polled_at = reportd_now(), polls = remote_tasks.polls + 1
                 FROM moved WHERE remote_tasks.attempt_id = moved.attempt_id
             )
             SELECT attempt_id FROM moved",
        )
        .bind(lease.run)
        .bind(lease.token)
        .bind(next_poll.as_secs_f64())
        .bind(&seen.status)
        .bind(counted.as_secs_f64())
        .bind(sources(Event::Poll))
        .bind(seen.written)
        .bind(seen.total)
        .execute(&self.pool)
        .await
        .map_err(doing("record a poll"))?;
        fenced(done.rows_affected())
    }

    /// What a run's last poll saw, recorded in its task before the download starts.
    pub async fn saw_ready(&self, lease: &Lease, seen: &Seen) -> Result<(), StoreError> {
        let done = sqlx::query(
            "UPDATE remote_tasks SET status_word = $3, rows_written = COALESCE($4, rows_written),
                 rows_total = COALESCE($5, rows_total), last_polled_at = reportd_now(), polls = remote_tasks.polls + 1
             FROM runs
             WHERE runs.id = $1 AND runs.lease_token = $2 AND remote_tasks.attempt_id = runs.attempt_id",
        )
        .bind(lease.run)
        .bind(lease.token)
        .bind(&seen.status)
        .bind(seen.written)
        .bind(seen.total)
        .execute(&self.pool)
        .await
        .map_err(doing("record that a report is ready"))?;
        fenced(done.rows_affected())
    }

    /// Ends the run without a report. `outcome` closes the row of a create; a task that was polled is marked finished.
    pub async fn fail(
        &self,
        lease: &Lease,
        class: FailureClass,
        message: &str,
        seen: Option<&Seen>,
        outcome: Option<Outcome>,
    ) -> Result<(), StoreError> {
        self.end(lease, Event::Fail, class, message, seen, outcome).await
    }

    /// Holds the run for an operator.
    pub async fn hold(&self, lease: &Lease, message: &str) -> Result<(), StoreError> {
        self.end(lease, Event::Doubt, FailureClass::UnknownCreate, message, None, Some(Outcome::Unknown)).await
    }

    /// Ends a run that need not be sent: the archive holds its window by now.
    pub async fn needless(&self, lease: &Lease) -> Result<(), StoreError> {
        let done = sqlx::query(
            "WITH moved AS (
                 UPDATE runs SET state = 'cancelled', noticed = NULL, finished_at = reportd_now(), lease_token = NULL,
                     lease_until = NULL, note = NULL, blocked = false, errors = 0, errors_since = NULL
                 WHERE id = $1 AND lease_token = $2 AND state = 'queued' AND state = ANY ($3)
                 RETURNING id
             ), told AS (
                 INSERT INTO run_events (run_id, kind, who, detail)
                 SELECT id, 'cancelled', $4, 'the archive holds its window: it was not sent' FROM moved
             )
             SELECT id FROM moved",
        )
        .bind(lease.run)
        .bind(lease.token)
        .bind(sources(Event::Cancel))
        .bind(&self.who.0)
        .execute(&self.pool)
        .await
        .map_err(doing("end a run whose window is held"))?;
        fenced(done.rows_affected())
    }

    /// Holds a run again whose ticket an operator named and that comes to no report: its create is as unknown as before.
    pub async fn disown(&self, lease: &Lease, message: &str) -> Result<(), StoreError> {
        let done = sqlx::query(
            "WITH moved AS (
                 UPDATE runs SET state = 'held', failure_class = $3, failure = left($4, 4000), ticket = NULL, note = NULL,
                     blocked = false, lease_token = NULL, lease_until = NULL, claims = 0, errors = 0, errors_since = NULL
                 WHERE id = $1 AND lease_token = $2 AND state = ANY ($5)
                 RETURNING id, attempt_id
             ), task AS (
                 UPDATE remote_tasks SET outcome = 'unknown', remote_id = NULL, ticket = NULL, created_at = NULL, named_by = NULL
                 FROM moved WHERE remote_tasks.attempt_id = moved.attempt_id
             ), told AS (
                 INSERT INTO run_events (run_id, kind, who, detail) SELECT id, 'held', $6, left($4, 4000) FROM moved
             )
             SELECT id FROM moved",
        )
        .bind(lease.run)
        .bind(lease.token)
        .bind(FailureClass::UnknownCreate.as_str())
        .bind(message)
        .bind(sources(Event::Disown))
        .bind(&self.who.0)
        .execute(&self.pool)
        .await
        .map_err(doing("hold a run again"))?;
        fenced(done.rows_affected())
    }

    async fn end(
        &self,
        lease: &Lease,
        event: Event,
        class: FailureClass,
        message: &str,
        seen: Option<&Seen>,
        outcome: Option<Outcome>,
    ) -> Result<(), StoreError> {
        let to = if event == Event::Doubt { State::Held } else { State::Failed };
        let done = sqlx::query(
            "WITH moved AS (
                 UPDATE runs SET state = $3, failure_class = $4, failure = left($5, 4000), note = NULL, blocked = false,
                     lease_token = NULL, lease_until = NULL, claims = 0,
                     finished_at = CASE WHEN $3 = 'failed' THEN reportd_now() END
                 WHERE id = $1 AND lease_token = $2 AND state = ANY ($6)
                 RETURNING id, attempt_id
             ), task AS (
                 UPDATE remote_tasks SET
                     outcome = CASE WHEN remote_tasks.outcome = 'intended' THEN COALESCE($7, 'unknown') ELSE remote_tasks.outcome END,
                     status_word = COALESCE($8, status_word),
                     last_polled_at = CASE WHEN $8 IS NULL THEN last_polled_at ELSE reportd_now() END,
                     polls = remote_tasks.polls + CASE WHEN $8 IS NULL THEN 0 ELSE 1 END,
                     finished_at = CASE WHEN $8 IS NULL THEN finished_at ELSE reportd_now() END
                 FROM moved WHERE remote_tasks.attempt_id = moved.attempt_id
             ), told AS (
                 INSERT INTO run_events (run_id, kind, who, detail) SELECT id, $3, $9, left($5, 4000) FROM moved
             )
             SELECT id FROM moved",
        )
        .bind(lease.run)
        .bind(lease.token)
        .bind(to.as_str())
        .bind(class.as_str())
        .bind(message)
        .bind(sources(event))
        .bind(outcome.map(Outcome::as_str))
        .bind(seen.map(|s| s.status.as_str()))
        .bind(&self.who.0)
        .execute(&self.pool)
        .await
        .map_err(doing("end a run"))?;
        fenced(done.rows_affected())
    }

    /// Notes that the task is to be deleted at the vendor once its run is archived.
    pub async fn want_deletion(&self, attempt: Uuid) -> Result<(), StoreError> {
        sqlx::query("UPDATE remote_tasks SET delete_at = reportd_now() + interval '5 minutes' WHERE attempt_id = $1")
            .bind(attempt)
            .execute(&self.pool)
            .await
            .map_err(doing("note that a task is to be deleted"))?;
        Ok(())
    }

    /// Takes up to `limit` tasks of archived runs whose deletion is due, and puts the next try an hour off; after a week
    /// nobody tries any more. Each comes with its run, which is not claimed by this.
    pub async fn deletions_due(&self, limit: i64) -> Result<Vec<Claimed>, StoreError> {
        let what = "take the deletions that are due";
        let rows = sqlx::query(
            "WITH due AS (
                 SELECT task.attempt_id FROM remote_tasks task JOIN runs ON runs.id = task.run_id
                 WHERE task.delete_at <= reportd_now() AND task.ticket IS NOT NULL
                     AND runs.state IN ('archived', 'empty') AND runs.attempt_id = task.attempt_id
                 ORDER BY task.delete_at LIMIT $1 FOR NO KEY UPDATE OF task SKIP LOCKED
             ), taken AS (
                 UPDATE remote_tasks SET delete_at = CASE WHEN finished_at > reportd_now() - interval '7 days'
                                                         THEN reportd_now() + interval '1 hour' END
                 FROM due WHERE remote_tasks.attempt_id = due.attempt_id
                 RETURNING remote_tasks.run_id
             )
             SELECT runs.*, reportd_now() AS taken_at FROM runs JOIN taken ON taken.run_id = runs.id",
        )
        .bind(limit)
        .fetch_all(&self.pool)
        .await
        .map_err(doing(what))?;
        rows.iter()
            .map(|row| {
                let run = Run::from_row(row).map_err(doing(what))?;
                let at = row.try_get("taken_at").map_err(doing(what))?;
                Ok(Claimed { lease: Lease { run: run.id, token: Uuid::nil() }, run, taken_over: false, at })
            })
            .collect()
    }

    /// Notes that the task was deleted at the vendor.
    pub async fn task_deleted(&self, attempt: Uuid) -> Result<(), StoreError> {
        sqlx::query("UPDATE remote_tasks SET deleted_at = reportd_now(), delete_at = NULL WHERE attempt_id = $1")
            .bind(attempt)
            .execute(&self.pool)
            .await
            .map_err(doing("note a deleted task"))?;
        Ok(())
    }
}
