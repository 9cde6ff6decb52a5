//! Claims: who works on a run, and for how long.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row};
use uuid::Uuid;

use super::{LEASE, RunStore, StoreError, doing, fenced};
use crate::run::{Lease, Run};

/// A run that is ours until its lease ends.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// The row as claimed.
    pub run: Run,
    /// The claim.
    pub lease: Lease,
    /// The previous worker did not release it: it may have died anywhere in its step.
    pub taken_over: bool,
    /// The database's clock at the claim.
    pub at: DateTime<Utc>,
}

/// Which connection a worker stands for; a run made with another base URL or account is not its to touch.
#[derive(Clone, Debug)]
pub struct Identity<'a> {
    /// Base URL in the worker's config.
    pub base_url: &'a str,
    /// Fingerprint of the account its credentials belong to.
    pub account: &'a str,
}

impl FromRow<'_, PgRow> for Claimed {
    fn from_row(row: &PgRow) -> Result<Claimed, sqlx::Error> {
        let run = Run::from_row(row)?;
        let lease = Lease { run: run.id, token: row.try_get("lease_token")? };
        Ok(Claimed { run, lease, taken_over: row.try_get("taken_over")?, at: row.try_get("claimed_at")? })
    }
}

impl RunStore {
    /// Claims one run if it is due, free and ours to work on. A `submitting` run is free only one lease time after its
    /// lease ended, when the call that was under way has certainly ended too.
    pub async fn claim(&self, run: Uuid, identity: &Identity<'_>) -> Result<Option<Claimed>, StoreError> {
        let token = Uuid::new_v4();
        let row = sqlx::query(
            "WITH due AS (
                 SELECT id, lease_token IS NOT NULL AS taken_over FROM runs
                 WHERE id = $1 AND state IN ('queued', 'submitting', 'waiting')
                   AND next_step_at <= reportd_now()
                   AND base_url = $2 AND account IN ($3, '')
                   AND (lease_until IS NULL OR lease_until + CASE state
                            WHEN 'submitting' THEN make_interval(secs => $5) ELSE interval '0' END <= reportd_now())
                 FOR UPDATE SKIP LOCKED
             )
             UPDATE runs
             SET lease_token = $4, lease_until = reportd_now() + make_interval(secs => $5), claims = claims + 1
             FROM due WHERE runs.id = due.id
             RETURNING runs.*, due.taken_over, reportd_now() AS claimed_at",
        )
        .bind(run)
        .bind(identity.base_url)
        .bind(identity.account)
        .bind(token)
        .bind(LEASE.as_secs_f64())
        .fetch_optional(&self.pool)
        .await
        .map_err(doing("claim a run"))?;
        let Some(row) = row else { return Ok(None) };
        Claimed::from_row(&row).map(Some).map_err(doing("read a claimed run"))
    }

    /// Renews these claims; those that are not in the answer are lost.
    pub async fn renew(&self, tokens: &[Uuid]) -> Result<Vec<Uuid>, StoreError> {
        sqlx::query_scalar(
            "UPDATE runs SET lease_until = reportd_now() + make_interval(secs => $2)
             WHERE lease_token = ANY ($1) RETURNING lease_token",
        )
        .bind(tokens)
        .bind(LEASE.as_secs_f64())
        .fetch_all(&self.pool)
        .await
        .map_err(doing("renew the leases of this process"))
    }

    /// Gives a claim back without a finished step: interrupted work uses no attempt. A run whose call is under way keeps
    /// its lease, since only its end tells the next worker that the call is over.
    pub async fn release(&self, lease: &Lease, note: &str) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE runs SET lease_token = NULL, lease_until = NULL, claims = GREATEST(claims - 1, 0), note = $3
             WHERE id = $1 AND lease_token = $2 AND state IN ('queued', 'waiting')",
        )
        .bind(lease.run)
        .bind(lease.token)
        .bind(note)
        .execute(&self.pool)
        .await
        .map_err(doing("release a run"))?;
        Ok(())
    }

    /// Gives a claim back after the database failed in the middle of the step, for a little later. A run whose call may be
    /// under way keeps its lease.
    pub async fn release_later(&self, lease: &Lease, after: Duration, note: &str) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE runs SET lease_token = NULL, lease_until = NULL, claims = GREATEST(claims - 1, 0), note = $4,
                 next_step_at = GREATEST(next_step_at, reportd_now() + make_interval(secs => $3))
             WHERE id = $1 AND lease_token = $2 AND state IN ('queued', 'waiting')",
        )
        .bind(lease.run)
        .bind(lease.token)
        .bind(after.as_secs_f64())
        .bind(note)
        .execute(&self.pool)
        .await
        .map_err(doing("give a run back"))?;
        Ok(())
    }

    /// Puts a run off that was found in `submitting` and cannot be decided now, for want of a secret: it stays as it is, and
    /// the claim that found it does not count.
    pub async fn park(&self, lease: &Lease, after: Duration, note: &str) -> Result<(), StoreError> {
        let done = sqlx::query(
            "UPDATE runs SET lease_token = NULL, lease_until = NULL, claims = GREATEST(claims - 1, 0), note = left($4, 1000),
                 next_step_at = reportd_now() + make_interval(secs => $3)
             WHERE id = $1 AND lease_token = $2 AND state = 'submitting'",
        )
        .bind(lease.run)
        .bind(lease.token)
        .bind(after.as_secs_f64())
        .bind(note)
        .execute(&self.pool)
        .await
        .map_err(doing("put a run off"))?;
        fenced(done.rows_affected())
    }

    /// A person asks for a blocked run: it is looked at now, in case what blocked it was mended.
    pub async fn nudge(&self, run: Uuid) -> Result<(), StoreError> {
        sqlx::query("UPDATE runs SET next_step_at = reportd_now() WHERE id = $1 AND lease_token IS NULL AND (blocked OR state = 'submitting')")
            .bind(run)
            .execute(&self.pool)
            .await
            .map_err(doing("wake a blocked run"))?;
        Ok(())
    }

    /// Lets a run that waits for a breaker go on if that is closed by now.
    pub async fn wake_if_breaker_closed(&self, run: Uuid) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE runs SET next_step_at = reportd_now() FROM connections c
             WHERE runs.id = $1 AND runs.blocked AND runs.lease_token IS NULL
               AND c.connection = runs.connection AND c.vendor = runs.vendor AND NOT c.breaker_open",
        )
        .bind(run)
        .execute(&self.pool)
        .await
        .map_err(doing("look whether a breaker still holds a run"))?;
        Ok(())
    }
}
