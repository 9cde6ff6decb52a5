//! Verbs of the tests that put `serve` under fire: schedules with many due windows, an operator who knows what the vendor knows,
//! what must be true when all is over, and a way to the database that can be cut.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use rustix::process::Signal;
use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::harness::Shop;
use crate::vendors::bound;
use crate::verbs::{BIK, LEASES, Started, until};

/// When these tests begin, by the database's clock: 11:35 in Kolkata.
pub const BEGIN: &str = "2026-03-20T06:05:00Z";

pub const HOUR: Duration = Duration::from_secs(3600);

/// The BIK report, whose address tells for which window of which job the mail is.
pub fn bik() -> String {
    BIK.replace("{var.owner}", "{job}--{window.label}@north.example")
}

/// A job of each hour, wanted from this date on. The hour before is not wanted: its instant is the one that is skipped.
pub fn hourly(since: &str, vendor: &str) -> String {
    format!("schedule: \"0 * * * *\"\nwindow: previous_hour\nsince: {since}\n{vendor}")
}

/// A job of each day at 6:30 in Kolkata.
pub fn daily(since: &str, vendor: &str) -> String {
    format!("schedule: \"30 6 * * *\"\nwindow: yesterday\nsince: {since}\n{vendor}")
}

/// What the ledger must say of a job whose instants are `every` so far apart and whose first is skipped.
pub fn expected(first: &str, every: Duration, now: DateTime<Utc>) -> Vec<String> {
    let (mut at, mut word, mut lines) = (first.parse::<DateTime<Utc>>().unwrap(), "skipped", Vec::new());
    while at <= now {
        lines.push(format!("{} {word}", at.format("%Y-%m-%dT%H:%M")));
        (at, word) = (at + TimeDelta::from_std(every).unwrap(), "fired");
    }
    lines
}

impl Shop {
    /// A shop at [`BEGIN`].
    pub async fn at_begin() -> Shop {
        let shop = Shop::open().await;
        shop.clock(BEGIN).await;
        shop
    }

    /// Waits until the server has noticed that the program's processes are dead. What they sent last is still executed: a claim
    /// in it is a lease that nobody has, which began after the clock was moved if that came first.
    pub async fn until_nobody_is_connected(&self) {
        let sessions = "SELECT count(*) FROM pg_stat_activity
                        WHERE datname = current_database() AND application_name = 'reportd'";
        self.until_count(sessions, 0).await;
    }

    /// Ends every lease, while nobody lives who would take a new one. A frozen process may have sent a claim as its last word,
    /// which is executed all the same.
    pub async fn end_leases(&self) {
        let active = "SELECT count(*) FROM pg_stat_activity
                      WHERE datname = current_database() AND application_name = 'reportd' AND state = 'active'";
        self.until_count(active, 0).await;
        until("no lease holds", || async {
            self.advance(LEASES).await;
            self.number("SELECT count(*) FROM runs WHERE lease_until > reportd_now()").await == 0
        })
        .await;
    }

    /// Moves the database's clock on at a moment at which no step is under way: a jump in the middle of one looks as if its
    /// worker had died.
    pub async fn leap(&self, by: Duration) {
        until("a moment without a step", || async {
            let mut tx = self.pool.begin().await.unwrap();
            sqlx::query("LOCK TABLE runs IN SHARE ROW EXCLUSIVE MODE").execute(&mut *tx).await.unwrap();
            let moved = sqlx::query(
                "UPDATE instance SET clock_offset = clock_offset + make_interval(secs => $1)
                 WHERE NOT EXISTS (SELECT 1 FROM runs WHERE lease_token IS NOT NULL)",
            )
            .bind(by.as_secs_f64())
            .execute(&mut *tx)
            .await
            .unwrap();
            tx.commit().await.unwrap();
            moved.rows_affected() == 1
        })
        .await;
    }

    /// The database's clock.
    pub async fn now(&self) -> DateTime<Utc> {
        self.one("SELECT reportd_now()").await
    }

