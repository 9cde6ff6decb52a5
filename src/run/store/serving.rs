//! What a process that serves asks and writes besides runs themselves: the pulse's question, its own row, and claims of
//! many runs at once.

use chrono::{DateTime, Utc};
use sqlx::FromRow;
use sqlx::postgres::PgListener;
use uuid::Uuid;

use super::claim::{Claimed, Identity};
use super::{LEASE, RunStore, StoreError, doing};

/// The answer to the one question of each pulse.
#[derive(Clone, Debug, FromRow)]
pub struct PulseRow {
    /// `reportd_now()`: what everything in rows is compared with.
    pub now: DateTime<Utc>,
    /// The database server's own clock, which a process's clock is compared with.
    pub server_now: DateTime<Utc>,
    /// The version of the set in force.
    pub version: i64,
    /// The archive that the database belongs to.
    pub archive_id: Option<Uuid>,
    /// When the first series is due.
    pub next_fire_at: Option<DateTime<Utc>>,
    /// When the first run is due for a step.
    pub next_step_at: Option<DateTime<Utc>>,
}

/// One account whose runs a worker may claim, and how many it can use.
#[derive(Clone, Debug)]
pub struct Claimant {
    /// Connection name.
    pub connection: String,
    /// Vendor word.
    pub vendor: &'static str,
    /// Base URL in the worker's config.
    pub base_url: String,
    /// Fingerprint of the account its credentials belong to.
    pub account: String,
    /// Runs that may be under way at the vendor, over all processes.
    pub max_in_flight: u32,
    /// Most runs to claim now.
    pub most: u32,
}

/// A process that serves.
#[derive(Clone, Debug)]
pub struct Replica {
    /// Its id, new at each start.
    pub id: Uuid,
    /// It takes its jobs from the database.
    pub follows: bool,
}

impl RunStore {
    /// The pulse's one question, answered by indexes alone.
    pub async fn pulse(&self) -> Result<PulseRow, StoreError> {
        sqlx::query_as(
            "SELECT reportd_now() AS now, statement_timestamp() AS server_now, version, archive_id,
                    (SELECT min(next_at) FROM series WHERE next_at IS NOT NULL) AS next_fire_at,
                    (SELECT min(next_step_at) FROM runs WHERE state IN ('queued', 'submitting', 'waiting')) AS next_step_at
             FROM job_set, instance",
        )
        .fetch_one(&self.pool)
        .await
        .map_err(doing("ask what is due"))
    }

    /// Renews this process's row; rows of processes that are gone for a day go with it. `passed` = its planner passes.
    pub async fn beat(&self, replica: &Replica, passed: bool, trouble: Option<&str>) -> Result<(), StoreError> {
        sqlx::query(
            "WITH gone AS (DELETE FROM replicas WHERE seen_at < reportd_now() - interval '1 day' AND id <> $1)
             INSERT INTO replicas (id, who, version, follows, passed_at, trouble)
             VALUES ($1, $2, $3, $4, CASE WHEN $5 THEN reportd_now() END, left($6, 1000))
             ON CONFLICT (id) DO UPDATE SET trouble = EXCLUDED.trouble, seen_at = reportd_now(),
                 passed_at = COALESCE(EXCLUDED.passed_at, replicas.passed_at)",
        )
        .bind(replica.id)
        .bind(&self.who.0)
        .bind(env!("CARGO_PKG_VERSION"))
        .bind(replica.follows)
        .bind(passed)
        .bind(trouble)
        .execute(&self.pool)
        .await
        .map_err(doing("renew this process's row"))?;
        Ok(())
    }

    /// Whether a process serves this database, and plans.
    pub async fn is_served(&self) -> Result<bool, StoreError> {
        is_served(&self.pool).await
    }

    /// This process has stopped: its row says so.
    pub async fn sign_off(&self, replica: &Replica) -> Result<(), StoreError> {
        sqlx::query("UPDATE replicas SET stopped_at = reportd_now() WHERE id = $1")
            .bind(replica.id)
            .execute(&self.pool)
            .await
            .map_err(doing("say that this process has stopped"))?;
        Ok(())
    }

