//! `coverage` and `fill`: every window that is wanted is told with its state, and exactly the gaps are fetched.

use std::path::Path;
use std::time::{Duration, Instant};

use reportd::run::store::calendar::Range;
use serde_json::{Value, json};
use sqlx::postgres::PgPoolOptions;

use crate::harness::{Ran, Shop};
use crate::verbs::{BIK, LIVECHAT, keys, sha256, text, until};

const DAILY: &str = "schedule: \"30 6 * * *\"\nwindow: yesterday\n";
/// A week of the past.
const WEEK: [&str; 4] = ["--from", "2025-03-03", "--to", "2025-03-09"];

/// A shop with one job, `report`.
async fn shop(job: &str) -> Shop {
    let shop = Shop::open().await;
    shop.job("report", job);
    shop
}

impl Shop {
    /// `coverage` of one job in a span, as JSON.
    async fn coverage(&self, job: &str, span: &[&str]) -> Vec<Value> {
        self.run(&[&["coverage", job, "--format", "json"], span].concat()).await.expect(0).json()
    }

    /// The states of a job's windows in a span, by label.
    async fn states(&self, job: &str, span: &[&str]) -> Vec<String> {
        let say = |line: &Value| format!("{} {}", text(&line["window"]["label"]), text(&line["state"]));
        self.coverage(job, span).await.iter().map(say).collect()
    }

    /// Fetches some days by hand.
    async fn fetch(&self, job: &str, days: &[u32]) {
        for day in days {
            self.run_job(job, &format!("2025-03-{day:02}..2025-03-{day:02}"), &[]).await.expect(0);
        }
    }

    /// The first local dates that LiveChat was asked for, sorted.
    fn asked_dates(&self) -> Vec<String> {
        let reports = self.sandbox.received();
        let from = |r: &reportd::sandbox::Received| text(&r.json()["filters"]["from"])[..10].to_owned();
        let mut dates: Vec<String> = reports.iter().filter(|r| r.operation == "report").map(from).collect();
        dates.sort();
        dates
    }

    /// Whether the archive has every window of a span, rows or none.
    async fn has_all(&self, job: &str, span: &[&str]) -> bool {
        self.states(job, span).await.iter().all(|state| state.ends_with(" held") || state.ends_with(" empty"))
    }
}

