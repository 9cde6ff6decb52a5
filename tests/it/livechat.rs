//! LiveChat's conversation: every report in its own shape, both kinds of token, pages, errors by their type, lifecycle headers.

use reportd::sandbox::{Vendor, credentials};
use serde_json::{Value, json};

use crate::harness::Shop;
use crate::vendors::{Asked, RATINGS, Script, http, in_turn, json as answer, noon, run_with};

/// Every report of version 3.6, and an older address of one (REFERENCE 4.4).
const REPORTS: [&str; 18] = [
    "chats/total_chats",
    "chats/duration",
    "chats/tags",
    "chats/ratings",
    "chats/ranking",
    "chats/engagement",
    "chats/greetings_conversion",
    "chats/forms",
    "chats/response_time",
    "chats/first_response_time",
    "chats/groups",
    "chats/queued_visitors",
    "chats/queued_visitors_left",
    "agents/availability",
    "agents/performance",
    "tags/chat_usage",
    "customers/unique_visitors",
    "stats/unique_visitors",
];

async fn shop() -> Shop {
    let shop = Shop::hurried().await;
    shop.job("ratings", RATINGS);
    shop
}

/// A report with one row.
fn report() -> Vec<u8> {
    answer(&json!({ "name": "ratings-report", "total": 1, "records": { "2026-01-02": { "chats": 1 } } }))
}

