//! Several processes on one database: what is due is fired once, limits hold over all, and one that freezes, is cut off, or has
//! a wrong clock keeps nobody from anything.

use std::time::{Duration, Instant};

use reportd::sandbox::Vendor;
use sqlx::{PgConnection, PgTransaction};

use crate::crash::verify;
use crate::harness::Shop;
use crate::siege::{DatabaseRelay, HOUR, Way, bik, expected, hourly, took};
use crate::verbs::{JAICP, LEASES, LIVECHAT, QUERY, Started, until};

/// A frozen process is put out of its transaction by the server after 10 s; the rest is for a pulse and a busy machine.
const FROZEN: Duration = Duration::from_secs(18);

const FIRST: &str = "2026-03-19T18:30:00Z";
const SINCE: &str = "2026-03-20";

impl Shop {
    /// The ledger of an hourly job is whole, and each window is held once.
    async fn assert_hourly(&self, job: &str) {
        assert_eq!(self.ledger(job).await, expected(FIRST, HOUR, self.now().await), "{job}");
        self.assert_held_once(job).await;
    }

    /// Waits until a statement of this kind waits for a lock.
    async fn until_it_waits(&self, statement: &str) {
        until(statement, || async {
            sqlx::query_scalar::<_, bool>(
                "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = current_database()
                     AND wait_event_type = 'Lock' AND query LIKE $1)",
            )
            .bind(format!("%{statement}%"))
            .fetch_one(&self.pool)
            .await
            .unwrap()
        })
        .await;
    }

    /// A transaction that a planner which decides the next instants has to wait for.
    async fn in_the_planners_way(&self) -> PgTransaction<'_> {
        let mut tx = self.pool.begin().await.unwrap();
        execute(&mut tx, "INSERT INTO fires (series_id, fire_at, outcome) SELECT id, next_at, 'missed' FROM series")
            .await;
        tx
    }
}

