//! Deliveries: made in the transaction that notes that their run was told of; listed, and an operator's word about them. What a
//! worker writes is in sending.rs.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::FromRow;
use sqlx::types::Json;
use uuid::Uuid;

use super::query::ids_from;
use super::{RunStore, StoreError, doing};

/// A delivery to make.
#[derive(Clone, Debug)]
pub struct NewDelivery {
    /// Its id, which is also the id of its mail.
    pub id: Uuid,
    /// Kind word.
    pub kind: &'static str,
    /// Cause word.
    pub cause: &'static str,
    /// Job of the first member.
    pub job: Option<String>,
    /// Connection of the first member.
    pub connection: String,
    /// Whose time it takes.
    pub target: String,
    /// What must go out before.
    pub follows: Option<Uuid>,
    /// Whom to tell and how.
    pub notice: Value,
    /// What of.
    pub about: Value,
    /// The runs it is about.
    pub runs: Vec<Uuid>,
}

/// One row of `deliveries`.
#[derive(Clone, Debug, FromRow)]
pub struct DeliveryRow {
    /// Id.
    pub id: Uuid,
    /// Kind word.
    pub kind: String,
    /// Cause word.
    pub cause: String,
    /// Job of the first member.
    pub job: Option<String>,
    /// Connection of the first member.
    pub connection: String,
    /// Whom to tell and how.
    pub notice: Json<Value>,
    /// What of.
    pub about: Json<Value>,
    /// Where it stands.
    pub state: String,
    /// When it was made.
    pub made_at: DateTime<Utc>,
    /// When it is due.
    pub next_try_at: Option<DateTime<Utc>>,
    /// The claim.
    pub lease_token: Option<Uuid>,
    /// Tries made.
    pub tries: i32,
    /// Since when it is tried.
    pub tried_since: Option<DateTime<Utc>>,
    /// What the other side said last, or what went wrong.
    pub words: Option<String>,
    /// When it was over.
    pub settled_at: Option<DateTime<Utc>>,
    /// Who ended it.
    pub settled_by: Option<String>,
    /// The operator who had it sent again last.
    pub retried_by: Option<String>,
}

/// What `deliveries` lists.
#[derive(Clone, Debug, Default)]
pub struct DeliveryFilter {
    /// Of this job.
    pub job: Option<String>,
    /// Of this connection.
    pub connection: Option<String>,
    /// In this state.
    pub state: Option<&'static str>,
    /// At most so many.
    pub limit: i64,
}

