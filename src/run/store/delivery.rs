//! Deliveries: made in the transaction that notes that their run was told of, claimed kind by kind, settled under a lease.
//!
//! Nothing here sends. A worker that finds a lease that ended must know whether the kind may be repeated: one that may not is
//! held for an operator, in the claim itself.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::FromRow;
use sqlx::types::Json;
use uuid::Uuid;

use super::query::ids_from;
use super::{RunStore, StoreError, doing, fenced};

/// How long a claimed delivery is its worker's without renewal. Renewed while a long copy runs.
pub const LEASE: Duration = Duration::from_secs(120);

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

/// How a try ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settling {
    /// It arrived.
    Sent,
    /// It never will.
    Failed,
    /// Nobody knows, and it may not be repeated.
    Held,
}

impl Settling {
    fn as_str(self) -> &'static str {
        match self {
            Settling::Sent => "sent",
            Settling::Failed => "failed",
            Settling::Held => "held",
        }
    }
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
            "INSERT INTO deliveries (id, kind, cause, job, connection, notice, about)
             SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::json[], $7::json[])",
        )
        .bind(new.iter().map(|d| d.id).collect::<Vec<_>>())
        .bind(new.iter().map(|d| d.kind).collect::<Vec<_>>())
        .bind(new.iter().map(|d| d.cause).collect::<Vec<_>>())
        .bind(new.iter().map(|d| d.job.clone()).collect::<Vec<_>>())
        .bind(new.iter().map(|d| d.connection.clone()).collect::<Vec<_>>())
        .bind(new.iter().map(|d| Json(d.notice.clone())).collect::<Vec<_>>())
        .bind(new.iter().map(|d| Json(d.about.clone())).collect::<Vec<_>>())
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

    /// Claims deliveries that are due: of each kind at most so many, `only` those about these runs and these if that is given. One whose
    /// lease ended and that may not be repeated is held instead; returns those claimed, and how many were held.
    pub async fn claim_deliveries(
        &self,
        most: &[(&'static str, i64)],
        only: Option<(&[Uuid], &[Uuid])>,
    ) -> Result<(Vec<DeliveryRow>, u64), StoreError> {
        let what = "claim deliveries";
        // A worker died while it sent a create: in a statement of its own, so that the claim below cannot take it.
        let held = sqlx::query(
            "UPDATE deliveries SET state = 'held', next_try_at = NULL, lease_token = NULL,
                 words = 'the process ended while it was sending: nobody knows whether BIK made it'
             WHERE state = 'sending' AND kind IN ('bik_ticket', 'bik_event') AND next_try_at <= reportd_now()",
        )
        .execute(&self.pool)
        .await
        .map_err(doing(what))?
        .rows_affected();
        let rows = sqlx::query_as(
            "WITH due AS (
                 SELECT d.id, gen_random_uuid() AS token FROM unnest($1::text[], $2::bigint[]) AS k (kind, most) CROSS JOIN LATERAL (
                     SELECT id FROM deliveries
                     WHERE kind = k.kind AND next_try_at <= reportd_now()
                         AND (state = 'pending' OR (state = 'sending' AND kind NOT IN ('bik_ticket', 'bik_event')))
                         AND ($3::uuid[] IS NULL OR id = ANY ($5)
                              OR id IN (SELECT delivery_id FROM delivery_runs WHERE run_id = ANY ($3)))
                     ORDER BY next_try_at LIMIT k.most FOR NO KEY UPDATE SKIP LOCKED
                 ) d
             )
             UPDATE deliveries SET state = 'sending', lease_token = due.token, attempt = due.token, tries = tries + 1,
                 tried_since = COALESCE(tried_since, reportd_now()),
                 next_try_at = reportd_now() + make_interval(secs => $4)
             FROM due WHERE deliveries.id = due.id RETURNING deliveries.*",
        )
        .bind(most.iter().map(|(kind, _)| *kind).collect::<Vec<_>>())
        .bind(most.iter().map(|(_, most)| *most).collect::<Vec<_>>())
        .bind(only.map(|(runs, _)| runs))
        .bind(LEASE.as_secs_f64())
        .bind(only.map(|(_, also)| also))
        .fetch_all(&self.pool)
        .await
        .map_err(doing(what))?;
        Ok((rows, held))
    }

    /// Claims one delivery, if it is due and nobody has it.
    pub async fn claim_delivery(&self, id: Uuid) -> Result<Option<DeliveryRow>, StoreError> {
        sqlx::query_as(
            "UPDATE deliveries SET state = 'sending', lease_token = $3, attempt = $3, tries = tries + 1,
                 tried_since = COALESCE(tried_since, reportd_now()),
                 next_try_at = reportd_now() + make_interval(secs => $2)
             WHERE id = $1 AND state = 'pending' AND next_try_at <= reportd_now() RETURNING *",
        )
        .bind(id)
        .bind(LEASE.as_secs_f64())
        .bind(Uuid::new_v4())
        .fetch_optional(&self.pool)
        .await
        .map_err(doing("claim a delivery"))
    }

    /// Holds a claim for one more lease time.
    pub async fn renew_delivery(&self, id: Uuid, token: Uuid) -> Result<(), StoreError> {
        let done = sqlx::query(
            "UPDATE deliveries SET next_try_at = reportd_now() + make_interval(secs => $3)
             WHERE id = $1 AND lease_token = $2",
        )
        .bind(id)
        .bind(token)
        .bind(LEASE.as_secs_f64())
        .execute(&self.pool)
        .await
        .map_err(doing("renew the claim on a delivery"))?;
        fenced(done.rows_affected())
    }

    /// Ends a try, and the delivery with it. That it arrived is recorded even if the claim was lost meanwhile and the delivery is
    /// held for that very try: then nobody need look.
    pub async fn settle_delivery(
        &self,
        id: Uuid,
        token: Uuid,
        how: Settling,
        words: Option<&str>,
    ) -> Result<(), StoreError> {
        let done = sqlx::query(
            "UPDATE deliveries SET state = $3, words = left($4, 1000), lease_token = NULL, next_try_at = NULL,
                 settled_at = CASE WHEN $3 <> 'held' THEN reportd_now() END,
                 settled_by = CASE WHEN $3 <> 'held' THEN $5 END
             WHERE id = $1 AND (lease_token = $2 OR (attempt = $2 AND state = 'held' AND $3 = 'sent'))",
        )
        .bind(id)
        .bind(token)
        .bind(how.as_str())
        .bind(words)
        .bind(&self.who.0)
        .execute(&self.pool)
        .await
        .map_err(doing("settle a delivery"))?;
        fenced(done.rows_affected())
    }

    /// Ends a try that is to be made again. Gives the delivery up when it was tried for longer than `give_up`.
    pub async fn put_off_delivery(
        &self,
        id: Uuid,
        token: Uuid,
        after: Duration,
        give_up: Duration,
        words: &str,
    ) -> Result<(), StoreError> {
        let done = sqlx::query(
            "WITH tried AS (
                 SELECT id, tried_since + make_interval(secs => $4) < reportd_now() AS over FROM deliveries WHERE id = $1
             )
             UPDATE deliveries SET state = CASE WHEN over THEN 'failed' ELSE 'pending' END, words = left($5, 1000),
                 lease_token = NULL,
                 next_try_at = CASE WHEN NOT over THEN reportd_now() + make_interval(secs => $3) END,
                 settled_at = CASE WHEN over THEN reportd_now() END, settled_by = CASE WHEN over THEN $6 END
             FROM tried WHERE deliveries.id = tried.id AND lease_token = $2",
        )
        .bind(id)
        .bind(token)
        .bind(after.as_secs_f64())
        .bind(give_up.as_secs_f64())
        .bind(words)
        .bind(&self.who.0)
        .execute(&self.pool)
        .await
        .map_err(doing("put a delivery off"))?;
        fenced(done.rows_affected())
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

    /// An operator has a delivery sent again, or at once.
    pub async fn retry_delivery(&self, id: Uuid) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE deliveries SET state = 'pending', next_try_at = reportd_now(), tried_since = NULL, settled_at = NULL,
                 settled_by = NULL, retried_by = $2
             WHERE id = $1 AND state <> 'sending'",
        )
        .bind(id)
        .bind(&self.who.0)
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
