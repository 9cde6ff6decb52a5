//! Ten days in seconds, over the daylight-saving changes of 2026: jobs of several zones, the database's clock moved on in
//! steps, and all the while services that stop and are killed, vendors that fail, and database sessions that end.
//!
//! In the end the ledger must be what the schedules alone say, each instant once, and every window archived or explained.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use chrono_tz::Tz;
use reportd::job::schedule::{Cron, Schedule};
use rustix::process::Signal;

use crate::harness::Shop;
use crate::verbs::{BIK, LEASES, LIVECHAT, Started};

/// name, zone, crons, window, and whether it is a BIK report, which mails.
type Row = (&'static str, &'static str, &'static [&'static str], &'static str, bool);

const JOBS: [Row; 10] = [
    ("berlin-hours", "Europe/Berlin", &["0 * * * *"], "previous_hour", false),
    ("berlin-gap", "Europe/Berlin", &["30 2 * * *"], "yesterday", true),
    ("berlin-twice", "Europe/Berlin", &["15 2 * * *", "30 1,3 * * *"], "yesterday", false),
    ("new-york-days", "America/New_York", &["30 1 * * *"], "yesterday", false),
    ("new-york-gap", "America/New_York", &["30 2 * * *"], "last_2_days", false),
    ("lord-howe-days", "Australia/Lord_Howe", &["45 1 * * *"], "yesterday", false),
    ("lord-howe-some", "Australia/Lord_Howe", &["*/30 1-2 * * *"], "previous_hour", false),
    ("cairo-midnight", "Africa/Cairo", &["0 0 * * *"], "yesterday", true),
    ("kolkata-weeks", "Asia/Kolkata", &["30 6 * * 1"], "previous_week", false),
    ("kolkata-days", "Asia/Kolkata", &["30 6 * * *"], "yesterday", false),
];

/// More of the same, for the long form.
const MORE: [Row; 3] = [
    ("lord-howe-hours", "Australia/Lord_Howe", &["0 * * * *"], "previous_hour", false),
    ("new-york-hours", "America/New_York", &["5 */2 * * *"], "previous_hour", false),
    ("kolkata-so-far", "Asia/Kolkata", &["0 9-20/2 * * *"], "today", false),
];

/// A small generator, so that a seed names a whole test.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// A rehearsal.
struct Rehearsal {
    shop: Shop,
    jobs: Vec<Row>,
    since: NaiveDate,
    random: Random,
    serving: Vec<Started>,
    counts: BTreeMap<&'static str, usize>,
}

