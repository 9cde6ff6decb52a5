//! Writing the ledger of fires: in the planner's transaction, which has the series locked, so nobody adds to it meanwhile.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sqlx::PgTransaction;
use uuid::Uuid;

use super::firing::{Decided, Settled};
use super::{StoreError, doing};

/// Which of these instants the ledger has already.
pub(super) async fn decided(
    tx: &mut PgTransaction<'_>,
    settled: &[Settled],
) -> Result<HashSet<(i64, DateTime<Utc>)>, StoreError> {
    let instants = || settled.iter().flat_map(|series| series.decided.iter().map(|one| (series.id, one.fire_at)));
    let (series, fires): (Vec<i64>, Vec<DateTime<Utc>>) = instants().unzip();
    if series.is_empty() {
        return Ok(HashSet::new());
    }
    // Served by fires_pkey.
    let rows: Vec<(i64, DateTime<Utc>)> = sqlx::query_as(
        "SELECT f.series_id, f.fire_at FROM unnest($1::bigint[], $2::timestamptz[]) AS d (series_id, fire_at)
         CROSS JOIN LATERAL (SELECT series_id, fire_at FROM fires
                             WHERE series_id = d.series_id AND fire_at = d.fire_at LIMIT 1) f",
    )
    .bind(series)
    .bind(fires)
    .fetch_all(&mut **tx)
    .await
    .map_err(doing("look which instants are decided"))?;
    Ok(rows.into_iter().collect())
}

/// The columns of new rows.
#[derive(Default)]
pub(super) struct Ledger {
    series: Vec<i64>,
    fire_at: Vec<DateTime<Utc>>,
    outcome: Vec<&'static str>,
    run: Vec<Option<Uuid>>,
    start: Vec<Option<DateTime<Utc>>>,
    end: Vec<Option<DateTime<Utc>>>,
    reason: Vec<Option<String>>,
}

impl Ledger {
    /// Adds the row of an instant.
    pub(super) fn push(
        &mut self,
        series: i64,
        decided: &Decided,
        outcome: &'static str,
        run: Option<Uuid>,
        reason: Option<String>,
    ) {
        self.series.push(series);
        self.fire_at.push(decided.fire_at);
        self.outcome.push(outcome);
        self.run.push(run);
        self.start.push(decided.window.map(|(start, _)| start));
        self.end.push(decided.window.map(|(_, end)| end));
        self.reason.push(reason);
    }

    /// Writes the rows.
    pub(super) async fn insert(self, tx: &mut PgTransaction<'_>) -> Result<(), StoreError> {
        if self.series.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "INSERT INTO fires (series_id, fire_at, outcome, run_id, window_start, window_end, reason)
             SELECT * FROM unnest($1::bigint[], $2::timestamptz[], $3::text[], $4::uuid[], $5::timestamptz[],
                                  $6::timestamptz[], $7::text[])",
        )
        .bind(self.series)
        .bind(self.fire_at)
        .bind(self.outcome)
        .bind(self.run)
        .bind(self.start)
        .bind(self.end)
        .bind(self.reason)
        .execute(&mut **tx)
        .await
        .map_err(doing("write the ledger of fires"))?;
        Ok(())
    }
}