    /// Waits until everything is done, and says to every held create what the vendor knows of it; returns how many were held.
    pub async fn until_settled(&self) -> usize {
        let mut resolved = 0;
        loop {
            self.until_done().await;
            let held: Vec<(String, String)> = sqlx::query_as(
                "SELECT id::text, job || '--' || window_label || '@north.example' FROM runs WHERE state = 'held'",
            )
            .fetch_all(&self.pool)
            .await
            .unwrap();
            if held.is_empty() {
                return resolved;
            }
            for (run, address) in held {
                resolved += 1;
                match self.sandbox.mails().iter().find(|mail| mail.to == address) {
                    Some(mail) => {
                        self.run(&["resolve", &run, "--ticket", &mail.report_history_id.to_string()]).await.expect(0)
                    }
                    None => self.run(&["resolve", &run, "--not-created"]).await.expect(0),
                };
            }
        }
    }

    /// How many mails each address got of the windows of a job.
    pub fn mails_of(&self, job: &str) -> BTreeMap<String, usize> {
        let mut mails = BTreeMap::new();
        for mail in self.sandbox.mails() {
            if let Some(label) = mail.to.strip_prefix(&format!("{job}--")) {
                *mails.entry(label.trim_end_matches("@north.example").to_owned()).or_default() += 1;
            }
        }
        mails
    }

    /// Every window of a job that fired is held once, as r1, and no other; returns the windows.
    pub async fn assert_held_once(&self, job: &str) -> BTreeSet<String> {
        let fired: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM fires JOIN series ON series.id = series_id WHERE job = $1 AND outcome = 'fired'",
        )
        .bind(job)
        .fetch_one(&self.pool)
        .await
        .unwrap();
        let runs: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM runs JOIN fires ON fires.run_id = runs.id AND fires.series_id = runs.series_id
             WHERE job = $1 AND state IN ('archived', 'empty') AND lease_token IS NULL AND runs.fire_at = fires.fire_at",
        )
        .bind(job)
        .fetch_one(&self.pool)
        .await
        .unwrap();
        let made: i64 = sqlx::query_scalar("SELECT count(*) FROM runs WHERE job = $1")
            .bind(job)
            .fetch_one(&self.pool)
            .await
            .unwrap();
        let ended: Vec<(String, String, String)> = sqlx::query_as(
            "SELECT window_label, state, COALESCE(failure, note, '') FROM runs WHERE job = $1 AND state NOT IN ('archived', 'empty')",
        )
        .bind(job)
        .fetch_all(&self.pool)
        .await
        .unwrap();
        assert_eq!((runs, made), (fired, fired), "{job}: {ended:?}");
        let held = self.holds(job).await;
        assert_eq!(i64::try_from(held.len()).unwrap(), fired, "{job}: {held:?}");
        held.iter()
            .map(|line| line.strip_suffix(" r1").unwrap_or_else(|| panic!("{job}: {held:?}")).to_owned())
            .collect()
    }

    /// Each window of a BIK job was mailed once.
    pub async fn assert_mailed_once(&self, job: &str) {
        let windows = self.assert_held_once(job).await;
        let expected: BTreeMap<String, usize> = windows.into_iter().map(|label| (label, 1)).collect();
        assert_eq!(self.mails_of(job), expected, "{job}");
    }

    /// Starts `serve` with these arguments and variables more, and waits until it has loaded its jobs.
    pub async fn serve_with(&self, args: &[&str], env: &[(&str, &str)]) -> Started {
        let mut command = self.command(&[&["serve", "--listen", "127.0.0.1:0"], args].concat());
        command.envs(env.iter().copied());
        let serving = Started::new(command);
        serving.until_says("jobs are loaded").await;
        serving
    }

    /// The URL of the shop's database by way of this relay.
    pub fn database_by(&self, relay: &DatabaseRelay) -> String {
        let options: PgConnectOptions = self.database_url.parse().unwrap();
        let options = options.host("127.0.0.1").port(relay.addr.port());
        let database = options.get_database().unwrap();
        let user = options.get_username();
        format!("postgresql://{user}@127.0.0.1:{}/{database}?sslmode=disable", relay.addr.port())
    }
}

