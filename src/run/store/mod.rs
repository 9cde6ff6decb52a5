//! Every SQL statement on runs, their tasks, events and revisions. Nothing outside this folder writes those tables.
//!
//! - A worker's write names its lease token and the states it may start from (asked of state.rs), and must change exactly
//!   one row; otherwise the lease is lost and the worker stops. The one exception is a ticket in hand
//!   ([`progress`]): it is recorded by its attempt even when the lease is gone, because losing it could mean mailing twice.
//! - Time is `reportd_now()`, never the process's clock.
//! - No transaction spans a network call.

pub mod adopt;
pub mod alert;
pub mod attention;
pub mod calendar;
pub mod claim;
pub mod delivery;
pub mod doubt;
mod fires;
pub mod firing;
pub mod job_set;
pub mod ledger;
pub mod make;
pub mod operator;
pub mod pause;
pub mod permit;
pub mod progress;
pub mod query;
pub mod retention;
pub mod revision;
mod revive;
pub mod sending;
pub mod series;
pub mod serving;
pub mod untold;

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use thiserror::Error;

use super::Who;

/// How long a claim holds without renewal. A create's time limit is shorter (at most 50 s), so a create that is still
/// under way always has a living lease or one that ended less than one lease time ago.
pub const LEASE: Duration = Duration::from_secs(60);

/// Claims without a finished step after which a run fails: it kills its workers.
pub const MAX_CLAIMS: i32 = 20;

/// What can go wrong with a statement.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Another worker or an operator has the run; an expected outcome, which stops the step.
    #[error("the run is no longer ours: its lease ended or its state was changed")]
    LeaseLost,
    /// What was asked cannot be done in the run's present state; says what can.
    #[error("{0}")]
    Refused(String),
    /// The database took a statement and did not answer in time.
    #[error("{what}: the database does not answer")]
    Silent {
        /// What was being done.
        what: &'static str,
    },
    /// The database failed.
    #[error("{what}")]
    Database {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: sqlx::Error,
    },
}

impl StoreError {
    /// The database understood the statement and refuses its values: asking again changes nothing.
    pub fn is_refusal(&self) -> bool {
        let StoreError::Database { source: sqlx::Error::Database(error), .. } = self else { return false };
        // Classes of SQLSTATE: 22 data exceptions, 23 constraints.
        error.code().is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
    }
}

/// Names the operation of a failed statement.
pub(crate) fn doing(what: &'static str) -> impl FnOnce(sqlx::Error) -> StoreError {
    move |source| StoreError::Database { what, source }
}

/// Exactly one row, or the lease is lost.
pub(crate) fn fenced(rows: u64) -> Result<(), StoreError> {
    if rows == 1 { Ok(()) } else { Err(StoreError::LeaseLost) }
}

/// The store: a pool, and who writes through it.
#[derive(Clone, Debug)]
pub struct RunStore {
    pub(crate) pool: PgPool,
    pub(crate) who: Who,
}

impl RunStore {
    /// A store whose events are signed `who`.
    pub fn new(pool: PgPool, who: Who) -> RunStore {
        RunStore { pool, who }
    }

    /// The same store over a connection of its own, made when it is first needed.
    #[must_use]
    pub fn on_own_connection(&self) -> RunStore {
        // Nobody shares it and whoever gives a question up makes a new one, so it is only asked whether it is there.
        let options = self.pool.options().clone().max_connections(1).min_connections(0);
        let options = options.before_acquire(|connection, _| Box::pin(is_there(connection)));
        RunStore { pool: options.connect_lazy_with((*self.pool.connect_options()).clone()), who: self.who.clone() }
    }

    /// The same store over new connections: those of the old one may be dead without knowing it.
    #[must_use]
    pub fn on_new_connections(&self) -> RunStore {
        let options = self.pool.options().clone();
        RunStore { pool: options.connect_lazy_with((*self.pool.connect_options()).clone()), who: self.who.clone() }
    }

    /// Who signs what is written through this store.
    pub fn signed(&self) -> &str {
        &self.who.0
    }

    /// The database's present instant: the only one to compare with times in rows.
    pub async fn now(&self) -> Result<DateTime<Utc>, StoreError> {
        sqlx::query_scalar("SELECT reportd_now()")
            .fetch_one(&self.pool)
            .await
            .map_err(doing("read the database's clock"))
    }

    /// Adds a line to a run's history.
    pub async fn event(&self, run: uuid::Uuid, kind: &str, detail: &str) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO run_events (run_id, kind, who, detail) VALUES ($1, $2, $3, left($4, 4000))")
            .bind(run)
            .bind(kind)
            .bind(&self.who.0)
            .bind(detail)
            .execute(&self.pool)
            .await
            .map_err(doing("write an event of a run"))?;
        Ok(())
    }
}

/// Whether the other end of an idle connection answers soon.
async fn is_there(connection: &mut sqlx::PgConnection) -> Result<bool, sqlx::Error> {
    let ping = tokio::time::timeout(Duration::from_secs(2), sqlx::Connection::ping(connection)).await;
    ping.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map(|()| true)
}

/// What the database knows of itself.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Instance {
    /// This database.
    pub database_id: uuid::Uuid,
    /// The archive it belongs to, once it has written to one.
    pub archive_id: Option<uuid::Uuid>,
    /// Salt of fingerprints.
    pub salt: Vec<u8>,
}

impl RunStore {
    /// What the database knows of itself.
    pub async fn instance(&self) -> Result<Instance, StoreError> {
        sqlx::query_as("SELECT database_id, archive_id, salt FROM instance")
            .fetch_one(&self.pool)
            .await
            .map_err(doing("read what the database knows of itself"))
    }

    /// Bonds the database to an archive: only the first time, or again with `over` (after a rebuild).
    pub async fn bond(&self, archive: uuid::Uuid, over: bool) -> Result<(), StoreError> {
        sqlx::query("UPDATE instance SET archive_id = $1 WHERE archive_id IS NULL OR $2")
            .bind(archive)
            .bind(over)
            .execute(&self.pool)
            .await
            .map_err(doing("bond the database to the archive"))?;
        Ok(())
    }
}