    /// Claims up to `limit` due runs, account by account: what waits at the vendor first, then queued runs for which there
    /// is room at the vendor, scheduled and manual ones before fill. The order of `claimants` decides who comes first when
    /// `limit` is short.
    pub async fn claim_due(&self, claimants: &[Claimant], limit: u32) -> Result<Vec<Claimed>, StoreError> {
        let what = "claim runs that are due";
        let rows = sqlx::query(include_str!("claim_due.sql"))
            .bind(claimants.iter().map(|c| c.connection.clone()).collect::<Vec<_>>())
            .bind(claimants.iter().map(|c| c.vendor).collect::<Vec<_>>())
            .bind(claimants.iter().map(|c| c.base_url.clone()).collect::<Vec<_>>())
            .bind(claimants.iter().map(|c| c.account.clone()).collect::<Vec<_>>())
            .bind(claimants.iter().map(|c| i64::from(c.max_in_flight)).collect::<Vec<_>>())
            .bind(claimants.iter().map(|c| i64::from(c.most)).collect::<Vec<_>>())
            .bind(LEASE.as_secs_f64())
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await
            .map_err(doing(what))?;
        rows.iter().map(|row| Claimed::from_row(row).map_err(doing(what))).collect()
    }
}

impl RunStore {
    /// Accounts whose breaker is open by itself, each with the fingerprint of the secret that was refused.
    pub async fn open_breakers(&self) -> Result<Vec<(String, String, Option<String>)>, StoreError> {
        sqlx::query_as(
            "SELECT connection, vendor, breaker_secret FROM connections WHERE breaker_open AND NOT breaker_by_hand",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(doing("look for open breakers"))
    }

    /// Connection, vendor and account of what is due: runs of an account that nobody here asks as wait.
    pub async fn accounts_of_due_runs(&self) -> Result<Vec<(String, String, String)>, StoreError> {
        // Served by runs_due, which holds the runs that have not ended.
        sqlx::query_as(
            "SELECT DISTINCT connection, vendor, account FROM runs
             WHERE state IN ('queued', 'submitting', 'waiting') AND next_step_at <= reportd_now() AND account <> ''",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(doing("look whose runs are due"))
    }

    /// Lets the runs of an account that wait for a person be looked at now, because its secret has changed; returns how many
    /// there are.
    pub async fn wake_blocked(
        &self,
        connection: &str,
        vendor: &str,
        identity: &Identity<'_>,
    ) -> Result<u64, StoreError> {
        let woken = sqlx::query(
            "UPDATE runs SET next_step_at = CASE WHEN lease_token IS NULL THEN reportd_now() ELSE next_step_at END
             WHERE connection = $1 AND vendor = $2 AND state IN ('queued', 'waiting') AND blocked
                 AND base_url = $3 AND account IN ($4, '')",
        )
        .bind(connection)
        .bind(vendor)
        .bind(identity.base_url)
        .bind(identity.account)
        .execute(&self.pool)
        .await
        .map_err(doing("wake the runs of an account"))?;
        Ok(woken.rows_affected())
    }

    /// Which of these manifests the database does not know, though no live run will adopt them.
    pub async fn unknown_manifests(&self, keys: &[String]) -> Result<Vec<String>, StoreError> {
        sqlx::query_scalar(
            "SELECT key FROM unnest($1::text[]) AS k (key)
             WHERE NOT EXISTS (SELECT 1 FROM revisions WHERE manifest_path = key) ORDER BY key",
        )
        .bind(keys)
        .fetch_all(&self.pool)
        .await
        .map_err(doing("compare the archive with the database"))
    }

    /// The job whose history a manifest is, and whether that is in force.
    pub async fn job_of_manifest(&self, key: &str) -> Result<Option<(String, bool)>, StoreError> {
        sqlx::query_as(
            "SELECT job, in_force FROM revisions JOIN series ON series.id = series_id WHERE manifest_path = $1 LIMIT 1",
        )
        .bind(key)
        .fetch_optional(&self.pool)
        .await
        .map_err(doing("look up whose history a manifest is"))
    }

    /// Hears of new runs, on a connection of its own: a hint, which may be lost.
    pub async fn listen(&self) -> Result<Hints, StoreError> {
        let what = "listen for new runs";
        let mut listener = PgListener::connect_with(&self.on_own_connection().pool).await.map_err(doing(what))?;
        listener.listen("reportd_runs").await.map_err(doing(what))?;
        Ok(Hints(listener))
    }
}

/// [`RunStore::is_served`], also within a transaction.
pub(super) async fn is_served(executor: impl sqlx::PgExecutor<'_>) -> Result<bool, StoreError> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM replicas
                        WHERE stopped_at IS NULL AND passed_at > reportd_now() - interval '30 seconds')",
    )
    .fetch_one(executor)
    .await
    .map_err(doing("look whether a process serves"))
}

/// Hints that new runs were made.
#[derive(Debug)]
pub struct Hints(PgListener);

impl Hints {
    /// Waits for the next hint.
    pub async fn next(&mut self) -> Result<(), StoreError> {
        self.0.recv().await.map_err(doing("listen for new runs"))?;
        Ok(())
    }
}
