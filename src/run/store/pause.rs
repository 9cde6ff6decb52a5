//! Pauses: stretches of time in which an operator lets a series not fire. The planner reads them (firing.rs); what they left
//! out stays in the ledger as `paused`. A pause is one statement, so of two at once the index on open ones lets one be made.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgTransaction};

use super::{RunStore, StoreError, doing};

/// One row of `series_pauses`.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct PausedRow {
    /// Its series.
    pub series_id: i64,
    /// From here.
    pub paused_at: DateTime<Utc>,
    /// By whom.
    pub paused_by: String,
    /// Why.
    pub reason: String,
    /// Until here; `None` = still.
    pub resumed_at: Option<DateTime<Utc>>,
    /// By whom it was ended.
    pub resumed_by: Option<String>,
}

/// The planner decides under this lock, and so does a pause: no instant after a pause's beginning is decided without it.
async fn lock(tx: &mut PgTransaction<'_>, series: &[i64], what: &'static str) -> Result<(), StoreError> {
    sqlx::query("SELECT 1 FROM series WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE")
        .bind(series)
        .execute(&mut **tx)
        .await
        .map_err(doing(what))?;
    Ok(())
}

impl RunStore {
    /// Pauses these series from now on; the answer has those that were not paused before.
    pub async fn pause(&self, series: &[i64], reason: &str) -> Result<Vec<PausedRow>, StoreError> {
        let what = "pause series";
        let mut tx = self.pool.begin().await.map_err(doing(what))?;
        lock(&mut tx, series, what).await?;
        let made = sqlx::query_as(
            "INSERT INTO series_pauses (series_id, paused_at, paused_by, reason)
             SELECT id, reportd_now(), $2, left($3, 1000) FROM unnest($1::bigint[]) AS s (id)
             ON CONFLICT DO NOTHING RETURNING *",
        )
        .bind(series)
        .bind(&self.who.0)
        .bind(reason)
        .fetch_all(&mut *tx)
        .await
        .map_err(doing(what))?;
        tx.commit().await.map_err(doing(what))?;
        Ok(made)
    }

    /// Ends the open pauses of these series; the answer has those that were open.
    pub async fn resume(&self, series: &[i64]) -> Result<Vec<PausedRow>, StoreError> {
        let what = "resume series";
        let mut tx = self.pool.begin().await.map_err(doing(what))?;
        lock(&mut tx, series, what).await?;
        let ended = sqlx::query_as(
            "UPDATE series_pauses SET resumed_at = GREATEST(reportd_now(), paused_at), resumed_by = $2
             WHERE series_id = ANY ($1) AND resumed_at IS NULL RETURNING *",
        )
        .bind(series)
        .bind(&self.who.0)
        .fetch_all(&mut *tx)
        .await
        .map_err(doing(what))?;
        tx.commit().await.map_err(doing(what))?;
        Ok(ended)
    }

    /// All pauses of these series that are open, or ended after `since`, the oldest first.
    pub async fn pauses(&self, series: &[i64], since: DateTime<Utc>) -> Result<Vec<PausedRow>, StoreError> {
        sqlx::query_as(
            "SELECT * FROM series_pauses WHERE series_id = ANY ($1) AND (resumed_at IS NULL OR resumed_at > $2)
             ORDER BY series_id, paused_at",
        )
        .bind(series)
        .bind(since)
        .fetch_all(&self.pool)
        .await
        .map_err(doing("read the pauses of series"))
    }
}
