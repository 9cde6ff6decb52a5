//! The composition root: settings, job files, database, archive and clients put together. The only place that picks them.
//!
//! [`Files`] is what needs no database: `validate` and `plan` stop there. [`App`] is the rest.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::archive::{Archive, ArchiveError};
use crate::clock::Clock;
use crate::connection::Connection;
use crate::connection::environment::Environment;
use crate::db::{Db, DbError, Migration};
use crate::delivery::outside::Outside;
use crate::job::load::Jobs;
use crate::job::{self, Job, Series};
use crate::run::Who;
use crate::run::store::{RunStore, StoreError};
use crate::settings::{self, Loaded, Settings};
use crate::vendor::http::Http;
use crate::worker::lease::Leases;
use crate::worker::post::Post;
use crate::worker::{Accounts, Worker};
use crate::yaml::{Problem, Severity};

/// What the command line says about files.
#[derive(Clone, Debug)]
pub struct Place {
    /// `--config`, or `./reportd.yaml`.
    pub config: PathBuf,
    /// The user named it, so it must exist.
    pub config_named: bool,
    /// `--jobs`, or `./jobs`.
    pub jobs: PathBuf,
}

/// Config and job files, with all their problems.
#[derive(Debug)]
pub struct Files {
    /// What could be understood of the config.
    pub settings: Settings,
    /// The jobs without errors, and all problems.
    pub jobs: Jobs,
    /// The config's problems.
    pub config_problems: Vec<Problem>,
}

/// Whether this process runs as root, whom PostgreSQL refuses.
pub fn as_root() -> bool {
    rustix::process::geteuid().is_root()
}

impl Files {
    /// Reads config and jobs.
    pub fn load(place: &Place, environment: Environment, clock: &Clock) -> Files {
        let Loaded { settings, problems } = settings::load(&place.config, place.config_named, environment, as_root());
        Files::with(settings, problems, &place.jobs, clock)
    }

    /// Reads jobs against settings that are there already.
    pub fn with(settings: Settings, config_problems: Vec<Problem>, jobs: &Path, clock: &Clock) -> Files {
        let jobs = job::load::load(jobs, &settings.connections, &settings.defaults, clock.now());
        Files { settings, jobs, config_problems }
    }

    /// All problems, the config's first.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.config_problems.iter().chain(&self.jobs.problems)
    }

    /// The errors that keep `name` from running: the config's, and those of its own file, or all without a name.
    pub fn errors_of(&self, name: Option<&str>) -> Vec<Problem> {
        let of_job = |p: &&Problem| {
            name.is_none_or(|name| Path::new(&p.file).file_stem().is_some_and(|stem| stem == name)) || p.line == 0
        };
        let config = self.config_problems.iter();
        let jobs = self.jobs.problems.iter().filter(of_job);
        config.chain(jobs).filter(|p| p.severity == Severity::Error).cloned().collect()
    }

    /// The series that `JOB[@CONN]` names, or all; the error lists what there is.
    pub fn series(&self, selection: Option<&Selection>) -> Result<Vec<(&Job, &Series, &Connection)>, String> {
        let mut found = Vec::new();
        for job in &self.jobs.jobs {
            if selection.is_some_and(|s| s.job != job.name) {
                continue;
            }
            for series in &job.series {
                let named = selection.and_then(|s| s.connection.as_ref());
                if named.is_some_and(|name| *name != series.connection) {
                    continue;
                }
                if let Some(connection) = job::connection(&self.settings.connections, &series.connection) {
                    found.push((job, series, connection));
                }
            }
        }
        match selection {
            Some(selection) if found.is_empty() => Err(self.unknown(selection)),
            _ => Ok(found),
        }
    }

    fn unknown(&self, selection: &Selection) -> String {
        let names: Vec<&str> = self.jobs.jobs.iter().map(|j| j.name.as_str()).collect();
        match self.jobs.jobs.iter().find(|j| j.name == selection.job) {
            Some(job) => {
                let connections: Vec<&str> = job.series.iter().map(|s| s.connection.as_str()).collect();
                format!(
                    "job '{}' does not run for connection '{}' (it runs for {})",
                    job.name,
                    selection.connection.as_deref().unwrap_or_default(),
                    connections.join(", ")
                )
            }
            None => {
                let guess = crate::yaml::did_you_mean(&selection.job, &names)
                    .map_or_else(String::new, |n| format!(", did you mean '{n}'?"));
                format!("no job '{}'{guess} (jobs: {})", selection.job, names.join(", "))
            }
        }
    }
}

