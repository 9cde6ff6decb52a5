//! Runs that go on with the ticket they have: a run that ended without its report, although the vendor may still make it, is
//! taken up again when its window is asked for again. A new create would make the report, and at BIK mail it, a second time.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::make::NewRun;
use super::{RunStore, StoreError, doing};
use crate::run::Trigger;
use crate::run::state::{Event, sources};

/// A run that can go on, the create whose ticket it goes on with, and its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub(super) struct Revivable {
    pub(super) run_id: Uuid,
    pub(super) attempt_id: Uuid,
    window_start: DateTime<Utc>,
    window_end: DateTime<Utc>,
}

impl RunStore {
    /// Which of these windows would be made no new run for, because their last one goes on with its ticket.
    pub async fn going_on(
        &self,
        wanted: &[(i64, &NewRun)],
    ) -> Result<HashSet<(DateTime<Utc>, DateTime<Utc>)>, StoreError> {
        let runs = revivable(&self.pool, wanted).await?;
        Ok(runs.into_iter().map(|run| (run.window_start, run.window_end)).collect())
    }
}

/// Which windows have such a run: the last one that was made of the window, of the same request to the same account, ended for want
/// of time while its task may still become the report. It must be worth as much as the one that is asked for: a final window is not
/// served by what was asked before its end, nor a schedule's readers by a run made by hand. A run that somebody cancelled goes on
/// only where a second create would mail people again; and where it harms nobody a run goes on once, because a task that never ends
/// must not keep its window for ever. Nobody goes on who asks for a new revision, or for what is held.
pub(super) async fn revivable(
    executor: impl sqlx::PgExecutor<'_>,
    wanted: &[(i64, &NewRun)],
) -> Result<Vec<Revivable>, StoreError> {
    let asked: Vec<(i64, &NewRun)> = wanted.iter().copied().filter(|(_, new)| !new.again).collect();
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    // Served by runs_of_window, remote_tasks_of_run and run_events_of_run. Each is a LATERAL with LIMIT, which no plan turns into a
    // walk over the history, as it may an EXISTS.
    sqlx::query_as(
        "SELECT newest.id AS run_id, task.attempt_id, newest.window_start, newest.window_end
         FROM (SELECT DISTINCT *
               FROM unnest($1::bigint[], $2::timestamptz[], $3::timestamptz[], $4::bool[], $5::bool[], $6::bool[], $7::text[],
                           $8::text[], $9::text[])
                   AS w (series_id, window_start, window_end, provisional, scheduled, may_repeat, base_url, account, content_hash)
              ) w
         CROSS JOIN LATERAL (
             SELECT * FROM runs
             WHERE series_id = w.series_id AND window_start = w.window_start AND window_end = w.window_end
             ORDER BY (finished_at IS NULL) DESC, created_at DESC LIMIT 1
         ) newest CROSS JOIN LATERAL (
             SELECT attempt_id, base_url, account FROM remote_tasks
             WHERE run_id = newest.id AND outcome = 'created' AND finished_at IS NULL
             ORDER BY intended_at DESC LIMIT 1
         ) task LEFT JOIN LATERAL (
             SELECT true AS revived FROM run_events WHERE run_id = newest.id AND kind = 'retried' LIMIT 1
         ) before ON true
         WHERE (newest.state = 'failed' AND newest.failure_class IN ('deadline', 'gave_up', 'crash_loop')
                OR newest.state = 'cancelled' AND NOT w.may_repeat)
           AND newest.request->>'content_hash' = w.content_hash AND task.base_url = w.base_url
           AND w.account IN (task.account, '')
           AND (w.provisional OR NOT newest.provisional) AND (newest.trigger = 'schedule' OR NOT w.scheduled)
           AND NOT window_is_held(w.series_id, w.window_start, w.window_end, w.provisional)
           AND NOT (w.may_repeat AND before.revived IS NOT NULL)",
    )
    .bind(asked.iter().map(|(series, _)| *series).collect::<Vec<i64>>())
    .bind(column(&asked, |new| new.window_start))
    .bind(column(&asked, |new| new.window_end))
    .bind(column(&asked, |new| new.provisional))
    .bind(column(&asked, |new| new.trigger == Trigger::Schedule))
    .bind(column(&asked, |new| new.may_repeat))
    .bind(column(&asked, |new| new.base_url.clone()))
    .bind(column(&asked, |new| new.account.clone()))
    .bind(column(&asked, |new| new.content_hash.clone()))
    .fetch_all(executor)
    .await
    .map_err(doing("look for runs that can go on with their tickets"))
}

fn column<T>(wanted: &[(i64, &NewRun)], get: fn(&NewRun) -> T) -> Vec<T> {
    wanted.iter().map(|(_, new)| get(new)).collect()
}

/// Lets an ended run go on with the ticket of one of its creates; returns how many did.
pub(super) async fn go_on(
    executor: impl sqlx::PgExecutor<'_>,
    run: Uuid,
    attempt: Uuid,
    who: &str,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        "WITH moved AS (
             UPDATE runs SET state = 'waiting', noticed = NULL, finished_at = NULL, failure_class = NULL, failure = NULL, claims = 0,
                 errors = 0, errors_since = NULL, polled_s = 0, polls = 0, next_step_at = reportd_now(), note = NULL,
                 last_poll_at = NULL, attempt_id = task.attempt_id, ticket = task.ticket, ticketed_at = task.created_at,
                 base_url = task.base_url, account = task.account,
                 revision = COALESCE(runs.revision, next_revision(runs.series_id, runs.window_label))
             FROM remote_tasks task
             WHERE runs.id = $1 AND runs.state = ANY ($2) AND task.attempt_id = $4 AND task.ticket IS NOT NULL
             RETURNING runs.id
         )
         INSERT INTO run_events (run_id, kind, who, detail) SELECT id, 'retried', $3, 'goes on with its ticket' FROM moved",
    )
    .bind(run)
    .bind(sources(Event::RetryTicket))
    .bind(who)
    .bind(attempt)
    .execute(executor)
    .await?;
    Ok(done.rows_affected())
}

/// Whether another run of the window is live: two callers wanted to make or revive one at once.
pub(super) fn is_live_twin(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(e) if e.constraint() == Some("runs_one_live_per_window"))
}
