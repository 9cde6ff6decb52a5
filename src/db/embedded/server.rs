//! The server's life: make its data folder, start it, ask it, stop it. Everything here happens under the starters' lock.
//!
//! Only the socket says whether a server is alive; a process number in a file is believed by nobody here, except to stop
//! the server that has just answered. Whether two servers could meet on one data folder is left to PostgreSQL, whose own
//! interlock (its lock file and the shared memory that it names) is never removed or edited.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection as _, Executor as _};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::folder::{Folder, LOG, UNFINISHED, last_lines};
use super::programs::{self, Programs};
use super::{EmbeddedError, EmbeddedOptions, NAME, Release, blocking, connect_options};

/// `initdb` takes half a second; a very slow disk gets this long.
const INIT_LIMIT: Duration = Duration::from_mins(1);
/// From the first question to the server's first answer.
const START_LIMIT: Duration = Duration::from_secs(30);
/// A fast shutdown writes a checkpoint.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// One question on the socket: a frozen server takes the connection and never answers.
const ASK_LIMIT: Duration = Duration::from_secs(5);
/// Processes of a killed server vanish within about a second; until then a new one refuses to start.
const REMAINS_LIMIT: Duration = Duration::from_secs(10);
/// After this long the process that the lock file names is no server in its first moments: one would have answered.
const STALE_AFTER: Duration = Duration::from_secs(1);
/// Between two questions.
const STEP: Duration = Duration::from_millis(10);

