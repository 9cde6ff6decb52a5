//! The life of a run as its users see it: once per window, revisions, waiting, limits, breakers, and an operator's word.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use reportd::sandbox::{Credentials, Received, Vendor};
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Shop, run};
use crate::verbs::{BIK, DAY, JAICP, LIVECHAT, NEXT_DAY, QUERY, json_file, sha256, text, until};

/// The labels of all windows, in order.
fn labels(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|run| text(&run["window"]["label"])).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_for_one_window_share_one_run_and_one_create() {
    for yaml in [BIK, JAICP] {
        let shop = Shop::open().await;
        shop.job("report", yaml);
        shop.without_waits().await;
        let (one, two) = tokio::join!(shop.run_job("report", DAY, &[]), shop.run_job("report", DAY, &[]));
        let (one, two) = (one.expect(0).line(), two.expect(0).line());
        assert_eq!(one, two);
        assert_eq!(one["state"], "archived");
        assert_eq!(shop.sandbox.creates(Vendor::Bik) + shop.sandbox.creates(Vendor::Jaicp), 1);
        assert_eq!(shop.number("SELECT count(*) FROM runs").await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_window_is_printed_without_asking_the_vendor() {
    let shop = Shop::open().await;
    shop.job("report", LIVECHAT);
    let first = shop.run_job("report", DAY, &[]).await.expect(0).line();
    let asked = shop.requests();
    assert_eq!(shop.run_job("report", DAY, &[]).await.expect(0).line(), first);
    let words = shop.run(&["run-job", "report", "--window", DAY]).await.expect(0).stdout;
    assert!(words.contains("held already"), "{words}");
    assert_eq!(shop.requests(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn again_makes_a_new_revision_that_names_the_one_before() {
    let shop = Shop::open().await;
    shop.job("report", LIVECHAT);
    let first = shop.run_job("report", DAY, &[]).await.expect(0).line();
    let second = shop.run_job("report", DAY, &["--again"]).await.expect(0).line();
    assert_eq!((&first["revision"], &second["revision"]), (&1.into(), &2.into()));
    assert_ne!(first["run_id"], second["run_id"]);
    let window = shop.archive().join("report/north/2025/2025-03-03");
    let manifest = json_file(&window.join("r2/manifest.json"));
    assert_eq!(manifest["supersedes"], 1);
    assert_eq!(text(&manifest["previous_manifest_sha256"]), sha256(&window.join("r1/manifest.json")));
    let asked = shop.requests();
    assert_eq!(shop.run_job("report", DAY, &[]).await.expect(0).line(), second, "the newest revision is what is held");
    assert_eq!(shop.requests(), asked);
    shop.run(&["archive", "verify"]).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_is_cut_into_days_weeks_and_months_of_the_shops_calendar() {
    let shop = Shop::open().await;
    shop.job("report", LIVECHAT);
    let cut = async |window: &str, each: &str| shop.run_job("report", window, &["--each", each]).await.expect(0).json();
    let days = cut("2025-03-03..2025-03-09", "day").await;
    let expected: Vec<String> = (3..=9).map(|day| format!("2025-03-{day:02}")).collect();
    assert_eq!(labels(&days), expected);
    for day in &days {
        assert!(text(&day["window"]["start"]).ends_with("T00:00:00+05:30"), "{day}");
    }
    let weeks = cut("2025-03-03..2025-03-16", "week").await;
    assert_eq!(labels(&weeks), ["2025-03-03--2025-03-09", "2025-03-10--2025-03-16"]);
    let months = cut("2025-01-01..2025-02-28", "month").await;
    assert_eq!(labels(&months), ["2025-01", "2025-02"]);
    assert_eq!(shop.number("SELECT count(*) FROM runs").await, 11);
    let asked = shop.requests();
    cut("2025-03-03..2025-03-09", "day").await;
    assert_eq!(shop.requests(), asked, "each day is held by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_may_be_a_word_or_dates_and_follows_the_instant_that_is_given() {
    let shop = Shop::open().await;
    shop.job("report", LIVECHAT);
    for (window, at, label) in [
        ("yesterday", "2025-03-05T06:30", "2025-03-04"),
        // An hour after midnight in Kolkata, and still the day before in UTC.
        ("yesterday", "2025-03-05T20:00:00Z", "2025-03-05"),
        ("previous_week", "2025-03-05", "2025-02-24--2025-03-02"),
        ("previous_month", "2025-03-05", "2025-02"),
        ("previous_quarter", "2025-05-05", "2025-Q1"),
        ("last_3_days", "2025-03-05", "2025-03-02--2025-03-04"),
        ("previous_hour", "2025-03-05T06:30", "20250304T233000Z--20250305T003000Z"),
        ("2025-03-05..2025-03-06", "2025-04-01", "2025-03-05--2025-03-06"),
    ] {
        let run = shop.run_job("report", window, &["--at", at]).await.expect(0).line();
        assert_eq!(run["window"]["label"], label, "{window} at {at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_that_are_not_over_are_empty_or_make_no_sense_are_refused_before_anything_happens() {
    let shop = Shop::open().await;
    shop.job("report", LIVECHAT);
    shop.job("daily", "jaicp: { report: daily, settings: { fileType: CSV } }\n");
    for (args, says) in [
        (&["report", "--window", "2099-01-01..2099-01-02"][..], "not over"),
        (&["report", "--window", "2025-03-05..2025-03-05", "--at", "2025-03-05T12:00"], "not over"),
        (&["report", "--window", "2025-03-09..2025-03-03"], "2025-03-09"),
        (&["report", "--window", "2025-02-30..2025-03-03"], "2025-02-30"),
        (&["report", "--window", "last_wednesday"], "last_wednesday"),
        (&["report"], "--window"),
        (&["report", "--window", DAY, "--at", "noon"], "noon"),
        (&["report", "--window", DAY, "--wait", "soon"], "soon"),
        (&["report", "--window", DAY, "--wait", "1s", "--no-wait"], "--no-wait"),
        (&["report", "--window", DAY, "--each", "hour"], "hour"),
        (&["daily", "--window", "2025-03-03..2025-03-04"], "day"),
    ] {
        let refused = shop.run(&[&["run-job"], args].concat()).await.expect(2).says(says);
        assert!(refused.stdout.is_empty(), "{args:?}: {}", refused.stdout);
    }
    assert_eq!(shop.number("SELECT count(*) FROM runs").await, 0);
    assert_eq!(shop.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_ends_leaves_the_run_in_flight_and_the_next_process_attaches_to_it() {
    let shop = Shop::open().await;
    shop.job("report", JAICP);
    shop.fault("jaicp.create=stuck:1");
    let waited = shop.run_job("report", DAY, &["--wait", "1s"]).await.expect(4).says("still in flight").line();
    assert_eq!((&waited["state"], &waited["failure"]), (&"waiting".into(), &Value::Null));
    let attached = shop.run_job("report", DAY, &["--wait", "1s"]).await.expect(4).line();
    assert_eq!(attached, waited);
    assert_eq!(shop.sandbox.creates(Vendor::Jaicp), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_wait_makes_the_run_and_asks_nobody() {
    let shop = Shop::open().await;
    shop.job("report", LIVECHAT);
    let made = shop.run_job("report", DAY, &["--no-wait"]).await.expect(4).line();
    assert_eq!(made["state"], "queued");
    assert_eq!(shop.requests(), 0);
    let ended = shop.run_job("report", DAY, &[]).await.expect(0).line();
    assert_eq!(ended["run_id"], made["run_id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_is_not_ready_by_its_deadline_fails_with_the_vendors_last_word() {
    let shop = Shop::open().await;
    shop.job("report", &format!("deadline: 3s\n{JAICP}"));
    shop.fault("jaicp.create=stuck:1");
    let started = shop.start(&["run-job", "report", "--window", DAY, "--format", "json"]);
    shop.until_count("SELECT count(*) FROM runs WHERE state = 'waiting'", 1).await;
    shop.advance(Duration::from_secs(5)).await;
    let failed = started.end().await.expect(1).line();
    assert_eq!((&failed["state"], &failed["failure"]["class"]), (&"failed".into(), &"deadline".into()));
    assert!(text(&failed["failure"]["message"]).contains("the vendor's last word is"), "{failed}");
    assert_eq!(shop.asked_for("task"), 1, "there is one more poll before a deadline is believed");
}

#[tokio::test(flavor = "multi_thread")]
async fn time_in_which_nobody_could_poll_brings_no_deadline() {
    let shop = Shop::open().await;
    shop.job("report", &format!("deadline: 10m\n{JAICP}"));
    shop.run_job("report", DAY, &["--wait", "1s"]).await.expect(4);
    // A night without any process.
    shop.advance(Duration::from_secs(12 * 3600)).await;
    shop.run_job("report", DAY, &[]).await.expect(0);
    assert_eq!(shop.sandbox.creates(Vendor::Jaicp), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn transient_errors_are_retried_until_give_up_and_then_fail_with_the_last_of_them() {
    let shop = Shop::open().await;
    shop.job("report", &format!("give_up: 1s\n{LIVECHAT}"));
    shop.without_waits().await;
    shop.fault("livechat.report=500");
    let failed = shop.run_job("report", DAY, &[]).await.expect(1).line();
    assert_eq!(failed["failure"]["class"], "gave_up");
    assert!(text(&failed["failure"]["message"]).contains("1s"), "{failed}");
    assert!(text(&failed["failure"]["message"]).contains("Internal Server Error"), "{failed}");
    assert!(shop.requests() >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn time_in_which_nobody_could_try_is_no_trouble() {
    let shop = Shop::open().await;
    shop.job("report", &format!("give_up: 10m\n{LIVECHAT}"));
    shop.fault("livechat.report=500:2");
    let started = shop.start(&["run-job", "report", "--window", DAY]);
    shop.until_count("SELECT count(*) FROM runs WHERE errors = 1", 1).await;
    started.signal(Signal::KILL);
    started.end().await;
    // A night without any process; then the vendor still has the rest of its trouble.
    shop.advance(Duration::from_secs(12 * 3600)).await;
    shop.run_job("report", DAY, &[]).await.expect(0);
    assert_eq!(shop.requests(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_shorter_than_give_up_heals_by_itself() {
    let shop = Shop::open().await;
    shop.job("report", JAICP);
    shop.without_waits().await;
    for fault in ["jaicp.create=503+1:1", "jaicp.create=reset:1", "jaicp.task=502:3", "jaicp.download=500:1"] {
        shop.fault(fault);
    }
    let run = shop.run_job("report", DAY, &[]).await.expect(0).line();
    assert_eq!(run["state"], "archived");
    assert_eq!(shop.sandbox.creates(Vendor::Jaicp), 1);
    assert_eq!(shop.one::<i32>("SELECT errors FROM runs").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_runs_are_under_way_than_the_account_allows_over_two_processes() {
    let shop = Shop::open().await;
    // BIK takes two at once, unless the config says otherwise.
    shop.job("report", BIK);
    shop.fault("bik.generateReport=stuck");
    let args = |window| ["run-job", "report", "--window", window, "--each", "day", "--format", "json"];
    let one = shop.start(&args("2025-03-03..2025-03-04"));
    let two = shop.start(&args("2025-03-05..2025-03-06"));
    let full = "SELECT count(*) FROM runs WHERE state = 'queued' AND note LIKE 'waits: 2 of 2 runs%'";
    shop.until_count(full, 2).await;
    assert_eq!(shop.sandbox.creates(Vendor::Bik), 2);
    let under_way = shop.one::<String>("SELECT min(id::text) FROM runs WHERE state = 'waiting'").await;
    shop.run(&["cancel", &under_way]).await.expect(0);
    // Its place is free: one of the queued goes, and the other goes on waiting.
    until("the next create", || async { shop.sandbox.creates(Vendor::Bik) == 3 }).await;
    shop.until_count(full, 1).await;
    assert_eq!(shop.number("SELECT count(*) FROM runs WHERE state IN ('submitting', 'waiting')").await, 2);
    drop((one, two));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_keep_the_accounts_rate_over_two_processes() {
    let shop = Shop::open().await;
    shop.config(&format!(
        "  south:\n    zone: UTC\n    livechat: {{ base_url: \"{}\", token: env:LIVECHAT, requests_per_second: 4, max_in_flight: 8 }}\n",
        shop.sandbox.livechat_base_url()
    ));
    shop.job("report", &format!("connections: south\n{LIVECHAT}"));
    let args = |window| ["run-job", "report", "--window", window, "--each", "day", "--format", "json"];
    shop.run(&["validate"]).await.expect(0);
    let processes = [shop.start(&args("2025-03-01..2025-03-03")), shop.start(&args("2025-03-04..2025-03-06"))];
    shop.until_asked("report", 1).await;
    let first = Instant::now();
    shop.until_asked("report", 6).await;
    // Five times a quarter of a second; the first request was seen up to one look late.
    let took = first.elapsed();
    assert!(took > Duration::from_millis(1150), "six calls at four a second within {took:?}");
    for process in processes {
        process.end().await.expect(0);
    }
    let sent: Vec<DateTime<Utc>> =
        sqlx::query_scalar("SELECT at FROM run_events WHERE kind = 'submitting' ORDER BY at")
            .fetch_all(&shop.pool)
            .await
            .unwrap();
    assert_eq!(sent.len(), 6);
    for pair in sent.windows(2) {
        assert!(pair[1] - pair[0] >= chrono::TimeDelta::milliseconds(240), "{sent:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_credentials_open_the_breaker_and_nobody_asks_until_they_change() {
    let shop = Shop::open().await;
    shop.job("report", LIVECHAT);
    let with = |secret: &'static str, window: &'static str| {
        let mut command = shop.command(&["run-job", "report", "--window", window, "--wait", "20s", "--format", "json"]);
        command.env("LIVECHAT", secret);
        run(command)
    };
    let first = with("sandbox-account:wrong", DAY).await.expect(4).says("connections close north").line();
    assert_eq!((&first["state"], shop.requests()), (&"queued".into(), 1));
    // The same secret would be refused again: nobody asks.
    with("sandbox-account:wrong", NEXT_DAY).await.expect(4).says("does not accept");
    assert_eq!(shop.requests(), 1);
    let breakers = shop.run(&["connections", "--format", "json"]).await.expect(0).json();
    let open: Vec<&str> =
        breakers.iter().filter(|line| line["breaker"] == "open").map(|line| text(&line["vendor"])).collect();
    assert_eq!(open, ["livechat"]);
    // Another secret may try at once, and what it brings closes the breaker for all runs.
    with("sandbox-account:sandbox-pat", "2025-03-05..2025-03-05").await.expect(0);
    let closed = shop.run(&["connections", "--format", "json"]).await.expect(0).json();
    assert!(closed.iter().all(|line| line["breaker"] == "closed"), "{closed:?}");
    let ended = with("sandbox-account:sandbox-pat", DAY).await.expect(0).line();
    assert_eq!(ended["run_id"], first["run_id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_waits_for_a_breaker_goes_on_at_once_with_a_corrected_secret() {
    let shop = Shop::open().await;
    shop.job("report", LIVECHAT);
    let mut wrong = shop.command(&["run-job", "report", "--window", DAY, "--format", "json"]);
    wrong.env("LIVECHAT", "sandbox-account:wrong");
    let waits = run(wrong).await.expect(4).line();
    let ended = shop.run_job("report", DAY, &["--wait", "20s"]).await.expect(0).line();
    assert_eq!(ended["run_id"], waits["run_id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_breaker_lets_one_run_try_after_a_quarter_of_an_hour() {
    let shop = Shop::open().await;
    shop.job("report", LIVECHAT);
    shop.sandbox.set_credentials(Credentials { livechat_token: "rotated".into(), ..Credentials::default() });
    shop.run_job("report", "2025-03-03..2025-03-05", &["--each", "day"]).await.expect(4);
    let asked = shop.requests();
    shop.advance(Duration::from_secs(16 * 60)).await;
    shop.run_job("report", "2025-03-03..2025-03-05", &["--each", "day"]).await.expect(4);
    assert_eq!(shop.requests(), asked + 1, "one run tries, and not all of them");
    // The vendor takes the old secret again.
    shop.sandbox.set_credentials(Credentials::default());
    shop.advance(Duration::from_secs(16 * 60)).await;
    shop.run_job("report", "2025-03-03..2025-03-05", &["--each", "day"]).await;
    assert_eq!(shop.number("SELECT count(*) FROM connections WHERE breaker_open").await, 0);
    // Those that looked while the one tried go on by themselves, too.
    shop.run_job("report", "2025-03-03..2025-03-05", &["--each", "day", "--wait", "20s"]).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_may_open_and_close_a_breaker() {
    let shop = Shop::open().await;
    shop.job("report", LIVECHAT);
    shop.run(&["connections", "open", "north", "--vendor", "livechat"]).await.expect(0);
    shop.run_job("report", DAY, &[]).await.expect(4).says("opened by");
    assert_eq!(shop.requests(), 0);
    shop.run(&["connections", "close", "north"]).await.expect(0);
    shop.run_job("report", DAY, &["--wait", "20s"]).await.expect(0);
    shop.run(&["connections", "close", "nroth"]).await.expect(2).says("north");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_keeps_the_remote_task_and_retry_goes_on_with_its_living_ticket() {
    let shop = Shop::open().await;
    shop.job("report", JAICP);
    shop.fault("jaicp.create=odd-status:1");
    let waited = shop.run_job("report", DAY, &["--wait", "1s"]).await.expect(4).line();
    let (id, ticket) = (text(&waited["run_id"]), text(&waited["ticket"]));
    let cancelled = shop.run(&["cancel", id, "--format", "json"]).await.expect(0).line();
    assert_eq!((&cancelled["state"], &cancelled["ticket"]), (&"cancelled".into(), &ticket.into()));
    let shown = shop.run(&["show", id, "--format", "json"]).await.expect(0).line();
    assert_eq!(shown["remote_tasks"][0]["remote_id"], ticket);
    assert_eq!(shown["remote_tasks"][0]["finished_at"], Value::Null);
    shop.run(&["cancel", id]).await.expect(2).says("have not ended");
    // The ticket lives, so a broken job file is no hindrance.
    shop.job("report", "bik: {\n");
    shop.run(&["retry", id]).await.expect(0);
    shop.job("report", JAICP);
    shop.without_waits().await;
    let ended = shop.run_job("report", DAY, &[]).await.expect(0).line();
    assert_eq!((&ended["run_id"], &ended["ticket"]), (&id.into(), &ticket.into()));
    assert_eq!(shop.sandbox.creates(Vendor::Jaicp), 1);
    shop.run(&["retry", id]).await.expect(2).says("failed and cancelled runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_of_a_refused_run_asks_with_todays_job_file_for_the_runs_own_window() {
    let shop = Shop::open().await;
    shop.job("report", JAICP);
    shop.without_waits().await;
    shop.fault("jaicp.create=400:1");
    let failed = shop.run_job("report", DAY, &[]).await.expect(1).line();
    assert_eq!((&failed["state"], &failed["failure"]["class"]), (&"failed".into(), &"refused".into()));
    let id = text(&failed["run_id"]);
    shop.job("report", "bik: {\n");
    shop.run(&["retry", id]).await.expect(2).says("report.yaml");
    shop.job("report", &JAICP.replace("CSV", "XLSX"));
    shop.run(&["retry", id]).await.expect(0);
    let ended = shop.run_job("report", DAY, &[]).await.expect(0).line();
    assert_eq!((&ended["run_id"], &ended["window"]), (&failed["run_id"], &failed["window"]));
    assert!(text(&ended["artifacts"][0]["path"]).ends_with("/report.xlsx"), "{ended}");
    let creates: Vec<Value> =
        shop.sandbox.received().iter().filter(|r| r.operation == "create").map(Received::json).collect();
    assert_eq!(creates[0]["settings"]["fileType"], "CSV");
    assert_eq!(creates[1]["settings"]["fileType"], "XLSX");
    assert_eq!(creates[0]["filters"], creates[1]["filters"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_cannot_be_retried_while_another_works_on_its_window() {
    let shop = Shop::open().await;
    shop.job("report", LIVECHAT);
    let made = shop.run_job("report", DAY, &["--no-wait"]).await.expect(4).line();
    shop.run(&["cancel", text(&made["run_id"])]).await.expect(0);
    let other = shop.run_job("report", DAY, &["--no-wait"]).await.expect(4).line();
    assert_ne!(made["run_id"], other["run_id"]);
    shop.run(&["retry", text(&made["run_id"])]).await.expect(2).says("another run is working on this window");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_run_is_resolved_by_each_word_and_no_other_run_is() {
    let shop = Shop::open().await;
    shop.job("report", BIK);
    shop.without_waits().await;
    let report = shop.folder.path().join("from-the-mail.csv");
    std::fs::write(&report, "Agent,Chats\nAsha,7\n").unwrap();
    let page = shop.folder.path().join("page.csv");
    std::fs::write(&page, "<!doctype html><html><body>Sign in</body></html>").unwrap();
    let (report, page) = (report.to_str().unwrap(), page.to_str().unwrap());
    let mut held = Vec::new();
    for day in 3..=6 {
        shop.fault("bik.generateReport=lost:1");
        let window = format!("2025-03-{day:02}..2025-03-{day:02}");
        let run = shop.run_job("report", &window, &[]).await.expect(3).line();
        assert_eq!(run["state"], "held");
        held.push((text(&run["run_id"]).to_owned(), window));
    }
    assert_eq!(shop.sandbox.mails().len(), 4);
    // A held window is not sent again, also not when it is asked for anew.
    shop.run_job("report", &held[0].1, &["--again"]).await.expect(3);
    assert_eq!(shop.sandbox.mails().len(), 4);

    let ticket = shop.sandbox.mails()[0].report_history_id.to_string();
    shop.run(&["resolve", &held[0].0, "--ticket", "not a number"]).await.expect(2);
    shop.run(&["resolve", &held[0].0, "--ticket", &ticket]).await.expect(0);
    shop.run(&["resolve", &held[1].0, "--ticket", &ticket]).await.expect(2).says("another run");
    assert_eq!(shop.run_job("report", &held[0].1, &[]).await.expect(0).line()["ticket"], ticket);

    shop.run(&["resolve", &held[1].0, "--file", page]).await.expect(2);
    shop.run(&["resolve", &held[1].0, "--file", "no-such-file.csv"]).await.expect(2).says("no-such-file.csv");
    shop.run(&["resolve", &held[1].0, "--file", report]).await.expect(0);
    let handed = shop.run_job("report", &held[1].1, &[]).await.expect(0).line();
    let path = shop.archive().join(text(&handed["artifacts"][0]["path"]));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "Agent,Chats\nAsha,7\n");
    let manifest = json_file(&path.with_file_name("manifest.json"));
    assert!(text(&manifest["handed_in_by"]).contains('@'), "{manifest}");
    assert_eq!(manifest["files"][0]["simulated"], false);

    shop.run(&["resolve", &held[2].0, "--not-created"]).await.expect(0);
    shop.run_job("report", &held[2].1, &[]).await.expect(0);
    assert_eq!(shop.sandbox.mails().len(), 5, "the operator said that nothing had been made");

    shop.run(&["resolve", &held[3].0, "--give-up"]).await.expect(0);
    let given_up = shop.run(&["show", &held[3].0, "--format", "json"]).await.expect(0).line();
    assert_eq!((&given_up["state"], &given_up["failure"]["class"]), (&"failed".into(), &"given_up".into()));

    for (id, _) in &held {
        for word in [&["--ticket", "77"][..], &["--file", report], &["--not-created"], &["--give-up"]] {
            shop.run(&[&["resolve", id], word].concat()).await.expect(2).says("held");
        }
        shop.run(&["resolve", id]).await.expect(2);
        shop.run(&["resolve", id, "--give-up", "--not-created"]).await.expect(2);
    }
    assert_eq!(shop.sandbox.mails().len(), 5);
    shop.run(&["archive", "verify"]).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_may_say_that_an_unknown_create_is_sent_again() {
    let shop = Shop::open().await;
    shop.job("report", &format!("on_unknown: resubmit\n{BIK}"));
    shop.without_waits().await;
    shop.fault("bik.generateReport=lost:1");
    shop.run_job("report", DAY, &[]).await.expect(0);
    assert_eq!(shop.sandbox.mails().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_named_by_any_prefix_that_only_it_has() {
    let shop = Shop::open().await;
    shop.job("report", QUERY);
    let run = shop.run_job("report", DAY, &[]).await.expect(0).line();
    let id = text(&run["run_id"]);
    for twin in ["abcdef00-0000-4000-8000-000000000001", "abcdef00-0000-4000-8000-000000000002"] {
        let copy =
            "INSERT INTO runs SELECT (jsonb_populate_record(r, jsonb_build_object('id', $1::text, 'job', 'twin'))).*
                    FROM runs r WHERE job = 'report'";
        sqlx::query(copy).bind(twin).execute(&shop.pool).await.unwrap();
    }
    for prefix in [id, &id[..8], &id[..13], &id.replace('-', "")[..10], &id.to_uppercase()] {
        let shown = shop.run(&["show", prefix, "--format", "json"]).await.expect(0).line();
        assert_eq!(shown["run_id"], id);
    }
    shop.run(&["show", "abcdef00-0000"]).await.expect(2).says("several runs");
    shop.run(&["show", "abcdef00-0000-4000-8000-000000000002"]).await.expect(0);
    let unknown = if id.starts_with('0') { "1000000000000000" } else { "0000000000000000" };
    for verb in ["show", "retry", "cancel"] {
        shop.run(&[verb, unknown]).await.expect(2).says("no run's id starts with");
        shop.run(&[verb, "report"]).await.expect(2).says("is not the start of a run's id");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_said_what_is_recorded() {
    let shop = Shop::open().await;
    shop.job("report", LIVECHAT);
    let by = |user: &str, args: &[&str]| {
        let mut command = shop.command(args);
        command.env("REPORTD_USER", user);
        run(command)
    };
    let made =
        by("asha", &["run-job", "report", "--window", DAY, "--no-wait", "--format", "json"]).await.expect(4).line();
    let id = text(&made["run_id"]);
    by("ben", &["cancel", id]).await.expect(0);
    by("chitra", &["retry", id]).await.expect(0);
    by("dev", &["run-job", "report", "--window", DAY]).await.expect(0);
    let shown = shop.run(&["show", id, "--format", "json"]).await.expect(0).line();
    let said: Vec<(&str, &str)> = shown["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| (text(&event["kind"]), text(&event["who"]).split_once('@').unwrap().0))
        .collect();
    let expected =
        [("made", "asha"), ("cancelled", "ben"), ("retried", "chitra"), ("submitting", "dev"), ("archived", "dev")];
    assert_eq!(said, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_are_listed_newest_first_and_by_state_and_series() {
    let shop = Shop::open().await;
    shop.job("report", LIVECHAT);
    shop.job("other", QUERY);
    shop.run_job("report", DAY, &[]).await.expect(0);
    shop.fault("livechat.report=400:1");
    shop.run_job("report", NEXT_DAY, &[]).await.expect(1);
    shop.run_job("other", DAY, &[]).await.expect(0);
    let list = async |more: &[&str]| {
        let ran = shop.run(&[&["runs", "--format", "json"], more].concat()).await.expect(0);
        let name = |run: &Value| format!("{} {}", text(&run["job"]), text(&run["window"]["label"]));
        ran.json().iter().map(name).collect::<Vec<_>>()
    };
    assert_eq!(list(&[]).await, ["other 2025-03-03", "report 2025-03-04", "report 2025-03-03"]);
    assert_eq!(list(&["report"]).await, ["report 2025-03-04", "report 2025-03-03"]);
    assert_eq!(list(&["report@north", "--limit", "1"]).await, ["report 2025-03-04"]);
    assert_eq!(list(&["--state", "failed"]).await, ["report 2025-03-04"]);
    assert_eq!(list(&["--since", "2100-01-01"]).await, [""; 0]);
    // Local time is the series', 5:30 ahead of UTC.
    let now: chrono::DateTime<chrono::Utc> = shop.one("SELECT now()").await;
    let local =
        |hours: i64| (now + chrono::TimeDelta::minutes(330 + hours * 60)).format("%Y-%m-%dT%H:%M:%S").to_string();
    assert_eq!(list(&["report", "--since", &local(-1)]).await.len(), 2);
    assert_eq!(list(&["report", "--since", &local(1)]).await, [""; 0]);
    // What nobody knows is mistyped; what was once there has a history.
    shop.run(&["runs", "reprot"]).await.expect(2).says("did you mean 'report'?");
    shop.run(&["runs", "report@south"]).await.expect(2).says("south");
    shop.run(&["deliveries", "reprot"]).await.expect(2).says("did you mean 'report'?");
    shop.without_job("other");
    assert_eq!(list(&["other"]).await, ["other 2025-03-03"]);
    shop.run(&["runs", "--state", "lost"]).await.expect(2).says("held");
}