impl RunStore {
    /// Makes deliveries within a transaction.
    pub(super) async fn make_deliveries(
        tx: &mut sqlx::PgTransaction<'_>,
        new: &[NewDelivery],
    ) -> Result<(), StoreError> {
        if new.is_empty() {
            return Ok(());
        }
        let what = "make deliveries";
        sqlx::query(
            "INSERT INTO deliveries (id, kind, cause, job, connection, notice, about, target, follows)
             SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::json[], $7::json[],
                                  $8::text[], $9::uuid[])",
        )
        .bind(new.iter().map(|d| d.id).collect::<Vec<_>>())
        .bind(new.iter().map(|d| d.kind).collect::<Vec<_>>())
        .bind(new.iter().map(|d| d.cause).collect::<Vec<_>>())
        .bind(new.iter().map(|d| d.job.clone()).collect::<Vec<_>>())
        .bind(new.iter().map(|d| d.connection.clone()).collect::<Vec<_>>())
        .bind(new.iter().map(|d| Json(d.notice.clone())).collect::<Vec<_>>())
        .bind(new.iter().map(|d| Json(d.about.clone())).collect::<Vec<_>>())
        .bind(new.iter().map(|d| d.target.clone()).collect::<Vec<_>>())
        .bind(new.iter().map(|d| d.follows).collect::<Vec<_>>())
        .execute(&mut **tx)
        .await
        .map_err(doing(what))?;
        let pairs = || new.iter().flat_map(|d| d.runs.iter().map(move |run| (*run, d.id)));
        sqlx::query(
            "INSERT INTO delivery_runs (run_id, delivery_id) SELECT * FROM unnest($1::uuid[], $2::uuid[])
             ON CONFLICT DO NOTHING",
        )
        .bind(pairs().map(|(run, _)| run).collect::<Vec<_>>())
        .bind(pairs().map(|(_, delivery)| delivery).collect::<Vec<_>>())
        .execute(&mut **tx)
        .await
        .map_err(doing(what))?;
        Ok(())
    }

    /// Deliveries, the newest first.
    pub async fn deliveries(&self, filter: &DeliveryFilter) -> Result<Vec<DeliveryRow>, StoreError> {
        sqlx::query_as(
            "SELECT * FROM deliveries
             WHERE ($1::text IS NULL OR job = $1) AND ($2::text IS NULL OR connection = $2) AND ($3::text IS NULL OR state = $3)
             ORDER BY made_at DESC, id LIMIT $4",
        )
        .bind(&filter.job)
        .bind(&filter.connection)
        .bind(filter.state)
        .bind(filter.limit)
        .fetch_all(&self.pool)
        .await
        .map_err(doing("list deliveries"))
    }

    /// The deliveries about a run, the oldest first.
    pub async fn deliveries_of(&self, run: Uuid) -> Result<Vec<DeliveryRow>, StoreError> {
        sqlx::query_as(
            "SELECT deliveries.* FROM deliveries JOIN delivery_runs ON delivery_id = id WHERE run_id = $1
             ORDER BY made_at, id",
        )
        .bind(run)
        .fetch_all(&self.pool)
        .await
        .map_err(doing("list the deliveries of a run"))
    }

    /// Of each kind, how many of these deliveries, and of those about these runs, are still to be sent.
    pub async fn deliveries_open(&self, runs: &[Uuid], also: &[Uuid]) -> Result<Vec<(String, i64)>, StoreError> {
        sqlx::query_as(
            "SELECT kind, count(*) FROM deliveries
             WHERE state IN ('pending', 'sending')
                 AND (id = ANY ($2) OR id IN (SELECT delivery_id FROM delivery_runs WHERE run_id = ANY ($1)))
             GROUP BY kind",
        )
        .bind(runs)
        .bind(also)
        .fetch_all(&self.pool)
        .await
        .map_err(doing("count the deliveries that are still to be sent"))
    }

    /// How many of these deliveries, and of those about these runs, failed or are in doubt.
    pub async fn deliveries_lost(&self, runs: &[Uuid], also: &[Uuid]) -> Result<i64, StoreError> {
        sqlx::query_scalar(
            "SELECT count(*) FROM deliveries
             WHERE state IN ('failed', 'held')
                 AND (id = ANY ($2) OR id IN (SELECT delivery_id FROM delivery_runs WHERE run_id = ANY ($1)))",
        )
        .bind(runs)
        .bind(also)
        .fetch_one(&self.pool)
        .await
        .map_err(doing("count the deliveries that did not go out"))
    }

    /// What waits for its next try is due now: settings or secrets may have been mended.
    pub async fn hurry_deliveries(&self) -> Result<u64, StoreError> {
        let hurried = sqlx::query(
            "UPDATE deliveries SET next_try_at = reportd_now()
             WHERE state = 'pending' AND tries > 0 AND next_try_at > reportd_now()",
        )
        .execute(&self.pool)
        .await
        .map_err(doing("have waiting deliveries tried"))?;
        Ok(hurried.rows_affected())
    }

    /// The one delivery whose id begins so.
    pub async fn delivery_by_prefix(&self, prefix: &str) -> Result<DeliveryRow, StoreError> {
        let Some((first, last)) = ids_from(prefix) else {
            return Err(StoreError::Refused(format!("'{prefix}' is not the start of a delivery's id")));
        };
        let found: Vec<DeliveryRow> =
            sqlx::query_as("SELECT * FROM deliveries WHERE id BETWEEN $1 AND $2 ORDER BY id LIMIT 2")
                .bind(first)
                .bind(last)
                .fetch_all(&self.pool)
                .await
                .map_err(doing("look up a delivery"))?;
        match <[DeliveryRow; 1]>::try_from(found) {
            Ok([row]) => Ok(row),
            Err(found) if found.is_empty() => {
                Err(StoreError::Refused(format!("no delivery's id starts with '{prefix}': see `reportd deliveries`")))
            }
            Err(_) => Err(StoreError::Refused(format!("several deliveries start with '{prefix}': write more of it"))),
        }
    }

    /// An operator has a delivery sent again, or at once, if it still is in the state that the operator saw.
    pub async fn retry_delivery(&self, id: Uuid, seen: &str) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE deliveries SET state = 'pending', next_try_at = reportd_now(), tried_since = NULL, settled_at = NULL,
                 settled_by = NULL, retried_by = $2
             WHERE id = $1 AND state = $3 AND state <> 'sending'",
        )
        .bind(id)
        .bind(&self.who.0)
        .bind(seen)
        .execute(&self.pool)
        .await
        .map_err(doing("have a delivery sent again"))?;
        Ok(done.rows_affected() == 1)
    }

    /// An operator ends a delivery.
    pub async fn resolve_delivery(&self, id: Uuid) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE deliveries SET state = 'resolved', next_try_at = NULL, settled_at = reportd_now(), settled_by = $2
             WHERE id = $1 AND state IN ('pending', 'held', 'failed')",
        )
        .bind(id)
        .bind(&self.who.0)
        .execute(&self.pool)
        .await
        .map_err(doing("resolve a delivery"))?;
        Ok(done.rows_affected() == 1)
    }

    /// Deliveries that went wrong: failed, held, or tried in vain for a quarter of an hour; the oldest first.
    pub async fn deliveries_in_trouble(&self) -> Result<Vec<DeliveryRow>, StoreError> {
        sqlx::query_as(
            "SELECT * FROM deliveries
             WHERE (state IN ('failed', 'held') OR (state = 'pending' AND tries > 0))
                 AND (state <> 'pending' OR tried_since < reportd_now() - interval '15 minutes')
                 AND NOT (state = 'failed' AND kind = 'heartbeat')
             ORDER BY made_at, id LIMIT 1000",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(doing("look for deliveries in trouble"))
    }
}
