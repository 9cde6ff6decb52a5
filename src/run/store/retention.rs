//! Retention: what of the history is kept no longer, and which runs' files a notice may still need.
//!
//! Only events go, and only of runs that brought their report: rows of runs and revisions stay for ever, as manifests do.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{RunStore, StoreError, doing};

/// Events that one transaction deletes.
const BATCH: i64 = 10_000;

/// Events of runs of a series ($1) that brought their report before an instant ($2). What is done with a run that failed, was
/// cancelled or has not ended is decided by its events too, so those stay. Served by runs_history and run_events_of_run.
const OLD_EVENTS: &str = "FROM runs r JOIN run_events e ON e.run_id = r.id
    WHERE r.series_id = $1 AND r.created_at < $2 AND r.finished_at < $2 AND r.state IN ('archived', 'empty')";

impl RunStore {
    /// How many events the runs of a series have that brought their report before an instant.
    pub async fn old_events(&self, series: i64, before: DateTime<Utc>) -> Result<u64, StoreError> {
        let count: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT count(*) {OLD_EVENTS}")))
            .bind(series)
            .bind(before)
            .fetch_one(&self.pool)
            .await
            .map_err(doing("count old events"))?;
        Ok(count.unsigned_abs())
    }

    /// Deletes them, in short transactions; returns how many there were.
    pub async fn prune_events(&self, series: i64, before: DateTime<Utc>) -> Result<u64, StoreError> {
        let mut deleted = 0;
        loop {
            let batch = sqlx::query(sqlx::AssertSqlSafe(format!(
                "DELETE FROM run_events WHERE id IN (SELECT e.id {OLD_EVENTS} LIMIT $3)"
            )))
            .bind(series)
            .bind(before)
            .bind(BATCH)
            .execute(&self.pool)
            .await
            .map_err(doing("delete old events"))?
            .rows_affected();
            deleted += batch;
            if batch < BATCH.unsigned_abs() {
                return Ok(deleted);
            }
        }
    }

    /// The present job of every revision, by the key of its manifest.
    pub async fn jobs_of_manifests(&self) -> Result<Vec<(String, String)>, StoreError> {
        sqlx::query_as("SELECT manifest_path, job FROM revisions JOIN series ON series.id = series_id")
            .fetch_all(&self.pool)
            .await
            .map_err(doing("look up whose the revisions are"))
    }

    /// Runs whose files a notice may still need: it was not made yet, has not gone out, or failed and is an operator's to send again.
    pub async fn runs_with_open_notices(&self) -> Result<HashSet<Uuid>, StoreError> {
        let runs: Vec<Uuid> = sqlx::query_scalar(
            "SELECT run_id FROM delivery_runs JOIN deliveries ON delivery_id = id WHERE state NOT IN ('sent', 'resolved')
             UNION
             SELECT id FROM runs WHERE notices IS NOT NULL AND noticed IS NULL AND state IN ('held', 'archived', 'empty', 'failed')",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(doing("look for notices that are not out"))?;
        Ok(runs.into_iter().collect())
    }
}
