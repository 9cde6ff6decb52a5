//! Runs that go on with the ticket they have: a run that ended without its report, although the vendor may still make it, is
//! taken up again when its window is asked for again. A new create would make the report, and at BIK mail it, a second time.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::make::{NewRun, Second, Wants};
use super::{RunStore, StoreError, doing};
use crate::run::Trigger;
use crate::run::state::{Event, sources};

/// A run that can go on, and the create whose ticket it goes on with.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub(super) struct Revival {
    pub(super) run_id: Uuid,
    pub(super) attempt_id: Uuid,
    /// The account that asks from now on; `None` = the one that the create was sent with.
    pub(super) account: Option<String>,
    /// What is told from now on, as JSON; `None` = what the run was made with.
    pub(super) notices: Option<String>,
}

/// A window whose last run can go on.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(super) struct Found {
    #[sqlx(flatten)]
    pub(super) revival: Revival,
    series_id: i64,
    window_start: DateTime<Utc>,
    window_end: DateTime<Utc>,
}

impl Found {
    /// Whether it is what this run was asked for.
    pub(super) fn is_of(&self, series: i64, new: &NewRun) -> bool {
        (self.series_id, self.window_start, self.window_end) == (series, new.window_start, new.window_end)
    }
}

impl RunStore {
    /// The windows, by start and end, of these that no new run would be made for, because their last one goes on with its ticket.
    pub async fn going_on(
        &self,
        wanted: &[(i64, &NewRun)],
    ) -> Result<HashSet<(DateTime<Utc>, DateTime<Utc>)>, StoreError> {
        let found = revivable(&self.pool, wanted).await?;
        Ok(found.into_iter().map(|found| (found.window_start, found.window_end)).collect())
    }
}

/// Which windows have such a run: the newest of the same request to the same account whose task may still become the report. It
/// must be worth as much as the one that is asked for: a final window is not served by what was asked before its end, nor who is to
/// have BIK's mail by a report that was mailed to others. Where a second report would be mailed
/// again a run goes on however it ended; where it harms nobody only one that wanted time, and once, because a task that never ends
/// must not keep its window for ever. Nobody goes on who asks for a new revision, or for what is held.
pub(super) async fn revivable(
    executor: impl sqlx::PgExecutor<'_>,
    wanted: &[(i64, &NewRun)],
) -> Result<Vec<Found>, StoreError> {
    let asked: Vec<(i64, &NewRun)> = wanted.iter().copied().filter(|(_, new)| new.wants != Wants::Another).collect();
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    // Served by runs_of_window, remote_tasks_of_run and run_events_of_run. Each is a LATERAL with LIMIT, which no plan turns into a
    // walk over the history, as it may an EXISTS. An account that is '' was not known when the run was made.
    sqlx::query_as(
        "SELECT newest.id AS run_id, task.attempt_id, NULL AS account,
                CASE WHEN w.scheduled AND newest.trigger <> 'schedule' THEN w.notices END AS notices,
                w.series_id, newest.window_start, newest.window_end
         FROM (SELECT DISTINCT *
               FROM unnest($1::bigint[], $2::timestamptz[], $3::timestamptz[], $4::bool[], $5::bool[], $6::bool[], $7::bool[],
                           $8::text[], $9::text[], $10::text[], $11::text[])
                   AS w (series_id, window_start, window_end, provisional, scheduled, quiet, may_repeat, base_url, account,
                         request, notices)) w
         CROSS JOIN LATERAL (
             SELECT ended.* FROM runs ended
             WHERE series_id = w.series_id AND window_start = w.window_start AND window_end = w.window_end
               AND (state = 'failed' AND failure_class IN ('deadline', 'gave_up', 'crash_loop')
                    OR state IN ('failed', 'cancelled') AND NOT w.may_repeat)
               AND request->>'content_hash' = w.request::json->>'content_hash'
               AND (w.quiet OR (request->'emails')::jsonb @> (w.request::json->'emails')::jsonb)
               AND (w.provisional OR NOT provisional)
               AND (SELECT count(*) FROM remote_tasks WHERE run_id = ended.id AND outcome = 'created'
                        AND finished_at IS NULL AND base_url = w.base_url
                        AND (account IN (w.account, '') OR w.account = '')) > 0
             ORDER BY created_at DESC LIMIT 1
         ) newest CROSS JOIN LATERAL (
             SELECT attempt_id FROM remote_tasks
             WHERE run_id = newest.id AND outcome = 'created' AND finished_at IS NULL AND base_url = w.base_url
               AND (account IN (w.account, '') OR w.account = '')
             ORDER BY intended_at DESC LIMIT 1
         ) task LEFT JOIN LATERAL (
             SELECT true AS revived FROM run_events WHERE run_id = newest.id AND kind = 'retried' LIMIT 1
         ) before ON true
         WHERE NOT window_is_held(w.series_id, w.window_start, w.window_end, w.provisional)
           AND NOT (w.may_repeat AND before.revived IS NOT NULL)",
    )
    .bind(asked.iter().map(|(series, _)| *series).collect::<Vec<i64>>())
    .bind(column(&asked, |new| new.window_start))
    .bind(column(&asked, |new| new.window_end))
    .bind(column(&asked, |new| new.provisional))
    .bind(column(&asked, |new| new.trigger == Trigger::Schedule))
    .bind(column(&asked, |new| new.quiet))
    .bind(column(&asked, |new| new.second == Second::Harmless))
    .bind(column(&asked, |new| new.base_url.clone()))
    .bind(column(&asked, |new| new.account.clone()))
    .bind(column(&asked, |new| new.request.to_string()))
    .bind(column(&asked, |new| new.notices.as_ref().map(Value::to_string)))
    .fetch_all(executor)
    .await
    .map_err(doing("look for runs that can go on with their tickets"))
}

