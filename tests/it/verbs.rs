//! More verbs of the integration tests: jobs to run, programs that are signalled or killed, events that are waited for, and
//! databases that are lost.

use std::future::Future;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use reportd::run::Who;
use reportd::run::store::RunStore;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::{Ran, Shop, database};

/// A BIK report, which is made once and mails people.
pub const BIK: &str = "bik: { reportType: Helpdesk, reportName: Agent Engagement, emails: [\"{var.owner}\"] }\n";
/// A LiveChat report, which is the answer itself.
pub const LIVECHAT: &str = "livechat: { report: chats/ratings, distribution: day }\n";
/// A JAICP report, which is a task.
pub const JAICP: &str = "jaicp:\n  report: messages\n  filters: [{ key: MESSAGE_TIME, type: DATE_TIME_RANGE }]\n  settings: { fileType: CSV }\n";
/// A JAICP query, which is paged.
pub const QUERY: &str = "jaicp:\n  query: messages\n  filters: [{ key: MESSAGE_TIME, type: DATE_TIME_RANGE }]\n";

/// A window of the past, and a second one.
pub const DAY: &str = "2025-03-03..2025-03-03";
pub const NEXT_DAY: &str = "2025-03-04..2025-03-04";

/// Past a lease and the further lease time that a call under way is given.
pub const LEASES: Duration = Duration::from_secs(125);

/// Nothing that is waited for takes so long, even on a busy machine.
const LIMIT: Duration = Duration::from_secs(40);

/// Waits until it is so; fails the test when it never is.
pub async fn until<F: Future<Output = bool>>(what: &str, mut is: impl FnMut() -> F) {
    let start = Instant::now();
    while !is().await {
        assert!(start.elapsed() < LIMIT, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Reads a JSON file.
#[track_caller]
pub fn json_file(path: &Path) -> Value {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&bytes).unwrap()
}

/// sha256 of a file, as `sha256sum` prints it.
#[track_caller]
pub fn sha256(path: &Path) -> String {
    hex::encode(Sha256::digest(std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))))
}

/// The keys of an object, in order.
#[track_caller]
pub fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap_or_else(|| panic!("{value} is no object")).keys().map(String::as_str).collect()
}

/// The text of a JSON string.
#[track_caller]
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no string"))
}

impl Ran {
    /// The only JSON line.
    #[track_caller]
    pub fn line(&self) -> Value {
        let lines = self.json();
        assert_eq!(lines.len(), 1, "{}\n{}", self.stdout, self.stderr);
        lines.into_iter().next().unwrap()
    }

    /// Fails the test unless stderr says so.
    #[track_caller]
    pub fn says(self, text: &str) -> Ran {
        assert!(self.stderr.contains(text), "stderr does not say '{text}':\n{}", self.stderr);
        self
    }
}

impl Shop {
    /// `run-job JOB --window WINDOW --format json` and more.
    pub async fn run_job(&self, job: &str, window: &str, more: &[&str]) -> Ran {
        self.run(&[&["run-job", job, "--window", window, "--format", "json"], more].concat()).await
    }

    /// Requests that the vendors were sent.
    pub fn requests(&self) -> usize {
        self.sandbox.received().len()
    }

    /// Requests of one operation that the vendors were sent.
    pub fn asked_for(&self, operation: &str) -> usize {
        self.sandbox.received().iter().filter(|r| r.operation == operation).count()
    }

    /// Waits until the vendors were sent so many requests of an operation.
    pub async fn until_asked(&self, operation: &str, times: usize) {
        until(operation, || async { self.asked_for(operation) >= times }).await;
    }

    /// A count, out of the database.
    pub async fn number(&self, sql: &'static str) -> i64 {
        self.one::<i64>(sql).await
    }

    /// Runs statements.
    pub async fn sql(&self, sql: &str) {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&self.pool).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    /// Waits until a statement that counts gives so many.
    pub async fn until_count(&self, sql: &'static str, is: i64) {
        until(sql, || async { self.number(sql).await == is }).await;
    }

    /// From now on no run waits for its time to be polled or tried again.
    pub async fn without_waits(&self) {
        for statement in [
            "CREATE FUNCTION at_once() RETURNS trigger LANGUAGE plpgsql
             AS $$ BEGIN NEW.next_step_at = reportd_now(); RETURN NEW; END $$",
            "CREATE TRIGGER at_once BEFORE INSERT OR UPDATE OF next_step_at ON runs FOR EACH ROW EXECUTE FUNCTION at_once()",
            "UPDATE runs SET next_step_at = reportd_now()",
        ] {
            sqlx::query(statement).execute(&self.pool).await.unwrap();
        }
    }

    /// The store, as the library has it.
    pub fn store(&self) -> RunStore {
        RunStore::new(self.pool.clone(), Who("tests".into()))
    }

    /// The database is gone: an empty one, migrated, takes its place.
    pub async fn lose_database(&mut self) {
        (self.pool, self.database_url) = database().await;
        self.reportd(&["migrate"]).expect(0);
    }

    /// Sets the database's clock, which goes on from there.
    pub async fn clock(&self, at: &str) {
        sqlx::query("UPDATE instance SET clock_offset = $1::text::timestamptz - statement_timestamp()")
            .bind(at)
            .execute(&self.pool)
            .await
            .unwrap();
    }