/// stdout without trailing spaces.
fn page(ran: &Ran) -> String {
    ran.stdout.trim_end().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn fill_fetches_exactly_what_coverage_calls_missing_and_then_there_is_nothing_to_fill() {
    let shop = shop(&format!("{DAILY}{LIVECHAT}")).await;
    shop.fetch("report", &[3, 5, 6]).await;
    let expected =
        ["2025-03-03 held", "2025-03-04 missing", "2025-03-05 held", "2025-03-06 held", "2025-03-07 missing"];
    assert_eq!(shop.states("report", &WEEK).await[..5], expected);
    let asked = shop.requests();
    let ran = shop.run(&[&["fill", "report", "--format", "json"], &WEEK[..]].concat()).await.expect(0);
    let ran = ran
        .says("fill fetches 4 windows")
        .says("report@north     4  2025-03-04 missing, 2025-03-07 to 2025-03-09 missing");
    let runs = ran.json();
    let labels: Vec<&str> = runs.iter().map(|run| text(&run["window"]["label"])).collect();
    assert_eq!(labels, ["2025-03-04", "2025-03-07", "2025-03-08", "2025-03-09"], "the oldest first");
    assert!(runs.iter().all(|run| run["trigger"] == "fill" && run["state"] == "archived"), "{runs:?}");
    assert_eq!(shop.requests() - asked, 4);
    let week: Vec<String> = (3..10).map(|day| format!("2025-03-{day:02}")).collect();
    assert_eq!(shop.asked_dates(), week, "every day once");
    let fires: Vec<String> = sqlx::query_scalar(
        "SELECT to_char(fire_at AT TIME ZONE 'Asia/Kolkata', 'YYYY-MM-DD HH24:MI') FROM runs WHERE trigger = 'fill' ORDER BY created_at",
    )
    .fetch_all(&shop.pool)
    .await
    .unwrap();
    assert_eq!(fires[..2], ["2025-03-05 06:30", "2025-03-08 06:30"], "the instants that name them, in this order");
    assert!(shop.has_all("report", &WEEK).await);
    let again = shop.run(&[&["fill", "report"], &WEEK[..]].concat()).await.expect(0);
    assert_eq!(page(&again), "nothing to fill: 7 windows looked at, and no gap that a run could close");
    assert_eq!(shop.requests() - asked, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_coverage_has_exactly_the_keys_of_the_contract_and_null_where_nothing_is() {
    let shop = shop(&format!("{DAILY}{LIVECHAT}")).await;
    shop.fetch("report", &[3]).await;
    let lines = shop.coverage("report", &["--from", "2025-03-03", "--to", "2025-03-04"]).await;
    for line in &lines {
        assert_eq!(keys(line), ["job", "connection", "window", "state", "revision", "run_id", "sha256"]);
        assert_eq!(keys(&line["window"]), ["start", "end", "zone", "label"]);
    }
    let run = shop.run(&["runs", "--format", "json"]).await.expect(0).line();
    assert_eq!(
        lines[0],
        json!({ "job": "report", "connection": "north", "window": run["window"], "state": "held", "revision": 1,
                "run_id": run["run_id"], "sha256": run["artifacts"][0]["sha256"] })
    );
    assert_eq!(lines[0]["window"]["start"], "2025-03-03T00:00:00+05:30");
    assert_eq!(
        (&lines[1]["state"], &lines[1]["revision"], &lines[1]["run_id"], &lines[1]["sha256"]),
        (&"missing".into(), &Value::Null, &Value::Null, &Value::Null)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn wanting_begins_with_what_is_held_with_the_first_sight_or_with_since() {
    let shop = shop(&format!("{DAILY}zone: UTC\n{LIVECHAT}")).await;
    assert!(shop.states("report", &[]).await.is_empty(), "nobody said that anything is wanted");
    let told = shop.run(&["coverage", "report"]).await.expect(0);
    assert!(told.stdout.contains("no window is expected"), "{}", told.stdout);
    let day = |back: i64| (chrono_now() - chrono::TimeDelta::days(back)).date_naive().to_string();
    shop.run_job("report", &format!("{0}..{0}", day(4)), &[]).await.expect(0);
    let from_the_held = shop.states("report", &[]).await;
    assert!((2..=4).contains(&from_the_held.len()), "{from_the_held:?}");
    let first = [format!("{} held", day(4)), format!("{} empty", day(4))];
    assert!(first.contains(&from_the_held[0]), "{from_the_held:?}");
    shop.sql("UPDATE series SET first_seen_at = now() - interval '9 days', cursor_at = now()").await;
    let seen = shop.states("report", &[]).await;
    assert!(
        (8..=10).contains(&seen.len()) && seen.iter().filter(|s| s.ends_with(" missing")).count() + 1 == seen.len(),
        "{seen:?}"
    );
    shop.job("report", &format!("{DAILY}zone: UTC\nsince: {}\n{LIVECHAT}", day(3)));
    let since = shop.states("report", &[]).await;
    assert_eq!(since[0], format!("{} missing", day(3)), "what was held before is not asked about");
    shop.advance(Duration::from_secs(86_400)).await;
    assert_eq!(shop.states("report", &[]).await.len(), since.len() + 1, "by the database's clock");
    let since = shop.states("report", &[]).await;
    let earlier = shop.states("report", &["--from", "2025-01-01"]).await;
    assert_eq!(earlier, since, "--from never goes before since");
    shop.run(&["coverage", "report", "--from", "2025-03-04", "--to", "2025-03-03"])
        .await
        .expect(2)
        .says("--to 2025-03-03 is before");
    shop.run(&["coverage", "report", "--from", "2025-3-4"]).await.expect(2).says("is not a date");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_window_is_told_apart_and_fill_leaves_alone_what_is_no_gap() {
    let waive = "waive: [{ from: 2025-03-08, to: 2025-03-08, reason: the shop was closed }]\n";
    let shop = shop(&format!("{DAILY}{waive}{LIVECHAT}")).await;
    shop.fetch("report", &[3, 4]).await;
    shop.fault("livechat.report=no-rows:1");
    shop.fetch("report", &[5]).await;
    shop.sql("UPDATE revisions SET provisional = true WHERE window_label = '2025-03-04'").await;
    shop.fault("livechat.report=400:1");
    shop.run_job("report", "2025-03-06..2025-03-06", &[]).await.expect(1);
    shop.run_job("report", "2025-03-07..2025-03-07", &["--no-wait"]).await.expect(4);
    let expected = [
        "2025-03-03 held",
        "2025-03-04 missing",
        "2025-03-05 empty",
        "2025-03-06 failed",
        "2025-03-07 in_flight",
        "2025-03-08 waived",
        "2025-03-09 missing",
    ];
    assert_eq!(shop.states("report", &WEEK).await, expected, "what was asked too early is not what was wanted");
    shop.sql("UPDATE runs SET blocked = true WHERE state = 'queued'").await;
    assert_eq!(shop.states("report", &WEEK).await[4], "2025-03-07 needs_you", "it waits for a person");
    // Another distribution is another question; another description or address would not be.
    shop.job("report", &format!("{DAILY}{waive}{}", LIVECHAT.replace("day", "hour")));
    let stale = ["2025-03-03 stale", "2025-03-04 missing", "2025-03-05 stale"];
    assert_eq!(shop.states("report", &WEEK).await[..3], stale);
    let words = shop.run(&[&["coverage", "report"], &WEEK[..]].concat()).await.expect(0).stdout;
    let run = shop.one::<String>("SELECT left(id::text, 8) FROM runs WHERE state = 'failed'").await;
    for part in [
        "2025-03   ",
        "s  M  s  F  N  w  M",
        "1 failed   2025-03-06\n",
        &format!("reportd show {run}   (why)"),
        "reportd fill report@north   (once more)",
        "2 stale   2025-03-03, 2025-03-05",
        "reportd run-job report@north --window 2025-03-03..2025-03-03 --again",
        "2025-03-08 to 2025-03-08: the shop was closed",
        "1 needs you   2025-03-07",
        "3 of 7 windows are held or waived",
    ] {
        assert!(words.contains(part), "'{part}' is not in:\n{words}");
    }
    assert!(!words.contains("D damaged") && !words.contains("■ held"), "the legend names what occurs:\n{words}");
    let asked = shop.requests();
    let filled = shop.run(&[&["fill", "report", "--format", "json"], &WEEK[..]].concat()).await.expect(3);
    let filled = filled
        .says("2025-03-07 is left alone: a run waits for a person")
        .says("2025-03-03, 2025-03-05 is left alone: held, though");
    let labels: Vec<String> = filled.json().iter().map(|run| text(&run["window"]["label"]).to_owned()).collect();
    assert_eq!(labels, ["2025-03-04", "2025-03-06", "2025-03-09"]);
    assert_eq!(shop.requests() - asked, 3);
    assert_eq!(shop.states("report", &WEEK).await[1], "2025-03-04 held");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bik_window_that_nobody_knows_about_is_a_persons_and_is_not_mailed_again() {
    let shop = shop(&format!("{DAILY}{BIK}")).await;
    shop.without_waits().await;
    shop.fault("bik.generateReport=lost:1");
    shop.run_job("report", "2025-03-03..2025-03-03", &[]).await.expect(3);
    let span = ["--from", "2025-03-03", "--to", "2025-03-04"];
    assert_eq!(shop.states("report", &span).await, ["2025-03-03 needs_you", "2025-03-04 missing"]);
    let filled = shop.run(&[&["fill", "report"], &span[..]].concat()).await.expect(3);
    filled.says("BIK mails each report it makes: 1 mail, to quiet_emails").says("2025-03-03 is left alone");
    assert_eq!(shop.sandbox.mails().len(), 2, "one each");
    assert_eq!(shop.sandbox.mails()[1].to, "bi@north.example", "a fill mails the quiet address");
    assert_eq!(shop.states("report", &span).await, ["2025-03-03 needs_you", "2025-03-04 held"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn mails_that_a_fill_means_are_counted_and_refused_without_a_word() {
    let shop = shop("").await;
    shop.config(&format!(
        "  south:\n    zone: Asia/Dubai\n    vars: {{ owner: omar@south.example }}\n    bik: {{ base_url: \"{}\", key: env:BIK_KEY, secret: env:BIK_SECRET, requests_per_second: 1000 }}\n",
        shop.sandbox.bik_base_url()
    ));
    let two = BIK.replace("[\"{var.owner}\"]", "[\"{var.owner}\", second@shop.example]");
    shop.job("report", &format!("connections: all\n{DAILY}{two}"));
    shop.without_waits().await;
    let span = ["--from", "2025-03-03", "--to", "2025-03-05"];
    let refused = shop.run(&[&["fill", "report"], &span[..]].concat()).await.expect(2);
    // North has a quiet address, so only the south's three reports would mail their two people each.
    let refused = refused.says("3 reports and 6 mails").says("quiet_emails on connection south").says("--mail");
    refused.says("BIK mails each report it makes: 9 mails");
    assert_eq!(shop.requests(), 0);
    assert_eq!(shop.number("SELECT count(*) FROM runs").await, 0);
    let dry = shop.run(&[&["fill", "report", "--dry-run", "--format", "json"], &span[..]].concat()).await.expect(0);
    assert_eq!(dry.json().len(), 6);
    shop.run(&[&["fill", "report@south", "--mail"], &span[..]].concat())
        .await
        .expect(0)
        .says("6 mails, to the jobs' own addresses");
    let to: Vec<String> = shop.sandbox.mails().into_iter().map(|mail| mail.to).collect();
    assert_eq!(to, ["omar@south.example", "second@shop.example"].repeat(3), "as many as were said");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_what_would_be_sent_and_leaves_no_trace() {
    let shop = shop(&format!("{DAILY}{LIVECHAT}")).await;
    let ran = shop.run(&[&["fill", "report", "--dry-run", "--format", "json"], &WEEK[..]].concat()).await.expect(0);
    let ran = ran.says("fill would fetch 7 windows").says("takes about ").says("assumed: 2 s and 1 calls a report");
    let lines = ran.json();
    assert_eq!(keys(&lines[0]), ["job", "connection", "vendor", "fire_at", "window", "request", "warnings"]);
    assert_eq!(lines[0]["fire_at"], "2025-03-04T06:30:00+05:30");
    assert_eq!(lines[0]["window"]["label"], "2025-03-03");
    assert_eq!(text(&lines[0]["request"]["body"]["filters"]["from"]), "2025-03-03T00:00:00.000000+05:30");
    assert_eq!(shop.requests(), 0);
    assert_eq!(shop.number("SELECT (SELECT count(*) FROM runs) + (SELECT count(*) FROM series)").await, 0);
    assert!(!shop.archive().exists());
    let words = shop.run(&[&["fill", "report", "--dry-run"], &WEEK[..]].concat()).await.expect(0).stdout;
    assert_eq!(words.matches("request  POST").count(), 7, "{words}");
    shop.run(&[&["fill", "report", "--no-wait"], &WEEK[..]].concat()).await.expect(4);
    assert_eq!(shop.number("SELECT count(*) FROM runs WHERE trigger = 'fill' AND state = 'queued'").await, 7);
    let left = shop.run(&[&["fill", "report"], &WEEK[..]].concat()).await.expect(0);
    left.says("7 runs of an earlier fill or run-job are carried on");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_must_be_said_and_understood() {
    let shop = shop(&format!("{DAILY}{LIVECHAT}")).await;
    shop.run(&["fill"]).await.expect(2).says("fill --all");
    shop.run(&["fill", "report", "--all"]).await.expect(2);
    shop.run(&["fill", "report", "--wait", "1s", "--no-wait"]).await.expect(2);
    shop.job("bad", "window: yesterday\n");
    for command in ["coverage", "fill"] {
        shop.run(&[command, "reprot"]).await.expect(2).says("did you mean 'report'?");
        shop.run(&[command, "report@south"]).await.expect(2).says("it runs for north");
        shop.run(&[command, "bad"]).await.expect(2).says("jobs/bad.yaml");
    }
    shop.run(&["coverage"]).await.expect(2).says("jobs/bad.yaml");
    shop.run(&["fill", "--all"]).await.expect(2).says("jobs/bad.yaml");
    shop.run(&[&["coverage", "report"], &WEEK[..]].concat()).await.expect(0);
    let minutes = format!("schedule: \"* * * * *\"\nwindow: previous_hour\nsince: 2000-01-01\n{LIVECHAT}");
    shop.job("minutes", &minutes);
    shop.run(&["coverage", "minutes"]).await.expect(2).says("minutes@north").says("say with --from where to begin");
    assert_eq!(shop.coverage("minutes", &["--from", "2025-03-03", "--to", "2025-03-03"]).await.len(), 24);
    // It keeps nobody from the others.
    shop.without_job("bad");
    shop.job("report", &format!("since: 2026-11-01\n{DAILY}{LIVECHAT}"));
    let all = shop.run(&["coverage"]).await.expect(2).says("minutes@north").stdout;
    assert!(all.contains("report@north") && !all.contains("minutes"), "{all}");
    let filled =
        shop.run(&["fill", "--all", "--dry-run", "--to", "2026-11-02"]).await.expect(2).says("minutes@north").stdout;
    assert_eq!(filled.matches("report@north  (livechat)").count(), 2, "{filled}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_fails_until_every_window_is_held_and_says_which_is_not() {
    let shop = shop(&format!("{DAILY}{LIVECHAT}")).await;
    shop.job("by-hand", LIVECHAT);
    let check = [&["coverage", "report", "--check"], &WEEK[..]].concat();
    shop.fetch("report", &[3, 4]).await;
    let failed = shop.run(&check).await.expect(1);
    failed.says("reportd: report@north: 2025-03-05 to 2025-03-09 is not held: missing");
    shop.run(&[&["fill", "report"], &WEEK[..]].concat()).await.expect(0);
    assert!(shop.run(&check).await.expect(0).stderr.is_empty());
    shop.run(&["coverage", "by-hand", "--check"]).await.expect(0);
    shop.run(&[&["coverage", "--check"], &WEEK[..]].concat()).await.expect(0);
    // Stale, empty, provisional and waived windows lack nothing.
    shop.job("report", &format!("{DAILY}{}", LIVECHAT.replace("day", "hour")));
    shop.run(&check).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_finds_a_flipped_byte_a_lost_file_and_an_edited_manifest() {
    let shop = shop(&format!("{DAILY}{LIVECHAT}")).await;
    shop.run(&[&["fill", "report"], &WEEK[..]].concat()).await.expect(0);
    let verify = [&["coverage", "report", "--verify", "--check"], &WEEK[..]].concat();
    shop.run(&verify).await.expect(0).says("hashed 14 files of 7 revisions");
    let file = |day: u32, name: &str| shop.archive().join(format!("report/north/2025/2025-03-{day:02}/r1/{name}"));
    let flip = |path: &Path| {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[10] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    flip(&file(4, "report.json"));
    std::fs::remove_file(file(6, "report.json")).unwrap();
    flip(&file(8, "manifest.json"));
    assert!(shop.states("report", &WEEK).await.iter().all(|s| s.ends_with(" held")), "unasked nothing is read");
    let states = shop.states("report", &[&WEEK[..], &["--verify"]].concat()).await;
    let damaged: Vec<&str> = states.iter().filter_map(|s| s.strip_suffix(" damaged")).collect();
    assert_eq!(damaged, ["2025-03-04", "2025-03-06", "2025-03-08"]);
    let told = shop.run(&verify).await.expect(1);
    let told = told.says("2025-03-04 is damaged: report/north/2025/2025-03-04/r1/report.json: sha256 is ");
    let told = told.says("2025-03-06/r1/report.json is not there").says("2025-03-08/r1/manifest.json: sha256 is ");
    assert!(
        told.stdout.contains("reportd run-job report@north --window 2025-03-04..2025-03-04 --again"),
        "{}",
        told.stdout
    );
    let asked = shop.requests();
    shop.run(&[&["fill", "report"], &WEEK[..]].concat()).await.expect(0);
    assert_eq!(shop.requests(), asked, "damage is a person's to judge");
    assert_ne!(sha256(&file(4, "report.json")), text(&shop.coverage("report", &WEEK).await[1]["sha256"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_ledger_says_of_an_instant_is_why_a_window_is_not_there() {
    let shop = shop(&format!("{DAILY}zone: UTC\n{LIVECHAT}")).await;
    let series = shop.store().series("report", "north", "livechat").await.unwrap();
    let fire = async |at: &str, outcome: &str| {
        sqlx::query(
            "INSERT INTO fires (series_id, fire_at, outcome, reason) VALUES ($1, $2::timestamptz, $3, 'because')",
        )
        .bind(series)
        .bind(at.parse::<chrono::DateTime<chrono::Utc>>().unwrap())
        .bind(outcome)
        .execute(&shop.pool)
        .await
        .unwrap();
    };
    fire("2025-03-04T06:30:00Z", "missed").await;
    fire("2025-03-05T06:30:00Z", "paused").await;
    fire("2025-03-06T06:30:00Z", "skipped").await;
    fire("2025-03-08T06:30:00Z", "missed").await;
    shop.fetch("report", &[7]).await;
    let states = shop.states("report", &["--from", "2025-03-03", "--to", "2025-03-07"]).await;
    let expected =
        ["2025-03-03 missed", "2025-03-04 paused", "2025-03-05 missing", "2025-03-06 missing", "2025-03-07 held"];
    assert_eq!(states, expected);
    shop.run(&["fill", "report", "--from", "2025-03-03", "--to", "2025-03-07"])
        .await
        .expect(0)
        .says("2025-03-03 missed, 2025-03-04 paused");
    assert!(shop.has_all("report", &["--from", "2025-03-03", "--to", "2025-03-07"]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instant_is_expected_by_the_rule_that_was_in_force_at_it() {
    let shop = shop(&format!("{DAILY}zone: UTC\n{LIVECHAT}")).await;
    let series = shop.store().series("report", "north", "livechat").await.unwrap();
    let rule = |cron: &str, window: &str, paused: Value| json!({ "crons": [cron], "zone": "UTC", "window": window, "week_start": "Mon", "paused": paused });
    for (from, rule) in [
        ("2025-03-01T00:00:00Z", rule("0 7 * * MON", "previous_week", Value::Null)),
        ("2025-03-11T00:00:00Z", rule("30 6 * * *", "yesterday", json!("moving house"))),
        ("2025-03-13T00:00:00Z", rule("30 6 * * *", "yesterday", Value::Null)),
    ] {
        sqlx::query("INSERT INTO series_rules VALUES ($1, $2::timestamptz, $3, 'tests')")
            .bind(series)
            .bind(from.parse::<chrono::DateTime<chrono::Utc>>().unwrap())
            .bind(rule)
            .execute(&shop.pool)
            .await
            .unwrap();
    }
    let states = shop.states("report", &["--from", "2025-03-03", "--to", "2025-03-13"]).await;
    let expected = [
        "2025-03-03--2025-03-09 missing",
        "2025-03-10 paused",
        "2025-03-11 paused",
        "2025-03-12 missing",
        "2025-03-13 missing",
    ];
    assert_eq!(states, expected);
    // The file's schedule of today says nothing of days that are over.
    shop.job("report", &format!("schedule: \"0 9 1 * *\"\nwindow: previous_month\nzone: UTC\n{LIVECHAT}"));
    assert_eq!(shop.states("report", &["--from", "2025-03-03", "--to", "2025-03-13"]).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_file_keeps_what_is_held_under_its_former_name() {
    let shop = shop(&format!("{DAILY}{LIVECHAT}")).await;
    shop.fetch("report", &[3, 4]).await;
    shop.fault("livechat.report=400:1");
    shop.run_job("report", "2025-03-05..2025-03-05", &[]).await.expect(1);
    std::fs::remove_file(shop.folder.path().join("jobs/report.yaml")).unwrap();
    shop.job("ratings", &format!("was: [report]\n{DAILY}{LIVECHAT}"));
    let span = ["--from", "2025-03-03", "--to", "2025-03-06"];
    let expected = ["2025-03-03 held", "2025-03-04 held", "2025-03-05 failed", "2025-03-06 missing"];
    assert_eq!(shop.states("ratings", &span).await, expected);
    let asked = shop.requests();
    shop.run(&[&["fill", "ratings"], &span[..]].concat()).await.expect(0);
    assert_eq!(shop.requests() - asked, 2);
    assert!(shop.has_all("ratings", &span).await);
    // A job that is still there is nobody's former name.
    shop.job("report", &format!("{DAILY}{LIVECHAT}"));
    shop.job("other", &format!("was: [report]\n{DAILY}{LIVECHAT}"));
    shop.run(&["coverage", "other"]).await.expect(2).says("'report' is a job of its own here");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_the_database_does_not_know_stops_both_commands() {
    let mut shop = shop(&format!("{DAILY}{LIVECHAT}")).await;
    let fill = [&["fill", "report"], &WEEK[..]].concat();
    let coverage = [&["coverage", "report"], &WEEK[..]].concat();
    shop.run(&coverage).await.expect(0);
    assert!(!shop.archive().exists(), "who reads makes no archive");
    shop.run(&fill).await.expect(0);
    let asked = shop.requests();
    // A backup from before the last day.
    shop.sql("DELETE FROM artifacts WHERE window_label = '2025-03-09'").await;
    shop.sql("DELETE FROM revisions WHERE window_label = '2025-03-09'").await;
    for command in [&coverage, &fill] {
        shop.run(command).await.expect(2).says("report/north/2025/2025-03-09/r1").says("archive rebuild");
    }
    shop.run(&["archive", "rebuild"]).await.expect(0);
    shop.run(&[&coverage[..], &["--check"]].concat()).await.expect(0);
    // Another database.
    shop.lose_database().await;
    for command in [&coverage, &fill] {
        shop.run(command).await.expect(2).says("archive rebuild");
    }
    shop.run(&["archive", "rebuild"]).await.expect(0);
    shop.run(&[&coverage[..], &["--check"]].concat()).await.expect(0);
    // Another archive, and none.
    let away = shop.folder.path().join("away");
    std::fs::rename(shop.archive(), &away).unwrap();
    for command in [&coverage, &fill] {
        shop.run(command).await.expect(2).says("mount or restore it");
    }
    std::fs::create_dir(shop.archive()).unwrap();
    let stranger =
        json!({ "schema_version": 1, "archive_id": "00000000-0000-4000-8000-000000000000", "what": "another" });
    std::fs::write(shop.archive().join("reportd.json"), stranger.to_string()).unwrap();
    for command in [&coverage, &fill] {
        shop.run(command).await.expect(2).says("belongs to another archive");
    }
    assert_eq!(shop.requests(), asked, "nothing was fetched again");
}

#[tokio::test(flavor = "multi_thread")]
async fn days_of_another_zone_share_a_folder_and_are_missing() {
    let shop = shop(&format!("{DAILY}{LIVECHAT}")).await;
    shop.fetch("report", &[3, 4]).await;
    shop.job("report", &format!("{DAILY}zone: Europe/Berlin\n{LIVECHAT}"));
    let span = ["--from", "2025-03-03", "--to", "2025-03-04"];
    assert_eq!(shop.states("report", &span).await, ["2025-03-03 missing", "2025-03-04 missing"]);
    let told = shop.run(&[&["coverage", "report"], &span[..]].concat()).await.expect(0).stdout;
    assert!(told.contains("held besides: 1 window"), "{told}");
    let filled = shop.run(&[&["fill", "report", "--format", "json"], &span[..]].concat()).await.expect(0).json();
    assert!(filled.iter().all(|run| run["revision"] == 2), "{filled:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_whose_run_still_lives_stops_nothing() {
    let shop = shop(&format!("{DAILY}{LIVECHAT}")).await;
    let died = shop.command(&["run-job", "report", "--window", "2025-03-03..2025-03-03"]);
    let mut died = died;
    died.env("REPORTD_CRASH_AT", "manifest-put");
    let died = crate::harness::run(died).await;
    assert_ne!(died.code, Some(0), "{died:?}");
    assert!(shop.archive().join("report/north/2025/2025-03-03/r1/manifest.json").exists());
    let span = ["--from", "2025-03-03", "--to", "2025-03-03"];
    assert_eq!(shop.states("report", &span).await, ["2025-03-03 in_flight"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_calendar_of_days_is_read_at_a_glance() {
    let shop = shop(&format!("{DAILY}{LIVECHAT}")).await;
    shop.fetch("report", &[1, 2, 3, 5]).await;
    shop.fault("livechat.report=no-rows:1");
    shop.fetch("report", &[6]).await;
    let ran = shop.run(&["coverage", "report", "--from", "2025-02-27", "--to", "2025-03-08"]).await.expect(0);
    assert_eq!(
        page(&ran),
        "report@north   yesterday, 30 6 * * * (Asia/Kolkata)\n\
         \n          1  2  3  4  5  6  7  8  9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31\n\
         2025-02                                                                                 M  M\n\
         2025-03   ■  ■  ■  M  ■  e  M  M\n\
         \n■ held   e empty (a report without rows)   M missing\n\
         \n5 of 10 windows are held\n\
         \n5 missing   2025-02-27 to 2025-02-28, 2025-03-04, 2025-03-07 to 2025-03-08\n    reportd fill report@north"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn weeks_and_months_stand_in_years_and_hours_in_days() {
    let shop = shop(&format!("schedule: \"0 7 * * MON\"\nwindow: previous_week\n{LIVECHAT}")).await;
    shop.run_job("report", "2025-01-13..2025-01-19", &[]).await.expect(0);
    let weeks = shop.run(&["coverage", "report", "--from", "2024-12-30", "--to", "2025-03-02"]).await.expect(0);
    let weeks = page(&weeks);
    assert!(
        weeks.contains("      Jan  Feb  Mar  Apr  May  Jun  Jul  Aug  Sep  Oct  Nov  Dec\n2025  MM■M MMMM M\n"),
        "{weeks}"
    );
    assert!(
        weeks.contains("8 missing   2024-12-30 to 2025-01-12 (2 windows), 2025-01-20 to 2025-03-02 (6 windows)"),
        "{weeks}"
    );
    shop.job("monthly", &format!("schedule: \"0 7 1 * *\"\nwindow: previous_month\n{LIVECHAT}"));
    shop.run_job("monthly", "2024-12-01..2024-12-31", &[]).await.expect(0);
    let months = shop.run(&["coverage", "monthly", "--from", "2024-11-15", "--to", "2025-02-01"]).await.expect(0);
    let months = page(&months);
    assert!(
        months.contains(
            "      Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec\n2024                                          M   ■\n2025  M   M\n"
        ),
        "{months}"
    );
    assert!(months.contains("3 missing   2024-11, 2025-01 to 2025-02"), "{months}");
    shop.job("hourly", &format!("schedule: \"5 * * * *\"\nwindow: previous_hour\nzone: Europe/Berlin\n{LIVECHAT}"));
    let hours = async |date: &str| {
        let ran = shop.run(&["coverage", "hourly", "--from", date, "--to", date]).await.expect(0);
        (page(&ran), shop.coverage("hourly", &["--from", date, "--to", date]).await.len())
    };
    let (gap, count) = hours("2025-03-30").await;
    assert_eq!(count, 23);
    assert!(
        gap.contains(
            "                00 01 02 03 04 05 06 07 08 09 10 11 12 13 14 15 16 17 18 19 20 21 22 23\n\
             Sun 2025-03-30   M  M     M  M  M  M  M  M  M  M  M  M  M  M  M  M  M  M  M  M  M  M  M\n"
        ),
        "{gap}"
    );
    let (overlap, count) = hours("2025-10-26").await;
    assert_eq!(count, 25);
    assert!(overlap.contains("Sun 2025-10-26   M  M MM  M  M"), "{overlap}");
    assert!(
        overlap.contains("25 missing   2025-10-26 00:00-01:00 to 2025-10-26 23:00 - 2025-10-27 00:00"),
        "{overlap}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn days_on_which_clocks_change_are_fetched_whole() {
    let shop = shop(&format!("{DAILY}zone: Europe/Berlin\n{LIVECHAT}")).await;
    let span = ["--from", "2025-03-29", "--to", "2025-03-31"];
    shop.run(&[&["fill", "report"], &span[..]].concat()).await.expect(0);
    let lines = shop.coverage("report", &span).await;
    let windows: Vec<_> =
        lines.iter().map(|line| (text(&line["window"]["start"]), text(&line["window"]["end"]))).collect();
    assert_eq!(windows[1], ("2025-03-30T00:00:00+01:00", "2025-03-31T00:00:00+02:00"), "23 hours");
    assert_eq!(lines.len(), 3);
    assert!(shop.has_all("report", &span).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_job_every_series_is_a_strip_and_what_has_gaps_is_counted() {
    let shop = shop(&format!("{DAILY}{LIVECHAT}")).await;
    shop.job("second-report", &format!("{DAILY}{LIVECHAT}"));
    shop.job("by-hand", LIVECHAT);
    let ran = shop.run(&["coverage"]).await.expect(0);
    assert!(ran.stdout.contains("\n\nno window is expected: ") && !ran.stdout.contains("every"), "{}", ran.stdout);
    shop.run(&["fill", "report", "--from", "2025-03-01", "--to", "2025-03-09"]).await.expect(0);
    shop.fetch("second-report", &[4]).await;
    shop.fetch("by-hand", &[4]).await;
    let ran = shop.run(&["coverage", "--from", "2025-03-02", "--to", "2025-03-05"]).await.expect(0);
    assert_eq!(
        page(&ran),
        "by-hand@north           ■  by hand only, 1 held\n\
         report@north         ■■■■  4 of 4, complete\n\
         second-report@north  MM■M  1 of 4: 3 missing\n\
         \n■ held   M missing   (the newest 4 windows, the last at the right)\n\
         \n1 of 3 series have gaps; what would fetch them: reportd fill --all --dry-run"
    );
    let listed = shop.run(&["coverage", "by-hand"]).await.expect(0).stdout;
    assert!(listed.contains("2025-03-04  held          r1  run "), "{listed}");
    let all = shop.run(&["fill", "--all", "--from", "2025-03-02", "--to", "2025-03-05"]).await.expect(0);
    assert_eq!(all.stdout.matches("  archived  run ").count(), 3, "{}", all.stdout);
    let ran = shop.run(&["coverage", "--from", "2025-03-02", "--to", "2025-03-05"]).await.expect(0);
    assert!(ran.stdout.ends_with("every window is held\n"), "{}", ran.stdout);
}

/// 20 jobs at 20 connections, 60 days each: the first half held, a tenth of the rest failed, a tenth missed.
async fn four_hundred_series(shop: &Shop) {
    let connections: Vec<String> = (0..20)
        .map(|n| {
            format!(
                "  shop-{n}: {{ zone: UTC, livechat: {{ base_url: \"{}\", token: env:LIVECHAT }} }}\n",
                shop.sandbox.livechat_base_url()
            )
        })
        .collect();
    shop.config(&connections.concat());
    let names: Vec<String> = (0..20).map(|n| format!("shop-{n}")).collect();
    for n in 0..20 {
        shop.job(
            &format!("job-{n}"),
            &format!("connections: [{}]\nsince: 2025-03-01\n{DAILY}{LIVECHAT}", names.join(", ")),
        );
    }
    let pool = PgPoolOptions::new().max_connections(1).connect(&shop.database_url).await.unwrap();
    for sql in [
        "INSERT INTO series (job, connection, vendor)
         SELECT 'job-' || j, 'shop-' || c, 'livechat' FROM generate_series(0, 19) j, generate_series(0, 19) c",
        "INSERT INTO runs (id, series_id, job, connection, vendor, trigger, state, window_start, window_end, window_zone,
                           window_label, provisional, fire_at, request, base_url, account, revision, created_at, next_step_at,
                           finished_at, failure_class, failure)
         SELECT gen_random_uuid(), s.id, s.job, s.connection, 'livechat', 'schedule', CASE WHEN n < 30 THEN 'archived' ELSE 'failed' END,
                '2025-03-01Z'::timestamptz + n * interval '1 day', '2025-03-02Z'::timestamptz + n * interval '1 day', 'UTC',
                to_char('2025-03-01'::date + n, 'YYYY-MM-DD'), false, '2025-03-02 06:30Z'::timestamptz + n * interval '1 day',
                '{}', 'http://127.0.0.1:1', 'a', 1, '2025-03-02Z'::timestamptz + n * interval '1 day', '2025-03-02Z', now(),
                CASE WHEN n >= 30 THEN 'gone' END, CASE WHEN n >= 30 THEN 'gone' END
         FROM series s, generate_series(0, 32) n",
        "INSERT INTO revisions (series_id, window_label, revision, window_start, window_end, window_zone, provisional, state, run_id,
                                trigger, fire_at, content_hash, manifest_path, manifest_sha256, archived_at)
         SELECT series_id, window_label, 1, window_start, window_end, 'UTC', false, 'archived', id, 'schedule', fire_at, 'c',
                job || '/' || connection || '/' || window_label, repeat('a', 64), created_at FROM runs WHERE state = 'archived'",
        "INSERT INTO artifacts SELECT series_id, window_label, 1, 0, manifest_path || '/f', 'text/csv', 1, repeat('a', 64), false, false
         FROM revisions",
        "INSERT INTO fires (series_id, fire_at, outcome)
         SELECT s.id, '2025-03-02 06:30Z'::timestamptz + n * interval '1 day', 'missed' FROM series s, generate_series(33, 35) n",
        "INSERT INTO run_events (run_id, kind, who, detail) SELECT id, 'submitting', 'x', 'x' FROM runs",
        "ANALYZE",
    ] {
        sqlx::query(sql).execute(&pool).await.unwrap();
    }
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn four_hundred_series_are_looked_at_in_a_few_statements() {
    const TRANSACTIONS: &str = "SELECT xact_commit FROM pg_stat_database WHERE datname = $1";
    const READ: &str =
        "SELECT COALESCE(sum(seq_tup_read + COALESCE(idx_tup_fetch, 0)), 0)::bigint FROM pg_stat_user_tables
                        WHERE relname IN ('runs', 'revisions', 'artifacts', 'run_events', 'fires')";
    const USED: &str = "SELECT COALESCE(sum(idx_scan), 0)::bigint FROM pg_stat_user_indexes
                        WHERE relname IN ('runs', 'revisions', 'artifacts', 'run_events', 'fires')";
    let shop = Shop::open().await;
    four_hundred_series(&shop).await;
    until("the statistics of filling", || async { shop.number(READ).await > 35_000 }).await;
    // Asked from another database, because asking is a transaction too.
    let name: String = shop.one("SELECT current_database()::text").await;
    let (outside, _) = crate::harness::database().await;
    let transactions =
        async || -> i64 { sqlx::query_scalar(TRANSACTIONS).bind(&name).fetch_one(&outside).await.unwrap() };
    let before = transactions().await;
    let start = Instant::now();
    let lines = shop.run(&["coverage", "--to", "2025-04-29", "--format", "json"]).await.expect(0).json();
    let took = start.elapsed();
    assert_eq!(lines.len(), 400 * 60);
    let count = |state: &str| lines.iter().filter(|line| line["state"] == state).count();
    assert_eq!([count("stale"), count("failed"), count("missed"), count("missing")], [12_000, 1200, 1200, 9600]);
    // Loose, because the machine has other work; the statements below are what is counted.
    assert!(took < Duration::from_secs(60), "{took:?}");
    let strips = shop.run(&["coverage", "--to", "2025-04-29"]).await.expect(0).stdout;
    assert_eq!(strips.matches("30 of 60: 3 failed, 3 missed, 24 missing").count(), 400);
    until("both looks are told of", || async { transactions().await - before >= 20 }).await;
    let statements = transactions().await - before;
    // Each connection that a busy machine opens counts some too; 400 series with one statement each would be 800.
    assert!(statements < 200, "{statements} transactions for two looks at 400 series");

    // Of two series the statements read no more than those have.
    let ids: Vec<i64> = sqlx::query_scalar("SELECT id FROM series WHERE job = 'job-7' ORDER BY id LIMIT 2")
        .fetch_all(&shop.pool)
        .await
        .unwrap();
    let range = |series| Range { series, from: at("2025-03-01"), until: at("2025-05-01") };
    let ranges: Vec<Range> = ids.iter().copied().map(range).collect();
    for what in ["held", "live", "ended", "unfired", "files", "pace", "names"] {
        // A pool of its own, because a server process tells its statistics when it ends.
        let pool = PgPoolOptions::new().max_connections(1).connect(&shop.database_url).await.unwrap();
        let store = reportd::run::store::RunStore::new(pool.clone(), reportd::run::Who("tests".into()));
        let (read, used) = (shop.number(READ).await, shop.number(USED).await);
        // From the sixth time on PostgreSQL may use one plan for all parameters.
        for _ in 0..8 {
            let (found, expected) = match what {
                "held" => (store.held_in(&ranges).await.unwrap().len(), 60),
                "live" => (store.live_of(&ids).await.unwrap().len(), 0),
                "ended" => (store.ended_in(&ranges).await.unwrap().len(), 66),
                "unfired" => (store.unfired_in(&ranges).await.unwrap().len(), 6),
                "files" => {
                    let one = |id: &i64| (*id, "2025-03-05".to_owned(), 1);
                    (store.files_of(&ids.iter().map(one).collect::<Vec<_>>()).await.unwrap().len(), 2)
                }
                "pace" => (store.pace_of(&ids).await.unwrap().len(), 2),
                _ => {
                    let names = [("job-7".to_owned(), "shop-1".to_owned()), ("job-7".to_owned(), "shop-2".to_owned())];
                    (store.series_named(&names).await.unwrap().len(), 2)
                }
            };
            assert_eq!(found, expected, "{what}");
        }
        drop(store);
        pool.close().await;
        until(what, || async { shop.number(USED).await > used }).await;
        let read = shop.number(READ).await - read;
        assert!(read < 2500, "{what} read {read} rows for two series");
    }
}

fn at(date: &str) -> chrono::DateTime<chrono::Utc> {
    format!("{date}T00:00:00Z").parse().unwrap()
}

fn chrono_now() -> chrono::DateTime<chrono::Utc> {
    chrono::DateTime::from(std::time::UNIX_EPOCH + crate::harness::since_epoch())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_that_was_left_is_carried_on_by_the_next_one() {
    let shop = shop(&format!("{DAILY}{LIVECHAT}")).await;
    let span = ["--from", "2025-03-03", "--to", "2025-03-05"];
    shop.run(&[&["fill", "report", "--no-wait"], &span[..]].concat()).await.expect(4);
    assert!(shop.states("report", &span).await.iter().all(|state| state.ends_with(" in_flight")));
    let filled = shop.run(&[&["fill", "report"], &span[..]].concat()).await.expect(0);
    filled.says("3 runs of an earlier fill or run-job are carried on");
    assert!(shop.has_all("report", &span).await);
    assert_eq!(shop.number("SELECT count(*) FROM runs").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_whose_create_nobody_knows_about_is_not_filled_even_when_its_run_was_cancelled() {
    let shop = shop(&format!("{DAILY}{BIK}")).await;
    shop.without_waits().await;
    shop.fault("bik.generateReport=lost:1");
    let run = shop.run_job("report", "2025-03-03..2025-03-03", &[]).await.expect(3).line();
    shop.run(&["cancel", text(&run["run_id"])]).await.expect(0).says("still not known");
    let span = ["--from", "2025-03-03", "--to", "2025-03-03"];
    let filled = shop.run(&[&["fill", "report"], &span[..]].concat()).await.expect(3);
    filled.says("2025-03-03 is left alone: an earlier run may have been made and mailed");
    assert_eq!(shop.sandbox.mails().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_an_older_copy_of_the_database_had_queued_are_not_sent_again() {
    let shop = shop(&format!("{DAILY}{BIK}")).await;
    for day in [3, 4, 5, 6] {
        shop.fetch("report", &[day]).await;
    }
    shop.job("other", &format!("zone: UTC\nwindow: yesterday\n{LIVECHAT}"));
    shop.run_job("other", "2025-03-01..2025-03-01", &[]).await.expect(0);
    let again = shop.run_job("other", "2025-03-01..2025-03-01", &["--again", "--no-wait"]).await.expect(4).line();
    // The copy knows the runs, and not what came of them. One was queued, one claimed by a worker, one on its way to BIK, and one
    // was to make what another made in the end. Of the other job nothing was lost.
    for statement in [
        "DELETE FROM artifacts a USING series s WHERE s.id = a.series_id AND s.job = 'report'",
        "DELETE FROM revisions r USING series s WHERE s.id = r.series_id AND s.job = 'report'",
        "DELETE FROM run_events",
        "DELETE FROM remote_tasks WHERE run_id NOT IN (SELECT id FROM runs WHERE window_label = '2025-03-05')",
        "UPDATE remote_tasks SET outcome = 'intended', remote_id = NULL, ticket = NULL, created_at = NULL, finished_at = NULL",
        "UPDATE runs SET state = 'queued', finished_at = NULL, revision = NULL, ticket = NULL, ticketed_at = NULL,
             last_poll_at = NULL WHERE job = 'report'",
        "UPDATE runs SET attempt_id = NULL WHERE job = 'report' AND window_label <> '2025-03-05'",
        "UPDATE runs SET lease_token = gen_random_uuid(), lease_until = reportd_now() - interval '1 day'
             WHERE window_label IN ('2025-03-04', '2025-03-05')",
        "UPDATE runs SET state = 'submitting' WHERE window_label = '2025-03-05'",
        "UPDATE runs SET id = gen_random_uuid() WHERE window_label = '2025-03-06'",
    ] {
        shop.sql(statement).await;
    }
    let mails = shop.sandbox.mails().len();
    for args in [&["coverage"][..], &["fill", "--all"], &["serve", "--listen", "127.0.0.1:0"]] {
        shop.run(args).await.expect(2).says("archive rebuild");
    }
    assert_eq!(shop.run(&["status", "--format", "json"]).await.expect(1).line()["cause"], "archive_mismatch");
    let rebuilt = shop.run(&["archive", "rebuild"]).await.expect(0).stdout;
    assert!(rebuilt.contains("3 runs ended, because they had made what was adopted"), "{rebuilt}");
    assert!(rebuilt.contains("1 queued runs cancelled, because their windows are held"), "{rebuilt}");
    let states = "SELECT window_label || ' ' || state FROM runs WHERE job = 'report' ORDER BY 1";
    let states: Vec<String> = sqlx::query_scalar(states).fetch_all(&shop.pool).await.unwrap();
    assert_eq!(states, ["2025-03-03 archived", "2025-03-04 archived", "2025-03-05 archived", "2025-03-06 cancelled"]);
    let serving = shop.serve().await;
    serving.until_http("/readyz", 200).await;
    shop.until_count("SELECT count(*) FROM runs WHERE finished_at IS NULL", 0).await;
    serving.stop().await;
    assert_eq!(shop.sandbox.mails().len(), mails);
    assert_eq!(shop.holds("other").await, ["2025-03-01 r1", "2025-03-01 r2"], "{again:?} was to be made anew");
    shop.run(&["coverage", "report", "--from", "2025-03-03", "--to", "2025-03-06", "--check"]).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_job_without_schedule_what_was_asked_for_and_is_not_there_is_told() {
    let shop = Shop::open().await;
    shop.job("by-hand", &format!("zone: UTC\nwindow: yesterday\n{BIK}"));
    shop.without_waits().await;
    for (day, fault, exit) in
        [(3, None, 0), (5, Some("lost"), 3), (7, Some("400"), 1), (8, Some("400"), 1), (9, None, 4)]
    {
        if let Some(fault) = fault {
            shop.fault(&format!("bik.generateReport={fault}:1"));
        }
        let (day, wait) = (format!("2025-03-0{day}..2025-03-0{day}"), if exit == 4 { "0" } else { "30s" });
        shop.run_job("by-hand", &day, &["--wait", wait]).await.expect(exit);
    }
    let states = async |shop: &Shop, more: &[&str]| -> Vec<String> {
        let told = shop.run(&[&["coverage", "by-hand", "--format", "json"], more].concat()).await.expect(0).json();
        told.iter().map(|cell| format!("{} {}", text(&cell["window"]["label"]), text(&cell["state"]))).collect()
    };
    let all =
        ["2025-03-03 held", "2025-03-05 needs_you", "2025-03-07 failed", "2025-03-08 failed", "2025-03-09 in_flight"];
    assert_eq!(states(&shop, &[]).await, all);
    assert_eq!(states(&shop, &["--from", "2025-03-05", "--to", "2025-03-07"]).await, all[1..3]);
    let checked = shop.run(&["coverage", "by-hand", "--check"]).await.expect(1);
    let told = "held: 1 window, 1 needs you, 2 failed, 1 in flight; nothing more is expected";
    assert!(checked.stdout.contains(told), "{checked:?}");
    checked.says("2025-03-07 to 2025-03-08 is not held: failed");
    let strip = shop.run(&["coverage", "--check"]).await.expect(1).stdout;
    assert!(strip.contains("by hand only, 1 held, 1 needs you, 2 failed, 1 in flight"), "{strip}");
    shop.run(&["fill", "by-hand"]).await.expect(3).says("fill fetches 2 windows");
    let now = ["2025-03-03 held", "2025-03-05 needs_you", "2025-03-07 held", "2025-03-08 held", "2025-03-09 held"];
    assert_eq!(states(&shop, &[]).await, now);
    // What may still change is not fetched as if it were final, and `--all` leaves by hand what was asked for by hand.
    shop.fault("bik.generateReport=400:1");
    shop.run_job("by-hand", "2025-03-11..2025-03-11", &[]).await.expect(1);
    let all = shop.run(&["fill", "--all", "--dry-run"]).await.expect(0);
    assert!(all.stdout.contains("nothing to fill"), "{all:?}");
    shop.job("by-hand", &format!("zone: UTC\nwindow: yesterday\ndelay: 3000d\n{BIK}"));
    let filled = shop.run(&["fill", "by-hand"]).await;
    assert!(filled.stdout.contains("nothing to fill"), "{filled:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_the_database_is_told_by_whichever_revision_it_lacks() {
    let shop = shop(&format!("{DAILY}{LIVECHAT}")).await;
    shop.job("other", LIVECHAT);
    shop.fetch("report", &[4]).await;
    shop.run_job("report", "2025-03-04..2025-03-04", &["--again"]).await.expect(0);
    shop.fetch("other", &[4]).await;
    let asked = shop.requests();
    // The newest revision of a window that is held, and one that no schedule names.
    for (lost, of) in [("revision = 2", "r2"), ("manifest_path LIKE 'other/%'", "other")] {
        shop.sql(&format!(
            "DELETE FROM artifacts WHERE (series_id, window_label, revision) IN (
                               SELECT series_id, window_label, revision FROM revisions WHERE {lost})"
        ))
        .await;
        shop.sql(&format!("DELETE FROM revisions WHERE {lost}")).await;
        for args in [&["coverage"][..], &["coverage", "report"], &["fill", "report", "--dry-run"], &["fill", "--all"]] {
            shop.run(args).await.expect(2).says(of).says("archive rebuild");
        }
        let status = shop.run(&["status", "--format", "json"]).await.expect(1).line();
        assert_eq!(status["cause"], "archive_mismatch");
        assert!(text(&status["message"]).contains(of), "{status}");
        shop.run(&["archive", "rebuild"]).await.expect(0);
        shop.run(&["coverage", "report"]).await.expect(0);
        shop.run(&["status"]).await.expect(0);
    }
    assert_eq!(shop.requests(), asked);
}
