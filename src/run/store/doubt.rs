//! Windows whose report may be made, and mailed, already, by an ended run that does not go on by itself. Sent again, people
//! would have it twice: they are a person's.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::make::{NewRun, Second};
use super::revive::column;
use super::{RunStore, StoreError, doing};
use crate::run::short;

/// A window in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Doubtful {
    /// Its series.
    pub series_id: i64,
    /// Its start.
    pub window_start: DateTime<Utc>,
    /// Its open end.
    pub window_end: DateTime<Utc>,
    /// The run whose create it is.
    pub run_id: Uuid,
    /// The create was answered with a ticket, but the config has another account now: the same shop's with a new key, or another
    /// shop's. Else nobody knows what became of it.
    pub other_account: bool,
}

impl Doubtful {
    /// Whether it is of this window.
    pub fn is_of(&self, start: DateTime<Utc>, end: DateTime<Utc>) -> bool {
        (self.window_start, self.window_end) == (start, end)
    }

    /// What there is to know, and which command ends it.
    pub fn advice(&self) -> String {
        let run = short(self.run_id);
        if self.other_account {
            format!(
                "an earlier run, made with another key, may be mailed: reportd retry {run} goes on with it as today's account"
            )
        } else {
            format!(
                "an earlier run may have been made and mailed without anybody knowing: reportd retry {run} holds it for your word"
            )
        }
    }
}

impl RunStore {
    /// Those of these windows that are in doubt. One that has a run under way, or whose last run can go on with its ticket, may be
    /// among them: ask for those first.
    pub async fn doubtful(&self, wanted: &[(i64, &NewRun)]) -> Result<Vec<Doubtful>, StoreError> {
        doubtful(&self.pool, wanted).await
    }
}

/// The same inside a transaction.
pub(super) async fn doubtful(
    executor: impl sqlx::PgExecutor<'_>,
    wanted: &[(i64, &NewRun)],
) -> Result<Vec<Doubtful>, StoreError> {
    let asked: Vec<(i64, &NewRun)> = wanted.iter().copied().filter(|(_, new)| new.second != Second::Harmless).collect();
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    // Served by runs_of_window and remote_tasks_of_run, each a LATERAL with LIMIT as in revive.rs, and with its conditions: what
    // would not serve as the report that is asked for does not stand in its way.
    sqlx::query_as(
        "SELECT w.series_id, w.window_start, w.window_end, doubt.id AS run_id, doubt.other_account
         FROM (SELECT DISTINCT *
               FROM unnest($1::bigint[], $2::timestamptz[], $3::timestamptz[], $4::bool[], $5::bool[], $6::bool[], $7::text[],
                           $8::text[], $9::text[])
                   AS w (series_id, window_start, window_end, provisional, quiet, is_borne, base_url, account, request)) w
         CROSS JOIN LATERAL (
             SELECT ended.id, task.outcome = 'created' AS other_account
             FROM runs ended CROSS JOIN LATERAL (
                 SELECT outcome FROM remote_tasks
                 WHERE run_id = ended.id AND base_url = w.base_url AND (
                     outcome IN ('intended', 'unknown') AND NOT w.is_borne
                     OR outcome = 'created' AND finished_at IS NULL AND account NOT IN (w.account, '') AND w.account <> '')
                 ORDER BY outcome = 'created' LIMIT 1
             ) task
             WHERE ended.series_id = w.series_id AND ended.window_start = w.window_start AND ended.window_end = w.window_end
               AND ended.state IN ('failed', 'cancelled')
               AND ended.request->>'content_hash' = w.request::json->>'content_hash'
               AND (w.quiet OR (ended.request->'emails')::jsonb @> (w.request::json->'emails')::jsonb)
               AND (w.provisional OR NOT ended.provisional)
             ORDER BY other_account, ended.created_at DESC LIMIT 1
         ) doubt",
    )
    .bind(asked.iter().map(|(series, _)| *series).collect::<Vec<i64>>())
    .bind(column(&asked, |new| new.window_start))
    .bind(column(&asked, |new| new.window_end))
    .bind(column(&asked, |new| new.provisional))
    .bind(column(&asked, |new| new.quiet))
    .bind(column(&asked, |new| new.second == Second::Borne))
    .bind(column(&asked, |new| new.base_url.clone()))
    .bind(column(&asked, |new| new.account.clone()))
    .bind(column(&asked, |new| new.request.to_string()))
    .fetch_all(executor)
    .await
    .map_err(doing("look for reports that may be made already"))
}