async fn execute(connection: &mut PgConnection, statement: &'static str) {
    sqlx::query(statement).execute(connection).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn three_processes_fire_each_instant_once_and_make_each_run_once() {
    let shop = Shop::at_begin().await;
    for (job, vendor) in [("engagement", &*bik()), ("ratings", LIVECHAT), ("messages", JAICP), ("texts", QUERY)] {
        shop.job(job, &hourly(SINCE, vendor));
    }
    shop.without_waits().await;
    let serving: Vec<Started> = (0..3).map(|_| shop.start(&["serve", "--listen", "127.0.0.1:0"])).collect();
    for one in &serving {
        one.until_says("jobs are loaded").await;
    }
    // Done first: a clock that jumps ends the leases of calls under way.
    shop.until_done().await;
    for _ in 0..4 {
        shop.advance(HOUR).await;
        shop.until_done().await;
    }
    shop.until_count("SELECT count(*) FROM replicas", 3).await;
    for one in serving {
        one.stop().await;
    }
    let serve = "SELECT count(*) FROM replicas WHERE stopped_at IS NULL";
    assert_eq!(shop.number(serve).await, 0, "whoever stops signs off");
    for job in ["engagement", "ratings", "messages", "texts"] {
        shop.assert_hourly(job).await;
    }
    shop.assert_mailed_once("engagement").await;
    let windows = 15;
    assert_eq!(shop.number("SELECT count(*) FROM runs").await, 4 * windows);
    let windows = usize::try_from(windows).unwrap();
    for vendor in [Vendor::Bik, Vendor::LiveChat, Vendor::Jaicp] {
        assert_eq!(shop.sandbox.creates(vendor), windows, "{vendor}");
    }
    assert_eq!(shop.number("SELECT version FROM job_set").await, 1, "one of three applied what all three have");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_and_a_number_of_runs_at_once_hold_over_all_processes() {
    const A_SECOND: f64 = 10.0;
    const AT_ONCE: usize = 2;
    let shop = Shop::at_begin().await;
    shop.accounts(&[
        ("livechat", "requests_per_second", "10"),
        ("livechat", "max_in_flight", "100"),
        ("jaicp", "max_in_flight", "2"),
    ]);
    shop.job("ratings", &hourly("2026-03-19", LIVECHAT));
    shop.job("messages", &hourly("2026-03-19", JAICP));
    shop.without_waits().await;
    let serving: Vec<Started> = (0..3).map(|_| shop.start(&["serve", "--listen", "127.0.0.1:0"])).collect();
    let (mut first, mut last, mut seen, mut most) = (None, Instant::now(), 0, 0);
    until("all windows are archived", || {
        let received = shop.sandbox.received();
        let reports = received.iter().filter(|r| r.operation == "report").count();
        if reports > seen {
            first.get_or_insert_with(Instant::now);
            (seen, last) = (reports, Instant::now());
        }
        // What was created and not yet fetched is under way, whatever the database says.
        let created = received.iter().filter(|r| r.operation == "create").count();
        let fetched = received.iter().filter(|r| r.operation == "download").count();
        most = most.max(created - fetched);
        async { shop.number("SELECT count(*) FROM revisions").await == 70 }
    })
    .await;
    for one in serving {
        one.until_says("jobs are loaded").await;
        one.stop().await;
    }
    assert_eq!((seen, shop.sandbox.creates(Vendor::Jaicp)), (35, 35));
    assert!((1..=AT_ONCE).contains(&most), "{most} at once");
    let took = last - first.unwrap();
    let least = Duration::from_secs_f64(34.0 / A_SECOND - 0.5);
    assert!(took >= least, "35 calls within {took:?}, which at {A_SECOND} a second take {least:?} at least");
}

/// Each of these waits for PostgreSQL's and our own time limits, so they wait together.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_freezes_is_cut_off_or_has_a_wrong_clock_keeps_nobody_from_anything_for_long() {
    tokio::join!(
        one_that_freezes_while_it_decides_keeps_others_from_those_series_for_seconds_and_from_no_other(),
        an_apply_that_freezes_in_its_transaction_keeps_schedules_waiting_for_seconds_only(),
        one_that_starts_while_another_is_frozen_in_its_transaction_waits_for_it_and_then_serves(),
        one_that_is_cut_off_from_the_database_loses_its_runs_says_so_and_goes_on_by_itself(),
        one_whose_clock_is_off_fires_nothing_says_so_and_carries_runs("3600"),
        one_whose_clock_is_off_fires_nothing_says_so_and_carries_runs("-3600"),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_set_of_jobs_changes_for_all_at_once_and_only_when_somebody_changes_it() {
    tokio::join!(
        a_set_that_is_applied_is_fired_by_all_that_follow_it_within_seconds_and_nothing_twice(),
        two_with_different_folders_do_not_take_turns_at_changing_the_set(),
    );
}

async fn one_that_freezes_while_it_decides_keeps_others_from_those_series_for_seconds_and_from_no_other() {
    let shop = Shop::at_begin().await;
    shop.job("ratings", &hourly(SINCE, LIVECHAT));
    shop.job("texts", &hourly(SINCE, QUERY));
    shop.job("halves", &format!("schedule: \"30 * * * *\"\nwindow: previous_hour\nsince: {SINCE}\n{LIVECHAT}"));
    let frozen = shop.serve().await;
    let other = shop.serve().await;
    shop.until_done().await;
    other.freeze();
    let way = shop.in_the_planners_way().await;
    shop.advance(HOUR / 2).await;
    shop.until_it_waits("INSERT INTO fires").await;
    frozen.freeze();
    other.thaw();
    way.rollback().await.unwrap();

    // It holds the two series that are due at this half of the hour, and not the one of the other half.
    shop.advance(HOUR / 2).await;
    let due = "SELECT count(*) FROM series WHERE next_at <= reportd_now()";
    let halves = took(shop.until_count(due, 2));
    let hours = took(shop.until_count(due, 0));
    let (halves, hours) = tokio::join!(halves, hours);
    assert!(hours > Duration::from_secs(5), "the frozen process did not hold what it was deciding: {hours:?}");
    assert!(hours < FROZEN, "{hours:?}");
    assert!(halves < Duration::from_secs(5), "{halves:?}");
    shop.until_done().await;

    frozen.thaw();
    frozen.until_says("schedules are fired again").await;
    frozen.until_http("/readyz", 200).await;
    other.stop().await;
    shop.advance(HOUR).await;
    shop.until_done().await;
    frozen.stop().await;
    for job in ["ratings", "texts"] {
        shop.assert_hourly(job).await;
    }
    assert_eq!(shop.ledger("halves").await, expected("2026-03-19T19:00:00Z", HOUR, shop.now().await));
    shop.assert_held_once("halves").await;
}

async fn an_apply_that_freezes_in_its_transaction_keeps_schedules_waiting_for_seconds_only() {
    let shop = Shop::at_begin().await;
    shop.job("ratings", &hourly(SINCE, LIVECHAT));
    shop.run(&["apply"]).await.expect(0);
    let serving = shop.serve_with(&["--follow"], &[]).await;
    shop.until_done().await;
    shop.job("texts", &hourly(SINCE, QUERY));
    let mut tx = shop.pool.begin().await.unwrap();
    execute(&mut tx, "SELECT 1 FROM series FOR UPDATE").await;
    let applying = shop.start(&["apply"]);
    shop.until_it_waits("INSERT INTO series").await;
    applying.freeze();
    tx.rollback().await.unwrap();
    shop.advance(HOUR).await;
    let waited = took(shop.until_count("SELECT count(*) FROM fires WHERE outcome = 'fired'", 12)).await;
    assert!(waited > Duration::from_secs(5), "the frozen process did not hold the set: {waited:?}");
    assert!(waited < FROZEN, "{waited:?}");
    applying.thaw();
    applying.end().await.expect(1);
    assert_eq!(shop.number("SELECT version FROM job_set").await, 1);
    shop.run(&["apply"]).await.expect(0);
    shop.until_count("SELECT count(*) FROM revisions", 24).await;
    serving.stop().await;
    for job in ["ratings", "texts"] {
        shop.assert_hourly(job).await;
    }
}

async fn one_that_starts_while_another_is_frozen_in_its_transaction_waits_for_it_and_then_serves() {
    let shop = Shop::at_begin().await;
    shop.job("ratings", &hourly(SINCE, LIVECHAT));
    let frozen = shop.serve().await;
    shop.until_done().await;
    let way = shop.in_the_planners_way().await;
    shop.advance(HOUR).await;
    shop.until_it_waits("INSERT INTO fires").await;
    frozen.freeze();
    let starting = shop.start(&["serve", "--listen", "127.0.0.1:0"]);
    // It waits for the row that the frozen one holds, and that will be held for longer than anybody waits for a lock.
    shop.until_it_waits("FROM job_set FOR UPDATE").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    way.rollback().await.unwrap();
    starting.until_http("/readyz", 200).await;
    shop.until_done().await;
    frozen.thaw();
    frozen.until_http("/readyz", 200).await;
    for serving in [starting, frozen] {
        serving.stop().await;
    }
    shop.assert_hourly("ratings").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_frozen_worker_writes_when_it_wakes_is_refused_but_for_a_ticket() {
    let shop = Shop::at_begin().await;
    for (job, vendor) in [("engagement", &*bik()), ("ratings", LIVECHAT), ("messages", JAICP)] {
        shop.job(job, &hourly("2026-03-21", vendor));
    }
    shop.without_waits().await;
    shop.clock("2026-03-20T19:40:00Z").await;
    for fault in ["bik.generateReport=slow:1", "livechat.report=slow:1", "jaicp.download=slow:1"] {
        shop.fault(fault);
    }
    let frozen = shop.serve().await;
    for operation in ["generateReport", "report", "download"] {
        shop.until_asked(operation, 1).await;
    }
    frozen.freeze();
    shop.end_leases().await;
    let other = shop.serve().await;
    shop.until_done().await;
    let states = "SELECT string_agg(job || ' ' || state, ', ' ORDER BY job) FROM runs";
    // A shop may have no chats to rate in some hour.
    let states = shop.one::<String>(states).await.replace("empty", "archived");
    assert_eq!(states, "engagement held, messages archived, ratings archived");
    frozen.thaw();
    // The report's id came to a process that had lost its run, and is not lost.
    shop.until_count("SELECT count(*) FROM runs WHERE state IN ('archived', 'empty')", 3).await;
    frozen.until_says_times("the run is another worker's now", 2).await;
    for serving in [frozen, other] {
        serving.stop().await;
    }
    shop.assert_mailed_once("engagement").await;
    assert_eq!(shop.sandbox.creates(Vendor::Bik), 1);
    assert_eq!(shop.sandbox.creates(Vendor::Jaicp), 1);
    assert_eq!(shop.asked_for("report"), 2);
    let archived = "SELECT count(*) FROM run_events WHERE kind IN ('archived', 'empty')";
    assert_eq!(shop.number(archived).await, 3, "each run was archived by one process");
    assert_eq!(shop.number("SELECT count(*) FROM revisions").await, 3);
    verify(&shop).await;
}

async fn one_that_is_cut_off_from_the_database_loses_its_runs_says_so_and_goes_on_by_itself() {
    let shop = Shop::at_begin().await;
    shop.job("ratings", &hourly(SINCE, LIVECHAT));
    let relay = DatabaseRelay::to(&shop.database_url);
    let url = shop.database_by(&relay);
    let cut_off = shop.serve_with(&[], &[("DATABASE_URL", &url)]).await;
    shop.until_done().await;
    shop.fault("livechat.report=hang:1");
    shop.advance(HOUR).await;
    shop.until_asked("report", 12).await;
    relay.set(Way::Swallowed);
    let other = shop.serve().await;
    shop.advance(LEASES).await;
    shop.until_count("SELECT count(*) FROM revisions", 12).await;
    shop.advance(HOUR).await;
    shop.until_count("SELECT count(*) FROM revisions", 13).await;
    let said = cut_off.until_http("/readyz", 503).await;
    assert!(!said.contains("\"database\":\"ok\""), "{said}");
    assert_eq!(cut_off.http("/healthz").await.0, 200);

    relay.set(Way::Open);
    cut_off.until_http("/readyz", 200).await;
    other.stop().await;
    shop.advance(HOUR).await;
    let again = took(shop.until_count("SELECT count(*) FROM revisions", 14)).await;
    println!("it carried runs again {again:?} after it was ready");
    cut_off.stop().await;
    shop.assert_hourly("ratings").await;
}

async fn one_whose_clock_is_off_fires_nothing_says_so_and_carries_runs(offset: &str) {
    let shop = Shop::at_begin().await;
    shop.job("ratings", &hourly(SINCE, LIVECHAT));
    let wrong = shop.serve_with(&[], &[("REPORTD_CLOCK_OFFSET", offset)]).await;
    wrong.until_says("clock differs from the database's by").await;
    assert_eq!(shop.number("SELECT count(*) FROM fires").await, 0);
    let said = wrong.until_http("/readyz", 503).await;
    assert!(said.contains("clock differs"), "{said}");
    shop.until_count("SELECT count(*) FROM replicas WHERE trouble LIKE '%clock differs%'", 1).await;
    shop.run(&["run-job", "ratings", "--window", "2025-03-03..2025-03-03", "--no-wait"]).await.expect(4);
    shop.until_count("SELECT count(*) FROM revisions", 1).await;

    let right = shop.serve().await;
    shop.until_done().await;
    assert_eq!(shop.ledger("ratings").await, expected(FIRST, HOUR, shop.now().await));
    for serving in [wrong, right] {
        serving.stop().await;
    }
}

async fn a_set_that_is_applied_is_fired_by_all_that_follow_it_within_seconds_and_nothing_twice() {
    let shop = Shop::at_begin().await;
    shop.job("ratings", &hourly(SINCE, LIVECHAT));
    shop.run(&["apply"]).await.expect(0);
    let one = shop.serve_with(&["--follow"], &[]).await;
    let two = shop.serve_with(&["--follow"], &[]).await;
    shop.until_done().await;
    shop.job("texts", &hourly(SINCE, QUERY));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(shop.ledger("texts").await.len(), 0, "files alone change nothing");
    shop.run(&["apply"]).await.expect(0);
    let loaded = took(async {
        tokio::join!(one.until_says("version=2"), two.until_says("version=2"));
    });
    assert!(loaded.await < Duration::from_secs(5));
    shop.until_done().await;
    // Each of them knows the new job: it fires when the other is frozen.
    for frozen in [&one, &two] {
        frozen.freeze();
        shop.advance(HOUR).await;
        shop.until_done().await;
        frozen.thaw();
    }
    for serving in [one, two] {
        serving.stop().await;
    }
    for job in ["ratings", "texts"] {
        shop.assert_hourly(job).await;
    }
}

async fn two_with_different_folders_do_not_take_turns_at_changing_the_set() {
    let shop = Shop::at_begin().await;
    let folders = ["one", "two"].map(|name| shop.folder.path().join(name));
    for (folder, job) in folders.iter().zip(["ratings", "texts"]) {
        std::fs::create_dir(folder).unwrap();
        let vendor = if job == "texts" { QUERY } else { LIVECHAT };
        std::fs::write(folder.join(format!("{job}.yaml")), hourly(SINCE, vendor)).unwrap();
    }
    let one = shop.serve_with(&["--jobs", "one"], &[]).await;
    shop.until_done().await;
    let two = shop.serve_with(&["--jobs", "two"], &[]).await;
    one.until_says("version=2").await;
    shop.until_done().await;
    // Both look at their folders every two seconds.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(shop.number("SELECT version FROM job_set").await, 2);
    std::fs::write(folders[0].join("messages.yaml"), hourly(SINCE, JAICP)).unwrap();
    two.until_says("version=3").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(shop.number("SELECT version FROM job_set").await, 3);
    let in_force = "SELECT string_agg(job, ' ' ORDER BY job) FROM series WHERE in_force";
    assert_eq!(shop.one::<String>(in_force).await, "messages ratings", "the folder that changed last is in force");
    for serving in [one, two] {
        serving.stop().await;
    }
}
