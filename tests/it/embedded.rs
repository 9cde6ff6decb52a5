//! The embedded server against real PostgreSQL programs and real kills.
//!
//! Every test has a folder of its own. Other clients are this test binary started again, told by an argument what to do
//! (`another_process_does_as_it_is_told`); as root some of them run as a plain user, from a copy that this user can
//! read.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::str::FromStr as _;
use std::time::Duration;

use reportd::db::embedded::{Arrival, Embedded, EmbeddedError, EmbeddedOptions, Release};
use rustix::process::{Pid, Signal};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection as _, Executor as _};

/// `nobody`: in every system's `/etc/passwd`, and never the server's user by itself.
const PLAIN_USER: u32 = 65534;

/// A temporary home that the server's user can pass; what still runs at the end is killed.
struct Home {
    root: tempfile::TempDir,
    dir: PathBuf,
}

impl Home {
    fn new() -> Self {
        Self::with("pg")
    }

    fn with(name: &str) -> Self {
        let root = tempfile::Builder::new().prefix("reportd-").tempdir_in("/tmp").unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let dir = root.path().join(name);
        Self { root, dir }
    }

    fn options(&self) -> EmbeddedOptions {
        options(&self.dir)
    }

    async fn up(&self) -> Embedded {
        Embedded::up(&self.options()).await.unwrap()
    }

    async fn refusal(&self) -> EmbeddedError {
        Embedded::up(&self.options()).await.unwrap_err()
    }