/// Makes the data folder unless there is one. True if it did.
pub(super) async fn initialise(folder: &Folder, options: &EmbeddedOptions) -> Result<bool, EmbeddedError> {
    let place = folder.clone();
    let version = blocking(move || {
        place.remove_unfinished();
        place.version()
    })
    .await?;
    if version.is_some() {
        return Ok(false);
    }
    let programs = programs::find(options, &folder.data(), None).await?;
    let unfinished = folder.path().join(format!("{UNFINISHED}{}", uuid::Uuid::new_v4().simple()));
    let mut command = command(folder, &programs.initdb);
    command.arg("-D").arg(&unfinished).args(["-U", NAME, "-A", "trust", "-E", "UTF8", "--no-locale"]);
    // One flush of the file system before the folder gets its name is several times faster than initdb's own, file by
    // file. Only Linux has that call.
    if cfg!(target_os = "linux") || !options.durable {
        command.arg("--no-sync");
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn().map_err(|source| cannot_run(folder, &programs.initdb, source))?;
    let failed = |output: String| EmbeddedError::Init { path: folder.path().to_path_buf(), output };
    let output = match timeout(INIT_LIMIT, child.wait_with_output()).await {
        Ok(output) => output.map_err(|source| cannot_run(folder, &programs.initdb, source))?,
        Err(_) => return Err(failed(format!("not ready after {} s", INIT_LIMIT.as_secs()))),
    };
    if !output.status.success() {
        return Err(failed(last_lines(&String::from_utf8_lossy(&output.stderr))));
    }
    let (place, durable) = (folder.clone(), options.durable);
    blocking(move || place.adopt(&unfinished, durable)).await?;
    Ok(true)
}

/// Returns when the server answers and its database exists. True if it had to be started.
pub(super) async fn serve(folder: &Folder, options: &EmbeddedOptions) -> Result<bool, EmbeddedError> {
    let since = Instant::now();
    let mut server: Option<Started> = None;
    let mut refused_since: Option<Instant> = None;
    loop {
        match ask(folder, NAME).await? {
            Answer::Ready => break,
            Answer::NoDatabase => create_database(folder).await?,
            Answer::NotYet => {}
            Answer::Nobody => match server.as_mut().map(Started::runs) {
                Some(true) => {}
                None => {
                    let stale = refused_since.is_some_and(|since| since.elapsed() > STALE_AFTER);
                    server = Some(start(folder, options, stale).await?);
                }
                Some(false) => {
                    let tail = tail(folder, server.take().map_or(0, |started| started.log_from)).await;
                    let waited = refused_since.get_or_insert_with(Instant::now).elapsed();
                    if !met_remains(&tail) || waited > REMAINS_LIMIT {
                        return Err(EmbeddedError::Start { log: folder.path().join(LOG), tail });
                    }
                    sleep(STEP * 10).await;
                }
            },
        }
        if since.elapsed() > START_LIMIT {
            let tail = tail(folder, server.map_or(0, |started| started.log_from)).await;
            return Err(EmbeddedError::Slow { seconds: START_LIMIT.as_secs(), log: folder.path().join(LOG), tail });
        }
        sleep(STEP).await;
    }
    match server {
        Some(mut started) => {
            // Unless its exit status is collected, a server that is killed stays in the process table, and the next one
            // takes it for alive.
            drop(tokio::spawn(async move { started.child.wait().await.is_ok() }));
            Ok(true)
        }
        None => Ok(false),
    }
}

/// Stops the server and waits until it is gone.
pub(super) async fn stop(folder: &Folder) -> Result<Release, EmbeddedError> {
    let place = folder.clone();
    let pid = blocking(move || Ok(place.server_pid())).await?;
    if matches!(ask(folder, NAME).await?, Answer::Nobody) {
        return Ok(Release::Stopped);
    }
    let Some(pid) = pid else {
        return Ok(Release::Failed(
            "the server runs without its postmaster.pid, so it cannot be told to stop".to_owned(),
        ));
    };
    match rustix::process::kill_process(pid, Signal::INT) {
        // Killed after it answered: the wait below ends at once.
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => {
            let pid = pid.as_raw_pid();
            return Ok(Release::Failed(format!("cannot signal the server (process {pid}): {error}")));
        }
    }
    let since = Instant::now();
    loop {
        let place = folder.clone();
        // The server removes its file as its last act; one that is killed meanwhile leaves it.
        let gone = blocking(move || Ok(place.server_pid() != Some(pid))).await?;
        if gone || rustix::process::test_kill_process(pid).is_err() {
            let place = folder.clone();
            blocking(move || {
                place.remove_socket_folder();
                Ok(())
            })
            .await?;
            return Ok(Release::Stopped);
        }
        if since.elapsed() > STOP_LIMIT {
            return Ok(Release::Failed(format!("the server is still stopping after {} s", STOP_LIMIT.as_secs())));
        }
        sleep(STEP).await;
    }
}

/// What the socket says.
enum Answer {
    /// Our server, with our database.
    Ready,
    /// Our server; a first start was cut off before it made the database.
    NoDatabase,
    /// A server that is starting, recovering, stopping or frozen.
    NotYet,
    /// No one listens.
    Nobody,
}

async fn ask(folder: &Folder, database: &str) -> Result<Answer, EmbeddedError> {
    let place = folder.clone();
    let expected = blocking(move || place.identity()).await?;
    let options = connect_options(folder.socket()).database(database);
    let Ok(answer) = timeout(ASK_LIMIT, identity(&options)).await else {
        return Ok(Answer::NotYet);
    };
    match answer {
        Ok(found) if found == expected => Ok(Answer::Ready),
        Ok(_) => Err(EmbeddedError::Stranger { socket: folder.socket().to_path_buf() }),
        Err(sqlx::Error::Io(error)) => match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => Ok(Answer::Nobody),
            std::io::ErrorKind::PermissionDenied => Err(refused(folder, sqlx::Error::Io(error))),
            // A server that is being stopped or killed hangs up.
            _ => Ok(Answer::NotYet),
        },
        Err(error) => match error.as_database_error().and_then(sqlx::error::DatabaseError::code).as_deref() {
            Some("3D000") => Ok(Answer::NoDatabase),
            // Classes 53 (no connection left) and 57 (starting up, shutting down).
            Some(code) if code.starts_with("53") || code.starts_with("57") => Ok(Answer::NotYet),
            // Class 58: the server cannot read its own files.
            Some(code) if code.starts_with("58") => Err(stranger(folder)),
            _ => Err(refused(folder, error)),
        },
    }
}

/// Reads the control file as the server sees it. A relative path is the server's own folder even after that was moved or
/// removed; `pg_control_system()` would go by the name and read what lies there now.
async fn identity(options: &PgConnectOptions) -> sqlx::Result<Vec<u8>> {
    let mut connection = PgConnection::connect_with(options).await?;
    let query = "SELECT pg_read_binary_file('global/pg_control', 0, 8)";
    let found = sqlx::query_scalar(query).fetch_one(&mut connection).await;
    connection.close().await?;
    found
}

async fn create_database(folder: &Folder) -> Result<(), EmbeddedError> {
    if !matches!(ask(folder, "postgres").await?, Answer::Ready) {
        // No cluster is without this database: its files are gone.
        return Err(stranger(folder));
    }
    let create = async {
        let mut connection = PgConnection::connect_with(&connect_options(folder.socket()).database("postgres")).await?;
        connection.execute("CREATE DATABASE reportd").await?;
        connection.close().await
    };
    match timeout(START_LIMIT, create).await {
        Ok(result) => result.map_err(|source| refused(folder, source)),
        Err(_) => Err(refused(folder, sqlx::Error::PoolTimedOut)),
    }
}

fn stranger(folder: &Folder) -> EmbeddedError {
    EmbeddedError::Stranger { socket: folder.socket().to_path_buf() }
}

