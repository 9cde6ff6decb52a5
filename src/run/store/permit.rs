//! Permits: whether a call to a vendor may start now. Breaker, rate and what is in flight are decided under a lock on the
//! account's row, so they hold over all processes.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::FromRow;
use uuid::Uuid;

use super::revision::standing;
use super::serving::is_served;
use super::{LEASE, RunStore, StoreError, doing};
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
    /// Runs of the account that are no `fill` are due, and a process that serves takes them first.
    Behind,
    /// The vendor refuses our credentials.
    BreakerOpen {
        /// What it said.
        reason: String,
        /// When one run may try again.
        probe_at: DateTime<Utc>,
        /// A person opened it: no run tries before a person closes it.
        by_hand: bool,
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

/// What a run is about to do.
#[derive(Clone, Copy, Debug)]
pub struct Intent<'a> {
    /// The id of the call.
    pub attempt: Uuid,
    /// Fingerprint of the account that calls: a run that was made without knowing it is this one's from now on.
    pub account: &'a str,
    /// It is a create: it has a row in `remote_tasks`.
    pub creates: bool,
    /// It is a `fill`'s, and lets the account's other runs go first.
    pub yields: bool,
}

/// How long an open breaker keeps everyone out before one run may try.
const PROBE: Duration = Duration::from_secs(15 * 60);

#[derive(FromRow)]
struct Gate {
    wait_s: f64,
    breaker_open: bool,
    breaker_reason: Option<String>,
    breaker_probe_at: Option<DateTime<Utc>>,
    breaker_by_hand: bool,
    may_probe: bool,
}

impl Gate {
    fn admission(&self) -> Admission {
        if self.may_probe { Admission::Probe } else { Admission::Now }
    }
}

