//! The verbs of the integration tests.
//!
//! [`Shop`] is one user's folder: reportd.yaml, jobs/, an archive, a database of its own on the tests' shared cluster, and the
//! simulated vendors in this very process, so that a test can ask them what they saw. The program is run as users run it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use reportd::db::embedded::{Embedded, EmbeddedOptions};
use reportd::sandbox::{Fault, Options, Sandbox, credentials};
use serde_json::Value;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgPool};
use tempfile::TempDir;
use tokio::sync::OnceCell;

/// The tests' cluster: durability off, started by the first test, shared by processes, stopped by the last.
static CLUSTER: OnceCell<PgConnectOptions> = OnceCell::const_new();
static COUNT: AtomicU32 = AtomicU32::new(0);

async fn cluster() -> PgConnectOptions {
    CLUSTER
        .get_or_init(|| async {
            if let Some(url) = std::env::vars().find(|(k, _)| k == "TEST_DATABASE_URL").map(|(_, v)| v) {
                return url.parse().expect("TEST_DATABASE_URL is a PostgreSQL URL");
            }
            let target = Path::new(env!("CARGO_BIN_EXE_reportd")).parent().unwrap().join("pg-test");
            // As root PostgreSQL's own user must reach the folder, and a home folder may be closed to it.
            let dir =
                if rustix::process::geteuid().is_root() { PathBuf::from("/var/lib/reportd/tests") } else { target };
            let options = EmbeddedOptions { dir, pg_bin: None, search_path: path(), durable: false };
            // The cluster must outlive this test's runtime, which the program that waits for the postmaster runs on.
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Runtime::new().unwrap();
                let embedded = runtime.block_on(Embedded::up(&options)).unwrap();
                let connect = embedded.connect_options();
                runtime.block_on(drop_leftovers(&connect));
                // Kept to the end of the process, and the runtime with it.
                std::mem::forget(embedded);
                std::mem::forget(runtime);
                connect
            })
            .join()
            .unwrap()
        })
        .await
        .clone()
}

/// Takes away the databases of test processes that are gone: the cluster outlives them, and a disk is full in the end.
async fn drop_leftovers(connect: &PgConnectOptions) {
    let mut admin = sqlx::PgConnection::connect_with(&connect.clone().disable_statement_logging()).await.unwrap();
    let names: Vec<String> = sqlx::query_scalar("SELECT datname::text FROM pg_database WHERE datname ~ '^t[0-9]+_'")
        .fetch_all(&mut admin)
        .await
        .unwrap();
    for name in names {
        let pid = name[1..].split('_').next().and_then(|pid| pid.parse().ok()).and_then(rustix::process::Pid::from_raw);
        let gone = pid.is_none_or(|pid| rustix::process::test_kill_process(pid).is_err());
        if gone {
            let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
            // Another test process may be at the same work.
            let _same = sqlx::query(sqlx::AssertSqlSafe(drop)).execute(&mut admin).await;
        }
    }
}

/// A new empty database on the tests' cluster: a pool on it, and its URL.
pub async fn database() -> (PgPool, String) {
    let connect = cluster().await;
    // The cluster outlives processes, and their ids come again.
    let start = uuid::Uuid::new_v4().simple().to_string();
    let name = format!("t{}_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst), &start[..8]);
    let mut admin = sqlx::PgConnection::connect_with(&connect.clone().disable_statement_logging()).await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut admin).await.unwrap();
    admin.close().await.unwrap();
    let connect = connect.database(&name);
    // The tests end sessions of the program, and never these.
    let mine = connect.clone().application_name("tests");
    let pool = PgPoolOptions::new().max_connections(3).connect_with(mine).await.unwrap();
    (pool, connect.to_url_lossy().to_string())
}

/// Takes a database away, with whoever is still in it.
async fn drop_database(url: &str) {
    let options: PgConnectOptions = url.parse().unwrap();
    let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", options.get_database().unwrap());
    let mut admin = sqlx::PgConnection::connect_with(&options.database("postgres")).await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut admin).await.unwrap();
    admin.close().await.unwrap();
}

impl Drop for Shop {
    /// The cluster outlives its processes: some 10 MB that stay behind in each test fill a disk in the end. What a test that
    /// failed has left may be looked at.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let url = self.database_url.clone();
            let dropping = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(drop_database(&url));
            });
            drop(dropping.join());
        }
    }
}

fn path() -> Option<std::ffi::OsString> {
    std::env::vars_os().find(|(k, _)| k == "PATH").map(|(_, v)| v)
}

/// One user's folder with everything a job needs.
pub struct Shop {
    pub folder: TempDir,
    pub sandbox: Sandbox,
    pub pool: PgPool,
    pub database_url: String,
}

