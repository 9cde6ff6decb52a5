//! The outbox: runs that ended, or wait for a person, and have told nobody yet. Whoever tells of a run notes that in the same
//! transaction that makes its deliveries, so nothing is told twice and nothing is forgotten.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::FromRow;
use sqlx::types::Json;
use uuid::Uuid;

use super::alert::{Joining, join};
use super::delivery::NewDelivery;
use super::{RunStore, StoreError, doing};
use crate::run::Run;

/// A run that ended, or waits for a person, and has told nobody yet.
#[derive(Clone, Debug, FromRow)]
pub struct Untold {
    /// The run.
    #[sqlx(flatten)]
    pub run: Run,
    /// Whom it tells, as frozen.
    pub notices: Json<Value>,
    /// The database's present instant.
    pub now: DateTime<Utc>,
}

/// What telling of a run comes to.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Notices of its own.
    pub deliveries: Vec<NewDelivery>,
    /// Alerts that it joins.
    pub joining: Vec<Joining>,
}

/// What there is to do for those who tell and deliver.
#[derive(Clone, Copy, Debug, FromRow)]
pub struct News {
    /// Runs that have told nobody.
    pub untold: bool,
    /// Deliveries that are due.
    pub due: bool,
    /// Alerts that are open.
    pub alerts: bool,
    /// Breakers that are open.
    pub breakers: bool,
}

impl RunStore {
    /// Tells of up to `limit` runs that have told nobody, `only` these if that is given: `tell` says how, and in one transaction
    /// its deliveries are made and the runs noted. Returns how many runs there were.
    pub async fn tell_of_runs(
        &self,
        only: Option<&[Uuid]>,
        limit: i64,
        tell: impl Fn(&Untold) -> Told + Send,
    ) -> Result<usize, StoreError> {
        let what = "tell of runs";
        let mut tx = self.pool.begin().await.map_err(doing(what))?;
        let untold: Vec<Untold> = sqlx::query_as(
            "SELECT runs.*, reportd_now() AS now FROM runs
             WHERE notices IS NOT NULL AND noticed IS NULL AND state IN ('held', 'archived', 'empty', 'failed')
                 AND ($1::uuid[] IS NULL OR id = ANY ($1))
             ORDER BY id LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED",
        )
        .bind(only)
        .bind(limit)
        .fetch_all(&mut *tx)
        .await
        .map_err(doing(what))?;
        if untold.is_empty() {
            return Ok(0);
        }
        let mut all = Told::default();
        for one in &untold {
            let told = tell(one);
            all.deliveries.extend(told.deliveries);
            all.joining.extend(told.joining);
        }
        RunStore::make_deliveries(&mut tx, &all.deliveries).await?;
        join(&mut tx, &all.joining).await?;
        sqlx::query("UPDATE runs SET noticed = state WHERE id = ANY ($1)")
            .bind(untold.iter().map(|one| one.run.id).collect::<Vec<_>>())
            .execute(&mut *tx)
            .await
            .map_err(doing(what))?;
        crate::crash::point("deliveries-made");
        tx.commit().await.map_err(doing(what))?;
        crate::crash::point("deliveries-committed");
        Ok(untold.len())
    }

    /// The runs that [`RunStore::tell_of_runs`] would tell of next.
    pub async fn untold_runs(&self, only: Option<&[Uuid]>, limit: i64) -> Result<Vec<Uuid>, StoreError> {
        sqlx::query_scalar(
            "SELECT id FROM runs
             WHERE notices IS NOT NULL AND noticed IS NULL AND state IN ('held', 'archived', 'empty', 'failed')
                 AND ($1::uuid[] IS NULL OR id = ANY ($1))
             ORDER BY id LIMIT $2",
        )
        .bind(only)
        .bind(limit)
        .fetch_all(&self.pool)
        .await
        .map_err(doing("list the runs that have told nobody"))
    }

    /// Notes in its history that nobody can be told of a run, and tries no more.
    pub async fn give_up_telling(&self, run: Uuid, why: &str) -> Result<(), StoreError> {
        sqlx::query(
            "WITH given AS (UPDATE runs SET noticed = state WHERE id = $1 AND noticed IS NULL RETURNING id)
             INSERT INTO run_events (run_id, kind, who, detail) SELECT id, 'note', $2, left($3, 4000) FROM given",
        )
        .bind(run)
        .bind(&self.who.0)
        .bind(why)
        .execute(&self.pool)
        .await
        .map_err(doing("give up telling of a run"))?;
        Ok(())
    }

    /// Whether runs have told nobody, deliveries are due, or alerts are open: one question, answered by three indexes.
    pub async fn news(&self) -> Result<News, StoreError> {
        sqlx::query_as(
            "SELECT EXISTS (SELECT 1 FROM runs WHERE notices IS NOT NULL AND noticed IS NULL
                            AND state IN ('held', 'archived', 'empty', 'failed')) AS untold,
                    EXISTS (SELECT 1 FROM deliveries WHERE state IN ('pending', 'sending')
                            AND next_try_at <= reportd_now()) AS due,
                    EXISTS (SELECT 1 FROM alerts WHERE closed_at IS NULL) AS alerts,
                    EXISTS (SELECT 1 FROM connections WHERE breaker_open) AS breakers",
        )
        .fetch_one(&self.pool)
        .await
        .map_err(doing("look for what is to be told"))
    }
}
