//! Deliveries: who hears of a run, when, how often, and what a person can do about it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::Shop;
use crate::receiver::Receiver;
use crate::verbs::{BIK, DAY, LIVECHAT, NEXT_DAY, Started, keys, sha256, text, until};

/// A key of webhooks, in the environment of [`Shop::told`].
const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A job that tells one webhook on success and another of trouble, whoever makes its runs.
fn telling(receiver: &Receiver, vendor: &str, more: &str) -> String {
    format!(
        "window: yesterday\n{vendor}deliver:\n  - on: [schedule, manual, fill]\n    webhook: {{ url: \"{}\", keys: [env:KEY] }}\n\
         alert:\n  - webhook: {{ url: \"{}\", keys: [env:KEY] }}\n{more}",
        receiver.url("/ok"),
        receiver.url("/alert")
    )
}

impl Shop {
    /// The program with the keys of its webhooks.
    async fn told(&self, args: &[&str]) -> crate::harness::Ran {
        let mut command = self.command(args);
        command.env("KEY", KEY);
        crate::harness::run(command).await
    }

    /// `serve` with the keys of its webhooks.
    async fn serve_and_tell(&self, env: &[(&str, &str)]) -> Started {
        let mut command = self.command(&["serve", "--listen", "127.0.0.1:0"]);
        command.env("KEY", KEY).envs(env.iter().copied());
        let started = Started::new(command);
        started.until_says("jobs are loaded").await;
        started
    }

    async fn deliveries(&self) -> Vec<Value> {
        self.run(&["deliveries", "--format", "json"]).await.expect(0).json()
    }
}