/// `JOB[@CONN]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Job name.
    pub job: String,
    /// Connection name.
    pub connection: Option<String>,
}

impl std::str::FromStr for Selection {
    type Err = String;

    fn from_str(text: &str) -> Result<Selection, String> {
        let (job, connection) = match text.split_once('@') {
            Some((job, connection)) => (job, Some(connection)),
            None => (text, None),
        };
        for name in [Some(job), connection].into_iter().flatten() {
            if !job::is_name(name) {
                return Err(format!("'{text}' is not JOB or JOB@CONNECTION (names are [a-z0-9-])"));
            }
        }
        Ok(Selection { job: job.to_owned(), connection: connection.map(str::to_owned) })
    }
}

/// Why the application did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The database belongs to an archive, and it is not there.
    #[error(
        "the database belongs to an archive that is not where the config says; mount or restore it, or correct `archive`"
    )]
    ArchiveLost(#[source] ArchiveError),
    /// The first statements.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The HTTP clients.
    #[error("set up HTTP (the machine's TLS roots)")]
    Http(#[source] reqwest::Error),
}

/// What a command does with the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveUse {
    /// Puts reports into it; makes it when it is not there.
    Writes,
    /// Reads it at most; nothing is made.
    Reads,
    /// Writes, after emptying a rehearsal's database: a rehearsal starts clean.
    Rehearses,
}

fn lost(bonded: bool, error: ArchiveError) -> StartError {
    if bonded { StartError::ArchiveLost(error) } else { StartError::Archive(error) }
}

/// Opens the database alone, for commands that need neither archive nor vendors. `who` signs what is written.
pub async fn open_database(settings: &Settings, who: Who) -> Result<(Db, RunStore), StartError> {
    let db = Db::open(settings, Migration::EmbeddedOnly).await?;
    let store = RunStore::new(db.pool.clone(), who);
    Ok((db, store))
}

/// Everything that works on runs.
#[derive(Debug)]
pub struct App {
    /// The database.
    pub db: Db,
    /// What makes steps.
    pub worker: Worker,
    renewal: tokio::task::JoinHandle<()>,
}

impl App {
    /// Opens database and archive. `who` signs what is written to histories.
    pub async fn open(
        settings: &Settings,
        clock: Clock,
        who: Who,
        migration: Migration,
        archive: ArchiveUse,
    ) -> Result<App, StartError> {
        let db = Db::open(settings, migration).await?;
        match App::with(&db, settings, clock, who, archive).await {
            Ok((worker, renewal)) => Ok(App { db, worker, renewal }),
            Err(error) => {
                db.close().await;
                Err(error)
            }
        }
    }

    async fn with(
        db: &Db,
        settings: &Settings,
        clock: Clock,
        who: Who,
        archive: ArchiveUse,
    ) -> Result<(Worker, tokio::task::JoinHandle<()>), StartError> {
        if archive == ArchiveUse::Rehearses {
            db.wipe().await?;
        }
        let store = RunStore::new(db.pool.clone(), who);
        let instance = store.instance().await?;
        // A database that belongs to an archive never makes another: the folder may just not be mounted.
        let bonded = instance.archive_id.is_some();
        let worker = Worker {
            archive: match archive {
                ArchiveUse::Writes | ArchiveUse::Rehearses => {
                    Archive::open(&settings.archive, !bonded).await.map_err(|e| lost(bonded, e))?
                }
                ArchiveUse::Reads => Archive::attach(&settings.archive).await?,
            },
            http: Http::new().map_err(StartError::Http)?,
            accounts: Accounts::new(settings, &instance.salt),
            post: Post::new(settings, Outside::new().map_err(StartError::Http)?),
            leases: Leases::default(),
            clock,
            store,
        };
        if archive != ArchiveUse::Reads {
            worker.archive.spool().sweep().map_err(|e| StartError::Archive(ArchiveError::Spool(e)))?;
        }
        let renewal = worker.leases.keep(&worker.store);
        Ok((worker, renewal))
    }

    /// Closes what was opened; the embedded database stops with its last user.
    pub async fn close(self) {
        self.renewal.abort();
        self.db.close().await;
    }
}

/// Who this process is, for histories: `worker` or the user, host and process.
pub fn who(environment: &Environment, operator: bool) -> Who {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let user = ["REPORTD_USER", "SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| environment.get(name));
    let user = user.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
    if operator {
        return Who(format!("{user}@{host}"));
    }
    Who(format!("reportd {user}@{host} pid {}", std::process::id()))
}
