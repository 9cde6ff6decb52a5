//! Runs that go on with the ticket they have: a run that ended without its report, although the vendor may still make it, is
//! taken up again when its window is asked for again. A new create would make the report, and at BIK mail it, a second time.

use uuid::Uuid;

use super::make::NewRun;
use super::{StoreError, doing};
use crate::run::state::{Event, sources};

/// A run that can go on, and the create whose ticket it goes on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub(super) struct Revivable {
    pub(super) run_id: Uuid,
    pub(super) attempt_id: Uuid,
}

/// Which windows have such a run. Only a later one of the window stands in its way, or what is held. Where a second create harms
/// nobody a run goes on once: a task that never ends must not keep its window for ever.
pub(super) async fn revivable(
    executor: impl sqlx::PgExecutor<'_>,
    wanted: &[(i64, &NewRun)],
) -> Result<Vec<Revivable>, StoreError> {
    // Served by runs_of_window, remote_tasks_of_run and run_events_of_run. Each is a LATERAL with LIMIT, which no plan turns into a
    // walk over the history, as it may an EXISTS.
    sqlx::query_as(
        "SELECT newest.id AS run_id, task.attempt_id
         FROM (SELECT DISTINCT * FROM unnest($1::bigint[], $2::timestamptz[], $3::timestamptz[], $4::bool[], $5::bool[], $6::bool[],
                                             $7::text[], $8::text[])
                   AS w (series_id, window_start, window_end, provisional, again, may_repeat, base_url, account)) w
         CROSS JOIN LATERAL (
             SELECT id, state, failure_class FROM runs
             WHERE series_id = w.series_id AND window_start = w.window_start AND window_end = w.window_end
             ORDER BY (finished_at IS NULL) DESC, created_at DESC LIMIT 1
         ) newest CROSS JOIN LATERAL (
             SELECT attempt_id, base_url, account FROM remote_tasks
             WHERE run_id = newest.id AND outcome = 'created' AND finished_at IS NULL
             ORDER BY intended_at DESC LIMIT 1
         ) task LEFT JOIN LATERAL (
             SELECT true AS revived FROM run_events WHERE run_id = newest.id AND kind = 'retried' LIMIT 1
         ) before ON true
         WHERE (newest.state = 'cancelled'
                OR newest.state = 'failed' AND newest.failure_class IN ('deadline', 'gave_up', 'crash_loop'))
           AND task.base_url = w.base_url AND task.account = w.account
           AND (w.again OR NOT window_is_held(w.series_id, w.window_start, w.window_end, w.provisional))
           AND NOT (w.may_repeat AND before.revived IS NOT NULL)",
    )
    .bind(wanted.iter().map(|(series, _)| *series).collect::<Vec<i64>>())
    .bind(column(wanted, |new| new.window_start))
    .bind(column(wanted, |new| new.window_end))
    .bind(column(wanted, |new| new.provisional))
    .bind(column(wanted, |new| new.again))
    .bind(column(wanted, |new| new.may_repeat))
    .bind(column(wanted, |new| new.base_url.clone()))
    .bind(column(wanted, |new| new.account.clone()))
    .fetch_all(executor)
    .await
    .map_err(doing("look for runs that can go on with their tickets"))
}

fn column<T>(wanted: &[(i64, &NewRun)], get: fn(&NewRun) -> T) -> Vec<T> {
    wanted.iter().map(|(_, new)| get(new)).collect()
}

/// Lets an ended run go on with the ticket of one of its creates; returns how many did.
pub(super) async fn go_on(executor: impl sqlx::PgExecutor<'_>, run: Revivable, who: &str) -> Result<u64, sqlx::Error> {
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
    .bind(run.run_id)
    .bind(sources(Event::RetryTicket))
    .bind(who)
    .bind(run.attempt_id)
    .execute(executor)
    .await?;
    Ok(done.rows_affected())
}

/// Whether another run of the window is live: two callers wanted to make or revive one at once.
pub(super) fn is_live_twin(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(e) if e.constraint() == Some("runs_one_live_per_window"))
}