impl RunStore {
    /// Asks for a permit and, in the same transaction, commits the intent to make the first call: breaker, in-flight
    /// limit and rate are checked under a lock on the account's row, so they hold over all processes. A create's row in
    /// `remote_tasks` is made with it. A run whose window came to be held is not sent but ended, and so no longer the caller's
    /// ([`StoreError::LeaseLost`]). A call whose answer is the report has its run's revision allocated now.
    pub async fn intend(
        &self,
        lease: &Lease,
        permit: &Permit<'_>,
        intent: Intent<'_>,
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
        if intent.yields && others_go_first(&mut tx, permit, lease.run).await? {
            return Ok(Admission::Behind);
        }
        take_slot(&mut tx, permit, &gate).await?;
        if intent.creates {
            // Whoever renames a job moves its history under this row's lock; the statement after this one sees what was moved.
            sqlx::query("SELECT FROM series WHERE id = (SELECT series_id FROM runs WHERE id = $1) FOR KEY SHARE")
                .bind(lease.run)
                .execute(&mut *tx)
                .await
                .map_err(doing(what))?;
        }
        let done = sqlx::query(
            "WITH intended AS (
                 UPDATE runs SET state = 'submitting', attempt_id = $3, ticket = NULL, note = NULL, blocked = false,
                     account = COALESCE(NULLIF(account, ''), $7),
                     revision = CASE WHEN $5 THEN revision ELSE COALESCE(revision, next_revision(series_id, window_label)) END
                 WHERE id = $1 AND lease_token = $2 AND state = ANY ($4)
                   AND (again OR NOT window_is_held(series_id, window_start, window_end, provisional))
                 RETURNING id, connection, vendor, base_url, account
             ), task AS (
                 INSERT INTO remote_tasks (attempt_id, run_id, connection, vendor, base_url, account)
                 SELECT $3, id, connection, vendor, base_url, account FROM intended WHERE $5
             )
             INSERT INTO run_events (run_id, kind, who, detail)
             SELECT id, 'submitting', $6, 'about to call ' || vendor FROM intended",
        )
        .bind(lease.run)
        .bind(lease.token)
        .bind(intent.attempt)
        .bind(sources(Event::Intend))
        .bind(intent.creates)
        .bind(&self.who.0)
        .bind(intent.account)
        .execute(&mut *tx)
        .await
        .map_err(doing(what))?;
        if done.rows_affected() == 0 {
            let (_, needless) = standing(&mut *tx, lease.run).await?;
            tx.rollback().await.map_err(doing(what))?;
            if needless {
                self.needless(lease).await?;
            }
            return Err(StoreError::LeaseLost);
        }
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
    // Nothing is ever further off than one call's distance, or a probe's, and the time for which this row may be waited for: what
    // is was written by a clock that was ahead, and is over.
    let select = "SELECT CASE WHEN next_free_at > reportd_now() + make_interval(secs => $4) THEN 0
                              ELSE GREATEST(extract(epoch FROM next_free_at - reportd_now()), 0) END::float8 AS wait_s,
                         breaker_open, breaker_reason, breaker_probe_at, breaker_by_hand,
                         breaker_open AND NOT breaker_by_hand
                             AND (breaker_probe_at <= reportd_now() OR breaker_probe_at > reportd_now() + make_interval(secs => $5)
                                  OR breaker_secret IS DISTINCT FROM $3) AS may_probe
                  FROM connections WHERE connection = $1 AND vendor = $2 FOR UPDATE";
    for _ in 0..2 {
        let gate: Option<Gate> = sqlx::query_as(select)
            .bind(permit.connection)
            .bind(permit.vendor)
            .bind(permit.secret)
            .bind(slot_s(permit) + 60.0)
            .bind(PROBE.as_secs_f64() + 60.0)
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

/// How long a run may have been due for a `fill` to let it go first, where none of its kind is worked on. One that nobody took
/// for longer is one that no process that serves can take, and must not keep a fill from working.
const YIELDS: Duration = Duration::from_secs(15 * 60);

/// Whether runs of the account that are no `fill` are due, and somebody serves who takes them: who fills by hand beside no
/// service must not wait for ever.
async fn others_go_first(
    tx: &mut sqlx::PgTransaction<'_>,
    permit: &Permit<'_>,
    behind: Uuid,
) -> Result<bool, StoreError> {
    if !is_served(&mut **tx).await? {
        return Ok(false);
    }
    // Due is also what was refused for the account's rate, or for want of room, and asks again at the next slot. Served by
    // runs_queued and runs_under_way: of a boolean expression PostgreSQL takes IS FALSE as it stands, and rewrites `= false`.
    sqlx::query_scalar(
        "SELECT EXISTS (
                 SELECT 1 FROM runs mine LEFT JOIN LATERAL (
                     SELECT true AS there FROM runs
                     WHERE connection = $1 AND vendor = $2 AND state IN ('submitting', 'waiting')
                         AND (trigger = 'fill') IS FALSE AND NOT blocked
                         AND base_url = mine.base_url AND account IN (mine.account, '')
                         AND GREATEST(ticketed_at, last_poll_at, lease_until) > reportd_now() - make_interval(secs => $4)
                     LIMIT 1
                 ) under_way ON true CROSS JOIN LATERAL (
                     SELECT 1 FROM runs
                     WHERE connection = $1 AND vendor = $2 AND state = 'queued' AND (trigger = 'fill') IS FALSE
                         AND next_step_at <= reportd_now() + make_interval(secs => $5)
                         AND next_step_at > CASE WHEN under_way.there THEN '-infinity'
                                                 ELSE reportd_now() - make_interval(secs => $4) END
                         AND NOT blocked AND base_url = mine.base_url AND account IN (mine.account, '') LIMIT 1
                 ) due WHERE mine.id = $3)",
    )
    .bind(permit.connection)
    .bind(permit.vendor)
    .bind(behind)
    .bind(YIELDS.as_secs_f64())
    .bind(slot_s(permit).max(1.0) * 1.5)
    .fetch_one(&mut **tx)
    .await
    .map_err(doing("look whether others go first"))
}

/// Seconds from one call of an account to the next.
fn slot_s(permit: &Permit<'_>) -> f64 {
    1.0 / permit.requests_per_second.max(0.001)
}

fn refusal(gate: &Gate) -> Option<Admission> {
    if gate.breaker_open && !gate.may_probe {
        return Some(Admission::BreakerOpen {
            reason: gate.breaker_reason.clone().unwrap_or_default(),
            probe_at: gate.breaker_probe_at.unwrap_or_default(),
            by_hand: gate.breaker_by_hand,
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
    .bind(slot_s(permit))
    .bind(gate.may_probe)
    .bind(PROBE.as_secs_f64())
    .bind(permit.secret)
    .execute(&mut **tx)
    .await
    .map_err(doing("count a call to the vendor"))?;
    Ok(())
}
