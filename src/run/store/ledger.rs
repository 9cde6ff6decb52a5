//! Reading the ledger of fires, and what decides them, for people. Many series in one statement; nothing is written here.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::FromRow;
use uuid::Uuid;

use super::{RunStore, StoreError, doing};

/// A series as the database knows it.
#[derive(Clone, Debug, FromRow)]
pub struct SeriesRow {
    /// Its id.
    pub id: i64,
    /// Job name.
    pub job: String,
    /// Connection name.
    pub connection: String,
    /// Vendor word.
    pub vendor: String,
    /// It belongs to the set in force.
    pub in_force: bool,
    /// When it first did.
    pub first_seen_at: Option<DateTime<Utc>>,
    /// Every instant up to here is decided.
    pub cursor_at: Option<DateTime<Utc>>,
}

/// One version of a series' rule.
#[derive(Clone, Debug, FromRow)]
pub struct VersionRow {
    /// Its series.
    pub series_id: i64,
    /// In force from here.
    pub from_at: DateTime<Utc>,
    /// src/fire/rule.rs reads it.
    pub rule: Value,
    /// Who wrote it into the set.
    pub applied_by: String,
}

/// One row of the ledger, with the run that it names.
#[derive(Clone, Debug, FromRow)]
pub struct FireRow {
    /// Its series.
    pub series_id: i64,
    /// The instant.
    pub fire_at: DateTime<Utc>,
    /// What was decided.
    pub outcome: String,
    /// Why.
    pub reason: Option<String>,
    /// The run that was made or that covers it.
    pub run_id: Option<Uuid>,
    /// Where that stands; null when it is not in this database.
    pub run_state: Option<String>,
    /// What it covers.
    pub window_start: Option<DateTime<Utc>>,
    /// The open end of that.
    pub window_end: Option<DateTime<Utc>>,
    /// The newest revision of that window.
    pub revision: Option<i32>,
    /// When it was decided.
    pub decided_at: DateTime<Utc>,
}

impl RunStore {
    /// The series of a job, at every connection.
    pub async fn series_of_job(&self, job: &str) -> Result<Vec<SeriesRow>, StoreError> {
        sqlx::query_as(
            "SELECT id, job, connection, vendor, in_force, first_seen_at, cursor_at FROM series WHERE job = $1 ORDER BY connection",
        )
        .bind(job)
        .fetch_all(&self.pool)
        .await
        .map_err(doing("look up the series of a job"))
    }

    /// All versions of the rules of these series, in order.
    pub async fn versions(&self, series: &[i64]) -> Result<Vec<VersionRow>, StoreError> {
        sqlx::query_as(
            "SELECT series_id, from_at, rule, applied_by FROM series_rules WHERE series_id = ANY ($1)
             ORDER BY series_id, from_at",
        )
        .bind(series)
        .fetch_all(&self.pool)
        .await
        .map_err(doing("read the rules of series"))
    }

    /// What the ledger has of these instants.
    pub async fn fires_at(&self, instants: &[(i64, DateTime<Utc>)]) -> Result<Vec<FireRow>, StoreError> {
        sqlx::query_as(
            "SELECT f.series_id, f.fire_at, f.outcome, f.reason, f.run_id, r.state AS run_state, f.window_start, f.window_end,
                    (SELECT v.revision FROM revisions v WHERE v.series_id = f.series_id AND v.window_start = f.window_start
                         AND v.window_end = f.window_end ORDER BY v.revision DESC LIMIT 1) AS revision,
                    f.decided_at
             FROM unnest($1::bigint[], $2::timestamptz[]) AS asked (series_id, fire_at)
             JOIN fires f USING (series_id, fire_at) LEFT JOIN runs r ON r.id = f.run_id",
        )
        .bind(instants.iter().map(|(series, _)| *series).collect::<Vec<_>>())
        .bind(instants.iter().map(|(_, at)| *at).collect::<Vec<_>>())
        .fetch_all(&self.pool)
        .await
        .map_err(doing("look up instants in the ledger"))
    }

    /// When a planner last passed.
    pub async fn last_pass(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
        sqlx::query_scalar("SELECT max(passed_at) FROM replicas")
            .fetch_one(&self.pool)
            .await
            .map_err(doing("look when the last planner pass was"))
    }
}
