//! Permits: whether a call to a vendor may start now. Breaker, rate and what is in flight are decided under a lock on the
//! account's row, so they hold over all processes.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::FromRow;
use uuid::Uuid;

use super::{LEASE, RunStore, StoreError, doing, fenced};
use crate::run::Lease;
use crate::run::state::{Event, sources};

/// Whether a call may start.
#[derive(Clone, Debug, PartialEq)]
pub enum Admission {
    /// Yes, and it has been counted.
    Now,
    /// Yes, as the one call that tries whether an open breaker may close.
    Probe,
    /// Not before this much time, for the account's rate.
    Rate(Duration),
    /// As many runs as allowed are under way at the vendor.
    Full {
        /// How many.
        in_flight: i64,
    },
    /// The vendor refuses our credentials.
    BreakerOpen {
        /// What it said.
        reason: String,
        /// When one run may try again.
        probe_at: DateTime<Utc>,
    },
}

/// What an account allows.
#[derive(Clone, Copy, Debug)]
pub struct Permit<'a> {
    /// Connection name.
    pub connection: &'a str,
    /// Vendor word.
    pub vendor: &'a str,
    /// Calls a second.
    pub requests_per_second: f64,
    /// Runs under way at once.
    pub max_in_flight: u32,
    /// Fingerprint of the present secret: another one than the refused one may try at once.
    pub secret: &'a str,
}

/// How long an open breaker keeps everyone out before one run may try.
const PROBE: Duration = Duration::from_secs(15 * 60);

#[derive(FromRow)]
struct Gate {
    wait_s: f64,
    breaker_open: bool,
    breaker_reason: Option<String>,
    breaker_probe_at: Option<DateTime<Utc>>,
    may_probe: bool,
}

impl Gate {
    fn admission(&self) -> Admission {
        if self.may_probe { Admission::Probe } else { Admission::Now }
    }
}

impl RunStore {
    /// Asks for a permit and, in the same transaction, commits the intent to make the first call: breaker, in-flight
    /// limit and rate are checked under a lock on the account's row, so they hold over all processes. With a create,
    /// `task` also makes its row in `remote_tasks`. `allocate` gives the run its revision now (answers that come at once).
    pub async fn intend(
        &self,
        lease: &Lease,
        permit: &Permit<'_>,
        attempt: Uuid,
        task: bool,
        allocate: bool,
    ) -> Result<Admission, StoreError> {
        let what = "commit the intent to call the vendor";
        let mut tx = self.pool.begin().await.map_err(doing(what))?;
        let gate = lock_gate(&mut tx, permit).await?;
        if let Some(refusal) = refusal(&gate) {
            return Ok(refusal);
        }
        let in_flight: i64 = sqlx::query_scalar(
            // A call whose worker died is over one lease time after its lease; whoever claims the run will say what it left.
            // A run that waits for a person, or that meets error after error, must not keep its account from all others.
            "SELECT count(*) FROM runs
             WHERE connection = $1 AND vendor = $2 AND state IN ('submitting', 'waiting') AND id <> $3
               AND NOT blocked AND errors < 3
               AND (state = 'waiting' OR lease_until + make_interval(secs => $4) > reportd_now())",
        )
        .bind(permit.connection)
        .bind(permit.vendor)
        .bind(lease.run)
        .bind(LEASE.as_secs_f64())
        .fetch_one(&mut *tx)
        .await
        .map_err(doing(what))?;
        if in_flight >= i64::from(permit.max_in_flight) {
            return Ok(Admission::Full { in_flight });
        }
        take_slot(&mut tx, permit, &gate).await?;
        let done = sqlx::query(
            "WITH intended AS (
                 UPDATE runs SET state = 'submitting', attempt_id = $3, ticket = NULL, note = NULL, blocked = false,
                     revision = CASE WHEN $5 THEN COALESCE(revision, next_revision(series_id, window_label)) ELSE revision END
                 WHERE id = $1 AND lease_token = $2 AND state = ANY ($4)
                 RETURNING id, connection, vendor, base_url, account
             ), task AS (
                 INSERT INTO remote_tasks (attempt_id, run_id, connection, vendor, base_url, account)
                 SELECT $3, id, connection, vendor, base_url, account FROM intended WHERE $6
             )
             INSERT INTO run_events (run_id, kind, who, detail)
             SELECT id, 'submitting', $7, 'about to call ' || vendor FROM intended",
        )
        .bind(lease.run)
        .bind(lease.token)
        .bind(attempt)
        .bind(sources(Event::Intend))
        .bind(allocate)
        .bind(task)
        .bind(&self.who.0)
        .execute(&mut *tx)
        .await
        .map_err(doing(what))?;
        fenced(done.rows_affected())?;
        tx.commit().await.map_err(doing(what))?;
        Ok(gate.admission())
    }

    /// Asks for a permit for one more call of a run under way (a poll, a page): breaker and rate only.
    pub async fn admit(&self, permit: &Permit<'_>) -> Result<Admission, StoreError> {
        let what = "ask for a permit to call the vendor";
        let mut tx = self.pool.begin().await.map_err(doing(what))?;
        let gate = lock_gate(&mut tx, permit).await?;
        if let Some(refusal) = refusal(&gate) {
            return Ok(refusal);
        }
        take_slot(&mut tx, permit, &gate).await?;
        tx.commit().await.map_err(doing(what))?;
        Ok(gate.admission())
    }

    /// Opens the breaker of an account; returns whether it was closed before (the one time to tell people). One that is opened
    /// `by_hand` lets no run try: only an operator closes it.
    pub async fn open_breaker(&self, permit: &Permit<'_>, reason: &str, by_hand: bool) -> Result<bool, StoreError> {
        let was_open: Option<bool> = sqlx::query_scalar(
            "INSERT INTO connections AS c (connection, vendor, breaker_open, breaker_reason, breaker_opened_at,
                                           breaker_probe_at, breaker_secret, breaker_by_hand)
             VALUES ($1, $2, true, left($3, 1000), reportd_now(), reportd_now() + make_interval(secs => $4), $5, $6)
             ON CONFLICT (connection, vendor) DO UPDATE
             SET breaker_open = true, breaker_reason = EXCLUDED.breaker_reason,
                 breaker_opened_at = COALESCE(c.breaker_opened_at, EXCLUDED.breaker_opened_at),
                 breaker_probe_at = EXCLUDED.breaker_probe_at, breaker_secret = EXCLUDED.breaker_secret,
                 breaker_by_hand = c.breaker_by_hand OR EXCLUDED.breaker_by_hand
             RETURNING (SELECT breaker_open FROM connections WHERE connection = $1 AND vendor = $2)",
        )
        .bind(permit.connection)
        .bind(permit.vendor)
        .bind(reason)
        .bind(PROBE.as_secs_f64())
        .bind(permit.secret)
        .bind(by_hand)
        .fetch_one(&self.pool)
        .await
        .map_err(doing("open a breaker"))?;
        Ok(was_open != Some(true))
    }

    /// Closes the breaker of an account, because the vendor let a probe through or an operator says so, and lets its runs
    /// go on at once. Returns whether it was open.
    pub async fn close_breaker(&self, connection: &str, vendor: &str) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "WITH closed AS (
                 UPDATE connections SET breaker_open = false, breaker_reason = NULL, breaker_opened_at = NULL,
                     breaker_probe_at = NULL, breaker_secret = NULL, breaker_by_hand = false
                 WHERE connection = $1 AND vendor = $2 AND breaker_open
                 RETURNING connection, vendor
             ), woken AS (
                 UPDATE runs SET next_step_at = reportd_now(), blocked = false, note = NULL FROM closed
                 WHERE runs.connection = closed.connection AND runs.vendor = closed.vendor
                   AND runs.blocked AND runs.lease_token IS NULL
             )
             SELECT 1 FROM closed",
        )
        .bind(connection)
        .bind(vendor)
        .execute(&self.pool)
        .await
        .map_err(doing("close a breaker"))?;
        Ok(done.rows_affected() > 0)
    }
}