    /// Starts `serve` and waits until it has loaded its jobs.
    pub async fn serve(&self) -> Started {
        let serving = self.start(&["serve", "--listen", "127.0.0.1:0"]);
        serving.until_says("jobs are loaded").await;
        serving
    }

    /// Waits until every instant up to now is decided, and every run has ended that waits for nobody.
    pub async fn until_done(&self) {
        self.until_count("SELECT count(*) FROM series WHERE next_at <= reportd_now()", 0).await;
        self.until_count("SELECT count(*) FROM runs WHERE finished_at IS NULL AND state <> 'held'", 0).await;
    }

    /// What was decided about a job's instants, as `2026-03-20T01:00 fired`, in UTC.
    pub async fn ledger(&self, job: &str) -> Vec<String> {
        sqlx::query_scalar(
            "SELECT to_char(fire_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI ') || outcome
             FROM fires JOIN series ON series.id = series_id WHERE job = $1 ORDER BY fire_at, connection",
        )
        .bind(job)
        .fetch_all(&self.pool)
        .await
        .unwrap()
    }

    /// Why that was decided, in the same order; null is "".
    pub async fn reasons(&self, job: &str) -> Vec<String> {
        sqlx::query_scalar(
            "SELECT COALESCE(reason, '') FROM fires JOIN series ON series.id = series_id WHERE job = $1
             ORDER BY fire_at, connection",
        )
        .bind(job)
        .fetch_all(&self.pool)
        .await
        .unwrap()
    }

    /// The windows that the archive holds of a job, as `2026-03-19 r1`.
    pub async fn holds(&self, job: &str) -> Vec<String> {
        sqlx::query_scalar(
            "SELECT window_label || ' r' || revision || CASE WHEN provisional THEN ' provisional' ELSE '' END
             FROM revisions JOIN series ON series.id = series_id WHERE job = $1
             ORDER BY window_start, window_end, revision",
        )
        .bind(job)
        .fetch_all(&self.pool)
        .await
        .unwrap()
    }

    /// Takes jobs/NAME.yaml away.
    pub fn without_job(&self, name: &str) {
        std::fs::remove_file(self.folder.path().join("jobs").join(format!("{name}.yaml"))).unwrap();
    }

    /// Starts the program and leaves it running.
    pub fn start(&self, args: &[&str]) -> Started {
        Started::new(self.command(args))
    }
}

/// A program that runs; it is killed when the test ends first.
pub struct Started {
    child: Child,
    stdout: Option<JoinHandle<()>>,
    stderr: Option<JoinHandle<()>>,
    said: Arc<Mutex<(String, String)>>,
}

impl Started {
    /// Starts it.
    pub fn new(mut command: Command) -> Started {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = Arc::new(Mutex::new((String::new(), String::new())));
        let read = |mut from: Box<dyn Read + Send>, second: bool| {
            let said = Arc::clone(&said);
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = from.read(&mut buffer) {
                    let text = String::from_utf8_lossy(&buffer[..read]);
                    let mut said = said.lock().unwrap();
                    if second { said.1.push_str(&text) } else { said.0.push_str(&text) }
                }
            })
        };
        let stdout = read(Box::new(child.stdout.take().unwrap()), false);
        let stderr = read(Box::new(child.stderr.take().unwrap()), true);
        Started { child, stdout: Some(stdout), stderr: Some(stderr), said }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap(), signal).unwrap();
    }

    /// Waits until it said so on stderr.
    pub async fn until_says(&self, text: &str) {
        let start = Instant::now();
        while !self.stderr().contains(text) {
            assert!(start.elapsed() < LIMIT, "waited in vain for '{text}'; it said {}", self.stderr());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What it said on stderr until now.
    pub fn stderr(&self) -> String {
        self.said.lock().unwrap().1.clone()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop, which must end well.
    pub async fn stop(self) -> Ran {
        self.signal(Signal::TERM);
        self.end().await.expect(0)
    }

    /// The answer of its HTTP surface: status and body.
    pub async fn http(&self, path: &str) -> (u16, String) {
        let text = self.stderr();
        let address =
            text.split_once("are on http://").expect("the address is said").1.lines().next().unwrap().to_owned();
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    /// Waits until that answer has this status; its body.
    pub async fn until_http(&self, path: &str, status: u16) -> String {
        let start = Instant::now();
        loop {
            let (is, body) = self.http(path).await;
            if is == status {
                return body;
            }
            assert!(start.elapsed() < LIMIT, "waited in vain for {status} of {path}: {is} {body}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits for its end.
    pub async fn end(mut self) -> Ran {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < LIMIT, "it does not end; it said {:?}", self.said.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        for reader in [self.stdout.take(), self.stderr.take()] {
            reader.unwrap().join().unwrap();
        }
        let (stdout, stderr) = self.said.lock().unwrap().clone();
        Ran { code: status.code(), stdout, stderr }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            drop(self.child.kill());
            drop(self.child.wait());
            if std::thread::panicking() {
                println!("it said: {}", self.said.lock().unwrap().1);
            }
        }
    }
}