fn refused(folder: &Folder, source: sqlx::Error) -> EmbeddedError {
    EmbeddedError::Connect { socket: folder.socket().to_path_buf(), source }
}

/// A server process of ours that has not answered yet.
struct Started {
    child: Child,
    /// Where its part of the log begins, in bytes.
    log_from: u64,
}

impl Started {
    fn runs(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }
}

/// `stale` says that the process named in the server's lock file is known to be something else by now.
async fn start(folder: &Folder, options: &EmbeddedOptions, stale: bool) -> Result<Started, EmbeddedError> {
    let place = folder.clone();
    let (version, log, pid) = blocking(move || Ok((place.version()?, place.log()?, place.server_pid()))).await?;
    let Programs { postgres, .. } = programs::find(options, &folder.data(), version.as_deref()).await?;
    let (log, log_from) = log;
    let copy = log.try_clone().map_err(|error| folder.failed("open", LOG, error))?;

    let mut command = command(folder, &postgres);
    command.arg("-D").arg(folder.data());
    for setting in SETTINGS {
        command.args(["-c", setting]);
    }
    if !options.durable {
        command.args(["-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off"]);
    }
    let mut sockets = std::ffi::OsString::from("unix_socket_directories=");
    sockets.push(quoted(folder.socket()));
    command.arg("-c").arg(sockets);
    if let Some(pid) = pid.filter(|_| stale) {
        // PostgreSQL's own way to say "not a rival". It skips that number and goes on to check the shared memory.
        command.env("PG_GRANDPARENT_PID", pid.as_raw_pid().to_string());
    }
    command.stdout(log).stderr(copy);
    let child = command.spawn().map_err(|source| cannot_run(folder, &postgres, source))?;
    Ok(Started { child, log_from })
}

/// What every server of ours is started with. The rest is PostgreSQL's default.
const SETTINGS: [&str; 7] = [
    "listen_addresses=",
    "port=5432",
    "unix_socket_permissions=0700",
    "max_connections=200",
    "logging_collector=off",
    "timezone=UTC",
    "log_timezone=UTC",
];

/// The value is a list; in quotes, a comma or a space in the path is no separator.
fn quoted(path: &Path) -> std::ffi::OsString {
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    let mut bytes = vec![b'"'];
    for &byte in path.as_os_str().as_bytes() {
        bytes.extend(if byte == b'"' { &b"\"\""[..] } else { std::slice::from_ref(&byte) });
    }
    bytes.push(b'"');
    std::ffi::OsString::from_vec(bytes)
}

/// A program as the server's user, away from the terminal's signals, with messages in English whatever the locale is.
fn command(folder: &Folder, program: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder.path()).process_group(0).stdin(Stdio::null());
    command.env("LC_ALL", "C").env("TZ", "UTC");
    // The last three are ours: a PostgreSQL that speaks to systemd would announce itself in our name.
    for variable in ["PGDATA", "PGPORT", "PG_GRANDPARENT_PID", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
        command.env_remove(variable);
    }
    if let Some(account) = folder.account() {
        command.uid(account.uid).gid(account.gid);
    }
    command
}

/// The system says "permission denied" for a folder above ours as well as for the program.
fn cannot_run(folder: &Folder, program: &Path, source: std::io::Error) -> EmbeddedError {
    let denied = source.kind() == std::io::ErrorKind::PermissionDenied;
    match (folder.account(), denied.then(|| folder.blocked_at()).flatten()) {
        (Some(account), Some(blocked)) => {
            EmbeddedError::Unreachable { user: account.name.clone(), blocked, path: folder.path().to_path_buf() }
        }
        _ => EmbeddedError::Run { program: program.to_path_buf(), source },
    }
}

/// Whether a server gave up because of what a killed one left, which time may cure.
fn met_remains(log: &str) -> bool {
    ["\" already exists", "pre-existing shared memory block"].iter().any(|text| log.contains(text))
}

async fn tail(folder: &Folder, from: u64) -> String {
    let place = folder.clone();
    blocking(move || Ok(place.log_tail(from))).await.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_folder_with_commas_and_quotes_stays_one_folder() {
        assert_eq!(quoted(Path::new("/a, b/\"c\"")), "\"/a, b/\"\"c\"\"\"");
    }

    #[test]
    fn only_what_time_may_cure_is_tried_again() {
        assert!(met_remains("FATAL:  lock file \"postmaster.pid\" already exists"));
        assert!(met_remains("FATAL:  pre-existing shared memory block (key 5, ID 1) is still in use"));
        assert!(!met_remains("FATAL:  could not create lock file"));
    }
}