impl Rehearsal {
    async fn open(since: &str, jobs: &[Row]) -> Rehearsal {
        let seeds =
            std::env::vars().find(|(name, _)| name == "REPORTD_TEST_SEED").and_then(|(_, seed)| seed.parse().ok());
        let seed = seeds.unwrap_or(uuid::Uuid::new_v4().as_u64_pair().0 | 1);
        // Shown when the test fails: set REPORTD_TEST_SEED to it to have the same troubles again.
        println!("seed {seed}");
        let shop = Shop::open().await;
        shop.accounts(&[("livechat", "max_in_flight", "16")]);
        for (name, zone, crons, window, mails) in jobs {
            let ask = if *mails {
                BIK.replace("{var.owner}", &format!("{name}-{{window.label}}@north.example"))
            } else {
                LIVECHAT.to_owned()
            };
            // Outages end; a test that moves the clock by hours at once must not make them look like days of errors.
            let yaml =
                format!("zone: {zone}\nschedule: {crons:?}\nwindow: {window}\nsince: {since}\ngive_up: 30d\n{ask}");
            shop.job(name, &yaml);
        }
        let since: NaiveDate = since.parse().unwrap();
        // Before the first zone of all has that date.
        shop.clock(&format!("{}T06:00:00Z", since.pred_opt().unwrap())).await;
        let (serving, counts) = (Vec::new(), BTreeMap::new());
        Rehearsal { shop, jobs: jobs.to_vec(), since, random: Random(seed), serving, counts }
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    async fn start_one(&mut self) {
        let serving = self.shop.serve().await;
        self.serving.push(serving);
        self.count("starts");
    }

    /// Something goes wrong, or not.
    async fn trouble(&mut self) {
        match self.random.below(7) {
            0 => {
                if let Some(serving) = self.serving.pop() {
                    serving.signal(Signal::KILL);
                    drop(serving.end().await);
                    self.count("kills");
                }
            }
            1 => {
                if let Some(serving) = self.serving.pop() {
                    serving.stop().await;
                    self.count("stops");
                }
            }
            2 => {
                for fault in ["livechat.report=503:6", "livechat.report=reset:3", "bik.getReportById=500:2"] {
                    self.shop.fault(fault);
                }
                self.count("vendor outages");
            }
            3 => {
                self.shop.fault("livechat.report=truncated:2");
                self.shop.fault("bik.generateReport=503+30:1");
                self.count("vendor outages");
            }
            4 | 5 => {
                let ended = self
                    .shop
                    .number(
                        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                         WHERE datname = current_database() AND application_name = 'reportd'",
                    )
                    .await;
                *self.counts.entry("sessions ended").or_default() += usize::try_from(ended).unwrap();
            }
            _ => {}
        }
    }

    /// Moves on to an instant, in steps of hours with troubles in between.
    async fn live_until(&mut self, end: &str, replicas: usize, longest_step_h: u64, pause: Duration) {
        while self.shop.one::<DateTime<Utc>>("SELECT reportd_now()").await < end.parse::<DateTime<Utc>>().unwrap() {
            if self.serving.len() < replicas && self.random.below(3) > 0 {
                self.start_one().await;
            }
            self.shop.advance(Duration::from_secs(60 * (30 + self.random.below(60 * longest_step_h)))).await;
            // How far they come in this time is what is tried here; nothing is waited for.
            let pause = pause.as_millis().try_into().unwrap();
            tokio::time::sleep(Duration::from_millis(self.random.below(pause))).await;
            self.trouble().await;
        }
    }

    /// One service more, undisturbed, until nothing is left to do but for people. The clock stands as good as still: only what
    /// dead processes hold is let go, and nobody waits for a back-off or the next poll.
    async fn heal(&mut self) {
        const LEFT: &str = "SELECT (SELECT count(*) FROM runs WHERE finished_at IS NULL AND state <> 'held')
                                 + (SELECT count(*) FROM series WHERE next_at <= reportd_now())";
        for serving in self.serving.drain(..) {
            serving.stop().await;
        }
        self.shop.advance(LEASES).await;
        self.start_one().await;
        let start = Instant::now();
        while self.shop.number(LEFT).await > 0 {
            assert!(start.elapsed() < Duration::from_secs(60), "it does not heal: {}", self.serving[0].stderr());
            sqlx::query(
                "UPDATE runs SET next_step_at = reportd_now() WHERE finished_at IS NULL AND state <> 'held'
                 AND lease_token IS NULL AND next_step_at > reportd_now()",
            )
            .execute(&self.shop.pool)
            .await
            .unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The instants that a job's schedule names from its first wanted date on.
    fn named(&self, row: &Row, until: DateTime<Utc>) -> Vec<DateTime<Utc>> {
        let (name, zone, crons, ..) = row;
        let zone: Tz = zone.parse().unwrap();
        let crons = crons.iter().map(|cron| Cron::parse(cron, &format!("{name}@north")).unwrap()).collect();
        Schedule::new(crons, zone).between(self.wanted_from(row) - TimeDelta::seconds(1), until, usize::MAX)
    }

    /// The first instant of `since` in a job's zone.
    fn wanted_from(&self, row: &Row) -> DateTime<Utc> {
        let zone: Tz = row.1.parse().unwrap();
        self.since.and_hms_opt(0, 0, 0).unwrap().and_local_timezone(zone).unwrap().to_utc()
    }

    async fn must_be_whole(&mut self) {
        let mut instants = 0;
        // Nothing was due when healing ended, which was no minute ago.
        let until = self.shop.one::<DateTime<Utc>>("SELECT reportd_now() - interval '1 min'").await;
        for row in &self.jobs.clone() {
            let name = row.0;
            let fires: Vec<DateTime<Utc>> = sqlx::query_scalar(
                "SELECT fire_at FROM fires JOIN series ON series.id = series_id WHERE job = $1
                     AND fire_at <= $2 AND fire_at >= $3 ORDER BY fire_at",
            )
            .bind(name)
            .bind(until)
            // Before `since` the instants of a file that is there already are skipped.
            .bind(self.wanted_from(row))
            .fetch_all(&self.shop.pool)
            .await
            .unwrap();
            assert_eq!(fires, self.named(row, until), "{name}: the ledger is what the schedule names");
            instants += fires.len();
        }
        let one = async |sql: &'static str| self.shop.number(sql).await;
        assert_eq!(one("SELECT count(*) FROM fires WHERE outcome NOT IN ('fired', 'covered', 'skipped')").await, 0);
        // Only what covers no wanted date is skipped: at most the first day of each job.
        let skipped = "SELECT count(*) FROM fires WHERE outcome = 'skipped'
                       AND reason <> 'the window ends before the job''s `since`'";
        assert_eq!(one(skipped).await, 0);
        let unexplained = "SELECT count(*) FROM fires f WHERE outcome <> 'skipped' AND NOT EXISTS (
                               SELECT 1 FROM revisions r WHERE r.series_id = f.series_id
                               AND r.window_start = f.window_start AND r.window_end = f.window_end)
                           AND NOT EXISTS (SELECT 1 FROM runs WHERE id = f.run_id AND state = 'held'
                               AND failure_class = 'unknown_create')";
        assert_eq!(one(unexplained).await, 0, "every window is archived, or held and says why");
        let fetched_twice = "SELECT count(*) FROM revisions WHERE revision > 1";
        assert_eq!(one(fetched_twice).await, 0);
        let made_twice = "SELECT count(*) FROM (SELECT 1 FROM runs GROUP BY series_id, window_start, window_end
                          HAVING count(*) > 1) AS twice";
        assert_eq!(one(made_twice).await, 0);
        assert_eq!(one("SELECT count(*) FROM runs WHERE state IN ('failed', 'cancelled')").await, 0);
        let mut mails: BTreeMap<String, usize> = BTreeMap::new();
        for mail in self.shop.sandbox.mails() {
            *mails.entry(mail.to).or_default() += 1;
        }
        assert!(mails.values().all(|count| *count == 1), "{mails:?}");
        let (runs, held) =
            (one("SELECT count(*) FROM runs").await, one("SELECT count(*) FROM runs WHERE state = 'held'").await);
        println!(
            "{instants} instants of {} jobs, {runs} runs ({held} held), {} requests, {} mails; {:?}",
            self.jobs.len(),
            self.shop.requests(),
            mails.len(),
            self.counts
        );
        for serving in self.serving.drain(..) {
            serving.stop().await;
        }
        let faults = self.shop.run(&["archive", "verify", "--format", "json"]).await.expect(0).json();
        assert!(faults.iter().all(|fault| fault["kind"] == "orphan"), "{faults:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_days_around_the_change_of_march_lose_no_instant_and_fetch_no_window_twice() {
    let start = Instant::now();
    let mut rehearsal = Rehearsal::open("2026-03-28", &JOBS).await;
    rehearsal.live_until("2026-04-06T00:00:00Z", 1, 30, Duration::from_millis(800)).await;
    rehearsal.heal().await;
    rehearsal.must_be_whole().await;
    println!("{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: the changes of spring and autumn, two services, small steps"]
async fn the_changes_of_spring_and_autumn_lose_no_instant_with_two_services() {
    for (since, until) in [
        ("2026-03-06", "2026-03-10T00:00:00Z"),
        ("2026-03-27", "2026-04-07T00:00:00Z"),
        ("2026-10-02", "2026-10-06T00:00:00Z"),
        ("2026-10-23", "2026-11-03T00:00:00Z"),
    ] {
        let start = Instant::now();
        let mut rehearsal = Rehearsal::open(since, &[&JOBS[..], &MORE[..]].concat()).await;
        rehearsal.live_until(until, 2, 5, Duration::from_millis(1500)).await;
        rehearsal.heal().await;
        rehearsal.must_be_whole().await;
        println!("{since}: {:?}", start.elapsed());
    }
}
