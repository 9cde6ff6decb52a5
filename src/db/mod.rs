//! Postgres: which one, its pool, its migrations.
//!
//! Without a server of one's own a private cluster is run from the machine's programs ([`embedded`]); the SQL is the same. On
//! a server of one's own only `serve` and `migrate` change the schema, so that a laptop with a newer reportd cannot move a
//! running service's database; the embedded one is ours alone and is migrated by whoever comes first.

pub mod embedded;
pub mod look;

use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgPool, Row as _};
use thiserror::Error;

use crate::settings::{Database, Settings};
use embedded::{Arrival, Embedded, EmbeddedError, EmbeddedOptions};

/// The migrations, compiled in.
pub static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// What can go wrong before the first statement.
#[derive(Debug, Error)]
pub enum DbError {
    /// The variable that was to hold the URL is unset.
    #[error("the database is to come from environment variable {0}, which is not set")]
    Unset(String),
    /// The URL cannot be read; it is not shown, since it may hold a password.
    #[error("the database's URL cannot be read; it looks like postgresql://user@host:5432/name")]
    Url,
    /// The private cluster did not come up.
    #[error("start the embedded PostgreSQL")]
    Embedded(#[source] EmbeddedError),
    /// No connection.
    #[error("connect to the database at {0}: is it running, and is the URL right")]
    Unreachable(String, #[source] sqlx::Error),
    /// The first statements failed.
    #[error("ask the database")]
    Connect(#[source] sqlx::Error),
    /// A migration failed.
    #[error("migrate the database")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// The schema is older than this binary.
    #[error("the database's schema is version {have}, and this reportd needs {need}: run `reportd migrate`")]
    Behind {
        /// What it is.
        have: i64,
        /// What it must be.
        need: i64,
    },
    /// The schema is newer than this binary.
    #[error("the database's schema is version {have}, which this reportd ({}) does not know: use the newer reportd", env!("CARGO_PKG_VERSION"))]
    Ahead {
        /// What it is.
        have: i64,
    },
}

/// Who may change the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Migration {
    /// Only in an embedded cluster.
    EmbeddedOnly,
    /// Anywhere: `serve` and `migrate`.
    Always,
}

/// A database that is ready.
#[derive(Debug)]
pub struct Db {
    /// Connections.
    pub pool: PgPool,
    /// For people, on stderr: where the data is and how to point elsewhere. `None` for a server of one's own.
    pub notice: Option<String>,
    embedded: Option<(Embedded, EmbeddedOptions)>,
}

/// A connection gives up on a lock after this long, and the server on a transaction that we let idle: a frozen process then
/// stops nobody.
const SESSION: [(&str, &str); 4] = [
    ("statement_timeout", "60s"),
    ("lock_timeout", "15s"),
    ("idle_in_transaction_session_timeout", "10s"),
    ("application_name", "reportd"),
];

/// An idle connection that does not answer within this is replaced.
const PING_LIMIT: Duration = Duration::from_secs(2);

/// Longest wait for the connections of a pool that is closed.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

fn from_url(url: &SecretString) -> Result<PgConnectOptions, DbError> {
    url.expose_secret().parse::<PgConnectOptions>().map_err(|_| DbError::Url)
}

/// What to connect to, the embedded cluster started if that is the setting.
async fn reach(settings: &Settings) -> Result<(PgConnectOptions, Option<(Embedded, EmbeddedOptions)>), DbError> {
    let (options, embedded) = match &settings.database {
        Database::Env(name) => {
            let url = settings.environment.get(name).ok_or_else(|| DbError::Unset(name.clone()))?;
            (from_url(&url.into())?, None)
        }
        Database::Url(url) => (from_url(url)?, None),
        Database::Embedded(dir) => {
            let options = EmbeddedOptions {
                dir: dir.clone(),
                pg_bin: settings.environment.get("REPORTD_PG_BIN").map(PathBuf::from),
                search_path: settings.environment.get("PATH").map(Into::into),
                durable: true,
            };
            let embedded = Embedded::up(&options).await.map_err(DbError::Embedded)?;
            (embedded.connect_options(), Some((embedded, options)))
        }
    };
    let options = options.options(SESSION).log_slow_statements(tracing::log::LevelFilter::Warn, Duration::from_secs(5));
    Ok((options, embedded))
}

/// An idle connection is given back to the server: other replicas, and people's commands, need some too.
const IDLE: Duration = Duration::from_secs(60);

fn pool_options() -> PgPoolOptions {
    // README 8 tells how many these are with those of the planner, the leases, the notices and the ear.
    let pool = PgPoolOptions::new().max_connections(16).acquire_timeout(Duration::from_secs(10)).idle_timeout(IDLE);
    // sqlx's own test waits for as long as the acquire may take, and then no time is left for a new connection.
    pool.test_before_acquire(false).before_acquire(|connection, _| Box::pin(answers(connection)))
}

impl Db {
    /// Connects, starting the embedded cluster if that is the setting, and checks or migrates the schema.
    pub async fn open(settings: &Settings, migration: Migration) -> Result<Db, DbError> {
        let (options, embedded) = reach(settings).await?;
        let notice = embedded.as_ref().map(|(embedded, _)| {
            let how = match embedded.arrival() {
                Arrival::Initialised => "made",
                Arrival::Started => "started",
                Arrival::Attached => "running",
            };
            format!(
                "embedded PostgreSQL {how} in {}; to use a server of your own set DATABASE_URL, or `database:` in reportd.yaml",
                embedded.data_dir().display()
            )
        });
        let may_migrate = embedded.is_some() || migration == Migration::Always;
        let prepared = prepare(&options, may_migrate).await;
        let pool = match prepared {
            Ok(()) => pool_options().connect_with(options).await.map_err(DbError::Connect),
            Err(error) => Err(error),
        };
        match pool {
            Ok(pool) => Ok(Db { pool, notice, embedded }),
            Err(error) => {
                if let Some((embedded, _)) = embedded {
                    embedded.release().await;
                }
                Err(error)
            }
        }
    }

    /// Empties a rehearsal's database, which starts clean each time.
    pub async fn wipe(&self) -> Result<(), DbError> {
        let statements =
            "TRUNCATE alert_members, alerts, delivery_runs, deliveries, artifacts, revisions, run_events, remote_tasks, runs, fires, series_rules, series_pauses, series,
                          connections, job_files, gone_files, former_names, replicas RESTART IDENTITY;
             UPDATE job_set SET version = 0, applied_at = NULL, applied_by = NULL;
             UPDATE instance SET archive_id = NULL";
        sqlx::raw_sql(statements).execute(&self.pool).await.map_err(DbError::Connect)?;
        Ok(())
    }

    /// Closes the pool and, as its last user, stops the embedded cluster.
    pub async fn close(self) {
        // A connection that was lost in the middle of a question never comes back to its pool.
        drop(tokio::time::timeout(CLOSE_LIMIT, self.pool.close()).await);
        if let Some((embedded, _)) = self.embedded {
            embedded.release().await;
        }
    }

    /// What starts the embedded cluster again when its server was killed; `None` for a server of one's own.
    pub fn revival(&self) -> Option<Revival> {
        self.embedded.as_ref().map(|(_, options)| Revival(options.clone()))
    }
}

/// Starts a killed embedded cluster again.
#[derive(Clone, Debug)]
pub struct Revival(EmbeddedOptions);

impl Revival {
    /// Makes sure that the server runs. The share in it stays with the [`Db`], whose lock a killed server does not end.
    pub async fn revive(&self) -> Result<(), DbError> {
        drop(Embedded::up(&self.0).await.map_err(DbError::Embedded)?);
        Ok(())
    }
}

/// Whether the other end of an idle connection is there: a way that swallows packets is found out here. And whether the
/// connection is free: sqlx forgets a BEGIN whose future was dropped, and what is then written on it is lost without a word.
async fn answers(connection: &mut sqlx::PgConnection) -> Result<bool, sqlx::Error> {
    let look = async {
        // Equal in the first statement of a transaction, as every statement outside of one is: as a simple query, since in a
        // prepared one the statement begins again, and later, when it is executed.
        let row =
            sqlx::raw_sql("SELECT transaction_timestamp() < statement_timestamp()").fetch_one(&mut *connection).await?;
        let in_transaction: bool = row.try_get(0)?;
        if in_transaction {
            sqlx::raw_sql("ROLLBACK").execute(&mut *connection).await?;
        }
        Ok(true)
    };
    tokio::time::timeout(PING_LIMIT, look).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

async fn connect(options: &PgConnectOptions) -> Result<sqlx::PgConnection, DbError> {
    let place = format!("{}:{}", options.get_host(), options.get_port());
    sqlx::PgConnection::connect_with(options).await.map_err(|e| DbError::Unreachable(place, e))
}

/// The version of the schema: the newest migration that ran, 0 for an empty database.
async fn version(connection: &mut sqlx::PgConnection) -> Result<i64, DbError> {
    let there: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await
        .map_err(DbError::Connect)?;
    if !there {
        return Ok(0);
    }
    sqlx::query_scalar("SELECT COALESCE(max(version), 0) FROM _sqlx_migrations WHERE success")
        .fetch_one(&mut *connection)
        .await
        .map_err(DbError::Connect)
}

/// The version this binary needs.
pub fn needed_version() -> i64 {
    MIGRATIONS.iter().map(|m| m.version).max().unwrap_or(0)
}

/// Migrates where that is allowed, and makes sure that the schema is the one this binary knows. On a connection of its own:
/// the migration lock belongs to a session.
async fn prepare(options: &PgConnectOptions, may_migrate: bool) -> Result<(), DbError> {
    let mut connection = connect(options).await?;
    let result = prepare_on(&mut connection, may_migrate).await;
    drop(connection.close().await);
    result
}

async fn prepare_on(connection: &mut sqlx::PgConnection, may_migrate: bool) -> Result<(), DbError> {
    let (have, need) = (version(connection).await?, needed_version());
    if have > need {
        return Err(DbError::Ahead { have });
    }
    if have < need && !may_migrate {
        return Err(DbError::Behind { have, need });
    }
    if have < need {
        MIGRATIONS.run(&mut *connection).await.map_err(DbError::Migrate)?;
    }
    Ok(())
}

/// The version of the schema that `settings` point at, and the one needed; changes nothing.
pub async fn check(settings: &Settings) -> Result<(i64, i64), DbError> {
    let url = match &settings.database {
        Database::Env(name) => settings.environment.get(name).ok_or_else(|| DbError::Unset(name.clone()))?.into(),
        Database::Url(url) => url.clone(),
        // Whoever opens it migrates it.
        Database::Embedded(_) => return Ok((needed_version(), needed_version())),
    };
    let mut connection = connect(&from_url(&url)?).await?;
    let have = version(&mut connection).await;
    drop(connection.close().await);
    Ok((have?, needed_version()))
}
