//! `why`, `pause` and `resume`: what decided about an instant, and the operator's word that instants do not fire.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Shop, run};
use crate::status::DAILY;
use crate::verbs::{LIVECHAT, NEXT_DAY, keys, text, until};

const KEYS: [&str; 10] =
    ["job", "connection", "at", "fire_at", "outcome", "reason", "window", "run_id", "rule", "decided_at"];

impl Shop {
    async fn why(&self, series: &str, at: &str) -> Value {
        let ran = self.run(&["why", series, "--at", at, "--format", "json"]).await.expect(0);
        let line = ran.line();
        assert_eq!(keys(&line), KEYS);
        line
    }
}

/// `DAILY` in Europe/Berlin at this time of day.
fn berlin(cron: &str) -> String {
    DAILY.replace("30 6 * * *", cron).replace("yesterday\n", "yesterday\nzone: Europe/Berlin\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instant_of_the_ledger_is_told_with_its_run_its_window_and_the_rule_that_was_in_force() {
    let shop = Shop::open().await;
    shop.job("ratings", DAILY);
    shop.in_force().await;
    let run = shop.run_job("ratings", NEXT_DAY, &[]).await.expect(0).line();
    // The rule of then named another time, and the file changes later.
    shop.sql(
        "UPDATE series_rules SET from_at = '2025-01-01T00:00:00Z', applied_by = 'asha@ops';
         INSERT INTO series_rules (series_id, from_at, rule, applied_by)
         SELECT series_id, '2025-06-01T00:00:00Z', jsonb_set(rule, '{crons}', '[\"0 9 * * *\"]'), 'ravi@ops' FROM series_rules",
    )
    .await;
    for (at, outcome, reason) in [
        ("2025-03-05T01:00:00Z", "fired", "NULL"),
        ("2025-03-06T01:00:00Z", "missed", "'decided 9 days late, and catch_up is 7d'"),
        ("2025-07-01T03:30:00Z", "paused", "'paused by asha: closed'"),
    ] {
        shop.sql(&format!(
            "INSERT INTO fires (series_id, fire_at, outcome, run_id, window_start, window_end, reason, decided_at)
             SELECT series_id, '{at}', '{outcome}', id, window_start, window_end, {reason}, '{at}'::timestamptz + interval '5 s' FROM runs"
        ))
        .await;
    }
    let fired = shop.why("ratings@north", "2025-03-05 06:30").await;
    assert_eq!(fired["fire_at"], "2025-03-05T06:30:00+05:30");
    assert_eq!(fired["fire_at"], fired["at"]);
    assert_eq!(
        (&fired["outcome"], &fired["reason"], &fired["run_id"]),
        (&"fired".into(), &Value::Null, &run["run_id"])
    );
    assert_eq!(fired["window"], run["window"]);
    assert_eq!(fired["decided_at"], "2025-03-05T06:30:05+05:30");
    let rule = json!({ "crons": ["30 6 * * *"], "zone": "Asia/Kolkata", "window": "yesterday", "from": "2025-01-01T05:30:00+05:30", "applied_by": "asha@ops" });
    assert_eq!(fired["rule"], rule);
    let missed = shop.why("ratings", "2025-03-06T01:00:00Z").await;
    assert_eq!(
        (&missed["outcome"], &missed["reason"]),
        (&"missed".into(), &"decided 9 days late, and catch_up is 7d".into())
    );
    let paused = shop.why("ratings", "2025-07-01 09:00").await;
    assert_eq!((&paused["outcome"], &paused["rule"]["crons"]), (&"paused".into(), &json!(["0 9 * * *"])));
    assert_eq!(paused["rule"]["applied_by"], "ravi@ops");
    let told = shop.run(&["why", "ratings", "--at", "2025-03-05 06:30"]).await.expect(0).stdout;
    for words in [
        "ratings@north  Wed 2025-03-05 06:30:00 +05:30 (Asia/Kolkata) = 2025-03-05 01:00:00 UTC",
        "fired",
        "a run was made",
        "5 s after the instant",
        "2025-03-04  [2025-03-04T00:00:00+05:30, 2025-03-05T00:00:00+05:30), in the archive as r1",
        &format!("{}  archived", &text(&run["run_id"])[..8]),
        "\"30 6 * * *\" in Asia/Kolkata, window yesterday",
        "by asha@ops",
        "the job file says something else now",
    ] {
        assert!(told.contains(words), "{words}:\n{told}");
    }
    // The file is gone, and what happened is known.
    std::fs::remove_file(shop.folder.path().join("jobs/ratings.yaml")).unwrap();
    assert_eq!(shop.why("ratings", "2025-03-05T01:00:00Z").await["outcome"], "fired");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instant_that_no_schedule_names_is_told_with_its_neighbours_and_the_change_of_the_clock() {
    let shop = Shop::open().await;
    shop.job("fixed", &berlin("30 2 * * *"));
    shop.job("periodic", &berlin("*/30 2 * * *"));
    shop.job("by-hand", LIVECHAT);
    let none = shop.why("fixed", "2026-11-20 07:00").await;
    assert_eq!((&none["outcome"], &none["fire_at"], &none["window"]), (&"none".into(), &Value::Null, &Value::Null));
    let reason = text(&none["reason"]);
    assert!(reason.contains("before, Fri 2026-11-20 02:30 +01:00 (01:30 UTC)"), "{reason}");
    assert!(reason.contains("after, Sat 2026-11-21 02:30 +01:00 (01:30 UTC)"), "{reason}");
    let gap = shop.why("fixed", "2026-03-29 02:30").await;
    assert_eq!(gap["fire_at"], "2026-03-29T03:00:00+02:00");
    assert!(
        text(&gap["reason"])
            .contains("02:30 does not exist on 2026-03-29 in Europe/Berlin: the clock goes on to 03:00"),
        "{gap}"
    );
    assert_eq!(gap["window"]["label"], "2026-03-28");
    let gap = shop.why("periodic", "2026-03-29 02:30").await;
    assert_eq!((&gap["outcome"], &gap["fire_at"]), (&"none".into(), &Value::Null));
    assert!(text(&gap["reason"]).contains("follows real time and has no fire in the gap"), "{gap}");
    let first = shop.why("fixed", "2026-10-25 02:30").await;
    assert_eq!(first["fire_at"], "2026-10-25T02:30:00+02:00");
    assert!(
        text(&first["reason"]).contains("this is the first; a cron that names a time fires at the first only"),
        "{first}"
    );
    let second = shop.why("fixed", "2026-10-25T02:30:00+01:00").await;
    assert_eq!((&second["outcome"], &second["fire_at"]), (&"none".into(), &Value::Null));
    assert!(text(&second["reason"]).contains("this is the second"), "{second}");
    assert_eq!(shop.why("periodic", "2026-10-25T02:30:00+01:00").await["fire_at"], "2026-10-25T02:30:00+01:00");
    let by_hand = shop.why("by-hand", "2026-10-25T02:30:00+01:00").await;
    assert_eq!(
        (&by_hand["outcome"], &by_hand["reason"]),
        (&"none".into(), &"the job has no schedule: it runs by hand only".into())
    );
    assert_eq!(by_hand["rule"]["crons"], json!([]));
    shop.run(&["why", "fixed", "--at", "soon"]).await.expect(2).says("not an instant");
    shop.run(&["why", "fixd", "--at", "2026-10-25"]).await.expect(2).says("did you mean 'fixed'");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instant_that_nobody_has_decided_is_told_by_what_keeps_it() {
    let shop = Shop::open().await;
    shop.job("ratings", &format!("since: 2025-01-05\n{DAILY}"));
    shop.job("seen", DAILY);
    let outcome = async |series: &'static str, at: &'static str| {
        let why = shop.why(series, at).await;
        (text(&why["outcome"]).to_owned(), text(&why["reason"]).to_owned())
    };
    let (word, reason) = outcome("ratings", "2025-01-06 06:30").await;
    assert_eq!(word, "unseen");
    assert!(reason.contains("no `reportd serve` and no `reportd apply` has seen this series"), "{reason}");
    shop.in_force().await;
    let (word, reason) = outcome("ratings", "2025-01-03 06:30").await;
    assert_eq!(
        (word.as_str(), reason.as_str()),
        ("before_since", "the job is wanted since 2025-01-05, and this instant is before that")
    );
    let (word, reason) = outcome("ratings", "2025-01-06 06:30").await;
    assert_eq!(word, "undecided");
    assert!(reason.contains("decided up to Sat 2025-01-04 23:59:59 +05:30"), "{reason}");
    assert!(reason.contains("no planner has passed yet; a pass now would "), "{reason}");
    shop.serving(7200.0, None).await;
    assert!(outcome("ratings", "2025-01-06 06:30").await.1.contains("the last planner pass was 2 h ago"));
    let (word, reason) = outcome("seen", "2025-01-06 06:30").await;
    assert_eq!(word, "unseen");
    assert!(reason.starts_with("the series was first seen on "), "{reason}");
    let (word, reason) = outcome("seen", "2098-01-06 06:30").await;
    assert_eq!(word, "to_come");
    assert!(reason.ends_with(", for window 2098-01-05"), "{reason}");
    shop.run(&["pause", "seen", "--reason", "shop closed"]).await.expect(0);
    let (word, reason) = outcome("seen", "2098-01-06 06:30").await;
    assert_eq!(word, "to_come");
    assert!(reason.contains("it would be recorded as paused") && reason.ends_with("shop closed"), "{reason}");
    shop.run(&["resume", "seen"]).await.expect(0);
    assert!(!outcome("seen", "2098-01-06 06:30").await.1.contains("paused"));
}

/// A second connection with a LiveChat account.
fn south(shop: &Shop) -> String {
    format!(
        "  south:\n    zone: Europe/Berlin\n    livechat: {{ base_url: \"{}\", token: env:LIVECHAT }}\n",
        shop.sandbox.livechat_base_url()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_is_signed_once_and_ended_once_and_saying_it_again_changes_nothing() {
    let shop = Shop::open().await;
    shop.config(&south(&shop));
    shop.job("ratings", &format!("connections: all\n{DAILY}"));
    let told = shop.run(&["resume", "ratings"]).await.expect(0).stdout;
    assert_eq!(told, "ratings@north  was not paused\nratings@south  was not paused\n");
    let mut command = shop.command(&["pause", "ratings@south", "--reason", " shop closed ", "--format", "json"]);
    command.env("REPORTD_USER", "asha");
    let line = run(command).await.expect(0).line();
    assert_eq!(keys(&line), ["job", "connection", "paused", "since", "reason", "who"]);
    assert_eq!((&line["paused"], &line["reason"]), (&true.into(), &"shop closed".into()));
    assert!(text(&line["who"]).starts_with("asha@") && text(&line["since"]).contains("+0"), "{line}");
    let told = shop.run(&["pause", "ratings"]).await.expect(0).stdout;
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines[0], "ratings@north  paused");
    assert!(
        lines[1].starts_with("ratings@south  was paused already, since ") && lines[1].ends_with(": shop closed"),
        "{told}"
    );
    assert!(lines[2].contains("recorded as paused") && lines[3].contains("reportd fill ratings"), "{told}");
    assert_eq!(shop.number("SELECT count(*) FROM series_pauses WHERE resumed_at IS NULL").await, 2);
    let lines = shop.run(&["resume", "ratings", "--format", "json"]).await.expect(0).json();
    let north =
        json!({ "job": "ratings", "connection": "north", "paused": false, "since": null, "reason": null, "who": null });
    assert_eq!((lines.len(), &lines[0]), (2, &north));
    assert_eq!(
        shop.number("SELECT count(*) FROM series_pauses WHERE resumed_at >= paused_at AND resumed_by LIKE '%@%'").await,
        2
    );
    let told = shop.run(&["resume", "ratings@north"]).await.expect(0).stdout;
    assert_eq!(told, "ratings@north  was not paused\n");
    // Of many at once one makes it.
    let all = (0..4).map(|_| run(shop.command(&["pause", "ratings@north", "--format", "json"])));
    let ran = futures_util::future::join_all(all).await;
    let lines: Vec<Value> = ran.into_iter().map(|ran| ran.expect(0).line()).collect();
    assert!(lines.iter().all(|line| *line == lines[0] && line["paused"] == true), "{lines:#?}");
    assert_eq!(shop.number("SELECT count(*) FROM series_pauses WHERE resumed_at IS NULL").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_overruled_by_no_command_and_a_broken_or_missing_one_stands_in_nobodys_way() {
    let shop = Shop::open().await;
    shop.job("ratings", &format!("paused: rebuilding\n{DAILY}"));
    shop.run(&["pause", "ratings"]).await.expect(0);
    shop.run(&["resume", "ratings"]).await.expect(2).says("the file of job ratings says paused: rebuilding");
    shop.in_force().await;
    shop.job("ratings", DAILY);
    shop.run(&["resume", "ratings"])
        .await
        .expect(2)
        .says("the job set in force says paused: rebuilding")
        .says("reportd apply");
    assert_eq!(shop.number("SELECT count(*) FROM series_pauses WHERE resumed_at IS NULL").await, 1, "it was not ended");
    shop.in_force().await;
    shop.run(&["resume", "ratings"]).await.expect(0);
    shop.job("ratings", "window: 1\n");
    shop.run(&["pause", "ratings"]).await.expect(0);
    assert_eq!(shop.why("ratings", "2098-01-06 06:30").await["outcome"], "to_come");
    std::fs::remove_file(shop.folder.path().join("jobs/ratings.yaml")).unwrap();
    shop.run(&["resume", "ratings@north"]).await.expect(0);
    shop.job("new", "window: 1\n");
    shop.run(&["pause", "new"]).await.expect(2).says("jobs/new.yaml:");
    shop.run(&["pause", "nobody"]).await.expect(2).says("no job 'nobody'");
    shop.run(&["pause", "ratings@east"]).await.expect(2).says("no job 'ratings'");
    for reason in ["", "a\u{1b}[31mb"] {
        shop.run(&["pause", "ratings", "--reason", reason]).await.expect(2).says("the reason");
    }
    assert!(!shop.archive().exists(), "none of this needs an archive");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_records_what_is_paused_and_fires_again_once_it_is_resumed() {
    let shop = Shop::open().await;
    shop.job("ratings", &DAILY.replace("30 6 * * *", "* * * * *"));
    shop.run(&["pause", "ratings", "--reason", "shop closed"]).await.expect(0);
    let serve = shop.start(&["serve", "--listen", "127.0.0.1:0"]);
    shop.until_count("SELECT count(*) FROM series CROSS JOIN replicas WHERE in_force AND passed_at IS NOT NULL", 1)
        .await;
    // `serve` ends `not_serving`, and a pause needs nobody.
    let ran = shop.run(&["status"]).await.expect(0);
    assert!(ran.stdout.contains("last planner pass "), "{}", ran.stdout);
    shop.advance(Duration::from_secs(61)).await;
    until("a paused instant", || async {
        shop.number("SELECT count(*) FROM fires WHERE outcome = 'paused'").await > 0
    })
    .await;
    let at: String =
        shop.one("SELECT to_char(fire_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') FROM fires").await;
    let why = shop.run(&["why", "ratings", "--at", &at, "--format", "json"]).await.expect(0).line();
    assert_eq!(why["outcome"], "paused");
    assert!(text(&why["reason"]).ends_with(": shop closed"), "{why}");
    assert!(text(&why["rule"]["applied_by"]).contains('@'), "{why}");
    assert_eq!(shop.number("SELECT count(*) FROM runs").await, 0);
    shop.run(&["resume", "ratings"]).await.expect(0);
    shop.advance(Duration::from_secs(61)).await;
    until("an instant that fires", || async {
        shop.number("SELECT count(*) FROM fires WHERE outcome = 'fired'").await == 1
    })
    .await;
    assert_eq!(
        shop.number(
            "SELECT count(*) FROM fires JOIN series_pauses USING (series_id)
                     WHERE (outcome = 'paused') <> (fire_at >= paused_at AND fire_at < resumed_at)"
        )
        .await,
        0,
        "each instant is decided by whether it lies in the pause"
    );
    drop(serve);
}
