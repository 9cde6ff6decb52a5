//! A look at the database for `doctor`: which one it is, whether it answers, its schema, whether it can be written, its clock.
//! Changes nothing and migrates nothing; only an embedded cluster that does not run is started, as any command would.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::Connection;
use sqlx::postgres::PgConnectOptions;

use super::embedded::Arrival;
use super::{Db, DbError, connect, pool_options, reach, version};
use crate::clock::Clock;
use crate::settings::Settings;

/// What was seen. Its pool is good for statements when the schema is the one this binary knows.
#[derive(Debug)]
pub struct Look {
    /// The database; to be closed.
    pub db: Db,
    /// `host:port/name`, or the data folder of an embedded cluster.
    pub place: String,
    /// How an embedded cluster came to run; `None` for a server of one's own.
    pub arrival: Option<Arrival>,
    /// The version of its schema; 0 when nobody ever migrated it.
    pub have: i64,
    /// Whether a transaction there may write.
    pub writable: bool,
    /// How far this process's clock is before the server's; negative when it is behind.
    pub ahead: TimeDelta,
}

impl Look {
    /// Looks. What is wrong with a database that answers is in the value, not in the error.
    pub async fn at(settings: &Settings, clock: &Clock) -> Result<Look, DbError> {
        let (options, embedded) = reach(settings).await?;
        let place = match &embedded {
            Some((embedded, _)) => embedded.data_dir().display().to_string(),
            None => {
                let name = options.get_database().map_or_else(String::new, |name| format!("/{name}"));
                format!("{}:{}{name}", options.get_host(), options.get_port())
            }
        };
        match see(&options, clock).await {
            Ok((have, writable, ahead)) => {
                let arrival = embedded.as_ref().map(|(embedded, _)| embedded.arrival());
                let pool = pool_options().connect_lazy_with(options);
                Ok(Look { db: Db { pool, notice: None, embedded }, place, arrival, have, writable, ahead })
            }
            Err(error) => {
                if let Some((embedded, _)) = embedded {
                    embedded.release().await;
                }
                Err(error)
            }
        }
    }
}

async fn see(options: &PgConnectOptions, clock: &Clock) -> Result<(i64, bool, TimeDelta), DbError> {
    let mut connection = connect(options).await?;
    let have = version(&mut connection).await?;
    let before = clock.now();
    let (server, writable): (DateTime<Utc>, bool) =
        sqlx::query_as("SELECT clock_timestamp(), NOT current_setting('transaction_read_only')::boolean")
            .fetch_one(&mut connection)
            .await
            .map_err(DbError::Connect)?;
    let after = clock.now();
    drop(connection.close().await);
    // The server read its clock somewhere in between.
    Ok((have, writable, before + (after - before) / 2 - server))
}