fn error(status: u16, kind: &str) -> Vec<u8> {
    let body = json!({ "error": { "type": kind, "message": format!("about {kind}") } });
    http(status, "content-type: application/json\r\n", body.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_report_is_archived_as_the_very_bytes_that_were_sent() {
    let shop = Shop::hurried().await;
    for report in REPORTS {
        let name = report.replace(['/', '_'], "-");
        shop.job(&name, &format!("window: previous_week\nlivechat: {{ report: {report} }}\n"));
        let before = shop.asked("report").len();
        let run = shop.job_ends(&[&name, "--at", &noon(20)], 0).await;
        assert_eq!(run["state"], "archived", "{report}: {run}");
        let asked = shop.asked("report").split_off(before);
        let files = shop.files(&run);
        assert_eq!((files.len(), asked.len()), if report.ends_with("_left") { (3, 3) } else { (1, 1) }, "{report}");
        for (request, (file, bytes)) in asked.iter().zip(&files) {
            assert_eq!(request.path, format!("/v3.6/reports/{report}"));
            assert_eq!(request.json()["timezone"], "Asia/Kolkata");
            let sent = shop.again(request).await;
            assert!(sent.len() > 40 && *bytes == sent, "{report}, {file}");
        }
        // What makes the shapes differ: records as a map, as a list, or none at all.
        let body: Value = serde_json::from_slice(&files[0].1).unwrap();
        match report {
            "chats/forms" => assert!(body["records"].is_array(), "{body}"),
            "customers/unique_visitors" | "stats/unique_visitors" => assert!(body["records"].is_null(), "{body}"),
            _ => assert!(body["records"].is_object(), "{body}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_personal_access_token_goes_as_basic_and_an_oauth_token_as_bearer() {
    let shop = shop().await;
    shop.job_ends(&["ratings", "--at", &noon(1)], 0).await;
    // base64 of sandbox-account:sandbox-pat
    let basic = "Basic c2FuZGJveC1hY2NvdW50OnNhbmRib3gtcGF0";
    assert_eq!(shop.asked("report")[0].header("authorization"), Some(basic));
    // As an address bar shows it, and as the vendor's console shows it, it is the same token.
    for (day, copied) in [(2, "sandbox-account%3Asandbox-pat"), (3, "c2FuZGJveC1hY2NvdW50OnNhbmRib3gtcGF0")] {
        let ran = run_with(&shop, &["run-job", "ratings", "--at", &noon(day)], &[("LIVECHAT", copied)]).await;
        ran.expect(0);
        assert_eq!(shop.asked("report").last().unwrap().header("authorization"), Some(basic));
    }
    shop.accounts(&[("livechat", "auth", "bearer")]);
    let env = [("LIVECHAT", credentials::LIVECHAT_BEARER)];
    run_with(&shop, &["run-job", "ratings", "--at", &noon(4)], &env).await.expect(0);
    let bearer = format!("Bearer {}", credentials::LIVECHAT_BEARER);
    assert_eq!(shop.asked("report").last().unwrap().header("authorization"), Some(bearer.as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paged_report_is_fetched_to_its_last_page_or_not_at_all() {
    let shop = Shop::hurried().await;
    shop.job("left", "window: yesterday\nlivechat: { report: chats/queued_visitors_left }\n");
    let run = shop.job_ends(&["left", "--at", &noon(1)], 0).await;
    let files = shop.files(&run);
    let names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["page-0001.json", "page-0002.json", "page-0003.json"]);
    let pages: Vec<_> = shop.asked("report").iter().map(|r| r.json()["page"].clone()).collect();
    assert_eq!(pages, [Value::Null, json!(2), json!(3)]);
    let visitors: std::collections::HashSet<String> = files
        .iter()
        .flat_map(|(_, bytes)| {
            let body: Value = serde_json::from_slice(bytes).unwrap();
            body["records"].as_object().unwrap().keys().cloned().collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(visitors.len(), 75, "25 on each page, none twice");

    // The last page fails once: nothing of the first try is kept.
    let script = Script::start({
        let turns = in_turn(vec![paged(1), paged(2), http(502, "", ""), paged(1), paged(2), paged(3)]);
        move |asked: &Asked| turns(asked)
    });
    shop.accounts(&[("livechat", "base_url", &script.base(""))]);
    let run = shop.job_ends(&["left", "--at", &noon(2)], 0).await;
    assert_eq!(shop.files(&run).len(), 3);
    assert_eq!((script.asked("").len(), shop.count(&run, "retry").await), (6, 1));

    // More pages than anybody asked for.
    shop.accounts(&[("livechat", "max_pages", "2")]);
    let run = shop.job_ends(&["left", "--at", &noon(3)], 1).await;
    assert!(run["failure"]["message"].as_str().unwrap().contains("max_pages"), "{run}");
}

fn paged(page: u32) -> Vec<u8> {
    let chat = format!("CH{page}");
    answer(&json!({ "summary": { "total_pages": 3 }, "records": { chat: { "queue": { "duration": page } } } }))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_type_of_an_error_decides_whatever_the_status() {
    // type, the status it comes with, exit code, state, failure class, calls after the error is over
    let rows: [(&str, u16, i32, &str, usize); 16] = [
        ("authentication", 401, 4, "queued", 1),
        ("authorization", 400, 4, "queued", 1),
        ("authentication", 200, 4, "queued", 1),
        ("validation", 400, 1, "failed", 1),
        ("validation", 500, 1, "failed", 1),
        ("unsupported_version", 404, 1, "failed", 1),
        ("license_expired", 403, 1, "failed", 1),
        ("license_not_found", 404, 1, "failed", 1),
        ("wrong_product_version", 401, 1, "failed", 1),
        ("limit_reached", 429, 1, "failed", 1),
        ("misdirected_request", 421, 1, "failed", 1),
        ("not_found", 404, 1, "failed", 1),
        ("too_many_requests", 400, 0, "archived", 2),
        ("request_timeout", 400, 0, "archived", 2),
        ("service_unavailable", 400, 0, "archived", 2),
        ("internal", 400, 0, "archived", 2),
    ];
    let shop = shop().await;
    for (day, (kind, status, code, state, calls)) in rows.into_iter().enumerate() {
        let script = Script::start(in_turn(vec![error(status, kind), report()]));
        shop.accounts(&[("livechat", "base_url", &script.base(""))]);
        let run = shop.job_ends(&["ratings", "--at", &noon(day)], code).await;
        assert_eq!((run["state"].as_str(), script.asked("").len()), (Some(state), calls), "{kind} {status}: {run}");
        if state == "failed" {
            assert_eq!(run["failure"]["class"], "refused");
            let message = run["failure"]["message"].as_str().unwrap();
            assert!(message.contains(&format!("{kind}: about {kind}")), "{message}");
        }
        if code == 4 {
            shop.run(&["connections", "close", "north", "--vendor", "livechat"]).await.expect(0);
            let run = shop.job_ends(&["ratings", "--at", &noon(day)], 0).await;
            assert_eq!(run["state"], "archived", "{kind}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_an_unknown_type_is_decided_by_its_status_and_is_never_a_report() {
    let shop = shop().await;
    for (day, (status, code, calls)) in [(418, 1, 1), (500, 0, 2), (200, 1, 1)].into_iter().enumerate() {
        let script = Script::start(in_turn(vec![error(status, "brand_new"), report()]));
        shop.accounts(&[("livechat", "base_url", &script.base(""))]);
        shop.job_ends(&["ratings", "--at", &noon(day)], code).await;
        assert_eq!(script.asked("").len(), calls, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_misdirected_request_names_the_region_to_set() {
    let shop = shop().await;
    let body =
        json!({ "error": { "type": "misdirected_request", "message": "Wrong region", "data": { "region": "fra" } } });
    let script = Script::start(move |_| http(421, "", body.to_string()));
    shop.accounts(&[("livechat", "base_url", &script.base(""))]);
    let run = shop.job_ends(&["ratings"], 1).await;
    assert!(run["failure"]["message"].as_str().unwrap().contains("region: fra"), "{run}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_not_repeated_and_trouble_is_until_it_ends() {
    let shop = shop().await;
    shop.fault("livechat.report=400:1");
    let run = shop.job_ends(&["ratings", "--at", &noon(1)], 1).await;
    assert_eq!((run["failure"]["class"].as_str(), shop.asked("report").len()), (Some("refused"), 1));
    for (day, (fault, creates)) in
        [("500:3", 1), ("lost:3", 4), ("reset:3", 1), ("truncated:3", 4), ("garbage:3", 4)].into_iter().enumerate()
    {
        let before = (shop.asked("report").len(), shop.sandbox.creates(Vendor::LiveChat));
        shop.fault(&format!("livechat.report={fault}"));
        let run = shop.job_ends(&["ratings", "--at", &noon(2 + day)], 0).await;
        assert_eq!(shop.asked("report").len() - before.0, 4, "{fault}: three times in vain, once in earnest");
        assert_eq!(shop.sandbox.creates(Vendor::LiveChat) - before.1, creates, "{fault}");
        assert_eq!(shop.count(&run, "retry").await, 3, "{fault}");
        assert_eq!(shop.files(&run).len(), 1, "{fault}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lifecycle_headers_and_a_foreign_zone_become_notes_of_the_run() {
    let shop = shop().await;
    // 3.5 is legacy and 3.4 deprecated, as the sandbox has it.
    for (day, (version, words)) in
        [("3.4", "deprecation 2026-12-31"), ("3.5", "legacy 2026-12-31")].into_iter().enumerate()
    {
        shop.accounts(&[("livechat", "version", &format!("\"{version}\""))]);
        let run = shop.job_ends(&["ratings", "--at", &noon(day)], 0).await;
        let notes: Vec<_> = shop.events(&run).await.into_iter().filter(|(kind, _)| kind == "note").collect();
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].1.contains(words), "{notes:?}");
        assert!(shop.asked("report").last().unwrap().path.starts_with(&format!("/v{version}/")));
    }
    let body = json!({ "records": { "2026-01-02": { "chats": 1 } }, "request": { "timezone": "America/New_York" } });
    let both = http(200, "Legacy: 2027-01-01\r\nDeprecation: 2027-06-01\r\n", body.to_string());
    let script = Script::start(move |_| both.clone());
    shop.accounts(&[("livechat", "base_url", &script.base(""))]);
    let run = shop.job_ends(&["ratings", "--at", &noon(5)], 0).await;
    let notes: Vec<_> =
        shop.events(&run).await.into_iter().filter(|(kind, _)| kind == "note").map(|(_, d)| d).collect();
    assert_eq!(notes.len(), 3, "{notes:?}");
    for words in ["legacy 2027-01-01", "deprecation 2027-06-01", "America/New_York"] {
        assert!(notes.iter().any(|note| note.contains(words)), "{words}: {notes:?}");
    }
    // An up-to-date version says nothing, so there is nothing to note.
    shop.accounts(&[]);
    let run = shop.job_ends(&["ratings", "--at", &noon(6)], 0).await;
    assert_eq!(shop.count(&run, "note").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn version_path_and_region_are_as_the_connection_says() {
    let shop = shop().await;
    let script = Script::start(|_| report());
    let base = script.base("");
    let settings = [("livechat", "base_url", base.as_str())];
    shop.accounts(&settings);
    shop.job_ends(&["ratings", "--at", &noon(1)], 0).await;
    let more = [("livechat", "version", "\"3.7\""), ("livechat", "region", "fra")];
    shop.accounts(&[&settings[..], &more].concat());
    shop.job_ends(&["ratings", "--at", &noon(2)], 0).await;
    shop.accounts(&[&settings[..], &[("livechat", "path", "\"/r/{report}/v{version}\"")]].concat());
    shop.job_ends(&["ratings", "--at", &noon(3)], 0).await;
    let asked = script.asked("");
    let lines: Vec<_> = asked.iter().map(|a| (a.line.as_str(), a.header("x-region"))).collect();
    assert_eq!(
        lines,
        [
            ("POST /v3.6/reports/chats/ratings HTTP/1.1", None),
            ("POST /v3.7/reports/chats/ratings HTTP/1.1", Some("fra")),
            ("POST /r/chats/ratings/v3.6 HTTP/1.1", None),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_without_records_in_it_is_empty_and_kept_and_no_failure() {
    let shop = shop().await;
    shop.fault("livechat.report=no-rows:1");
    let run = shop.job_ends(&["ratings", "--at", &noon(1)], 0).await;
    assert_eq!(run["state"], "empty", "{run}");
    for (day, records) in [json!({}), json!([]), json!({ "2026-01-02": {} }), Value::Null].into_iter().enumerate() {
        let body = json!({ "name": "ratings-report", "records": records });
        let (said, sent) = (body.clone(), body.to_string());
        let script = Script::start(move |_| answer(&said));
        shop.accounts(&[("livechat", "base_url", &script.base(""))]);
        let run = shop.job_ends(&["ratings", "--at", &noon(2 + day)], 0).await;
        assert_eq!(run["state"], "empty", "{body}");
        assert_eq!(shop.files(&run)[0].1, sent.as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn json_that_is_no_report_is_not_archived() {
    let shop = shop().await;
    shop.job("ratings", &format!("give_up: 5m\n{RATINGS}"));
    let script = Script::start(|_| answer(&json!({ "hello": "world" })));
    shop.accounts(&[("livechat", "base_url", &script.base(""))]);
    let run = shop.job_ends(&["ratings"], 1).await;
    assert_eq!(run["failure"]["class"], "gave_up", "{run}");
    assert!(run["failure"]["message"].as_str().unwrap().contains("neither records nor summary"), "{run}");
    assert!(script.asked("").len() > 3, "asked again and again until give_up");
}
