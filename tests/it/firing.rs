//! What `serve` does with schedules: the real program on a database whose clock the test moves, and the vendors that it asks.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use reportd::job::schedule::{Cron, Schedule};
use reportd::sandbox::{Credentials, Vendor, credentials};
use rustix::process::Signal;
use serde_json::Value;
use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};

use crate::harness::Shop;
use crate::verbs::{BIK, JAICP, LIVECHAT, text, until};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// A LiveChat job with these lines.
fn livechat(lines: &str) -> String {
    format!("{lines}\n{LIVECHAT}")
}

/// A LiveChat job of this cron and window, in UTC.
fn daily(cron: &str, window: &str) -> String {
    livechat(&format!("zone: UTC\nschedule: \"{cron}\"\nwindow: {window}"))
}

/// `2026-03-06T01:00 fired` and so on, for days of March 2026.
fn march(days: std::ops::RangeInclusive<u32>, time: &str, outcome: &str) -> Vec<String> {
    days.map(|day| format!("2026-03-{day:02}T{time} {outcome}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_start_the_past_is_decided_by_since_and_each_jobs_own_catch_up() {
    let shop = Shop::open().await;
    shop.clock("2026-03-20T06:00:00Z").await;
    let job = |more: &str| livechat(&format!("schedule: \"30 6 * * *\"\nwindow: yesterday\nsince: 2026-03-05\n{more}"));
    shop.job("week", &job(""));
    shop.job("newest", &job("catch_up: latest"));
    shop.job("nothing", &job("catch_up: none"));
    shop.job("three-days", &job("catch_up: 3d"));
    shop.job("paused", &job("paused: shop closed"));
    shop.job("new", &livechat("schedule: \"30 6 * * *\"\nwindow: yesterday"));
    shop.job("listed", &livechat("schedule: [\"30 6 * * *\", \"0 7 * * *\"]\nwindow: yesterday\nsince: 2026-03-19"));
    shop.job("spread", &livechat("schedule: \"H H(0-4) * * *\"\nwindow: yesterday\nsince: 2026-03-19"));
    let serving = shop.serve().await;
    shop.until_done().await;

    let with = |parts: [Vec<String>; 3]| parts.concat();
    // The instant of the 5th covers the 4th, which nobody wants.
    let first = || march(5..=5, "01:00", "skipped");
    let week = [first(), march(6..=13, "01:00", "missed"), march(14..=20, "01:00", "fired")];
    assert_eq!(shop.ledger("week").await, with(week));
    let newest = [first(), march(6..=19, "01:00", "covered"), march(20..=20, "01:00", "fired")];
    assert_eq!(shop.ledger("newest").await, with(newest));
    assert_eq!(shop.ledger("nothing").await, with([first(), march(6..=20, "01:00", "missed"), vec![]]));
    let three = [first(), march(6..=17, "01:00", "missed"), march(18..=20, "01:00", "fired")];
    assert_eq!(shop.ledger("three-days").await, with(three));
    assert_eq!(shop.ledger("paused").await, with([first(), march(6..=20, "01:00", "paused"), vec![]]));
    assert!(
        shop.ledger("new").await.is_empty(),
        "a job without `since` starts with the first instant after it is seen"
    );
    let listed =
        ["2026-03-19T01:00 skipped", "2026-03-19T01:30 skipped", "2026-03-20T01:00 fired", "2026-03-20T01:30 covered"];
    assert_eq!(shop.ledger("listed").await, listed);
    let spread = shop.ledger("spread").await;
    let zone = chrono_tz::Asia::Kolkata;
    let spread_rule = Schedule::new(vec![Cron::parse("H H(0-4) * * *", "spread@north").unwrap()], zone);
    let from: DateTime<Utc> = "2026-03-18T18:29:59Z".parse().unwrap();
    let named: Vec<String> = spread_rule
        .between(from, from + TimeDelta::days(1) + TimeDelta::hours(11), 9)
        .iter()
        .zip(["skipped", "fired"])
        .map(|(at, outcome)| format!("{} {outcome}", at.format("%Y-%m-%dT%H:%M")))
        .collect();
    assert_eq!(spread, named);

    assert_eq!(shop.reasons("week").await[1], "decided 14 days late, and catch_up is 7d");
    assert_eq!(shop.reasons("nothing").await[15], "decided 5 h late, and catch_up is none");
    assert_eq!(shop.reasons("newest").await[1], "catch_up is latest: a newer instant stands for it");
    assert_eq!(shop.reasons("paused").await[1], "the job file says paused: shop closed");
    assert_eq!(shop.reasons("week").await[15], "");
    let expected: Vec<String> = (13..=19).map(|day| format!("2026-03-{day} r1")).collect();
    assert_eq!(shop.holds("week").await, expected);
    assert_eq!(shop.holds("newest").await, ["2026-03-19 r1"]);
    let fired = shop.number("SELECT count(DISTINCT run_id) FROM fires WHERE outcome = 'fired'").await;
    assert_eq!((fired, shop.number("SELECT count(*) FROM runs").await, shop.requests()), (13, 13, 13));
    shop.run(&["archive", "verify"]).await.expect(0);

    // What was decided stays so when it is started anew, and what comes next fires in time.
    serving.stop().await;
    let before = shop.ledger("week").await.len();
    let serving = shop.serve().await;
    shop.advance(19 * HOUR).await;
    shop.until_done().await;
    let ledger = shop.ledger("week").await;
    assert_eq!((ledger.len(), ledger.last().unwrap().as_str()), (before + 1, "2026-03-21T01:00 fired"));
    assert_eq!(shop.ledger("new").await, ["2026-03-21T01:00 fired"]);
    assert_eq!(shop.ledger("paused").await.last().unwrap(), "2026-03-21T01:00 paused");
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_backlog_of_hours_is_decided_in_pages_and_every_hour_is_archived_once() {
    let shop = Shop::open().await;
    shop.clock("2026-03-30T10:20:00Z").await;
    shop.job(
        "hours",
        &livechat("zone: Europe/Berlin\nschedule: \"0 * * * *\"\nwindow: previous_hour\nsince: 2026-03-28"),
    );
    let serving = shop.serve().await;
    shop.until_done().await;
    // The 28th from 01:00, 23 hours of the 29th, and the 30th until 12:00; before them the hour before `since`.
    let ledger = shop.ledger("hours").await;
    assert_eq!(ledger[0], "2026-03-27T23:00 skipped");
    assert_eq!(ledger.len(), 1 + 23 + 23 + 13);
    assert!(ledger[1..].iter().all(|line| line.ends_with(" fired")), "{ledger:?}");
    let pages = serving.stderr().matches("instants were decided").count();
    assert!(pages >= 2, "59 runs in {pages} pages");
    let joined = "SELECT count(*) FROM (SELECT window_start, lag(window_end) OVER (ORDER BY window_start) AS before
                  FROM revisions) AS w WHERE before IS DISTINCT FROM window_start";
    assert_eq!(shop.number(joined).await, 1, "each window begins where another ends, but the first");
    assert_eq!(shop.number("SELECT count(*) FROM revisions WHERE revision = 1").await, 59);
    assert_eq!(shop.requests(), 59);
    for _ in 0..3 {
        shop.advance(HOUR).await;
        shop.until_done().await;
    }
    assert_eq!(shop.ledger("hours").await[60..], ["11", "12", "13"].map(|h| format!("2026-03-30T{h}:00 fired")));
    assert_eq!(shop.requests(), 62);
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn overlap_skips_or_queues_a_delay_is_waited_for_and_a_pause_by_an_operator_holds() {
    let shop = Shop::open().await;
    shop.clock("2026-03-09T23:59:00Z").await;
    shop.fault("jaicp.create=stuck");
    let hourly = "zone: UTC\nschedule: \"0 * * * *\"\nwindow: previous_hour\ndeadline: 3d";
    shop.job("skipping", &format!("{hourly}\noverlap: skip\n{JAICP}"));
    shop.job("queueing", &format!("{hourly}\n{JAICP}"));
    shop.job("catching-up", &daily("0 6 * * *", "yesterday\nsince: 2026-03-05\noverlap: skip"));
    shop.job("delayed", &livechat("zone: UTC\nschedule: \"0 0 * * *\"\nwindow: yesterday\ndelay: 2h"));
    shop.job("prompt", &daily("0 0 * * *", "yesterday"));
    shop.job("resting", &daily("0 * * * *", "previous_hour"));
    let serving = shop.serve().await;
    for (from, until, by) in [("01:00", Some("03:00"), Some("asha")), ("04:00", None, None)] {
        sqlx::query(
            "INSERT INTO series_pauses (series_id, paused_at, paused_by, reason, resumed_at, resumed_by)
             SELECT id, ('2026-03-10 ' || $1 || 'Z')::timestamptz, 'asha', 'sale',
                    ('2026-03-10 ' || $2 || 'Z')::timestamptz, $3 FROM series WHERE job = 'resting'",
        )
        .bind(from)
        .bind(until)
        .bind(by)
        .execute(&shop.pool)
        .await
        .unwrap();
    }
    shop.advance(MINUTE).await;
    shop.until_count("SELECT count(*) FROM revisions WHERE window_label = '2026-03-09'", 1).await;
    assert_eq!(shop.ledger("delayed").await, ["2026-03-10T00:00 fired"]);
    let waits = "SELECT count(*) FROM runs WHERE job = 'delayed' AND state = 'queued' AND claims = 0
                 AND next_step_at = '2026-03-10T02:00Z'";
    assert_eq!(shop.number(waits).await, 1);
    shop.until_count("SELECT count(*) FROM runs WHERE state = 'waiting'", 2).await;
    for n in 1..=5 {
        shop.advance(HOUR).await;
        shop.until_count("SELECT count(*) FROM series WHERE next_at <= reportd_now()", 0).await;
        if n == 1 {
            shop.until_count("SELECT count(*) FROM runs WHERE job = 'queueing' AND state = 'waiting'", 2).await;
            assert_eq!(shop.number(waits).await, 1, "the delay is not over");
        }
    }
    shop.until_count("SELECT count(*) FROM runs WHERE job = 'delayed' AND state IN ('archived', 'empty')", 1).await;
    let hours = |outcomes: [&str; 6]| -> Vec<String> {
        outcomes.iter().enumerate().map(|(h, outcome)| format!("2026-03-10T{h:02}:00 {outcome}")).collect()
    };
    let skipped = ["fired", "skipped", "skipped", "skipped", "skipped", "skipped"];
    assert_eq!(shop.ledger("skipping").await, hours(skipped));
    assert_eq!(shop.reasons("skipping").await[1], "the previous run had not ended, and overlap is skip");
    let caught_up: Vec<String> = ["05 skipped", "06 fired", "07 fired", "08 fired", "09 fired"]
        .map(|day| format!("2026-03-{}T06:00 {}", &day[..2], &day[3..]))
        .into();
    assert_eq!(shop.ledger("catching-up").await, caught_up, "what is caught up overlapped nothing when it was due");
    assert_eq!(shop.ledger("queueing").await, hours(["fired"; 6]));
    assert_eq!(shop.ledger("resting").await, hours(["fired", "paused", "paused", "fired", "paused", "paused"]));
    assert_eq!(shop.reasons("resting").await[1], "paused by asha: sale");
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provisional_report_does_not_stand_for_the_final_one_and_a_final_one_stands_for_all() {
    let shop = Shop::open().await;
    shop.clock("2026-03-10T08:59:50Z").await;
    shop.job("day", &format!("delay: 2h\n{}", daily("0 0 * * *", "yesterday")));
    shop.job("so-far", &daily("0 9,18 * * *", "today"));
    let early =
        shop.run(&["run-job", "day", "--window", "2026-03-10..2026-03-10", "--at", "2026-03-11T00:30:00"]).await;
    early.expect(0);
    assert_eq!(shop.holds("day").await, ["2026-03-10 r1 provisional"]);
    let serving = shop.serve().await;
    shop.advance(10 * HOUR).await;
    shop.until_done().await;
    shop.advance(8 * HOUR).await;
    shop.until_done().await;
    assert_eq!(shop.ledger("day").await, ["2026-03-11T00:00 fired"]);
    assert_eq!(shop.holds("day").await, ["2026-03-10 r1 provisional", "2026-03-10 r2"]);
    assert_eq!(shop.ledger("so-far").await, ["2026-03-10T09:00 fired", "2026-03-10T18:00 fired"]);
    let held = shop.holds("so-far").await;
    assert!(held.len() == 2 && held.iter().all(|line| line.ends_with(" r1 provisional")), "{held:?}");
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_is_held_or_worked_on_is_covered_and_refetch_asks_again() {
    let shop = Shop::open().await;
    shop.clock("2026-03-10T23:59:00Z").await;
    shop.job("held", &daily("0 0 * * *", "yesterday"));
    shop.job("again", &format!("refetch: true\n{}", daily("0 0 * * *", "yesterday")));
    shop.job("live", &format!("zone: UTC\nschedule: \"0 0 * * *\"\nwindow: yesterday\n{JAICP}"));
    let window = ["--window", "2026-03-10..2026-03-10", "--at", "2026-03-11T00:00:00"];
    for job in ["held", "again"] {
        shop.run(&[&["run-job", job][..], &window].concat()).await.expect(0);
    }
    shop.run(&[&["run-job", "live", "--no-wait"][..], &window].concat()).await.expect(4);
    let serving = shop.serve().await;
    shop.advance(MINUTE).await;
    shop.until_done().await;
    let same_run = "SELECT count(*) FROM fires JOIN runs ON runs.id = run_id WHERE outcome = 'covered'
                    AND trigger = 'manual' AND runs.window_start = fires.window_start";
    assert_eq!(shop.number(same_run).await, 2);
    for (job, outcome, reason) in [
        ("held", "covered", "the archive holds this window"),
        ("live", "covered", "a live run works on this window"),
        ("again", "fired", ""),
    ] {
        assert_eq!(shop.ledger(job).await, [format!("2026-03-11T00:00 {outcome}")], "{job}");
        assert_eq!(shop.reasons(job).await, [reason], "{job}");
    }
    assert_eq!(shop.holds("live").await, ["2026-03-10 r1"], "serve finished the run that was made by hand");
    assert_eq!(shop.holds("again").await, ["2026-03-10 r1", "2026-03-10 r2"]);
    assert_eq!((shop.asked_for("report"), shop.sandbox.creates(Vendor::Jaicp)), (3, 1));
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_rule_decides_what_comes_and_the_old_one_what_was_before_the_change() {
    let shop = Shop::open().await;
    shop.clock("2026-03-10T12:00:00Z").await;
    shop.job("day", &daily("0 6 * * *", "yesterday"));
    shop.job("other", &daily("0 6 * * *", "yesterday"));
    shop.serve().await.stop().await;
    shop.advance(2 * DAY).await;
    shop.job("day", &daily("0 7 * * *", "last_2_days"));
    shop.job("other", &format!("paused: sale\n{}", daily("0 6 * * *", "yesterday")));
    let serving = shop.serve().await;
    shop.until_done().await;
    shop.advance(DAY).await;
    shop.until_done().await;
    let expected = ["2026-03-11T06:00 fired", "2026-03-12T06:00 fired", "2026-03-13T07:00 fired"];
    assert_eq!(shop.ledger("day").await, expected);
    assert_eq!(shop.holds("day").await, ["2026-03-10 r1", "2026-03-11 r1", "2026-03-11--2026-03-12 r1"]);
    let expected = ["2026-03-11T06:00 fired", "2026-03-12T06:00 fired", "2026-03-13T06:00 paused"];
    assert_eq!(shop.ledger("other").await, expected);
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_break_vanish_or_come_back_change_what_fires_and_lose_nothing() {
    let shop = Shop::open().await;
    shop.clock("2026-03-10T12:00:00Z").await;
    for job in ["broken", "gone", "renamed"] {
        shop.job(job, &daily("0 6 * * *", "yesterday"));
    }
    let serving = shop.serve().await;
    shop.advance(DAY).await;
    shop.until_done().await;
    assert_eq!(shop.requests(), 3);

    shop.job("broken", &daily("0 6 * * *", "yesterday").replace("window:", "windo:"));
    shop.without_job("gone");
    shop.without_job("renamed");
    shop.job("better", &format!("was: [renamed]\nsince: 2026-03-10\n{}", daily("0 6 * * *", "yesterday")));
    serving.until_says("unknown key 'windo'").await;
    shop.until_count("SELECT count(*) FROM job_files WHERE job IN ('gone', 'renamed', 'better')", 1).await;
    shop.until_count("SELECT count(*) FROM job_files WHERE job = 'better'", 1).await;
    shop.advance(2 * DAY).await;
    shop.until_done().await;
    let three = march(11..=13, "06:00", "fired");
    assert_eq!(shop.ledger("broken").await, three, "the last good version fires");
    assert_eq!(shop.ledger("gone").await, three[..1]);
    assert_eq!(shop.ledger("renamed").await, [""; 0]);
    assert_eq!(shop.ledger("better").await, three, "with what was decided under the old name");
    assert_eq!(shop.holds("better").await, ["2026-03-10 r1", "2026-03-11 r1", "2026-03-12 r1"]);
    assert_eq!(shop.requests(), 3 + 2 + 2);

    shop.job("gone", &daily("0 6 * * *", "yesterday"));
    shop.job("broken", &daily("0 5 * * *", "yesterday"));
    shop.until_count("SELECT count(*) FROM job_files WHERE job = 'gone' OR text LIKE '%0 5 %'", 2).await;
    shop.advance(DAY).await;
    shop.until_done().await;
    assert_eq!(shop.ledger("gone").await, ["2026-03-11T06:00 fired", "2026-03-14T06:00 fired"], "no burst");
    let seen = shop.run(&["coverage", "gone", "--format", "json"]).await.expect(0).json();
    let seen: Vec<String> = seen
        .iter()
        .map(|w| format!("{} {}", text(&w["window"]["label"]), text(&w["state"]).replace("empty", "held")))
        .collect();
    let whole = ["2026-03-10 held", "2026-03-11 missing", "2026-03-12 missing", "2026-03-13 held"];
    assert_eq!(seen, whole, "days without a file are no days that nobody wants");
    assert_eq!(shop.ledger("broken").await.last().unwrap(), "2026-03-14T05:00 fired");

    for job in ["broken", "gone", "better"] {
        shop.without_job(job);
    }
    serving.until_says("the job folder holds no job files, and 3 jobs are in force: nothing is changed").await;
    shop.advance(DAY).await;
    shop.until_done().await;
    assert_eq!(shop.ledger("gone").await.last().unwrap(), "2026-03-15T06:00 fired");
    assert_eq!(shop.ledger("better").await.len(), 5);
    let windows =
        shop.number("SELECT count(*) FROM (SELECT DISTINCT series_id, window_start FROM revisions) AS w").await;
    assert_eq!(i64::try_from(shop.requests()).unwrap(), windows, "no window was asked for twice");
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_in_the_middle_of_a_checkout_takes_no_job_out_of_force() {
    let shop = Shop::open().await;
    shop.job("day", &daily("0 6 * * *", "yesterday"));
    shop.job("other", &daily("0 6 * * *", "yesterday"));
    shop.run(&["apply"]).await.expect(0);
    shop.without_job("other");
    let serving = shop.start(&["serve", "--listen", "127.0.0.1:0"]);
    serving.until_says("job files are missing; the folder is looked at once more").await;
    shop.job("other", &daily("0 6 * * *", "yesterday"));
    serving.until_http("/readyz", 200).await;
    assert_eq!(shop.number("SELECT version FROM job_set").await, 1, "nothing was changed");
    serving.stop().await;
    shop.without_job("other");
    let serving = shop.serve().await;
    shop.until_count("SELECT count(*) FROM job_files", 1).await;
    serving.stop().await;
}

/// The secret in this file, for LiveChat.
fn write_token(shop: &Shop, token: &str) {
    let text = format!("{}:{token}", credentials::LIVECHAT_ACCOUNT);
    std::fs::write(shop.folder.path().join("token"), text).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_secret_stops_only_its_own_account_until_it_is_there() {
    let shop = Shop::open().await;
    shop.clock("2026-03-10T12:00:00Z").await;
    shop.accounts(&[("livechat", "token", "file:token")]);
    shop.job("without", &daily("0 6 * * *", "yesterday"));
    shop.job("with", &format!("zone: UTC\nschedule: \"0 6 * * *\"\nwindow: yesterday\n{JAICP}"));
    let serving = shop.serve().await;
    serving.until_says("its runs wait").await;
    assert_eq!(shop.number("SELECT count(*) FROM connections WHERE breaker_open AND vendor = 'livechat'").await, 1);
    shop.advance(DAY).await;
    shop.until_count("SELECT count(*) FROM revisions", 1).await;
    assert_eq!(shop.holds("with").await, ["2026-03-10 r1"]);
    assert_eq!(shop.ledger("without").await, ["2026-03-11T06:00 fired"]);
    assert_eq!(shop.one::<String>("SELECT state FROM runs WHERE job = 'without'").await, "queued");
    assert_eq!(shop.asked_for("report"), 0);
    serving.until_http("/readyz", 200).await;
    write_token(&shop, credentials::LIVECHAT_TOKEN);
    shop.until_done().await;
    assert_eq!(shop.holds("without").await, ["2026-03-10 r1"]);
    shop.until_count("SELECT count(*) FROM connections WHERE breaker_open", 0).await;
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_secret_that_was_corrected_is_used_at_once_after_sighup() {
    let shop = Shop::open().await;
    shop.clock("2026-03-10T12:00:00Z").await;
    write_token(&shop, "revoked");
    shop.accounts(&[("livechat", "token", "file:token")]);
    shop.job("day", &daily("0 6 * * *", "yesterday"));
    let serving = shop.serve().await;
    shop.advance(DAY).await;
    shop.until_count("SELECT count(*) FROM connections WHERE breaker_open", 1).await;
    shop.until_count("SELECT count(*) FROM runs WHERE blocked AND lease_token IS NULL", 1).await;
    write_token(&shop, credentials::LIVECHAT_TOKEN);
    serving.signal(Signal::HUP);
    shop.until_done().await;
    assert_eq!(shop.holds("day").await, ["2026-03-10 r1"]);
    shop.until_count("SELECT count(*) FROM connections WHERE breaker_open", 0).await;
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_for_which_no_run_waits_closes_when_the_secret_was_corrected() {
    let shop = Shop::open().await;
    write_token(&shop, "revoked");
    shop.accounts(&[("livechat", "token", "file:token")]);
    shop.job("day", &daily("0 6 * * *", "yesterday"));
    let refused = shop.run(&["run-job", "day", "--format", "json", "--wait", "1s"]).await.expect(4).line();
    shop.run(&["cancel", text(&refused["run_id"])]).await.expect(0);
    let told = shop.run(&["status"]).await.expect(1).stdout;
    assert!(told.contains("mend the secret, and `reportd serve` closes the breaker within a minute"), "{told}");
    let serving = shop.serve().await;
    serving.until_http("/readyz", 200).await;
    assert_eq!(shop.number("SELECT count(*) FROM connections WHERE breaker_open").await, 1, "nothing was mended");
    write_token(&shop, credentials::LIVECHAT_TOKEN);
    serving.signal(Signal::HUP);
    shop.until_count("SELECT count(*) FROM connections WHERE breaker_open", 0).await;
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "waits for the look at secrets, which comes each minute"]
async fn a_refused_secret_that_was_corrected_is_used_within_a_minute_by_itself() {
    let shop = Shop::open().await;
    shop.clock("2026-03-10T12:00:00Z").await;
    write_token(&shop, "revoked");
    shop.accounts(&[("livechat", "token", "file:token")]);
    shop.job("day", &daily("0 6 * * *", "yesterday"));
    let serving = shop.serve().await;
    shop.advance(DAY).await;
    shop.until_count("SELECT count(*) FROM runs WHERE blocked AND lease_token IS NULL", 1).await;
    write_token(&shop, credentials::LIVECHAT_TOKEN);
    // A changed job file in between makes the accounts anew: the look must see the change all the same.
    shop.job("other", &daily("0 6 * * *", "yesterday"));
    let changed = Instant::now();
    while shop.number("SELECT count(*) FROM revisions").await == 0 {
        assert!(changed.elapsed() < 75 * Duration::from_secs(1), "the run still waits");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("the corrected secret was used after {:?}", changed.elapsed());
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_config_is_taken_at_sighup_and_one_with_errors_changes_nothing() {
    let shop = Shop::open().await;
    shop.clock("2026-03-10T12:00:00Z").await;
    // The vendor knows another account from the first reload on.
    shop.job("day", &daily("0 6 * * *", "yesterday"));
    let serving = shop.serve().await;
    let config = shop.folder.path().join("reportd.yaml");
    let good = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, good.replace("zone: Asia/Kolkata", "zoen: Asia/Kolkata")).unwrap();
    serving.signal(Signal::HUP);
    serving.until_says("unknown key 'zoen'").await;
    shop.advance(DAY).await;
    shop.until_done().await;
    assert_eq!(shop.holds("day").await, ["2026-03-10 r1"], "the last good config is worked with");

    // The vendor's account changes, and a second shop comes.
    let changed = Credentials { livechat_token: "fresh".into(), ..Credentials::default() };
    shop.sandbox.set_credentials(changed);
    write_token(&shop, "fresh");
    let url = shop.sandbox.livechat_base_url();
    let south = format!(
        "  south:\n    zone: UTC\n    livechat: {{ base_url: \"{url}\", token: file:token, requests_per_second: 1000 }}\n"
    );
    std::fs::write(&config, good.replace("env:LIVECHAT", "file:token") + &south).unwrap();
    shop.job("day", &format!("connections: [north, south]\n{}", daily("0 6 * * *", "yesterday")));
    serving.signal(Signal::HUP);
    shop.until_count("SELECT count(*) FROM series WHERE in_force", 2).await;
    shop.advance(DAY).await;
    shop.until_done().await;
    assert_eq!(shop.holds("day").await, ["2026-03-10 r1", "2026-03-11 r1", "2026-03-11 r1"]);
    assert_eq!(shop.number("SELECT count(*) FROM runs WHERE connection = 'south'").await, 1);
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_refuses_an_archive_that_is_not_the_databases_and_goes_on_after_a_rebuild() {
    let mut shop = Shop::open().await;
    shop.job("day", &format!("since: 2026-03-08\n{}", daily("0 6 * * *", "yesterday")));
    shop.clock("2026-03-10T12:00:00Z").await;
    let serving = shop.serve().await;
    shop.until_done().await;
    serving.stop().await;
    assert_eq!((shop.holds("day").await.len(), shop.requests()), (2, 2));
    let serve = ["serve", "--listen", "127.0.0.1:0"];
    let (archive, aside) = (shop.archive(), shop.folder.path().join("aside"));

    // Lost: an empty folder in its place, as of a mount that is missing; then the archive of somebody else.
    std::fs::rename(&archive, &aside).unwrap();
    std::fs::create_dir(&archive).unwrap();
    shop.run(&serve).await.expect(2).says("mount or restore it, or correct `archive`");
    std::fs::remove_dir_all(&archive).unwrap();
    let stranger = Shop::open().await;
    stranger.job("day", &daily("0 6 * * *", "yesterday"));
    stranger.run(&["run-job", "day", "--window", "2026-03-08..2026-03-08"]).await.expect(0);
    std::fs::rename(stranger.archive(), &archive).unwrap();
    shop.run(&serve).await.expect(2).says("another archive").says("correct `archive` in the config");
    std::fs::remove_dir_all(&archive).unwrap();
    std::fs::rename(&aside, &archive).unwrap();

    // Restored from before the last run: the archive knows more than the database.
    sqlx::raw_sql("DELETE FROM artifacts WHERE window_label = '2026-03-09'; DELETE FROM revisions WHERE window_label = '2026-03-09'")
        .execute(&shop.pool)
        .await
        .unwrap();
    shop.run(&serve).await.expect(2).says("which the database does not know").says("archive rebuild");
    shop.run(&["archive", "rebuild"]).await.expect(0);
    let serving = shop.serve().await;
    shop.advance(DAY).await;
    shop.until_done().await;
    serving.stop().await;
    assert_eq!((shop.holds("day").await.len(), shop.requests()), (3, 3));

    // A database that is new, and an archive that is not.
    shop.lose_database().await;
    shop.clock("2026-03-11T13:00:00Z").await;
    shop.run(&serve).await.expect(2).says("archive rebuild");
    shop.run(&["archive", "rebuild"]).await.expect(0);
    let serving = shop.serve().await;
    shop.until_done().await;
    // What the archive holds tells how far the schedule had come: nothing is decided or fetched again, and the next day is.
    shop.clock("2026-03-12T13:00:00Z").await;
    shop.until_done().await;
    assert_eq!(shop.ledger("day").await, ["2026-03-12T06:00 fired"]);
    assert_eq!(shop.requests(), 4, "nothing that is held was fetched again");
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_a_create_finish_keeps_its_ticket_and_says_that_it_drains() {
    let shop = Shop::open().await;
    shop.clock("2026-03-10T12:00:00Z").await;
    shop.job("day", &format!("zone: UTC\nschedule: \"0 6 * * *\"\nwindow: yesterday\n{BIK}"));
    shop.job("more", &daily("0 6 * * *", "yesterday"));
    shop.fault("bik.generateReport=slow:1");
    let serving = shop.serve().await;
    serving.until_http("/readyz", 200).await;
    shop.advance(DAY).await;
    shop.until_asked("generateReport", 1).await;
    serving.signal(Signal::TERM);
    serving.until_says("stopping").await;
    let draining: Value = serde_json::from_str(&serving.until_http("/readyz", 503).await).unwrap();
    assert_eq!((&draining["draining"], &draining["ready"]), (&true.into(), &false.into()), "{draining}");
    assert_eq!(serving.http("/healthz").await.0, 200);
    serving.end().await.expect(0);
    assert_eq!(shop.one::<String>("SELECT state FROM runs WHERE job = 'day'").await, "waiting");
    assert_eq!(shop.number("SELECT count(*) FROM runs WHERE ticket IS NOT NULL AND lease_token IS NULL").await, 1);
    assert_eq!(shop.number("SELECT count(*) FROM replicas WHERE stopped_at IS NULL").await, 0, "it signed off");
    let serving = shop.serve().await;
    shop.hurry(true).await;
    shop.until_done().await;
    assert_eq!(shop.holds("day").await, ["2026-03-10 r1"]);
    assert_eq!((shop.sandbox.creates(Vendor::Bik), shop.sandbox.mails().len()), (1, 1));
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_in_a_long_download_ends_within_the_grace_time_and_the_next_process_goes_on_at_once() {
    let shop = Shop::open().await;
    shop.clock("2026-03-10T12:00:00Z").await;
    shop.job("day", &format!("zone: UTC\nschedule: \"0 6 * * *\"\nwindow: yesterday\n{JAICP}"));
    shop.fault("jaicp.download=hang:1");
    let serving = shop.serve().await;
    shop.advance(DAY).await;
    shop.until_asked("download", 1).await;
    let told = Instant::now();
    serving.signal(Signal::TERM);
    serving.end().await.expect(0);
    let took = told.elapsed();
    assert!(took < Duration::from_secs(14), "10 s of grace took {took:?}");
    assert_eq!(
        shop.number("SELECT count(*) FROM runs WHERE lease_token IS NULL AND state = 'waiting' AND claims = 0").await,
        1
    );
    let started = Instant::now();
    let serving = shop.serve().await;
    shop.until_done().await;
    println!("ended after {took:?}; the next process had the report after {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(30), "it waited for a lease");
    assert_eq!((shop.holds("day").await, shop.sandbox.creates(Vendor::Jaicp)), (vec!["2026-03-10 r1".to_owned()], 1));
    serving.stop().await;
}

/// Lets nobody in to the shop's database, or everybody.
async fn allow_connections(shop: &Shop, allow: bool) {
    let options: PgConnectOptions = shop.database_url.parse().unwrap();
    let name = options.get_database().unwrap().to_owned();
    let mut admin = PgConnection::connect_with(&options.database("postgres")).await.unwrap();
    let sql = format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS {allow}");
    sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut admin).await.unwrap();
    if !allow {
        sqlx::query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1")
            .bind(name)
            .execute(&mut admin)
            .await
            .unwrap();
    }
    admin.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_health_checks_and_the_service_manager_are_told_how_it_stands() {
    let shop = Shop::open().await;
    shop.job("day", &daily("0 6 * * *", "yesterday"));
    let socket = UnixDatagram::bind(shop.folder.path().join("notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let heard = |socket: &UnixDatagram| {
        let mut buffer = [0; 1024];
        let length = socket.recv(&mut buffer).expect("a word to the service manager");
        String::from_utf8_lossy(&buffer[..length]).trim().to_owned()
    };
    let mut command = shop.command(&["serve", "--listen", "127.0.0.1:0"]);
    command.env("NOTIFY_SOCKET", shop.folder.path().join("notify")).env("WATCHDOG_USEC", "2000000");
    let serving = crate::verbs::Started::new(command);
    serving.until_says("jobs are loaded").await;
    assert_eq!(heard(&socket), "READY=1");
    assert_eq!(heard(&socket), "WATCHDOG=1");
    assert_eq!(serving.http("/healthz").await, (200, "ok\n".to_owned()));
    let ready: Value = serde_json::from_str(&serving.until_http("/readyz", 200).await).unwrap();
    assert_eq!((&ready["ready"], &ready["database"], &ready["planner"]), (&true.into(), &"ok".into(), &"ok".into()));
    assert_eq!(serving.http("/metrics").await.0, 404);

    allow_connections(&shop, false).await;
    let body = serving.until_http("/readyz", 503).await;
    let lost: Value = serde_json::from_str(&body).unwrap();
    assert_ne!(lost["database"], "ok", "{body}");
    assert!(!body.contains("t2") && !body.contains('/'), "a name or a path: {body}");
    assert_eq!(serving.http("/healthz").await.0, 200, "a database that is away is no reason to be killed");
    allow_connections(&shop, true).await;
    serving.until_http("/readyz", 200).await;

    serving.signal(Signal::TERM);
    let (mut said, mut last) = (Vec::new(), heard(&socket));
    while last == "WATCHDOG=1" || last.starts_with("STATUS=") {
        said.push(std::mem::replace(&mut last, heard(&socket)));
    }
    assert_eq!(last, "STOPPING=1");
    assert!(said.iter().any(|word| word.starts_with("STATUS=the database does not answer")), "{said:?}");
    assert!(said.contains(&"STATUS=schedules are fired".to_owned()), "{said:?}");
    serving.end().await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_each_minute_asks_its_vendor_about_at_the_instant() {
    let shop = Shop::open().await;
    shop.clock("2026-03-10T11:59:50Z").await;
    shop.job("minute", &daily("* * * * *", "today"));
    let serving = shop.serve().await;
    let mut late = Vec::new();
    for n in 0..2 {
        // Two seconds before the next full minute.
        let to =
            "SELECT extract(epoch FROM date_trunc('minute', reportd_now()) + interval '58 s' - reportd_now())::float8";
        let by = shop.one::<f64>(to).await;
        shop.advance(Duration::from_secs_f64(if by < 0.0 { by + 60.0 } else { by })).await;
        let asked = shop.asked_for("report");
        until("the request of the next minute", || async { shop.asked_for("report") > asked }).await;
        late.push(shop.one::<f64>("SELECT extract(second FROM reportd_now())::float8").await);
        shop.until_done().await;
        assert_eq!(shop.asked_for("report"), asked + 1, "{n}");
    }
    println!("the request arrived {late:.3?} s after the instant");
    assert!(late.iter().all(|late| *late < 10.0), "{late:?}");
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_archive_that_can_be_written_no_vendor_is_asked_and_everybody_is_told() {
    let shop = Shop::open().await;
    shop.clock("2026-03-09T12:00:00Z").await;
    shop.job("report", &format!("zone: UTC\nschedule: \"0 6 * * *\"\nwindow: yesterday\nsince: 2026-03-08\n{BIK}"));
    let serving = shop.serve().await;
    shop.until_done().await;
    let identity = shop.archive().join("reportd.json");
    let aside = shop.folder.path().join("aside.json");
    std::fs::rename(&identity, &aside).unwrap();
    shop.advance(DAY).await;
    shop.until_count("SELECT count(*) FROM replicas WHERE trouble LIKE 'the archive cannot be used%'", 1).await;
    let asked = shop.asked_for("generateReport");
    let told = shop.run(&["status"]).await.expect(1).stdout;
    assert!(told.contains("archive"), "{told}");
    let by_hand = shop.run(&["run-job", "report", "--window", "2026-03-01..2026-03-01", "--mail"]).await;
    assert_ne!(by_hand.code, Some(0), "{}", by_hand.stderr);
    assert_eq!((asked, shop.asked_for("generateReport")), (1, 1), "nobody is mailed what cannot be kept");
    std::fs::rename(&aside, &identity).unwrap();
    until("the next window", || async { shop.holds("report").await.len() == 2 }).await;
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkout_with_a_renamed_file_takes_nothing_from_a_series_that_is_in_force() {
    let shop = Shop::open().await;
    let yaml = format!("zone: UTC\nschedule: \"0 6 * * *\"\nwindow: yesterday\n{LIVECHAT}");
    shop.job("old", &yaml);
    shop.run(&["apply"]).await.expect(0);
    let window = ["--window", "2025-03-03..2025-03-03"];
    shop.run(&[&["run-job", "old"][..], &window].concat()).await.expect(0);
    shop.without_job("old");
    shop.job("new", &format!("was: [old]\n{yaml}"));
    let refused = shop.run(&[&["run-job", "new"][..], &window].concat()).await.expect(2);
    refused.says("old@north is in force").says("reportd apply");
    assert_eq!(shop.number("SELECT count(*) FROM series WHERE job = 'old' AND in_force").await, 1);
    shop.run(&["apply"]).await.expect(0);
    shop.run(&[&["run-job", "new"][..], &window].concat()).await.expect(0);
    assert_eq!((shop.asked_for("report"), shop.holds("new").await), (1, vec!["2025-03-03 r1".to_owned()]));
}
