//! Outages: the database is killed, restarted, out of reach or full; the vendors are away for two hours. The service goes on by
//! itself, nothing is lost, nobody is mailed twice.
//!
//! The long form: `cargo test --test it -- --ignored outage`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use reportd::db::embedded::{Embedded, EmbeddedOptions};
use reportd::sandbox::{Options, Sandbox};
use rustix::process::{Pid, Signal};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::crash::verify;
use crate::harness::Shop;
use crate::siege::{BEGIN, DatabaseRelay, HOUR, Way, bik, expected, hourly, took};
use crate::vendors::Relay;
use crate::verbs::{JAICP, LEASES, LIVECHAT, Started};

const FIRST: &str = "2026-03-19T18:30:00Z";
const SINCE: &str = "2026-03-20";
const JOBS: [&str; 3] = ["engagement", "ratings", "messages"];

impl Shop {
    /// A service with a job of each vendor, whose past is done.
    async fn three_vendors(&self, env: &[(&str, &str)]) -> Started {
        for (job, vendor) in JOBS.into_iter().zip([&*bik(), LIVECHAT, JAICP]) {
            self.job(job, &hourly(SINCE, vendor));
        }
        self.without_waits().await;
        let serving = self.serve_with(&[], env).await;
        self.until_done().await;
        serving
    }

    /// The next hour is fired, and each vendor has been called and is slow to answer.
    async fn calls_under_way(&self) {
        let before = ["generateReport", "report", "create"].map(|operation| (operation, self.asked_for(operation)));
        for fault in ["bik.generateReport=slow:1", "livechat.report=slow:1", "jaicp.create=slow:1"] {
            self.fault(fault);
        }
        self.advance(HOUR).await;
        for (operation, times) in before {
            self.until_asked(operation, times + 1).await;
        }
    }

    /// The outage is over: what was under way ends without a person, and the next hour is fired.
    async fn goes_on(&self, serving: &Started) {
        serving.until_http("/readyz", 200).await;
        // The tickets that came while nobody could write them down; only then the leases of other steps end.
        self.until_count("SELECT count(*) FROM remote_tasks WHERE remote_id IS NULL", 0).await;
        self.advance(LEASES).await;
        self.until_done().await;
        assert_eq!(self.number("SELECT count(*) FROM runs WHERE state = 'held'").await, 0, "a ticket was lost");
        self.advance(HOUR).await;
        self.until_done().await;
    }

    /// All is as if nothing had happened.
    async fn assert_whole(&self) {
        for job in JOBS {
            assert_eq!(self.ledger(job).await, expected(FIRST, HOUR, self.now().await), "{job}");
            self.assert_held_once(job).await;
        }
        self.assert_mailed_once(JOBS[0]).await;
        verify(self).await;
    }
}