impl Started {
    /// Stops its clock: it is frozen, as by a suspended machine.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Waits until it said so on stderr so many times.
    pub async fn until_says_times(&self, text: &str, times: usize) {
        until(text, || async { self.stderr().matches(text).count() >= times }).await;
    }

    /// Kills it as `kill -9` does.
    pub async fn die(self) -> u32 {
        let id = self.id();
        self.signal(Signal::KILL);
        let ended = self.end().await;
        assert_eq!(ended.code, None, "it had ended by itself: {}", ended.stderr);
        id
    }
}

/// What a [`DatabaseRelay`] does with connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// They lead to the database.
    Open,
    /// They are ended, and new ones refused.
    Refused,
    /// Packets vanish: connections stay open on both sides, for good, and new ones are taken and lead nowhere.
    Swallowed,
}

/// A way to the database that can be cut.
pub struct DatabaseRelay {
    pub addr: SocketAddr,
    way: watch::Sender<Way>,
    _serving: AbortOnDropHandle<()>,
}

/// Where a relay leads.
#[derive(Clone, Debug)]
enum Place {
    Socket(PathBuf),
    Host(String, u16),
}

impl DatabaseRelay {
    /// A relay to the server of this database URL.
    pub fn to(url: &str) -> DatabaseRelay {
        let options: PgConnectOptions = url.parse().unwrap();
        let place = match options.get_socket() {
            Some(folder) => Place::Socket(folder.join(format!(".s.PGSQL.{}", options.get_port()))),
            None => Place::Host(options.get_host().to_owned(), options.get_port()),
        };
        let listener = bound((Ipv4Addr::LOCALHOST, 0).into()).listen(64).unwrap();
        let addr = listener.local_addr().unwrap();
        let (way, ways) = watch::channel(Way::Open);
        DatabaseRelay { addr, way, _serving: AbortOnDropHandle::new(tokio::spawn(relay(listener, addr, place, ways))) }
    }

    /// From now on.
    pub fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

async fn relay(listener: TcpListener, addr: SocketAddr, place: Place, mut ways: watch::Receiver<Way>) {
    let mut listener = Some(listener);
    // A socket that is bound and does not listen keeps the port ours and refuses.
    let mut shut = None;
    loop {
        let refused = *ways.borrow_and_update() == Way::Refused;
        if refused && listener.take().is_some() {
            shut = Some(bound(addr));
        }
        if !refused && let Some(socket) = shut.take() {
            listener = Some(socket.listen(64).unwrap());
        }
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = ways.changed() => if changed.is_err() { return },
            Ok((stream, _)) = accepted => {
                tokio::spawn(carry(stream, place.clone(), ways.clone()));
            }
        }
    }
}

/// Carries one connection until it ends or the way is cut.
async fn carry(mut stream: TcpStream, place: Place, mut ways: watch::Receiver<Way>) {
    trait Both: AsyncRead + AsyncWrite + Unpin + Send {}
    impl<T: AsyncRead + AsyncWrite + Unpin + Send> Both for T {}
    let mut server: Option<Box<dyn Both>> = None;
    if *ways.borrow() == Way::Open {
        server = match &place {
            Place::Socket(path) => UnixStream::connect(path).await.ok().map(|s| Box::new(s) as Box<dyn Both>),
            Place::Host(host, port) => {
                TcpStream::connect((host.as_str(), *port)).await.ok().map(|s| Box::new(s) as Box<dyn Both>)
            }
        };
        let Some(server) = &mut server else { return };
        tokio::select! {
            _ = copy_bidirectional(&mut stream, server) => return,
            _ = ways.wait_for(|way| *way != Way::Open) => {}
        }
    }
    // Whoever refuses ends connections; whoever swallows leaves both sides waiting, whatever comes later.
    if ways.wait_for(|way| *way == Way::Refused).await.is_err() {
        drop(server);
    }
}

/// How long it takes until it is so.
pub async fn took<F: Future<Output = ()>>(what: F) -> Duration {
    let start = Instant::now();
    what.await;
    start.elapsed()
}