/// What a run of the program left.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// stdout as JSON lines.
    pub fn json(&self) -> Vec<Value> {
        self.stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}\n{}", self.stderr)))
            .collect()
    }

    /// Fails the test unless the program ended so.
    #[track_caller]
    pub fn expect(self, code: i32) -> Ran {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Shop {
    /// A shop with one connection, `north`, in Asia/Kolkata, which has all three vendors, no rate to wait for, and no jobs yet.
    pub async fn open() -> Shop {
        Shop::with("").await
    }

    /// The same with more lines under `north:` (four spaces deep) or whole further sections.
    pub async fn with(more: &str) -> Shop {
        let shop = Shop::unmigrated(more).await;
        shop.reportd(&["migrate"]).expect(0);
        shop
    }

    /// The same with a database that nobody has migrated yet.
    pub async fn unmigrated(more: &str) -> Shop {
        let clock = Arc::new(|| chrono::DateTime::<chrono::Utc>::from(std::time::UNIX_EPOCH + since_epoch()));
        let sandbox = Sandbox::start(Options::quick(clock)).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("jobs")).unwrap();
        let (pool, database_url) = database().await;
        let shop = Shop { folder, sandbox, pool, database_url };
        shop.config(more);
        shop
    }

    /// (Re)writes reportd.yaml.
    pub fn config(&self, more: &str) {
        let text = format!(
            "connections:\n  north:\n    zone: Asia/Kolkata\n    vars: {{ owner: asha@north.example, support: [1, 4] }}\n    \
             bik:      {{ base_url: \"{}\", key: env:BIK_KEY, secret: env:BIK_SECRET, quiet_emails: [bi@north.example], requests_per_second: 1000 }}\n    \
             livechat: {{ base_url: \"{}\", token: env:LIVECHAT, requests_per_second: 1000 }}\n    \
             jaicp:    {{ base_url: \"{}\", token: env:JAICP, requests_per_second: 1000, max_in_flight: 8 }}\n{more}",
            self.sandbox.bik_base_url(),
            self.sandbox.livechat_base_url(),
            self.sandbox.jaicp_base_url(),
        );
        std::fs::write(self.folder.path().join("reportd.yaml"), text).unwrap();
    }

    /// Writes jobs/NAME.yaml.
    pub fn job(&self, name: &str, yaml: &str) {
        std::fs::write(self.folder.path().join("jobs").join(format!("{name}.yaml")), yaml).unwrap();
    }

    /// The program, ready to run in the shop's folder with the shop's credentials and nothing else of this environment.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reportd"));
        command
            .args(args)
            .current_dir(self.folder.path())
            .env_clear()
            .envs(path().map(|p| ("PATH", p)))
            .env("DATABASE_URL", &self.database_url)
            .env("BIK_KEY", credentials::BIK_KEY)
            .env("BIK_SECRET", credentials::BIK_SECRET)
            .env("LIVECHAT", format!("{}:{}", credentials::LIVECHAT_ACCOUNT, credentials::LIVECHAT_TOKEN))
            .env("JAICP", credentials::JAICP_TOKEN)
            .stdin(Stdio::null());
        command
    }

    /// Runs the program to its end. Call it through [`Shop::run`] when the sandbox of this process must answer meanwhile.
    pub fn reportd(&self, args: &[&str]) -> Ran {
        self.command(args).output().unwrap().into()
    }

    /// Runs the program to its end while this process's runtime goes on serving the vendors.
    pub async fn run(&self, args: &[&str]) -> Ran {
        run(self.command(args)).await
    }

    /// Spoils the vendors.
    pub fn fault(&self, text: &str) {
        self.sandbox.add_fault(text.parse::<Fault>().unwrap());
    }

    /// Moves the database's clock on, as if so much time had passed: leases end, what waits becomes due.
    pub async fn advance(&self, by: Duration) {
        sqlx::query("UPDATE instance SET clock_offset = clock_offset + make_interval(secs => $1)")
            .bind(by.as_secs_f64())
            .execute(&self.pool)
            .await
            .unwrap();
    }

    /// One column of one row.
    pub async fn one<T>(&self, sql: &'static str) -> T
    where
        T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }

    /// The archive's folder.
    pub fn archive(&self) -> PathBuf {
        self.folder.path().join("archive")
    }
}

/// The program in `folder` with an empty environment, for what needs neither database nor credentials.
pub fn offline(folder: &Path, args: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reportd"));
    command.args(args).current_dir(folder).env_clear().stdin(Stdio::null());
    command.output().unwrap().into()
}

/// A file or folder of this repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs a command on a thread of its own.
pub async fn run(mut command: Command) -> Ran {
    tokio::task::spawn_blocking(move || command.output().unwrap().into()).await.unwrap()
}

pub fn since_epoch() -> Duration {
    #[expect(clippy::disallowed_methods, reason = "the sandbox's clock is the machine's")]
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap()
}