/// A PostgreSQL server of a test's own, which it may kill.
struct Server {
    options: EmbeddedOptions,
    embedded: Embedded,
    /// Removed after the server has ended.
    _root: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let file = self.options.dir.join("data/postmaster.pid");
        // Nothing may panic here: a test that fails while the server is dead must be able to say why.
        if let Some(server) = server_of(&self.options.dir.join("data")) {
            rustix::process::kill_process(server, Signal::QUIT).ok();
        }
        // It removes files of its own while it ends, which would make the removal of the folder fail.
        for _ in 0..200 {
            if !file.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Server {
    async fn up() -> Server {
        // The server's user must reach it, whoever runs the tests.
        let root = tempfile::Builder::new().prefix("reportd-").tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let dir = root.path().join("pg");
        let options = EmbeddedOptions { dir, pg_bin: None, search_path: None, durable: true };
        let embedded = Embedded::up(&options).await.unwrap();
        Server { options, embedded, _root: root }
    }

    /// Moves a shop's data here, which is empty.
    async fn move_in(&self, shop: &mut Shop) {
        let connect = self.embedded.connect_options();
        shop.database_url = connect.to_url_lossy().to_string();
        shop.pool = PgPoolOptions::new().max_connections(3).connect_with(connect).await.unwrap();
        shop.run(&["migrate"]).await.expect(0);
        shop.clock(BEGIN).await;
    }

    fn signal(&self, signal: Signal) {
        kill(&self.options.dir.join("data"), signal);
    }

    /// Starts it again.
    async fn again(&mut self) {
        self.embedded = Embedded::up(&self.options).await.unwrap();
    }
}

/// The server of this data folder, dead or alive.
fn server_of(data: &Path) -> Option<Pid> {
    let file = std::fs::read_to_string(data.join("postmaster.pid")).ok()?;
    Pid::from_raw(file.lines().next()?.parse().ok()?)
}

/// Sends a signal to the server of this data folder.
fn kill(data: &Path, signal: Signal) {
    rustix::process::kill_process(server_of(data).expect("a server runs"), signal).unwrap();
}

/// Each of these waits for time limits, so they wait together.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_database_costs_no_ticket_and_no_fire() {
    tokio::join!(
        a_database_that_is_killed_or_restarted_in_the_middle_of_calls_costs_no_ticket_and_no_fire(),
        a_database_without_a_free_connection_is_waited_for(),
        the_embedded_database_is_started_again_when_it_is_killed(),
        out_of_reach(Way::Refused, Duration::ZERO),
        out_of_reach(Way::Swallowed, Duration::ZERO),
    );
}

async fn a_database_that_is_killed_or_restarted_in_the_middle_of_calls_costs_no_ticket_and_no_fire() {
    let mut server = Server::up().await;
    let mut shop = Shop::open().await;
    server.move_in(&mut shop).await;
    let serving = shop.three_vendors(&[]).await;
    // kill -9, pg_ctl stop -m immediate, pg_ctl stop -m fast.
    for signal in [Signal::KILL, Signal::QUIT, Signal::INT] {
        shop.calls_under_way().await;
        server.signal(signal);
        serving.until_http("/readyz", 503).await;
        assert_eq!(serving.http("/healthz").await.0, 200);
        server.again().await;
        shop.goes_on(&serving).await;
    }
    serving.stop().await;
    shop.assert_whole().await;
}

async fn a_database_without_a_free_connection_is_waited_for() {
    let server = Server::up().await;
    let mut shop = Shop::open().await;
    server.move_in(&mut shop).await;
    let serving = shop.three_vendors(&[]).await;
    shop.calls_under_way().await;
    let others = server.embedded.connect_options().application_name("others").disable_statement_logging();
    let mut taken = take_all(&others).await;
    assert!(taken.len() > 20, "{}", taken.len());
    // Now the service loses its own, and the others take them at once.
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'reportd'";
    let ended: i64 = sqlx::query_scalar(end).fetch_one(&mut taken[0]).await.unwrap();
    assert!(ended > 2, "{ended}");
    // It may be quicker than they are, so until it has none.
    while serving.http("/readyz").await.0 == 200 {
        let _: i64 = sqlx::query_scalar(end).fetch_one(&mut taken[0]).await.unwrap();
        taken.extend(take_all(&others).await);
    }
    let said = serving.until_http("/readyz", 503).await;
    assert!(!said.contains("\"database\":\"ok\""), "{said}");
    for connection in taken {
        connection.close().await.unwrap();
    }
    shop.goes_on(&serving).await;
    serving.stop().await;
    shop.assert_whole().await;
}

/// Connects until the server has no connection left.
async fn take_all(options: &PgConnectOptions) -> Vec<PgConnection> {
    let mut taken = Vec::new();
    loop {
        match PgConnection::connect_with(options).await {
            Ok(connection) => taken.push(connection),
            Err(error) => {
                let code = error.as_database_error().and_then(|e| e.code().map(std::borrow::Cow::into_owned));
                assert_eq!(code.as_deref(), Some("53300"), "{error}");
                return taken;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes: the same for a minute each"]
async fn a_database_that_is_out_of_reach_for_a_minute_costs_no_ticket_and_no_fire() {
    tokio::join!(out_of_reach(Way::Refused, MINUTE), out_of_reach(Way::Swallowed, MINUTE));
}

const MINUTE: Duration = Duration::from_secs(60);

/// The way is cut in the middle of calls until the service says so, and for so much longer.
async fn out_of_reach(way: Way, longer: Duration) {
    let shop = Shop::at_begin().await;
    let relay = DatabaseRelay::to(&shop.database_url);
    let url = shop.database_by(&relay);
    let serving = shop.three_vendors(&[("DATABASE_URL", &url)]).await;
    shop.calls_under_way().await;
    relay.set(way);
    serving.until_http("/readyz", 503).await;
    assert_eq!(serving.http("/healthz").await.0, 200);
    tokio::time::sleep(longer).await;
    assert_eq!(serving.http("/healthz").await.0, 200);
    relay.set(Way::Open);
    shop.goes_on(&serving).await;
    serving.stop().await;
    shop.assert_whole().await;
}

async fn the_embedded_database_is_started_again_when_it_is_killed() {
    let shop = Shop::open().await;
    shop.job("ratings", &format!("schedule: \"* * * * *\"\nwindow: previous_hour\n{LIVECHAT}"));
    let mut command = shop.command(&["serve", "--listen", "127.0.0.1:0"]);
    command.env_remove("DATABASE_URL");
    let serving = Started::new(command);
    serving.until_says("jobs are loaded").await;
    let said = serving.stderr();
    let data = said.split_once("embedded PostgreSQL made in ").unwrap().1.split_once(';').unwrap().0.to_owned();
    serving.until_http("/readyz", 200).await;
    kill(Path::new(&data), Signal::KILL);
    serving.until_http("/readyz", 503).await;
    serving.until_http("/readyz", 200).await;
    serving.stop().await;
    assert!(!Path::new(&data).join("postmaster.pid").exists(), "its last user stops it");
    std::fs::remove_dir_all(Path::new(&data).parent().unwrap()).unwrap();
}

/// Replaces all faults of the vendors.
async fn faults(sandbox: &Sandbox, faults: &[&str]) {
    let body = faults.join("\n");
    let mut stream = TcpStream::connect(sandbox.addr()).await.unwrap();
    let head = format!(
        "PUT /sandbox/faults HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hours_without_vendors_heal_by_themselves_and_delay_no_other_shop() {
    const STEP: Duration = Duration::from_secs(15 * 60);
    let shop = Shop::at_begin().await;
    let well = Sandbox::start(Options::quick(std::sync::Arc::new(|| {
        chrono::DateTime::<chrono::Utc>::from(std::time::UNIX_EPOCH + crate::harness::since_epoch())
    })))
    .await
    .unwrap();
    let mut relay = Relay::refusing(shop.sandbox.addr());
    relay.open();
    let account = |vendor: &str, base: &str, secret: &str| {
        format!("    {vendor}: {{ base_url: {base}, {secret}, requests_per_second: 1000, max_in_flight: 50 }}\n")
    };
    let accounts = |base: [&str; 3]| {
        account("bik", base[0], "key: env:BIK_KEY, secret: env:BIK_SECRET, quiet_emails: [bi@north.example]")
            + &account("livechat", base[1], "token: env:LIVECHAT")
            + &account("jaicp", base[2], "token: env:JAICP")
    };
    let quoted = |url: String| format!("\"{url}\"");
    let north = [
        quoted(shop.sandbox.bik_base_url()),
        quoted(shop.sandbox.livechat_base_url()),
        relay.base(&shop.sandbox.jaicp_base_url()),
    ];
    let south = [well.bik_base_url(), well.livechat_base_url(), well.jaicp_base_url()].map(quoted);
    let config = format!(
        "connections:\n  north:\n    zone: Asia/Kolkata\n{}  south:\n    zone: Asia/Kolkata\n{}",
        accounts(north.each_ref().map(String::as_str)),
        accounts(south.each_ref().map(String::as_str))
    );
    std::fs::write(shop.folder.path().join("reportd.yaml"), config).unwrap();
    // 83 windows of each vendor are due for north when the service starts, and its vendors are half dead already.
    for (job, vendor) in JOBS.into_iter().zip([&*bik(), LIVECHAT, JAICP]) {
        shop.job(job, &format!("connections: [north]\n{}", hourly("2026-03-17", vendor)));
    }
    // South has something due every ten minutes, of each vendor in turn.
    let vendors = [bik(), LIVECHAT.to_owned(), JAICP.to_owned()];
    for (minute, vendor) in vendors.iter().cycle().take(6).enumerate() {
        let job = format!("schedule: \"{minute}5 * * * *\"\nwindow: previous_hour\nconnections: [south]\n{vendor}");
        shop.job(&format!("south-{minute}"), &job);
    }
    faults(&shop.sandbox, &["bik.getReportById=503", "livechat.report=503", "jaicp.task=reset"]).await;
    let serving = shop.serve().await;
    let due = "SELECT count(*) FROM runs WHERE connection = 'north'";
    shop.until_count(due, 249).await;
    shop.until_count("SELECT count(*) FROM remote_tasks WHERE vendor = 'bik' AND remote_id IS NOT NULL", 50).await;

    relay.shut().await;
    faults(&shop.sandbox, &["bik.generateReport=503+60", "bik.getReportById=reset", "livechat.report=reset"]).await;
    let mut slowest = Duration::ZERO;
    for step in 0..8 {
        if step == 4 {
            faults(&shop.sandbox, &["bik.generateReport=429", "bik.getReportById=503", "livechat.report=500"]).await;
        }
        shop.leap(STEP).await;
        let south = took(async {
            shop.until_count("SELECT count(*) FROM series WHERE connection = 'south' AND next_at <= reportd_now()", 0)
                .await;
            shop.until_count("SELECT count(*) FROM runs WHERE connection = 'south' AND finished_at IS NULL", 0).await;
        });
        slowest = slowest.max(south.await);
    }
    println!("the slowest of south's runs took {slowest:?} in a shop next to dead ones");
    assert!(slowest < Duration::from_secs(10), "{slowest:?}");
    assert_eq!(shop.number("SELECT count(*) FROM runs WHERE connection = 'south'").await, 12);
    assert_eq!(
        shop.number("SELECT count(*) FROM runs WHERE connection = 'north' AND finished_at IS NOT NULL").await,
        0
    );

    relay.open();
    faults(&shop.sandbox, &[]).await;
    let mut minutes = 0;
    while shop.number("SELECT count(*) FROM runs WHERE finished_at IS NULL").await > 0 {
        minutes += 1;
        assert!(minutes < 40, "it does not heal");
        shop.leap(Duration::from_secs(60)).await;
        let late =
            "SELECT count(*) FROM runs WHERE finished_at IS NULL AND next_step_at < reportd_now() - interval '2 s'";
        shop.until_count(late, 0).await;
    }
    println!("healed {minutes} minutes after the vendors came back");
    shop.until_done().await;
    serving.stop().await;
    let ledger = expected("2026-03-16T18:30:00Z", HOUR, shop.now().await);
    for job in JOBS {
        assert_eq!(shop.ledger(job).await, ledger, "{job}");
        shop.assert_held_once(job).await;
    }
    shop.assert_mailed_once(JOBS[0]).await;
    assert_eq!(shop.number("SELECT count(*) FROM run_events WHERE kind = 'held'").await, 0);
    verify(&shop).await;
}
