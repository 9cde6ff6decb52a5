//! BIK's conversation: create, poll, download, mails, inner statuses, and creates whose answer was lost.

use std::sync::atomic::{AtomicUsize, Ordering};

use reportd::sandbox::Vendor;
use serde_json::{Value, json};

use crate::harness::Shop;
use crate::vendors::{Asked, ENGAGEMENT, Script, http, json as answer, noon};

async fn shop() -> Shop {
    let shop = Shop::hurried().await;
    shop.job("engagement", ENGAGEMENT);
    shop
}

fn mailed(shop: &Shop) -> Vec<String> {
    shop.sandbox.mails().into_iter().map(|mail| mail.to).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_goes_through_its_states_to_the_very_bytes_that_were_sent() {
    let shop = shop().await;
    let run = shop.job_ends(&["engagement", "--at", &noon(1)], 0).await;
    assert_eq!((run["state"].as_str(), run["ticket"].as_str()), (Some("archived"), Some("44590")), "{run}");
    let files = shop.files(&run);
    assert_eq!(files[0].0, "report.csv");
    let sent = shop.again(&shop.asked("download")[0]).await;
    assert!(sent.len() > 100 && files[0].1 == sent);

    let words: Vec<Value> = shop.asked("getReportById").iter().map(|r| r.json()["reportHistoryId"].clone()).collect();
    assert!(!words.is_empty() && words.iter().all(|id| *id == 44590), "{words:?}");
    let task: (String, String, String, i64) =
        sqlx::query_as("SELECT remote_id, outcome, status_word, polls::bigint FROM remote_tasks")
            .fetch_one(&shop.pool)
            .await
            .unwrap();
    assert_eq!((task.0.as_str(), task.1.as_str(), task.2.as_str()), ("44590", "created", "COMPLETED"));
    assert_eq!(usize::try_from(task.3).unwrap(), words.len());

    let create = &shop.asked("generateReport")[0];
    assert_eq!(
        create.json(),
        json!({
            "reportType": "Helpdesk", "reportName": "Agent Engagement", "emails": ["bi@north.example"],
            "dateRange": { "startDate": "2026-01-01T18:30:00.000Z", "endDate": "2026-01-02T18:29:59.999Z" },
        })
    );
    let download = &shop.asked("download")[0];
    assert_eq!(download.header("authorization"), None, "a file's host is told no credentials");
    assert_eq!(download.header("accept-encoding"), Some("identity"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_words_of_the_vendor_are_seen_while_a_report_is_made() {
    // One answer each, so that every word is seen whatever the machine's speed.
    let words = ["QUEUE", "IN_PROGRESS", "QUEUE", "COMPLETED"];
    let script = bik_that_says(
        move |poll| json!({ "reportStatus": words[poll.min(3)], "downloadLink": (poll >= 3).then_some("/file.csv") }),
    );
    let shop = shop().await;
    shop.accounts(&[("bik", "base_url", &script.base("/x"))]);
    let run = shop.job_ends(&["engagement"], 0).await;
    assert_eq!(run["state"], "archived");
    assert_eq!(shop.files(&run)[0].1, b"a,b\r\n1,2\r\n");
    assert_eq!(script.asked("getReportById").len(), 4);
    assert_eq!(shop.count(&run, "note").await, 0, "these words are known");
}

/// A BIK whose creates are all taken, whose n-th poll (from 0) answers this `data`, and that has one file.
fn bik_that_says(data: impl Fn(usize) -> Value + Send + Sync + 'static) -> Script {
    let polls = AtomicUsize::new(0);
    Script::start(move |asked: &Asked| {
        if asked.is("generateReport") {
            answer(&json!({ "status": 200, "success": true, "data": { "reportHistoryId": "7001" } }))
        } else if asked.is("getReportById") {
            let poll = polls.fetch_add(1, Ordering::SeqCst);
            answer(&json!({ "status": "200", "success": true, "data": data(poll) }))
        } else {
            http(200, "content-type: text/csv\r\n", "a,b\r\n1,2\r\n")
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_by_hand_mail_the_quiet_addresses_and_with_mail_the_jobs() {
    let shop = shop().await;
    shop.job_ends(&["engagement", "--at", &noon(1)], 0).await;
    assert_eq!(mailed(&shop), ["bi@north.example"]);
    shop.job_ends(&["engagement", "--at", &noon(2), "--mail"], 0).await;
    assert_eq!(mailed(&shop)[1..], ["asha@north.example", "lead@north.example"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_quiet_addresses_a_run_by_hand_is_refused_with_the_number_of_mails() {
    let shop = shop().await;
    shop.accounts(&[("bik", "quiet_emails", "")]);
    let args = ["run-job", "engagement", "--window", "2026-03-01..2026-03-03", "--each", "day"];
    let ran = shop.run(&args).await.expect(2);
    assert!(ran.stderr.contains("3 reports and 6 mails") && ran.stderr.contains("--mail"), "{}", ran.stderr);
    assert_eq!(shop.one::<i64>("SELECT count(*) FROM runs").await, 0);
    assert!(shop.sandbox.received().is_empty(), "{:?}", shop.sandbox.received());
    shop.run(&[&args[..], &["--mail"]].concat()).await.expect(0);
    assert_eq!(mailed(&shop).len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inner_status_decides_under_http_200() {
    let shop = shop().await;
    // 400: a clear no, with BIK's words and a hint.
    shop.fault("bik.generateReport=inner-400:1");
    let run = shop.job_ends(&["engagement", "--at", &noon(1)], 1).await;
    assert_eq!((run["state"].as_str(), run["failure"]["class"].as_str()), (Some("failed"), Some("refused")), "{run}");
    let message = run["failure"]["message"].as_str().unwrap();
    assert!(message.contains("400") && message.contains("Bad Request") && message.contains("date_format"), "{message}");

    // 500: nobody knows; the run is held and no second create is sent.
    shop.fault("bik.generateReport=inner-500:1");
    let run = shop.job_ends(&["engagement", "--at", &noon(2)], 3).await;
    assert_eq!(
        (run["state"].as_str(), run["failure"]["class"].as_str()),
        (Some("held"), Some("unknown_create")),
        "{run}"
    );

    // 401: the breaker.
    shop.fault("bik.generateReport=inner-401:1");
    let run = shop.job_ends(&["engagement", "--at", &noon(3)], 4).await;
    assert_eq!(run["state"], "queued");
    assert_eq!(shop.run(&["connections", "close", "north", "--vendor", "bik"]).await.code, Some(0));
    assert_eq!(shop.asked("generateReport").len(), 3);
    assert_eq!(shop.sandbox.creates(Vendor::Bik), 0);

    // And on a poll: 500 is asked again, 400 ends the run.
    shop.fault("bik.getReportById=inner-500:2");
    let run = shop.job_ends(&["engagement", "--at", &noon(3)], 0).await;
    assert_eq!(shop.count(&run, "retry").await, 2);
    shop.fault("bik.getReportById=inner-400:1");
    let run = shop.job_ends(&["engagement", "--at", &noon(4)], 1).await;
    assert_eq!(run["failure"]["class"], "refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inner_status_may_be_a_text_and_success_may_be_false() {
    for (body, code, state) in [
        (json!({ "status": "422", "errors": [{ "message": "no such name" }] }), 1, "failed"),
        (json!({ "status": 200, "success": false, "errors": [{ "message": "no such name" }] }), 1, "failed"),
        (json!({ "status": "503", "errors": [] }), 3, "held"),
        (json!({ "status": 200, "success": true, "data": {} }), 3, "held"),
        (json!({ "status": 200, "success": true }), 3, "held"),
        (json!(["not", "BIK"]), 3, "held"),
    ] {
        let said = body.clone();
        let script = Script::start(move |_| answer(&said));
        let shop = shop().await;
        shop.accounts(&[("bik", "base_url", &script.base("/x"))]);
        let run = shop.job_ends(&["engagement"], code).await;
        assert_eq!(run["state"], state, "{body}: {run}");
        assert_eq!(script.asked("generateReport").len(), 1, "{body}");
        if state == "failed" {
            assert!(run["failure"]["message"].as_str().unwrap().contains("no such name"), "{run}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_the_vendor_ends_as_failed_fails_and_a_retry_creates_anew() {
    let shop = shop().await;
    shop.fault("bik.generateReport=failed:1");
    let run = shop.job_ends(&["engagement"], 1).await;
    assert_eq!(run["failure"]["class"], "vendor_failed");
    assert!(run["failure"]["message"].as_str().unwrap().contains("FAILED"), "{run}");
    let id = run["run_id"].as_str().unwrap();
    shop.run(&["retry", id]).await.expect(0);
    let run = shop.job_ends(&["engagement"], 0).await;
    assert_eq!((run["run_id"].as_str(), run["state"].as_str()), (Some(id), Some("archived")));
    assert_eq!(shop.sandbox.creates(Vendor::Bik), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_word_that_no_list_knows_counts_as_running_and_is_told_once() {
    let shop = shop().await;
    shop.fault("bik.generateReport=odd-status:1");
    let run = shop.job_ends(&["engagement"], 0).await;
    assert_eq!(run["state"], "archived");
    let notes: Vec<_> = shop.events(&run).await.into_iter().filter(|(kind, _)| kind == "note").collect();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].1.contains("RE_QUEUED"), "{notes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_word_that_never_changes_fails_at_the_deadline_and_is_shown() {
    let script = bik_that_says(|_| json!({ "reportStatus": "MEDITATING" }));
    let shop = shop().await;
    shop.job("engagement", &format!("deadline: 10m\n{ENGAGEMENT}"));
    shop.accounts(&[("bik", "base_url", &script.base("/x"))]);
    let run = shop.job_ends(&["engagement"], 1).await;
    assert_eq!(run["failure"]["class"], "deadline");
    let message = run["failure"]["message"].as_str().unwrap();
    assert!(message.contains("MEDITATING") && message.contains("10m"), "{message}");
    assert_eq!(shop.count(&run, "note").await, 1, "one note for the word, however often it came");
    assert_eq!(script.asked("generateReport").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_complete_report_without_its_link_is_polled_on() {
    for missing in [Value::Null, json!("")] {
        let script = bik_that_says(
            move |poll| json!({ "reportStatus": "COMPLETED", "downloadLink": if poll < 3 { missing.clone() } else { json!("/f.csv") } }),
        );
        let shop = shop().await;
        shop.accounts(&[("bik", "base_url", &script.base("/x"))]);
        let run = shop.job_ends(&["engagement"], 0).await;
        assert_eq!(run["state"], "archived");
        assert_eq!(script.asked("getReportById").len(), 4);
        assert_eq!(shop.count(&run, "note").await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_create_is_held_and_each_word_of_the_operator_ends_it() {
    let shop = shop().await;
    let file = shop.folder.path().join("found.csv");
    std::fs::write(&file, "Date,Agent\r\n2026-01-02,asha\r\n").unwrap();
    let file = file.to_str().unwrap();
    for (day, word, code, state) in [
        (1, vec!["--ticket", "44590"], 0, "archived"),
        (2, vec!["--file", file], 0, "archived"),
        (3, vec!["--not-created"], 0, "archived"),
        (4, vec!["--give-up"], 1, "failed"),
    ] {
        let before = (shop.asked("generateReport").len(), shop.sandbox.creates(Vendor::Bik));
        shop.fault("bik.generateReport=lost:1");
        let run = shop.job_ends(&["engagement", "--at", &noon(day)], 3).await;
        assert_eq!((run["state"].as_str(), run["failure"]["class"].as_str()), (Some("held"), Some("unknown_create")));
        let message = run["failure"]["message"].as_str().unwrap();
        let id = run["run_id"].as_str().unwrap();
        assert!(
            message.contains("Agent Engagement") && message.contains(&format!("resolve {}", &id[..8])),
            "{message}"
        );
        // Held stays held, and nothing is sent meanwhile.
        assert_eq!(shop.job_ends(&["engagement", "--at", &noon(day)], 3).await["run_id"], run["run_id"]);
        assert_eq!(shop.asked("generateReport").len(), before.0 + 1, "exactly one create left");
        assert_eq!(shop.sandbox.creates(Vendor::Bik), before.1 + 1, "and the vendor made exactly one report");

        shop.run(&[&["resolve", &id[..8]], &word[..]].concat()).await.expect(0);
        let again = shop.run(&["run-job", "engagement", "--at", &noon(day), "--format", "json"]).await;
        let again = if state == "failed" {
            // A run that ended is not attached to: see it with `show`.
            shop.run(&["show", id, "--format", "json"]).await.expect(0).json().remove(0)
        } else {
            again.expect(code).json().remove(0)
        };
        let run = again.get("run").unwrap_or(&again);
        assert_eq!((run["run_id"].as_str(), run["state"].as_str()), (Some(id), Some(state)), "{word:?}: {run}");
        assert_eq!(shop.count(run, "resolved").await, 1, "{word:?}: {:?}", shop.events(run).await);
    }
    // Two of them were made at the vendor once and fetched once; the third was made again because an operator said so.
    let kept = std::fs::read_dir(shop.archive().join("engagement/north/2026/2026-01-03/r1")).unwrap();
    let names: Vec<_> = kept.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.contains(&"report.csv".to_owned()), "{names:?}");
    let manifest = shop.archive().join("engagement/north/2026/2026-01-03/r1/manifest.json");
    let manifest: Value = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
    assert!(manifest["handed_in_by"].is_string(), "{manifest}");
    let lost = shop.one::<i64>("SELECT count(*) FROM remote_tasks WHERE outcome = 'unknown'").await;
    assert_eq!(lost, 2, "the one handed in and the one given up");
    let denied = shop.one::<i64>("SELECT count(*) FROM remote_tasks WHERE outcome = 'not_created'").await;
    assert_eq!(denied, 1, "the one that the operator says was never made");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_rows_that_is_handed_in_is_an_empty_report() {
    let shop = shop().await;
    shop.fault("bik.generateReport=lost:1");
    let run = shop.job_ends(&["engagement"], 3).await;
    let file = shop.folder.path().join("found.csv");
    std::fs::write(&file, "Date,Agent\r\n").unwrap();
    shop.run(&["resolve", run["run_id"].as_str().unwrap(), "--file", file.to_str().unwrap()]).await.expect(0);
    assert_eq!(shop.one::<String>("SELECT state FROM runs").await, "empty");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_cannot_name_a_ticket_that_is_none_or_another_runs() {
    let shop = shop().await;
    shop.job_ends(&["engagement", "--at", &noon(1)], 0).await;
    shop.fault("bik.generateReport=lost:1");
    let run = shop.job_ends(&["engagement", "--at", &noon(2)], 3).await;
    let id = run["run_id"].as_str().unwrap();
    for (ticket, words) in [("44590", "another run"), ("report-1", "whole numbers"), ("", "whole numbers")] {
        let ran = shop.run(&["resolve", id, "--ticket", ticket]).await.expect(2);
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
    }
    let html = shop.folder.path().join("page.csv");
    std::fs::write(&html, "<!doctype html><html></html>").unwrap();
    shop.run(&["resolve", id, "--file", html.to_str().unwrap()]).await.expect(2);
    assert_eq!(shop.one::<String>("SELECT state FROM runs ORDER BY created_at DESC LIMIT 1").await, "held");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_says_resubmit_sends_a_lost_create_again() {
    let shop = shop().await;
    shop.job("engagement", &format!("on_unknown: resubmit\n{ENGAGEMENT}"));
    shop.fault("bik.generateReport=lost:2");
    let run = shop.job_ends(&["engagement"], 0).await;
    assert_eq!(run["state"], "archived");
    assert_eq!(run["ticket"], "44592");
    assert_eq!(shop.sandbox.creates(Vendor::Bik), 3);
    assert_eq!(shop.files(&run).len(), 1);
    let outcomes: Vec<String> = sqlx::query_scalar("SELECT outcome FROM remote_tasks ORDER BY intended_at")
        .fetch_all(&shop.pool)
        .await
        .unwrap();
    assert_eq!(outcomes, ["unknown", "unknown", "created"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn dates_may_be_plain_and_the_app_is_named_in_both_calls() {
    let shop = shop().await;
    shop.accounts(&[("bik", "appId", "shop-7")]);
    shop.job("engagement", &ENGAGEMENT.replace("reportType", "date_format: date, reportType"));
    shop.job_ends(&["engagement", "--at", &noon(1)], 0).await;
    let create = shop.asked("generateReport")[0].json();
    assert_eq!(create["dateRange"], json!({ "startDate": "2026-01-02", "endDate": "2026-01-02" }));
    assert_eq!(create["appId"], "shop-7");
    assert!(shop.asked("getReportById").iter().all(|r| r.json()["appId"] == "shop-7"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_without_rows_is_empty_and_kept() {
    let shop = shop().await;
    shop.fault("bik.generateReport=no-rows:1");
    let run = shop.job_ends(&["engagement"], 0).await;
    assert_eq!(run["state"], "empty");
    assert!(shop.files(&run)[0].1.starts_with(b"\"Date\""));
}
