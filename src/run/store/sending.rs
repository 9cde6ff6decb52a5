//! What a worker writes about a delivery: claimed kind by kind and target by target, settled under a lease. Nothing here sends.
//!
//! A worker that finds a lease that ended must know whether the kind may be repeated: one that may not is held for an operator,
//! in the claim itself.

use std::time::Duration;

use uuid::Uuid;

use super::delivery::DeliveryRow;
use super::{RunStore, StoreError, doing, fenced};

/// How long a claimed delivery is its worker's without renewal. Renewed while a long copy runs.
pub const LEASE: Duration = Duration::from_secs(120);

/// Deliveries to one target that are tried at once, over all processes.
const OF_TARGET: i64 = 4;

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

impl RunStore {
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
        let rows = sqlx::query_as(include_str!("claim_deliveries.sql"))
            .bind(most.iter().map(|(kind, _)| *kind).collect::<Vec<_>>())
            .bind(most.iter().map(|(_, most)| *most).collect::<Vec<_>>())
            .bind(only.map(|(runs, _)| runs))
            .bind(LEASE.as_secs_f64())
            .bind(only.map(|(_, also)| also))
            .bind(OF_TARGET)
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
}