    fn server(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.dir.join("data/postmaster.pid")).ok()?;
        Pid::from_raw(text.lines().next()?.parse().ok()?)
    }

    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.server().expect("a server runs"), signal).unwrap();
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Some(pid) = self.server() {
            rustix::process::kill_process(pid, Signal::QUIT).ok();
            // It removes files of its own while it ends, which would make the removal of the folder fail.
            for _ in 0..200 {
                if self.server() != Some(pid) || rustix::process::test_kill_process(pid).is_err() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

fn options(dir: &Path) -> EmbeddedOptions {
    EmbeddedOptions { dir: dir.to_path_buf(), pg_bin: None, search_path: None, durable: false }
}

fn are_root() -> bool {
    rustix::process::geteuid().is_root()
}

async fn connect(embedded: &Embedded) -> PgConnection {
    PgConnection::connect_with(&embedded.connect_options()).await.unwrap()
}

async fn shown(connection: &mut PgConnection, setting: &str) -> String {
    sqlx::query_scalar("SELECT current_setting($1)").bind(setting).fetch_one(connection).await.unwrap()
}

/// Another process that uses the same folder.
struct Client {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Client {
    fn start(home: &Home) -> Self {
        Self::spawn(Command::new(std::env::current_exe().unwrap()), &home.options())
    }

    fn start_with(options: &EmbeddedOptions) -> Self {
        Self::spawn(Command::new(std::env::current_exe().unwrap()), options)
    }

    /// As root: as a user who is not. Else: as ourselves.
    fn start_plain(home: &Home) -> Self {
        if !are_root() {
            return Self::start(home);
        }
        let copy = home.root.path().join("it");
        fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
        let mut command = Command::new(copy);
        command.uid(PLAIN_USER).gid(PLAIN_USER).current_dir("/");
        Self::spawn(command, &home.options())
    }

    fn spawn(mut command: Command, options: &EmbeddedOptions) -> Self {
        let told = [TOLD.into(), options.dir.clone(), options.pg_bin.clone().unwrap_or_default()];
        command.args(["--exact", "embedded::another_process_does_as_it_is_told", "--nocapture"]);
        command.args(told).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    fn says(&mut self) -> String {
        let mut line = String::new();
        while self.stdout.read_line(&mut line).unwrap() > 0 {
            if let Some((_, said)) = line.trim_end().split_once("client: ") {
                return said.to_owned();
            }
            line.clear();
        }
        panic!("the client ended without a word");
    }

    fn release(mut self) -> String {
        self.child.stdin.take().unwrap().write_all(b"release\n").unwrap();
        let said = self.says();
        self.child.wait().unwrap();
        said
    }

    /// For one that was refused: what it was told.
    fn refused(mut self) -> String {
        let said = self.says();
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut self.stdout, &mut rest).unwrap();
        self.child.wait().unwrap();
        said
    }

    /// SIGKILL.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// The argument after which a started-again test binary finds its folder and its programs.
const TOLD: &str = "told:";

/// Passes at once in a normal run; as a `Client` it is the other process.
#[test]
fn another_process_does_as_it_is_told() {
    let mut told = std::env::args_os().skip_while(|argument| argument != TOLD).skip(1).map(PathBuf::from);
    let (Some(dir), Some(pg_bin)) = (told.next(), told.next()) else {
        return;
    };
    let mut options = options(&dir);
    options.pg_bin = Some(pg_bin).filter(|folder| *folder != Path::new(""));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match runtime.block_on(Embedded::up(&options)) {
        Err(error) => println!("client: {error}"),
        Ok(embedded) => {
            println!("client: {:?}", embedded.arrival());
            std::io::stdin().read_line(&mut String::new()).unwrap();
            println!("client: {:?}", runtime.block_on(embedded.release()));
        }
    }
}

#[tokio::test]
async fn a_first_start_makes_a_private_cluster_and_the_next_finds_its_rows() {
    let home = Home::new();
    let embedded = home.up().await;
    assert_eq!(embedded.arrival(), Arrival::Initialised);
    assert_eq!(embedded.data_dir(), home.dir.join("data"));
    assert_eq!(embedded.socket_dir(), home.dir);
    let about = fs::metadata(&home.dir).unwrap();
    assert_eq!(about.mode() & 0o777, 0o700);
    assert_ne!(about.uid(), 0, "the server's user owns the folder, and that is never root");
    let group = rustix::process::getpgid(home.server()).unwrap();
    assert_eq!(Some(group), home.server(), "a signal from the terminal does not reach the server");

    let mut connection = connect(&embedded).await;
    for (setting, value) in [
        ("listen_addresses", ""),
        ("max_connections", "200"),
        ("server_encoding", "UTF8"),
        ("lc_messages", "C"),
        ("unix_socket_permissions", "0700"),
        ("fsync", "off"),
    ] {
        assert_eq!(shown(&mut connection, setting).await, value, "{setting}");
    }
    let collation: String = sqlx::query_scalar("SELECT datcollate FROM pg_database WHERE datname = current_database()")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(collation, "C");
    connection.execute("CREATE TABLE kept AS SELECT 42 AS n").await.unwrap();
    connection.close().await.unwrap();
    assert_eq!(embedded.release().await, Release::Stopped);
    assert_eq!(home.server(), None);

    let embedded = home.up().await;
    assert_eq!(embedded.arrival(), Arrival::Started);
    let by_url = PgConnectOptions::from_str(&embedded.url()).unwrap();
    let mut connection = PgConnection::connect_with(&by_url).await.unwrap();
    let kept: i32 = sqlx::query_scalar("SELECT n FROM kept").fetch_one(&mut connection).await.unwrap();
    assert_eq!(kept, 42);
    // Not closed: a fast shutdown cuts it.
    assert_eq!(embedded.release().await, Release::Stopped);
}

#[tokio::test]
async fn a_second_process_attaches_and_the_last_one_out_stops_the_server() {
    let home = Home::new();
    let embedded = home.up().await;
    let mut other = Client::start(&home);
    assert_eq!(other.says(), "Attached");
    let server = home.server();
    assert_eq!(embedded.release().await, Release::StillUsed);
    assert_eq!(home.server(), server);
    assert_eq!(other.release(), "Stopped");
    assert_eq!(home.server(), None);
}

#[test]
fn starters_at_the_same_time_make_one_cluster() {
    let home = Home::new();
    let mut clients: Vec<Client> = (0..3).map(|_| Client::start(&home)).collect();
    let mut said: Vec<String> = clients.iter_mut().map(Client::says).collect();
    said.sort();
    assert_eq!(said, ["Attached", "Attached", "Initialised"]);
    let mut left: Vec<String> = clients.into_iter().map(Client::release).collect();
    left.sort();
    assert_eq!(left, ["StillUsed", "StillUsed", "Stopped"]);
}

#[tokio::test]
async fn a_killed_client_leaves_a_server_that_the_next_one_attaches_to_and_stops() {
    let home = Home::new();
    let mut first = Client::start(&home);
    assert_eq!(first.says(), "Initialised");
    let server = home.server();
    first.kill();
    let embedded = home.up().await;
    assert_eq!(embedded.arrival(), Arrival::Attached);
    assert_eq!(home.server(), server);
    assert_eq!(embedded.release().await, Release::Stopped);
}

#[tokio::test]
async fn committed_rows_survive_a_killed_server_and_the_next_start_recovers() {
    let home = Home::new();
    let durable = EmbeddedOptions { durable: true, ..home.options() };
    let embedded = Embedded::up(&durable).await.unwrap();
    let mut connection = connect(&embedded).await;
    assert_eq!(shown(&mut connection, "fsync").await, "on");
    connection.execute("CREATE TABLE kept (n int)").await.unwrap();
    for n in 0..50 {
        sqlx::query("INSERT INTO kept VALUES ($1)").bind(n).execute(&mut connection).await.unwrap();
    }
    home.signal(Signal::KILL);

    let again = Embedded::up(&durable).await.unwrap();
    assert_eq!(again.arrival(), Arrival::Started);
    let rows: i64 =
        sqlx::query_scalar("SELECT count(*) FROM kept").fetch_one(&mut connect(&again).await).await.unwrap();
    assert_eq!(rows, 50);
    // The first share outlived its server and is worth the same on the new one.
    assert_eq!(again.release().await, Release::StillUsed);
    assert_eq!(embedded.release().await, Release::Stopped);
}

#[tokio::test]
async fn a_client_whose_server_was_killed_and_is_gone_has_nothing_to_stop() {
    let home = Home::new();
    let embedded = home.up().await;
    home.signal(Signal::KILL);
    let server = home.server().unwrap();
    while rustix::process::test_kill_process(server).is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(embedded.release().await, Release::Stopped);
}

#[tokio::test]
async fn a_stale_lock_file_whose_number_is_now_another_process_fools_nobody() {
    let home = Home::new();
    let embedded = home.up().await;
    let files = [home.dir.join("data/postmaster.pid"), home.dir.join(".s.PGSQL.5432.lock")];
    let texts = files.each_ref().map(|file| fs::read_to_string(file).unwrap());
    assert_eq!(embedded.release().await, Release::Stopped);

    // PostgreSQL takes a process of another user for a stranger at once, so the new owner of the number is one of ours.
    let about = fs::metadata(&home.dir).unwrap();
    let mut sleeper = Command::new("sleep");
    sleeper.arg("60").uid(about.uid()).gid(about.gid());
    let mut sleeper = sleeper.spawn().unwrap();
    for (file, text) in files.iter().zip(&texts) {
        let rest: Vec<&str> = text.lines().skip(1).collect();
        fs::write(file, format!("{}\n{}\n", sleeper.id(), rest.join("\n"))).unwrap();
        std::os::unix::fs::chown(file, Some(about.uid()), Some(about.gid())).unwrap();
    }
    let embedded = home.up().await;
    assert_eq!(embedded.arrival(), Arrival::Started);
    assert_ne!(home.server().unwrap().as_raw_pid().cast_unsigned(), sleeper.id());
    assert_eq!(embedded.release().await, Release::Stopped);
    assert_eq!(sleeper.try_wait().unwrap(), None, "the other process was left alone");
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
}

#[tokio::test]
async fn a_long_path_gets_its_socket_in_a_short_private_folder_that_goes_with_the_server() {
    let home = Home::with(&format!("{}/pg", "long".repeat(40)));
    let embedded = home.up().await;
    let socket = embedded.socket_dir().to_path_buf();
    assert!(socket.as_os_str().len() < 60, "{}", socket.display());
    let about = fs::metadata(&socket).unwrap();
    assert_eq!((about.mode() & 0o777, about.uid()), (0o700, fs::metadata(&home.dir).unwrap().uid()));
    connect(&embedded).await.close().await.unwrap();
    let mut other = Client::start(&home);
    assert_eq!(other.says(), "Attached");
    assert_eq!(other.release(), "StillUsed");
    assert_eq!(embedded.release().await, Release::Stopped);
    assert!(!socket.exists());
}

#[tokio::test]
async fn spaces_commas_and_quotes_in_the_path_are_only_a_name() {
    let home = Home::with("a, \"b\" é/pg");
    let embedded = home.up().await;
    assert_eq!(embedded.socket_dir(), home.dir);
    let by_url = PgConnectOptions::from_str(&embedded.url()).unwrap();
    PgConnection::connect_with(&by_url).await.unwrap().close().await.unwrap();
    assert_eq!(embedded.release().await, Release::Stopped);
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_or_written_is_a_plain_error() {
    let home = Home::new();
    fs::create_dir(&home.dir).unwrap();
    fs::set_permissions(&home.dir, fs::Permissions::from_mode(0o500)).unwrap();
    if are_root() {
        std::os::unix::fs::chown(&home.dir, Some(PLAIN_USER), Some(PLAIN_USER)).unwrap();
    }
    let said = Client::start_plain(&home).refused();
    assert_eq!(said, format!("open for writing {}/lock", home.dir.display()));

    let home = Home::with("file/pg");
    fs::write(home.root.path().join("file"), "").unwrap();
    let error = home.refusal().await;
    assert!(matches!(error, EmbeddedError::File { .. }), "{error:?}");
    assert!(error.to_string().starts_with("make the"), "{error}");
}

#[tokio::test]
async fn a_folder_without_programs_is_named() {
    let home = Home::new();
    let empty = home.root.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let error = Embedded::up(&EmbeddedOptions { pg_bin: Some(empty), ..home.options() }).await.unwrap_err();
    assert!(error.to_string().contains("/empty has no `postgres` and `initdb` that run here"), "{error}");
}

#[tokio::test]
async fn a_data_folder_of_a_version_that_is_not_here_is_named_and_left_alone() {
    let home = Home::new();
    assert_eq!(home.up().await.release().await, Release::Stopped);
    fs::write(home.dir.join("data/PG_VERSION"), "99\n").unwrap();
    let error = home.refusal().await;
    assert!(error.to_string().contains("/data was made by postgresql 99, and only version "), "{error}");
    assert!(home.dir.join("data/base").is_dir());
}

#[tokio::test]
async fn a_killed_first_start_leaves_no_half_cluster() {
    let home = Home::new();
    let slow = home.root.path().join("slow");
    fs::create_dir(&slow).unwrap();
    for (name, text) in [
        ("postgres", "#!/bin/sh\necho 'postgres (PostgreSQL) 15.1'\n"),
        ("initdb", "#!/bin/sh\nmkdir -p \"$2/base\"\necho 15 >\"$2/PG_VERSION\"\nexec sleep 3\n"),
    ] {
        fs::write(slow.join(name), text).unwrap();
        fs::set_permissions(slow.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let unfinished = || {
        let names = fs::read_dir(&home.dir).into_iter().flatten().flatten().map(|entry| entry.path());
        names.filter(|path| path.to_string_lossy().contains("data.init.")).collect::<Vec<_>>()
    };
    let client = Client::start_with(&EmbeddedOptions { pg_bin: Some(slow), ..home.options() });
    while !unfinished().iter().any(|folder| folder.join("PG_VERSION").exists()) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    client.kill();
    let embedded = home.up().await;
    assert_eq!(embedded.arrival(), Arrival::Initialised);
    assert_eq!(unfinished(), Vec::<PathBuf>::new());
    connect(&embedded).await.close().await.unwrap();
    assert_eq!(embedded.release().await, Release::Stopped);
}

#[tokio::test]
async fn a_first_start_that_was_cut_off_before_the_database_is_finished_by_the_next() {
    let home = Home::new();
    let embedded = home.up().await;
    let options = embedded.connect_options().database("postgres");
    let mut connection = PgConnection::connect_with(&options).await.unwrap();
    connection.execute("DROP DATABASE reportd").await.unwrap();
    let mut other = Client::start(&home);
    assert_eq!(other.says(), "Attached");
    connect(&embedded).await.close().await.unwrap();
    assert_eq!(other.release(), "StillUsed");
    assert_eq!(embedded.release().await, Release::Stopped);
}

#[tokio::test]
async fn a_server_that_does_not_start_shows_the_end_of_its_log() {
    let home = Home::new();
    assert_eq!(home.up().await.release().await, Release::Stopped);
    let config = home.dir.join("data/postgresql.conf");
    fs::write(&config, "no_such_setting = on\n").unwrap();
    let error = home.refusal().await;
    assert!(matches!(error, EmbeddedError::Start { .. }), "{error:?}");
    assert!(error.to_string().contains("no_such_setting"), "{error}");
    assert!(!error.to_string().contains("is ready"), "only the lines of this start: {error}");
}

#[tokio::test]
async fn a_server_whose_data_folder_was_removed_is_not_taken_for_ours() {
    let home = Home::new();
    let embedded = home.up().await;
    fs::rename(home.dir.join("data"), home.dir.join("away")).unwrap();
    let error = home.refusal().await;
    assert!(matches!(error, EmbeddedError::Stranger { .. }), "{error:?}");
    fs::remove_dir_all(home.dir.join("data")).unwrap();
    fs::rename(home.dir.join("away"), home.dir.join("data")).unwrap();
    assert_eq!(embedded.release().await, Release::Stopped);

    let embedded = home.up().await;
    let orphan = home.server().unwrap();
    fs::remove_dir_all(home.dir.join("data")).unwrap();
    let error = home.refusal().await;
    rustix::process::kill_process(orphan, Signal::QUIT).unwrap();
    assert!(matches!(error, EmbeddedError::Stranger { .. }), "{error:?}");
    drop(embedded);
    while rustix::process::test_kill_process(orphan).is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(home.up().await.release().await, Release::Stopped);
}

#[tokio::test]
async fn root_and_a_plain_user_take_turns_on_the_plain_users_folder() {
    let home = Home::new();
    if are_root() {
        std::os::unix::fs::chown(home.root.path(), Some(PLAIN_USER), Some(PLAIN_USER)).unwrap();
    }
    let mut plain = Client::start_plain(&home);
    assert_eq!(plain.says(), "Initialised");
    let embedded = home.up().await;
    assert_eq!(embedded.arrival(), Arrival::Attached);
    assert_eq!(plain.release(), "StillUsed");
    assert_eq!(embedded.release().await, Release::Stopped);

    let embedded = home.up().await;
    assert_eq!(embedded.arrival(), Arrival::Started);
    let mut plain = Client::start_plain(&home);
    assert_eq!(plain.says(), "Attached");
    assert_eq!(embedded.release().await, Release::StillUsed);
    assert_eq!(plain.release(), "Stopped");
    let mut plain = Client::start_plain(&home);
    assert_eq!(plain.says(), "Started");
    assert_eq!(plain.release(), "Stopped");
}

#[tokio::test]
async fn somebody_elses_folder_is_refused_by_name() {
    if !are_root() {
        // Only root can make a folder that belongs to another.
        return;
    }
    let home = Home::new();
    assert_eq!(home.up().await.release().await, Release::Stopped);
    let said = Client::start_plain(&home).refused();
    assert!(
        said.contains(&format!("belongs to user {}, not to user 65534", fs::metadata(&home.dir).unwrap().uid())),
        "{said}"
    );
}

#[tokio::test]
async fn as_root_a_folder_that_the_servers_user_cannot_reach_is_explained() {
    if !are_root() {
        // A plain user runs the server as itself, and that user made the folder.
        return;
    }
    let home = Home::with("closed/pg");
    let closed = home.root.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    let error = home.refusal().await;
    let EmbeddedError::Unreachable { user, blocked, .. } = error else { panic!("{error:?}") };
    assert_eq!((user.as_str(), blocked), ("postgres", closed));
}
