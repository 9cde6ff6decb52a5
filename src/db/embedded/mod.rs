//! A private PostgreSQL server for those who named no database of their own.
//!
//! It runs the PostgreSQL programs that the machine already has, on a data folder beside the user's files, so that a
//! first run, the tests and production speak to the same database. It opens no TCP port: clients connect through a
//! socket in a folder that only the server's user can enter, which is why no password is needed.
//!
//! Who starts, attaches or stops is decided under one lock file. Every living client also holds a shared lock on a
//! second file; the client that gives up the last share stops the server. Locks vanish with their process, so a killed
//! client leaves a running server behind and nothing else: the next client attaches and takes over the duty to stop it.
//! A server that was killed is started again by the next [`Embedded::up`].
//!
//! Refused here: downloading programs, tuning a server of the user's own, migrations, upgrading a data folder to
//! another major version, and reading the environment (the values come in [`EmbeddedOptions`]; what `sqlx` reads by
//! itself is overridden, `PGOPTIONS` excepted, which it gives no way to clear).

mod folder;
mod programs;
mod server;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use folder::Folder;

/// Longest wait for other processes that start or stop the same server; longer than any of their own limits together.
const LOCK_LIMIT: Duration = Duration::from_mins(2);

/// Where the cluster lives and which programs may run it. All values come from settings; this module reads no
/// environment.
#[derive(Debug, Clone)]
pub struct EmbeddedOptions {
    /// The folder for data, socket, locks and log; made with mode 0700. A folder that holds anything else is refused.
    pub dir: PathBuf,
    /// `REPORTD_PG_BIN`: the folder with `postgres` and `initdb` (or the one above its `bin`). When given, no other is
    /// used.
    pub pg_bin: Option<PathBuf>,
    /// `PATH`, searched before the folders that distributions use. Relative entries are ignored.
    pub search_path: Option<OsString>,
    /// Whether a commit survives a power cut. False only in tests: it turns `fsync` and its kind off.
    pub durable: bool,
}

/// What [`Embedded::up`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// There was no data folder: it was made, and the server started.
    Initialised,
    /// The data folder was there, and no server ran on it: it was started.
    Started,
    /// A server was already running.
    Attached,
}

/// What [`Embedded::release`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Release {
    /// This was the last client: the server is stopped.
    Stopped,
    /// Other clients still use the server: it runs on.
    StillUsed,
    /// The server may still be running, for the reason given; the next client attaches to it.
    Failed(String),
}

/// Why there is no embedded database.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// A file operation in or around the database folder failed.
    #[error("{action} {path}")]
    File {
        /// What was tried, such as `make the database folder`.
        action: &'static str,
        /// The file or folder it was tried on.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The database folder, or the one for its socket, belongs to somebody else.
    #[error(
        "{path} belongs to user {owner}, not to user {expected}: run reportd as that user or choose another folder"
    )]
    Owner {
        /// The folder.
        path: PathBuf,
        /// Numeric id of the user it belongs to.
        owner: u32,
        /// Numeric id of the user the server would run as.
        expected: u32,
    },
    /// The folder holds files, but none of ours.
    #[error("{path} is not empty and holds no database of reportd: choose another folder")]
    Foreign {
        /// The folder.
        path: PathBuf,
    },
    /// We are root, PostgreSQL refuses root, and there is nobody else to run it as.
    #[error(
        "postgresql refuses to run as root and this system has no user named postgres: \
         run reportd as a plain user, or make one with `useradd --system postgres`"
    )]
    NoAccount,
    /// The server's user cannot reach the database folder.
    #[error(
        "user {user} runs the database server and cannot enter {blocked}, which lies above {path}: choose another \
         folder, or `chmod o+x` that one"
    )]
    Unreachable {
        /// The server's user.
        user: String,
        /// The first folder on the way that the user cannot pass.
        blocked: PathBuf,
        /// The database folder.
        path: PathBuf,
    },
    /// No PostgreSQL server programs on this machine.
    #[error(
        "found no postgresql server programs (version {oldest} or later): {install}, \
         or name their folder in REPORTD_PG_BIN, or point DATABASE_URL at a server",
        oldest = programs::OLDEST
    )]
    NoPrograms {
        /// What to type on this system to get them.
        install: String,
    },
    /// `REPORTD_PG_BIN` names a folder without usable programs.
    #[error(
        "REPORTD_PG_BIN: {path} has no `postgres` and `initdb` that run here (version {oldest} or later)",
        oldest = programs::OLDEST
    )]
    NoProgramsIn {
        /// The folder named.
        path: PathBuf,
    },
    /// The data folder was written by a major version whose programs are not here.
    #[error(
        "{path} was made by postgresql {wanted}, and only version {found} is here: install postgresql {wanted}, or \
         move the data with pg_upgrade or pg_dump"
    )]
    Version {
        /// The data folder.
        path: PathBuf,
        /// Its major version.
        wanted: String,
        /// The versions that were found, such as `16, 17`.
        found: String,
    },
    /// A program did not start at all.
    #[error("run {program}")]
    Run {
        /// The program's path.
        program: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// `initdb` gave up.
    #[error("initdb could not make a database in {path}: {output}")]
    Init {
        /// The database folder.
        path: PathBuf,
        /// What it printed last.
        output: String,
    },
    /// The server ended instead of answering.
    #[error("the database server did not start; the end of {log}:\n{tail}")]
    Start {
        /// The server's log file.
        log: PathBuf,
        /// Its last lines of this start.
        tail: String,
    },
    /// The server neither ended nor answered in time. It is left running: it may be recovering.
    #[error("the database server does not answer after {seconds} s; it goes on trying; the end of {log}:\n{tail}")]
    Slow {
        /// How long was waited, in seconds.
        seconds: u64,
        /// The server's log file.
        log: PathBuf,
        /// Its last lines of this start.
        tail: String,
    },
    /// A server answers on our socket whose data folder is not the one on disk.
    #[error(
        "the server at {socket} serves a data folder that was removed; it ends by itself within about a minute, \
         try again then"
    )]
    Stranger {
        /// The folder of the socket.
        socket: PathBuf,
    },
    /// Another process has held the starters' lock for too long.
    #[error("another process has been starting or stopping this database for more than {seconds} s (it holds {path})")]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// How long was waited, in seconds.
        seconds: u64,
    },
    /// The server answered and refused us.
    #[error("connect to the database server at {socket}")]
    Connect {
        /// The folder of the socket.
        socket: PathBuf,
        /// What sqlx said.
        source: sqlx::Error,
    },
}