/// Locks the account's row, making it first when it is new.
async fn lock_gate(tx: &mut sqlx::PgTransaction<'_>, permit: &Permit<'_>) -> Result<Gate, StoreError> {
    let what = "lock the account's limits";
    let select = "SELECT GREATEST(extract(epoch FROM next_free_at - reportd_now()), 0)::float8 AS wait_s, breaker_open, breaker_reason,
                         breaker_probe_at,
                         breaker_open AND NOT breaker_by_hand
                             AND (breaker_probe_at <= reportd_now() OR breaker_secret IS DISTINCT FROM $3) AS may_probe
                  FROM connections WHERE connection = $1 AND vendor = $2 FOR UPDATE";
    for _ in 0..2 {
        let gate: Option<Gate> = sqlx::query_as(select)
            .bind(permit.connection)
            .bind(permit.vendor)
            .bind(permit.secret)
            .fetch_optional(&mut **tx)
            .await
            .map_err(doing(what))?;
        if let Some(gate) = gate {
            return Ok(gate);
        }
        sqlx::query("INSERT INTO connections (connection, vendor) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(permit.connection)
            .bind(permit.vendor)
            .execute(&mut **tx)
            .await
            .map_err(doing(what))?;
    }
    Err(StoreError::Database { what, source: sqlx::Error::RowNotFound })
}

fn refusal(gate: &Gate) -> Option<Admission> {
    if gate.breaker_open && !gate.may_probe {
        return Some(Admission::BreakerOpen {
            reason: gate.breaker_reason.clone().unwrap_or_default(),
            probe_at: gate.breaker_probe_at.unwrap_or_default(),
        });
    }
    (gate.wait_s > 0.0).then(|| Admission::Rate(Duration::from_secs_f64(gate.wait_s.clamp(0.001, 3600.0))))
}

/// Counts the call: the next one may start 1/rate later. A probe of an open breaker moves the next probe away, so one run
/// tries and not all of them.
async fn take_slot(tx: &mut sqlx::PgTransaction<'_>, permit: &Permit<'_>, gate: &Gate) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE connections SET next_free_at = reportd_now() + make_interval(secs => $3),
             breaker_probe_at = CASE WHEN $4 THEN reportd_now() + make_interval(secs => $5) ELSE breaker_probe_at END,
             breaker_secret = CASE WHEN $4 THEN $6 ELSE breaker_secret END
         WHERE connection = $1 AND vendor = $2",
    )
    .bind(permit.connection)
    .bind(permit.vendor)
    .bind(1.0 / permit.requests_per_second.max(0.001))
    .bind(gate.may_probe)
    .bind(PROBE.as_secs_f64())
    .bind(permit.secret)
    .execute(&mut **tx)
    .await
    .map_err(doing("count a call to the vendor"))?;
    Ok(())
}