async fn shop(receiver: &Receiver, vendor: &str, more: &str) -> Shop {
    let shop = Shop::open().await;
    shop.job("report", &telling(receiver, vendor, more));
    shop
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_succeeds_tells_its_webhook_once_with_the_runs_own_json() {
    let receiver = Receiver::start().await;
    let shop = shop(&receiver, LIVECHAT, "").await;
    let ran = shop.told(&["run-job", "report", "--window", DAY, "--format", "json"]).await.expect(0);
    let run = ran.line();
    let got = receiver.at("/ok");
    assert_eq!(got.len(), 1, "{:?}", receiver.got());
    let body = got[0].json();
    for key in keys(&run) {
        assert_eq!(body[key], run[key], "{key}");
    }
    assert_eq!(body["type"], "run.archived");
    assert!(got[0].header("webhook-id").starts_with("msg_"));
    assert!(got[0].header("webhook-signature").starts_with("v1,"));
    // Held: nothing is fetched, and nobody is told again.
    shop.told(&["run-job", "report", "--window", DAY]).await.expect(0);
    assert_eq!(receiver.got().len(), 1);

    let lines = shop.deliveries().await;
    assert_eq!(lines.len(), 1);
    let line = &lines[0];
    assert_eq!(
        keys(line),
        [
            "delivery_id",
            "kind",
            "cause",
            "target",
            "job",
            "connection",
            "run_ids",
            "count",
            "state",
            "made_at",
            "next_try_at",
            "tries",
            "words",
            "settled_at",
            "settled_by",
            "retried_by"
        ]
    );
    assert_eq!((text(&line["kind"]), text(&line["cause"]), text(&line["state"])), ("webhook", "archived", "sent"));
    assert_eq!(line["run_ids"], json!([run["run_id"]]));
    let shown = shop.run(&["show", &text(&run["run_id"])[..8], "--format", "json"]).await.expect(0).line();
    assert_eq!(shown["deliveries"][0]["delivery_id"], line["delivery_id"]);
    let words = shop.run(&["show", &text(&run["run_id"])[..8]]).await.expect(0).stdout;
    assert!(words.contains("archived webhook to http://127.0.0.1/***"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn by_default_only_a_schedules_runs_are_delivered_and_no_deliver_silences_all() {
    let receiver = Receiver::start().await;
    let shop = Shop::open().await;
    let hook = format!("webhook: {{ url: \"{}\", keys: [env:KEY] }}", receiver.url("/ok"));
    shop.job("quiet", &format!("window: yesterday\n{LIVECHAT}deliver:\n  - {hook}\n"));
    shop.job("report", &telling(&receiver, LIVECHAT, ""));
    shop.told(&["run-job", "quiet", "--window", DAY]).await.expect(0);
    shop.told(&["run-job", "report", "--window", DAY, "--no-deliver"]).await.expect(0);
    shop.fault("livechat.report=400:1");
    shop.told(&["run-job", "report", "--window", NEXT_DAY, "--no-deliver"]).await.expect(1);
    assert!(receiver.got().is_empty(), "{:?}", receiver.got());
    assert!(shop.deliveries().await.is_empty());
    // A rehearsal tells nobody of what never happened.
    shop.told(&["run-job", "report", "--window", DAY, "--sandbox"]).await.expect(0);
    assert!(receiver.got().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_windows_of_one_outage_make_one_notice_and_one_of_recovery() {
    let receiver = Receiver::start().await;
    let shop = shop(&receiver, LIVECHAT, "").await;
    shop.fault("livechat.report=400:50");
    let days = "2025-03-01..2025-04-19";
    shop.told(&["run-job", "report", "--window", days, "--each", "day"]).await.expect(1);
    let alerts = receiver.at("/alert");
    assert_eq!(alerts.len(), 1, "{alerts:?}");
    let body = alerts[0].json();
    assert_eq!(body["type"], "run.failed");
    assert_eq!(body["runs"].as_array().unwrap().len(), 50);
    assert_eq!(body["state"], "failed");
    assert!(text(&body["failure"]["message"]).contains("Bad Request"));
    // A window that fails while the trouble is known makes no second notice.
    shop.fault("livechat.report=400:1");
    shop.told(&["run-job", "report", "--window", "2025-05-01..2025-05-01"]).await.expect(1);
    assert_eq!(receiver.at("/alert").len(), 1);
    // The first run that works again makes one of recovery, once the other was told of too.
    shop.advance(Duration::from_secs(25 * 3600)).await;
    shop.told(&["run-job", "report", "--window", days, "--each", "day"]).await.expect(0);
    let types: Vec<String> = receiver.at("/alert").iter().map(|got| text(&got.json()["type"]).to_owned()).collect();
    assert_eq!(types, ["run.failed", "run.failed", "run.recovered"]);
    assert_eq!(receiver.at("/alert")[2].json()["after"], "failed");
    assert_eq!(shop.number("SELECT count(*) FROM alerts WHERE closed_at IS NULL").await, 0);
    // And then a new failure is news again.
    shop.fault("livechat.report=400:1");
    shop.told(&["run-job", "report", "--window", "2025-05-02..2025-05-02"]).await.expect(1);
    assert_eq!(receiver.at("/alert").len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_receiver_cannot_take_now_is_sent_again_under_the_same_id() {
    let receiver = Receiver::start().await;
    let shop = shop(&receiver, LIVECHAT, "").await;
    receiver.answers(&[500, 503]);
    shop.told(&["run-job", "report", "--window", DAY]).await.expect(0);
    let got = receiver.at("/ok");
    assert_eq!(got.len(), 3);
    assert_eq!(got[0].header("webhook-id"), got[2].header("webhook-id"));
    assert_eq!(got[0].body, got[2].body);
    assert_eq!(shop.deliveries().await[0]["tries"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sent_is_told_by_status_and_ended_by_a_person() {
    let receiver = Receiver::start().await;
    let shop = shop(&receiver, LIVECHAT, "").await;
    receiver.answers(&[410]);
    shop.told(&["run-job", "report", "--window", DAY]).await.expect(0);
    let line = shop.deliveries().await.remove(0);
    assert_eq!(line["state"], "failed");
    let id = &text(&line["delivery_id"])[..8];
    let status = shop.run(&["status"]).await.expect(1).stdout;
    assert!(status.contains(&format!("reportd delivery retry {id}")), "{status}");
    shop.told(&["delivery", "retry", id]).await.expect(0);
    assert_eq!(receiver.at("/ok").len(), 2);
    shop.run(&["status"]).await.expect(0);

    receiver.answers(&[410]);
    shop.told(&["run-job", "report", "--window", NEXT_DAY]).await.expect(0);
    let line = shop.deliveries().await.remove(0);
    let id = text(&line["delivery_id"]);
    shop.run(&["delivery", "resolve", id]).await.expect(0);
    shop.run(&["status"]).await.expect(0);
    let ran = shop.run(&["delivery", "resolve", id]).await;
    assert!(ran.stderr.contains("only pending, held and failed ones can be resolved"), "{}", ran.stderr);
    assert_eq!(shop.run(&["delivery", "retry", "zz"]).await.code, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_in_the_landing_zone_is_the_archives_bytes_under_the_name_the_job_says() {
    let shop = Shop::open().await;
    let deliver = "deliver:\n  - on: [manual]\n    file: { url: \"landing/{connection}/{job}-{window.label}.json\" }\n";
    shop.job("report", &format!("window: yesterday\n{LIVECHAT}{deliver}"));
    let run = shop.run_job("report", DAY, &[]).await.expect(0).line();
    let copy = shop.folder.path().join("landing/north/report-2025-03-03.json");
    assert_eq!(sha256(&copy), text(&run["artifacts"][0]["sha256"]));
    // A newer revision replaces it.
    std::fs::write(&copy, "old").unwrap();
    let again = shop.run_job("report", DAY, &["--again"]).await.expect(0).line();
    assert_eq!(sha256(&copy), text(&again["artifacts"][0]["sha256"]));
}

const TICKET: &str = "  - on: [manual]\n    bik_ticket: { channel: tasks, bikCustomerId: \"5233549\", taskTitle: \"{job} {window.label}\", assignmentType: ALL_AGENTS, context: \"{run}\" }\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_bik_ticket_goes_out_with_the_vendors_fields_and_its_number_is_kept() {
    let shop = Shop::open().await;
    shop.job("report", &format!("window: yesterday\n{LIVECHAT}deliver:\n{TICKET}"));
    shop.run_job("report", DAY, &[]).await.expect(0);
    assert_eq!(shop.sandbox.tickets(), 1);
    let sent = shop.sandbox.received().into_iter().find(|r| r.operation == "createAndAssignTicket").unwrap();
    let body: Value = serde_json::from_slice(&sent.body).unwrap();
    assert_eq!(body["taskTitle"], "report 2025-03-03");
    let line = shop.deliveries().await.remove(0);
    assert_eq!(line["state"], "sent");
    assert!(text(&line["words"]).starts_with("ticket "), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bik_ticket_whose_answer_is_lost_is_held_and_never_made_twice_by_itself() {
    let shop = Shop::open().await;
    shop.job("report", &format!("window: yesterday\n{LIVECHAT}deliver:\n{TICKET}"));
    shop.fault("bik.createAndAssignTicket=lost:1");
    shop.run_job("report", DAY, &[]).await.expect(0);
    assert_eq!(shop.sandbox.tickets(), 1);
    let line = shop.deliveries().await.remove(0);
    assert_eq!(line["state"], "held", "{line}");
    let serve = shop.serve_and_tell(&[]).await;
    shop.advance(Duration::from_secs(7 * 24 * 3600)).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(shop.sandbox.tickets(), 1);
    drop(serve);
    let id = &text(&line["delivery_id"])[..8];
    let status = shop.run(&["status"]).await.expect(1).stdout;
    assert!(status.contains(&format!("reportd delivery resolve {id}")), "{status}");
    shop.run(&["delivery", "retry", id]).await.expect(0);
    assert_eq!(shop.sandbox.tickets(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_point_of_a_webhook_it_arrives_and_always_under_one_id() {
    for point in ["deliveries-made", "deliveries-committed", "delivery-claimed", "delivery-sent", "delivery-settled"] {
        let receiver = Receiver::start().await;
        let shop = shop(&receiver, LIVECHAT, "").await;
        let mut command = shop.command(&["run-job", "report", "--window", DAY]);
        command.env("KEY", KEY).env("REPORTD_CRASH_AT", point);
        let ran = crate::harness::run(command).await;
        assert_eq!(ran.code, None, "{point}: {}", ran.stderr);
        // The dead worker's claim ends.
        shop.advance(Duration::from_secs(130)).await;
        let serve = shop.serve_and_tell(&[]).await;
        shop.until_count("SELECT count(*) FROM deliveries WHERE state = 'sent'", 1).await;
        drop(serve);
        let got = receiver.at("/ok");
        assert!((1..=2).contains(&got.len()), "{point}: {}", got.len());
        assert!(got.iter().all(|one| one.header("webhook-id") == got[0].header("webhook-id")), "{point}");
        assert_eq!(got.len(), if point == "delivery-sent" { 2 } else { 1 }, "{point}");
        assert_eq!(shop.number("SELECT count(*) FROM deliveries").await, 1, "{point}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_point_of_a_bik_ticket_it_is_made_at_most_once() {
    for (point, made, state) in [
        ("deliveries-made", 1, "sent"),
        ("deliveries-committed", 1, "sent"),
        ("delivery-claimed", 0, "held"),
        ("delivery-sent", 1, "held"),
        ("delivery-settled", 1, "sent"),
    ] {
        let shop = Shop::open().await;
        shop.job("report", &format!("window: yesterday\n{LIVECHAT}deliver:\n{TICKET}"));
        let mut command = shop.command(&["run-job", "report", "--window", DAY]);
        command.env("REPORTD_CRASH_AT", point);
        assert_eq!(crate::harness::run(command).await.code, None, "{point}");
        shop.advance(Duration::from_secs(130)).await;
        let serve = shop.serve_and_tell(&[]).await;
        until(point, || async { shop.deliveries().await.first().is_some_and(|line| line["state"] == state) }).await;
        drop(serve);
        assert_eq!(shop.sandbox.tickets(), made, "{point}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_run_and_an_open_breaker_are_told_and_so_is_their_end() {
    let receiver = Receiver::start().await;
    let shop = shop(&receiver, BIK, "").await;
    shop.fault("bik.generateReport=lost:1");
    shop.told(&["run-job", "report", "--window", DAY, "--mail"]).await.expect(3);
    let held = receiver.at("/alert");
    assert_eq!(held.len(), 1);
    assert_eq!(held[0].json()["type"], "run.held");
    let serve = shop.serve_and_tell(&[]).await;
    let id = text(&held[0].json()["run_id"])[..8].to_owned();
    shop.run(&["resolve", &id, "--not-created"]).await.expect(0);
    until("the recovery", || async { receiver.at("/alert").len() == 2 }).await;
    assert_eq!(receiver.at("/alert")[1].json()["type"], "run.recovered");
    until("the report", || async { receiver.at("/ok").len() == 1 }).await;

    shop.fault("bik.generateReport=401:1");
    shop.told(&["run-job", "report", "--window", NEXT_DAY, "--mail", "--no-wait"]).await.expect(4);
    until("the breaker's alert", || async { receiver.at("/alert").len() == 3 }).await;
    let breaker = receiver.at("/alert")[2].json();
    assert_eq!((text(&breaker["type"]), &breaker["run_id"]), ("run.breaker", &Value::Null));
    assert!(text(&breaker["failure"]["message"]).contains("401"), "{breaker}");
    shop.run(&["connections", "close", "north"]).await.expect(0);
    until("its end", || async { receiver.at("/alert").len() == 4 }).await;
    assert_eq!(receiver.at("/alert")[3].json()["after"], "breaker");
    drop(serve);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_window_is_told_once_and_again_when_it_came() {
    let receiver = Receiver::start().await;
    let shop = shop(&receiver, LIVECHAT, "schedule: \"0 * * * *\"\nlate_after: 10m\n").await;
    let serve = shop.serve_and_tell(&[]).await;
    shop.fault("livechat.report=503+3000:1");
    // Over the next full hour: the fire comes, its run is in trouble, and 10 minutes later it is late.
    shop.advance(Duration::from_secs(3600)).await;
    // Put off by the vendor: a clock that jumps under a step takes its lease, and the next worker gets the report.
    shop.until_count("SELECT count(*) FROM runs WHERE state = 'queued' AND note LIKE '%asks to wait%'", 1).await;
    assert!(receiver.at("/alert").is_empty());
    shop.advance(Duration::from_secs(660)).await;
    until("the late alert", || async { receiver.at("/alert").len() == 1 }).await;
    let late = receiver.at("/alert")[0].json();
    assert_eq!(late["type"], "run.late");
    assert!(text(&late["failure"]["message"]).starts_with("not here 10m after the fire of"), "{late}");
    shop.advance(Duration::from_secs(120)).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(receiver.at("/alert").len(), 1);
    shop.advance(Duration::from_secs(3000)).await;
    until("its end", || async { receiver.at("/alert").len() == 2 }).await;
    let end = receiver.at("/alert")[1].json();
    assert_eq!((text(&end["type"]), text(&end["after"])), ("run.recovered", "late"));
    drop(serve);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_hangs_keeps_neither_runs_nor_other_kinds_of_notices_waiting() {
    let (slow, quick) = (Receiver::start().await, Receiver::start().await);
    slow.hangs(true);
    let shop = Shop::open().await;
    let job = telling(&slow, LIVECHAT, "schedule: \"0 * * * *\"\nheartbeat: env:PING\n");
    shop.job("report", &job.replace("yesterday", "previous_hour"));
    let serve = shop.serve_and_tell(&[("PING", &quick.url("/job"))]).await;
    for _ in 0..12 {
        shop.advance(Duration::from_secs(3600)).await;
    }
    // Each run is pinged at its start and at its end, while its webhook hangs.
    until("the pings", || async { quick.at("/job").len() >= 10 && quick.at("/job/start").len() >= 10 }).await;
    // Each jump of the clock ends the claims of those that hang, so how many there were says nothing.
    assert!(!slow.at("/ok").is_empty());
    let run: String = shop.one("SELECT id::text FROM runs ORDER BY created_at LIMIT 1").await;
    let its_end = format!("/job?rid={run}");
    until("the first run's end", || async { quick.at("/job").iter().any(|got| got.path == its_end) }).await;
    drop(serve);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_services_own_heartbeat_is_pinged_after_a_pass_and_its_url_is_a_secret() {
    let watcher = Receiver::start().await;
    let shop = Shop::with("heartbeat: env:PING\n").await;
    shop.job("report", &format!("window: yesterday\nschedule: \"0 3 * * *\"\n{LIVECHAT}"));
    let serve = shop.serve_and_tell(&[("PING", &watcher.url("/service"))]).await;
    until("a ping", || async { !watcher.at("/service").is_empty() }).await;
    assert_eq!(watcher.at("/service/start").len(), 1);
    assert!(watcher.at("/service")[0].path.contains("?rid="), "{:?}", watcher.got());
    assert!(!serve.stderr().contains("/service"), "the URL is a secret");
    drop(serve);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_series_that_works_again_is_told_so_although_another_never_does() {
    let receiver = Receiver::start().await;
    let shop = shop(&receiver, LIVECHAT, "").await;
    shop.job("adhoc", &telling(&receiver, LIVECHAT, ""));
    let types = || receiver.at("/alert").iter().map(|got| text(&got.json()["type"]).to_owned()).collect::<Vec<_>>();
    // One that nobody will ever mend.
    shop.fault("livechat.report=400:1");
    shop.told(&["run-job", "adhoc", "--window", DAY]).await.expect(1);
    assert_eq!(types(), ["run.failed"]);
    shop.advance(Duration::from_secs(3700)).await;
    shop.fault("livechat.report=400:1");
    shop.told(&["run-job", "report", "--window", DAY]).await.expect(1);
    assert_eq!(types(), ["run.failed", "run.failed"]);
    assert_eq!(receiver.at("/alert")[1].json()["runs"].as_array().unwrap().len(), 1);
    // It works again; after five minutes without the other it is told alone.
    shop.told(&["run-job", "report", "--window", NEXT_DAY]).await.expect(0);
    assert_eq!(types().len(), 2);
    shop.advance(Duration::from_secs(301)).await;
    shop.told(&["run-job", "report", "--window", "2025-03-05..2025-03-05"]).await.expect(0);
    assert_eq!(types()[2..], ["run.recovered"]);
    assert_eq!(receiver.at("/alert")[2].json()["job"], "report");
    // And its next failure is news an hour after the last notice, not a day.
    shop.advance(Duration::from_secs(3700)).await;
    shop.fault("livechat.report=400:1");
    shop.told(&["run-job", "report", "--window", "2025-03-06..2025-03-06"]).await.expect(1);
    assert_eq!(types()[3..], ["run.failed"]);
    // What nobody mends for a hundred days is dropped, and then nothing is left.
    shop.told(&["run-job", "report", "--window", "2025-03-07..2025-03-07"]).await.expect(0);
    shop.advance(Duration::from_secs(101 * 24 * 3600)).await;
    shop.told(&["run-job", "report", "--window", "2025-03-08..2025-03-08"]).await.expect(0);
    assert_eq!(types()[4..], ["run.recovered"]);
    assert_eq!(shop.number("SELECT count(*) FROM alerts WHERE closed_at IS NULL").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_window_that_is_waived_after_it_was_told_keeps_no_alert_open() {
    let receiver = Receiver::start().await;
    let shop = Shop::open().await;
    shop.clock("2026-03-10T12:10:00Z").await;
    let job = telling(&receiver, LIVECHAT, "zone: UTC\nschedule: \"0 3 * * *\"\nsince: 2026-03-09\nlate_after: 10m\n");
    shop.job("report", &job);
    shop.fault("livechat.report=503+3600");
    let serve = shop.serve_and_tell(&[]).await;
    shop.advance(Duration::from_secs(15 * 3600)).await;
    shop.until_count("SELECT count(*) FROM fires WHERE fire_at >= '2026-03-11' AND outcome = 'fired'", 1).await;
    shop.until_count("SELECT count(*) FROM runs WHERE lease_token IS NOT NULL", 0).await;
    shop.advance(Duration::from_secs(660)).await;
    until("the late alert", || async { receiver.at("/alert").iter().any(|got| got.json()["type"] == "run.late") })
        .await;
    shop.job("report", &format!("{job}waive: [{{ from: 2026-03-01, to: 2026-03-12, reason: closed }}]\n"));
    serve.signal(rustix::process::Signal::HUP);
    shop.until_count("SELECT count(*) FROM alerts WHERE closed_at IS NULL AND cause = 'late'", 0).await;
    let recovered = receiver.at("/alert").iter().any(|got| got.json()["type"] == "run.recovered");
    assert!(!recovered, "nobody is told that it works again");
    drop(serve);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vendor_that_refuses_the_credentials_of_a_ticket_opens_the_accounts_breaker() {
    let shop = Shop::open().await;
    shop.job("report", &format!("window: yesterday\n{LIVECHAT}deliver:\n{TICKET}"));
    shop.fault("bik.createAndAssignTicket=401:1");
    let ran = shop.run_job("report", DAY, &[]).await.expect(0);
    assert!(ran.stderr.contains("1 notice still to be sent"), "{}", ran.stderr);
    assert_eq!(shop.sandbox.tickets(), 0);
    let reason: String = shop.one("SELECT breaker_reason FROM connections WHERE vendor = 'bik' AND breaker_open").await;
    assert!(reason.contains("credentials of connection north"), "{reason}");
    shop.run(&["connections", "close", "north"]).await.expect(0);
    let id = text(&shop.deliveries().await[0]["delivery_id"]).to_owned();
    shop.run(&["delivery", "retry", &id]).await.expect(0);
    assert_eq!(shop.sandbox.tickets(), 1);
    let line = shop.deliveries().await.remove(0);
    assert!(line["retried_by"].is_string(), "{line}");
    // It was made: a second one only by a second word.
    let ran = shop.run(&["delivery", "retry", &id]).await.expect(2);
    assert!(ran.stderr.contains("say --again"), "{}", ran.stderr);
    shop.run(&["delivery", "retry", &id, "--again"]).await.expect(0);
    assert_eq!(shop.sandbox.tickets(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_lost_its_claim_before_it_sent_makes_no_ticket() {
    let shop = Shop::open().await;
    let text = std::fs::read_to_string(shop.folder.path().join("reportd.yaml")).unwrap();
    std::fs::write(
        shop.folder.path().join("reportd.yaml"),
        text.replacen("requests_per_second: 1000", "requests_per_second: 0.25", 1),
    )
    .unwrap();
    shop.job("report", &format!("window: yesterday\n{LIVECHAT}deliver:\n{TICKET}{TICKET}"));
    // The second ticket waits four seconds for the account's rate, its claim in hand.
    let running = shop.start(&["run-job", "report", "--window", DAY]);
    until("the first ticket", || async { shop.sandbox.tickets() == 1 }).await;
    shop.until_count("SELECT count(*) FROM deliveries WHERE state = 'sending'", 1).await;
    shop.sql("UPDATE deliveries SET lease_token = gen_random_uuid() WHERE state = 'sending'").await;
    running.end().await.expect(0);
    assert_eq!(shop.sandbox.tickets(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_became_of_a_try_is_recorded_although_the_database_was_away_for_a_moment() {
    let receiver = Receiver::start().await;
    let shop = shop(&receiver, LIVECHAT, "").await;
    receiver.hangs(true);
    let mut command = shop.command(&["run-job", "report", "--window", DAY]);
    command.env("KEY", KEY);
    let running = Started::new(command);
    until("the webhook", || async { receiver.at("/ok").len() == 1 }).await;
    shop.sql("ALTER TABLE deliveries RENAME TO away").await;
    receiver.hangs(false);
    tokio::time::sleep(Duration::from_secs(2)).await;
    shop.sql("ALTER TABLE away RENAME TO deliveries").await;
    running.end().await.expect(0);
    assert_eq!(receiver.at("/ok").len(), 1);
    assert_eq!(shop.deliveries().await[0]["state"], "sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_never_lands_in_the_archive() {
    let shop = Shop::open().await;
    let deliver =
        "deliver:\n  - on: [manual]\n    file: { url: \"archive/report/north/2025/{window.label}/r1/report.json\" }\n";
    shop.job("report", &format!("window: yesterday\n{LIVECHAT}{deliver}"));
    let run = shop.run_job("report", DAY, &[]).await.expect(0).line();
    let line = shop.deliveries().await.remove(0);
    assert_eq!(line["state"], "failed");
    assert!(text(&line["words"]).contains("would land in the archive"), "{line}");
    let file = shop.archive().join(text(&run["artifacts"][0]["path"]));
    assert_eq!(sha256(&file), text(&run["artifacts"][0]["sha256"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_are_told_of_a_run_that_failed_and_of_a_service_that_cannot_plan() {
    let watcher = Receiver::start().await;
    let shop = Shop::with("heartbeat: env:PING\n").await;
    shop.job("report", &format!("window: previous_hour\nschedule: \"0 * * * *\"\nheartbeat: env:JOB\n{LIVECHAT}"));
    shop.fault("livechat.report=400:1");
    let serve = shop.serve_and_tell(&[("PING", &watcher.url("/service")), ("JOB", &watcher.url("/job"))]).await;
    shop.advance(Duration::from_secs(3600)).await;
    until("the job's failure", || async { watcher.at("/job/fail").len() == 1 }).await;
    assert!(watcher.at("/job/fail")[0].body.contains("Bad Request"), "{:?}", watcher.at("/job/fail"));
    std::fs::rename(shop.archive(), shop.folder.path().join("moved")).unwrap();
    serve.until_http("/readyz", 503).await;
    until("the service's trouble", || async { !watcher.at("/service/fail").is_empty() }).await;
    assert!(watcher.at("/service/fail")[0].body.contains("archive"), "{:?}", watcher.at("/service/fail"));
    drop(serve);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_notices_the_database_refuses_keeps_no_other_silent() {
    let receiver = Receiver::start().await;
    let shop = shop(&receiver, LIVECHAT, "").await;
    shop.run_job("report", DAY, &["--no-deliver"]).await.expect(0);
    // As an older version could have left it: a text that no column of text takes.
    shop.sql(r#"UPDATE runs SET notices = '{"deliver": [{"file": {"url": "/in/\u0000x"}}]}'"#).await;
    let ran = shop.told(&["run-job", "report", "--window", NEXT_DAY]).await.expect(0);
    assert_eq!(receiver.at("/ok").len(), 1, "{}", ran.stderr);
    let serve = shop.serve_and_tell(&[]).await;
    shop.until_count("SELECT count(*) FROM runs WHERE noticed IS NULL", 0).await;
    shop.until_count("SELECT count(*) FROM run_events WHERE detail LIKE 'nobody is told of it:%'", 1).await;
    drop(serve);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_goes_out_after_what_it_takes_back() {
    let receiver = Receiver::start().await;
    let shop = shop(&receiver, LIVECHAT, "").await;
    // The failure's notice waits for its second try while the series works again.
    receiver.answers(&[503, 503, 503]);
    shop.fault("livechat.report=400:1");
    let mut dying = shop.command(&["run-job", "report", "--window", DAY]);
    dying.env("KEY", KEY).env("REPORTD_CRASH_AT", "delivery-settled");
    assert_eq!(crate::harness::run(dying).await.code, None);
    shop.told(&["run-job", "report", "--window", NEXT_DAY]).await.expect(0);
    let serve = shop.serve_and_tell(&[]).await;
    until("both", || async { receiver.at("/alert").iter().any(|got| got.json()["type"] == "run.recovered") }).await;
    let types: Vec<String> = receiver.at("/alert").iter().map(|got| text(&got.json()["type"]).to_owned()).collect();
    let (last, before) = types.split_last().unwrap();
    assert_eq!(last, "run.recovered");
    assert!(!before.is_empty() && before.iter().all(|word| word == "run.failed"), "{types:?}");
    drop(serve);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_hangs_keeps_no_other_receiver_waiting() {
    let (slow, quick) = (Receiver::start().await, Receiver::start().await);
    slow.hangs(true);
    let shop = Shop::open().await;
    let hook = |receiver: &Receiver| {
        format!("  - on: [manual]\n    webhook: {{ url: \"{}\", keys: [env:KEY] }}\n", receiver.url("/ok"))
    };
    let twenty = hook(&slow).repeat(20);
    shop.job("slow", &format!("window: yesterday\n{LIVECHAT}deliver:\n{twenty}"));
    shop.job(
        "quick",
        &format!("window: yesterday\n{LIVECHAT}deliver:\n{}", hook(&quick).replace("127.0.0.1", "localhost")),
    );
    for job in ["slow", "quick"] {
        let mut dying = shop.command(&["run-job", job, "--window", DAY]);
        dying.env("KEY", KEY).env("REPORTD_CRASH_AT", "deliveries-committed");
        assert_eq!(crate::harness::run(dying).await.code, None);
    }
    let serve = shop.serve_and_tell(&[]).await;
    until("the quick one", || async { quick.at("/ok").len() == 1 }).await;
    assert!(slow.at("/ok").len() <= 4, "{}", slow.at("/ok").len());
    serve.die().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_says_how_many_of_its_notices_will_never_go_out() {
    let receiver = Receiver::start().await;
    let shop = shop(&receiver, LIVECHAT, "").await;
    receiver.answers(&[410]);
    let ran = shop.told(&["run-job", "report", "--window", DAY]).await.expect(0);
    assert!(ran.stderr.contains("1 notice did not go out: `reportd deliveries` says why"), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_and_was_over_before_it_was_told_is_not_told_after_its_series_recovery() {
    let receiver = Receiver::start().await;
    let shop = shop(&receiver, LIVECHAT, "").await;
    shop.job("adhoc", &telling(&receiver, LIVECHAT, ""));
    shop.fault("livechat.report=400:2");
    shop.told(&["run-job", "adhoc", "--window", DAY]).await.expect(1);
    shop.advance(Duration::from_secs(3700)).await;
    shop.told(&["run-job", "report", "--window", DAY]).await.expect(1);
    // Another window of a series whose trouble is known: told a day later, if it lasts.
    shop.advance(Duration::from_secs(600)).await;
    shop.fault("livechat.report=400:1");
    shop.told(&["run-job", "report", "--window", NEXT_DAY]).await.expect(1);
    shop.told(&["run-job", "report", "--window", "2025-03-05..2025-03-05"]).await.expect(0);
    shop.advance(Duration::from_secs(301)).await;
    shop.told(&["run-job", "report", "--window", "2025-03-06..2025-03-06"]).await.expect(0);
    shop.advance(Duration::from_secs(30 * 3600)).await;
    shop.told(&["run-job", "report", "--window", "2025-03-07..2025-03-07"]).await.expect(0);
    let types: Vec<String> = receiver.at("/alert").iter().map(|got| text(&got.json()["type"]).to_owned()).collect();
    assert_eq!(types, ["run.failed", "run.failed", "run.recovered"]);
}