/// This process's share in the running server. Dropping it gives the share up without stopping anything, as a kill
/// would.
#[derive(Debug)]
#[must_use = "the last client stops the server with `release`"]
pub struct Embedded {
    folder: Folder,
    data: PathBuf,
    arrival: Arrival,
    /// Holds the shared lock that says this client lives.
    users: File,
}

impl Embedded {
    /// Makes sure that the server runs and that its database `reportd` exists, and takes a share in it.
    ///
    /// Waits at most 120 s for other starters, 60 s for `initdb` and 30 s for the server. Call it on a runtime that
    /// outlives the returned value, because a task of it collects the server's exit status.
    pub async fn up(options: &EmbeddedOptions) -> Result<Self, EmbeddedError> {
        let dir = options.dir.clone();
        let (folder, lock, users) = blocking(move || {
            let folder = Folder::open(&dir)?;
            let lock = folder.file(folder::LOCK)?;
            let users = folder.file(folder::USERS)?;
            Ok((folder, lock, users))
        })
        .await?;
        let lock = exclusive(&folder, lock).await?;

        let initialised = server::initialise(&folder, options).await?;
        let started = server::serve(&folder, options).await?;
        // Nobody can hold this exclusively: that is done under the lock we have.
        rustix::fs::flock(&users, FlockOperation::NonBlockingLockShared)
            .map_err(|error| folder.failed("lock", folder::USERS, error.into()))?;
        drop(lock);

        let arrival = match (initialised, started) {
            (true, _) => Arrival::Initialised,
            (false, true) => Arrival::Started,
            (false, false) => Arrival::Attached,
        };
        Ok(Self { data: folder.data(), folder, arrival, users })
    }

    /// What `up` found.
    pub fn arrival(&self) -> Arrival {
        self.arrival
    }

    /// The server's data folder.
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// The folder of the server's socket.
    pub fn socket_dir(&self) -> &Path {
        self.folder.socket()
    }

    /// Options for this cluster's database `reportd`; name another with `.database(…)`.
    pub fn connect_options(&self) -> PgConnectOptions {
        connect_options(self.folder.socket())
    }

    /// For psql and other tools: `postgresql://reportd@%2F…:5432/reportd`.
    pub fn url(&self) -> String {
        // The port is spelt out because psql would otherwise take it from PGPORT.
        format!("postgresql://{NAME}@{}:{PORT}/{NAME}", percent_encoded(self.folder.socket()))
    }

    /// Gives up this process's share; the last user stops the server (fast shutdown: open connections are cut, so close
    /// pools first). Returns what happened within 150 s, and never fails loudly.
    pub async fn release(self) -> Release {
        match self.give_up().await {
            Ok(release) => release,
            Err(error) => Release::Failed(crate::telemetry::Chain(&error).to_string()),
        }
    }

    async fn give_up(self) -> Result<Release, EmbeddedError> {
        let folder = self.folder.clone();
        let lock = blocking(move || folder.file(folder::LOCK)).await?;
        let _lock = exclusive(&self.folder, lock).await?;
        match rustix::fs::flock(&self.users, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => server::stop(&self.folder).await,
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(Release::StillUsed),
            Err(error) => Err(self.folder.failed("lock", folder::USERS, error.into())),
        }
    }
}

/// The superuser's name, and the name of the database.
const NAME: &str = "reportd";

/// Only part of the socket's file name: there is no TCP port.
const PORT: u16 = 5432;

/// Everything that sqlx would take from `PG*` variables is set here.
fn connect_options(socket: &Path) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .socket(socket)
        .port(PORT)
        .username(NAME)
        .database(NAME)
        .ssl_mode(PgSslMode::Disable)
        .application_name(NAME)
}

fn percent_encoded(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    let mut out = String::new();
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("a String takes every write");
        }
    }
    out
}

/// Waits for the starters' lock by asking again and again: a blocking `flock` could not be given up.
async fn exclusive(folder: &Folder, file: File) -> Result<File, EmbeddedError> {
    let since = tokio::time::Instant::now();
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) if since.elapsed() < LOCK_LIMIT => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {
                return Err(EmbeddedError::Locked {
                    path: folder.path().join(folder::LOCK),
                    seconds: LOCK_LIMIT.as_secs(),
                });
            }
            Err(error) => return Err(folder.failed("lock", folder::LOCK, error.into())),
        }
    }
}

/// Runs file operations where they may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EmbeddedError> + Send + 'static,
) -> Result<T, EmbeddedError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(EmbeddedError::File {
            action: "finish work on",
            path: PathBuf::from("the database folder"),
            source: io::Error::other(error),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_spaces_and_non_ascii_letters_survives_the_url() {
        assert_eq!(percent_encoded(Path::new("/a b/é%")), "%2Fa%20b%2F%C3%A9%25");
    }
}