/// One value of each, for an array.
pub(super) fn column<T>(wanted: &[(i64, &NewRun)], get: fn(&NewRun) -> T) -> Vec<T> {
    wanted.iter().map(|(_, new)| get(new)).collect()
}

/// Lets an ended run go on with the ticket of one of its creates; returns how many did. That the ticket is another account's as
/// well is `who`'s word: an account that does not know it says nothing of the create.
pub(super) async fn go_on(
    executor: impl sqlx::PgExecutor<'_>,
    revival: &Revival,
    who: &str,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        "WITH moved AS (
             UPDATE runs SET state = 'waiting', noticed = NULL, finished_at = NULL, failure_class = NULL, failure = NULL, claims = 0,
                 errors = 0, errors_since = NULL, polled_s = 0, polls = 0, next_step_at = reportd_now(), note = NULL,
                 last_poll_at = NULL, attempt_id = task.attempt_id, ticket = task.ticket, ticketed_at = task.created_at,
                 base_url = task.base_url, account = COALESCE($5, task.account), notices = COALESCE($6::json, runs.notices),
                 revision = COALESCE(runs.revision, next_revision(runs.series_id, runs.window_label))
             FROM remote_tasks task
             WHERE runs.id = $1 AND runs.state = ANY ($2) AND task.run_id = runs.id AND task.attempt_id = $4
               AND task.ticket IS NOT NULL
             RETURNING runs.id
         ), asked AS (
             UPDATE remote_tasks SET account = $5, named_by = $3
             FROM moved WHERE attempt_id = $4 AND run_id = moved.id AND account NOT IN ($5, '')
             RETURNING attempt_id
         )
         INSERT INTO run_events (run_id, kind, who, detail) SELECT id, 'retried', $3,
             CASE WHEN EXISTS (SELECT 1 FROM asked) THEN 'goes on with its ticket, as another account'
                  ELSE 'goes on with its ticket' END FROM moved",
    )
    .bind(revival.run_id)
    .bind(sources(Event::RetryTicket))
    .bind(who)
    .bind(revival.attempt_id)
    .bind(&revival.account)
    .bind(&revival.notices)
    .execute(executor)
    .await?;
    Ok(done.rows_affected())
}

/// Whether another run of the window is live: two callers wanted to make or revive one at once.
pub(super) fn is_live_twin(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(e) if e.constraint() == Some("runs_one_live_per_window"))
}
