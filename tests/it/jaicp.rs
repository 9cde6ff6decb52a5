//! JAICP's conversation: six background reports and their tasks, three paged queries, deletes, tasks that vanish.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use reportd::sandbox::{Vendor, credentials};
use serde_json::{Value, json};

use crate::harness::Shop;
use crate::vendors::{Asked, MESSAGES, Script, http, json as answer, noon};

async fn shop() -> Shop {
    let shop = Shop::hurried().await;
    shop.job("messages", MESSAGES);
    shop
}

fn path(rest: &str) -> String {
    format!("/api/reporter/p/{}/{rest}", credentials::JAICP_TOKEN)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_background_report_is_archived_as_the_very_bytes_that_were_sent() {
    let shop = Shop::hurried().await;
    let range = |key: &str| format!("filters: [{{ key: {key}, type: DATE_TIME_RANGE }}]");
    let reports = [
        ("messages", "messages", range("MESSAGE_TIME")),
        ("sessions", "sessions", range("SESSION_START_TIME")),
        ("clients", "clients", range("CLIENT_JOIN_TIME")),
        ("calls", "telephony", String::new()),
        ("daily", "daily", String::new()),
        ("client-list", "client-list", range("CLIENT_JOIN_TIME")),
    ];
    let mut day = 0;
    for (report, segment, filters) in &reports {
        // JAICP takes no settings for calls, so what comes is found out by looking.
        let types: &[&str] = if *report == "calls" { &[""] } else { &["CSV", "XLSX"] };
        for file_type in types {
            let settings =
                if file_type.is_empty() { String::new() } else { format!("settings: {{ fileType: {file_type} }}") };
            let yaml = format!("window: yesterday\njaicp:\n  report: {report}\n  {filters}\n  {settings}\n");
            shop.job(report, &yaml);
            day += 1;
            let run = shop.job_ends(&[report, "--at", &noon(day)], 0).await;
            assert_eq!(run["state"], "archived", "{report} {file_type}: {run}");
            let create = shop.asked("create").pop().unwrap();
            assert_eq!(create.path.split('?').next(), Some(path(&format!("reports/{segment}")).as_str()));
            assert_eq!(create.header("authorization"), None, "the token is in the path");
            let files = shop.files(&run);
            let (name, start): (_, &[u8]) =
                if *file_type == "XLSX" { ("report.xlsx", b"PK\x03\x04") } else { ("report.csv", b"\"") };
            assert_eq!(files[0].0, name, "{report} {file_type}");
            let download = shop.asked("download").pop().unwrap();
            let sent = shop.again(&download).await;
            assert!(sent.starts_with(start) && files[0].1 == sent, "{report} {file_type}");
        }
    }
    let creates = shop.asked("create");
    let of = |segment: &str| creates.iter().find(|r| r.path.contains(&format!("reports/{segment}"))).unwrap();
    assert!(of("telephony").path.contains("?startTime=") && of("telephony").body.is_empty());
    assert_eq!(of("daily").json()["date"].as_str().unwrap().len(), "2026-01-01".len());
    let times = |body: &Value| (body["filters"][0]["from"].clone(), body["filters"][0]["to"].clone());
    let day_one = (json!("2026-01-01T18:30:00.000Z"), json!("2026-01-02T18:29:59.999Z"));
    assert_eq!(times(&of("messages").json()), day_one);
}

/// Status word, rows written, rows to write.
type Row = (Option<String>, Option<i64>, Option<i64>);

#[tokio::test(flavor = "multi_thread")]
async fn progress_and_the_vendors_own_words_are_kept_in_remote_tasks() {
    let polls = AtomicUsize::new(0);
    let script = Script::start(move |asked: &Asked| {
        if asked.is("POST") {
            return answer(&json!({ "taskId": "t-7", "status": "CREATED", "accountId": 1 }));
        }
        if asked.is("/file") {
            return http(200, "", "a,b\r\n1,2\r\n");
        }
        match polls.fetch_add(1, Ordering::SeqCst) {
            0 => answer(&json!({ "taskId": "t-7", "status": "STARTED" })),
            n @ 1..4 => {
                answer(&json!({ "taskId": "t-7", "status": "STARTED", "writeCount": n * 10, "totalCount": 40 }))
            }
            _ => answer(
                &json!({ "taskId": "t-7", "status": "COMPLETED", "writeCount": 40, "totalCount": 40, "fileUrl": "file" }),
            ),
        }
    });
    let shop = shop().await;
    shop.accounts(&[("jaicp", "base_url", &script.base("/x"))]);
    // A witness beside the run: each change of a task's row.
    for statement in [
        "CREATE TABLE witness (n serial, status_word text, written bigint, total bigint)",
        "CREATE FUNCTION witness() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO witness (status_word, written, total) VALUES (NEW.status_word, NEW.rows_written, NEW.rows_total);
             RETURN NULL; END $$",
        "CREATE TRIGGER witness AFTER UPDATE ON remote_tasks FOR EACH ROW EXECUTE FUNCTION witness()",
    ] {
        sqlx::query(statement).execute(&shop.pool).await.unwrap();
    }
    let run = shop.job_ends(&["messages"], 0).await;
    assert_eq!((run["ticket"].as_str(), run["state"].as_str()), (Some("t-7"), Some("archived")));
    let mut rows: Vec<Row> = sqlx::query_as("SELECT status_word, written, total FROM witness ORDER BY n")
        .fetch_all(&shop.pool)
        .await
        .unwrap();
    rows.dedup();
    let row = |word: &str, written: Option<i64>| (Some(word.to_owned()), written, written.map(|_| 40));
    assert_eq!(
        rows,
        [
            row("CREATED", None),
            row("STARTED", None),
            row("STARTED", Some(10)),
            row("STARTED", Some(20)),
            row("STARTED", Some(30)),
            row("COMPLETED", Some(40)),
        ]
    );
    assert!(script.asked("/file").iter().all(|a| a.is("GET /x/file ")), "a relative link lies below the base URL");
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_after_deletes_the_one_task_once_its_file_is_archived() {
    let shop = shop().await;
    shop.job("tidy", &format!("{MESSAGES}  delete_after: true\n"));
    let kept = shop.job_ends(&["messages", "--at", &noon(1)], 0).await;
    let run = shop.job_ends(&["tidy", "--at", &noon(1)], 0).await;
    assert_eq!((kept["ticket"].as_str(), run["ticket"].as_str()), (Some("t-1"), Some("t-2")));
    let deletes: Vec<_> =
        shop.sandbox.received().into_iter().filter(|r| r.method == "DELETE").map(|r| r.path).collect();
    assert_eq!(deletes, [path("reports/tasks/t-2")]);
    assert_eq!((shop.sandbox.deleted(), shop.sandbox.account_wide_deletes()), (1, 0));
    let order: Vec<_> = shop.sandbox.received().iter().map(|r| r.operation).collect();
    let at = |operation| order.iter().rposition(|o| *o == operation).unwrap();
    assert!(at("download") < at("delete"), "{order:?}");
    let kinds: Vec<_> = shop.events(&run).await.into_iter().map(|(kind, _)| kind).collect();
    let at = |wanted: &str| kinds.iter().position(|kind| kind == wanted).unwrap();
    assert!(at("archived") < at("deleted"), "{kinds:?}");
    assert_eq!(shop.one::<i64>("SELECT count(*) FROM remote_tasks WHERE deleted_at IS NOT NULL").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_that_fails_is_told_and_changes_nothing() {
    let shop = shop().await;
    shop.job("tidy", &format!("{MESSAGES}  delete_after: true\n"));
    for (day, (fault, kind)) in
        [("500:1", "note"), ("403:1", "note"), ("lost:1", "note"), ("404:1", "deleted")].into_iter().enumerate()
    {
        shop.fault(&format!("jaicp.delete={fault}"));
        let run = shop.job_ends(&["tidy", "--at", &noon(day)], 0).await;
        assert_eq!(run["state"], "archived", "{fault}");
        assert_eq!(shop.events(&run).await.last().unwrap().0, kind, "{fault}: {:?}", shop.events(&run).await);
    }
    assert_eq!(shop.asked("delete").len(), 4);
    shop.run(&["archive", "verify"]).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_that_was_left_over_is_made_up_for_by_serve() {
    let shop = shop().await;
    shop.job("tidy", &format!("{MESSAGES}  delete_after: true\n"));
    shop.fault("jaicp.delete=500:1");
    shop.job_ends(&["tidy", "--at", &noon(1)], 0).await;
    assert_eq!(shop.sandbox.deleted(), 0);
    shop.advance(std::time::Duration::from_secs(3600)).await;
    let _serve = shop.start(&["serve", "--listen", "127.0.0.1:0"]);
    shop.until_count("SELECT count(*) FROM remote_tasks WHERE deleted_at IS NOT NULL AND delete_at IS NULL", 1).await;
    assert_eq!((shop.sandbox.deleted(), shop.sandbox.account_wide_deletes()), (1, 0));
}

fn rows_of(bytes: &[u8]) -> Vec<Value> {
    std::str::from_utf8(bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_are_fetched_page_by_page_and_gathered_in_one_file_of_rows() {
    let shop = Shop::hurried().await;
    shop.accounts(&[("jaicp", "page_size", "20")]);
    for (query, key, id) in [
        ("sessions", "SESSION_START_TIME", "sessionId"),
        ("messages", "MESSAGE_TIME", "messageId"),
        ("clients", "CLIENT_JOIN_TIME", "clientId"),
    ] {
        let yaml = format!(
            "window: previous_week\njaicp: {{ query: {query}, filters: [{{ key: {key}, type: DATE_TIME_RANGE }}] }}\n"
        );
        shop.job(query, &yaml);
        let run = shop.job_ends(&[query, "--at", &noon(20)], 0).await;
        let mut files = shop.files(&run);
        let derived = files.pop().unwrap();
        assert_eq!(derived.0, "rows.ndjson");
        let asked: Vec<_> =
            shop.asked("query").into_iter().filter(|r| r.path.contains(&format!("{query}/filter"))).collect();
        assert!(files.len() > 2 && files.len() == asked.len(), "{query}: {} files, {} calls", files.len(), asked.len());
        let mut rows = Vec::new();
        for (n, (request, (name, bytes))) in asked.iter().zip(&files).enumerate() {
            assert_eq!(*name, format!("page-{:04}.json", n + 1));
            assert!(request.path.ends_with(&format!("{query}/filter?page={n}&size=20")), "{}", request.path);
            assert!(*bytes == shop.again(request).await, "{query} page {n}");
            let page: Value = serde_json::from_slice(bytes).unwrap();
            rows.extend(page[query].as_array().unwrap().clone());
        }
        assert_eq!(rows_of(&derived.1), rows, "every row, in order, as it came");
        let total: Value = serde_json::from_slice(&files[0].1).unwrap();
        assert_eq!(total["paging"]["totalCount"], rows.len());
        let ids: HashSet<String> = rows.iter().filter_map(|row| row.get(id)).map(Value::to_string).collect();
        assert!(ids.is_empty() || ids.len() == rows.len(), "{query}");
        assert_eq!(shop.count(&run, "note").await, 0);
    }
    assert_eq!(shop.one::<i64>("SELECT count(*) FROM remote_tasks").await, 0, "a query makes no task");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_with_messages_bring_every_page_of_every_session_by_get_or_post() {
    let shop = Shop::hurried().await;
    let yaml = "window: yesterday\njaicp: { query: sessions, with_messages: true, filters: [{ key: SESSION_START_TIME, type: DATE_TIME_RANGE }] }\n";
    shop.job("sessions", yaml);
    for (day, (setting, method)) in [("", "GET"), ("POST", "POST")].into_iter().enumerate() {
        shop.accounts(&[("jaicp", "page_size", "3"), ("jaicp", "by_session_method", setting)]);
        let before = shop.asked("by-session").len();
        let run = shop.job_ends(&["sessions", "--at", &noon(day)], 0).await;
        let files = shop.files(&run);
        let of = |name: &str| &files.iter().find(|(n, _)| n == name).unwrap().1;
        let sessions: Vec<String> =
            rows_of(of("rows.ndjson")).iter().map(|row| row["sessionId"].as_str().unwrap().to_owned()).collect();
        let asked = shop.asked("by-session").split_off(before);
        assert!(asked.iter().all(|r| r.method == method), "{method}");
        let (mut messages, mut pages) = (Vec::new(), 0);
        for (n, session) in sessions.iter().enumerate() {
            let of_session: Vec<_> =
                asked.iter().filter(|r| r.path.contains(&format!("sessionId={session}&"))).collect();
            for (page, request) in of_session.iter().enumerate() {
                let bytes = of(&format!("session-{:06}-page-{:04}.json", n + 1, page + 1));
                assert!(*bytes == shop.again(request).await);
                let body: Value = serde_json::from_slice(bytes).unwrap();
                assert_eq!(body["session"]["sessionId"], session.as_str());
                messages.extend(body["messages"].as_array().unwrap().clone());
                pages += 1;
            }
            let body: Value = serde_json::from_slice(of(&format!("session-{:06}-page-0001.json", n + 1))).unwrap();
            let total = body["paging"]["totalCount"].as_u64().unwrap().max(1);
            assert_eq!(of_session.len() as u64, total.div_ceil(3), "{session}: {total} messages, 3 a page");
        }
        assert_eq!(pages, asked.len());
        assert!(sessions.len() > 4 && pages > sessions.len(), "some session has more than one page");
        assert_eq!(rows_of(of("messages.ndjson")), messages);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_without_rows_is_empty_and_one_with_too_many_pages_fails() {
    let shop = Shop::hurried().await;
    shop.job(
        "clients",
        "window: yesterday\njaicp: { query: clients, filters: [{ key: CLIENT_JOIN_TIME, type: DATE_TIME_RANGE }] }\n",
    );
    shop.fault("jaicp.query=no-rows:1");
    let run = shop.job_ends(&["clients", "--at", &noon(1)], 0).await;
    assert_eq!(run["state"], "empty", "{run}");
    assert_eq!(shop.files(&run).len(), 2);
    shop.accounts(&[("jaicp", "page_size", "2"), ("jaicp", "max_pages", "2")]);
    let run = shop.job_ends(&["clients", "--at", &noon(2)], 1).await;
    assert!(run["failure"]["message"].as_str().unwrap().contains("max_pages"), "{run}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_move_between_pages_are_noted() {
    // The same row on both pages, and fewer rows than counted.
    let page = |ids: &[&str], total: u32| {
        let rows: Vec<Value> = ids.iter().map(|id| json!({ "clientId": 1, "id": id })).collect();
        answer(&json!({ "paging": { "totalCount": total }, "clients": rows }))
    };
    let script = Script::start(crate::vendors::in_turn(vec![page(&["a", "b"], 4), page(&["b"], 4), page(&[], 4)]));
    let shop = Shop::hurried().await;
    shop.job(
        "clients",
        "window: yesterday\njaicp: { query: clients, filters: [{ key: CLIENT_JOIN_TIME, type: DATE_TIME_RANGE }] }\n",
    );
    shop.accounts(&[("jaicp", "base_url", &script.base("/x")), ("jaicp", "page_size", "2")]);
    let run = shop.job_ends(&["clients"], 0).await;
    let notes: Vec<_> =
        shop.events(&run).await.into_iter().filter(|(kind, _)| kind == "note").map(|(_, d)| d).collect();
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes[0].contains("two pages") && notes[1].contains("3 rows came, and JAICP counts 4"), "{notes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_without_a_host_is_below_the_vendors_host() {
    let shop = shop().await;
    shop.fault("jaicp.create=relative-link:1");
    let run = shop.job_ends(&["messages"], 0).await;
    assert_eq!(run["state"], "archived");
    assert!(shop.files(&run)[0].1 == shop.again(&shop.asked("download")[0]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_create_is_sent_again_and_archived_once() {
    let shop = shop().await;
    shop.fault("jaicp.create=lost:1");
    let run = shop.job_ends(&["messages"], 0).await;
    assert_eq!((run["ticket"].as_str(), run["revision"].as_i64()), (Some("t-2"), Some(1)), "{run}");
    assert_eq!(shop.sandbox.creates(Vendor::Jaicp), 2);
    assert_eq!((shop.asked("download").len(), shop.files(&run).len()), (1, 1));
    assert!(
        shop.asked("task").iter().all(|r| r.path.ends_with("t-2")),
        "the lost task may be a colleague's: left alone"
    );
    assert_eq!(shop.one::<i64>("SELECT count(*) FROM revisions").await, 1);
    let outcomes: Vec<String> = sqlx::query_scalar("SELECT outcome FROM remote_tasks ORDER BY intended_at")
        .fetch_all(&shop.pool)
        .await
        .unwrap();
    assert_eq!(outcomes, ["unknown", "created"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_not_known_is_believed_gone_only_after_the_grace() {
    let shop = shop().await;
    // Twice not known right after the create: the vendor is slow to know its own tasks.
    shop.fault("jaicp.task=gone:2");
    let run = shop.job_ends(&["messages", "--at", &noon(1)], 0).await;
    assert_eq!((run["state"].as_str(), shop.count(&run, "retry").await), (Some("archived"), 2));
    assert_eq!(shop.sandbox.creates(Vendor::Jaicp), 1);
    // For ever: failed after 30 s, and a retry creates anew.
    shop.fault("jaicp.create=gone:1");
    let run = shop.job_ends(&["messages", "--at", &noon(2)], 1).await;
    assert_eq!(run["failure"]["class"], "gone", "{run}");
    assert!(shop.count(&run, "retry").await > 5, "30 s of grace, asked every 3 s");
    shop.run(&["retry", run["run_id"].as_str().unwrap()]).await.expect(0);
    assert_eq!(shop.job_ends(&["messages", "--at", &noon(2)], 0).await["ticket"], "t-3");
    // Without grace the first is the last.
    shop.accounts(&[("jaicp", "gone_grace", "0")]);
    shop.fault("jaicp.create=gone:1");
    let run = shop.job_ends(&["messages", "--at", &noon(3)], 1).await;
    assert_eq!((run["failure"]["class"].as_str(), shop.count(&run, "retry").await), (Some("gone"), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_somebody_deleted_is_gone() {
    let script = jaicp_that_says(|_| json!({ "taskId": "t-7", "status": "DELETED" }));
    let shop = shop().await;
    shop.accounts(&[("jaicp", "base_url", &script.base("/x")), ("jaicp", "gone_grace", "0")]);
    let run = shop.job_ends(&["messages"], 1).await;
    assert_eq!(run["failure"]["class"], "gone", "{run}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_stopped_or_failed_fails_with_the_vendors_word() {
    let shop = shop().await;
    for (day, (fault, word)) in [("stopped", "STOPPED"), ("failed", "FAILED")].into_iter().enumerate() {
        shop.fault(&format!("jaicp.create={fault}:1"));
        let run = shop.job_ends(&["messages", "--at", &noon(day)], 1).await;
        assert_eq!(run["failure"]["class"], "vendor_failed");
        assert!(run["failure"]["message"].as_str().unwrap().contains(word), "{run}");
        let task: String = shop.one("SELECT status_word FROM remote_tasks ORDER BY intended_at DESC LIMIT 1").await;
        assert_eq!(task, word);
    }
    assert_eq!(shop.sandbox.creates(Vendor::Jaicp), 2, "neither was created again by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_without_header_and_without_rows_is_empty() {
    let shop = shop().await;
    shop.job("bare", &MESSAGES.replace("fileType: CSV", "fileType: CSV, withHeader: false"));
    shop.fault("jaicp.create=no-rows:1");
    let run = shop.job_ends(&["bare", "--at", &noon(1)], 0).await;
    assert_eq!(run["state"], "empty", "{run}");
    assert!(shop.files(&run)[0].1.is_empty());
    // With rows it is not, though its first line looks like a header.
    let run = shop.job_ends(&["bare", "--at", &noon(2)], 0).await;
    assert_eq!(run["state"], "archived");
    // A workbook tells nothing of its rows; JAICP's count does.
    shop.job("book", &MESSAGES.replace("CSV", "XLSX"));
    shop.fault("jaicp.create=no-rows:1");
    assert_eq!(shop.job_ends(&["book", "--at", &noon(3)], 0).await["state"], "empty");
}

fn jaicp_that_says(task: impl Fn(usize) -> Value + Send + Sync + 'static) -> Script {
    let polls = AtomicUsize::new(0);
    Script::start(move |asked: &Asked| {
        if asked.is("POST") {
            // As lean as an answer can be.
            return answer(&json!({ "taskId": 77 }));
        }
        if asked.is("/file") {
            return http(200, "", "a,b\r\n1,2\r\n");
        }
        answer(&task(polls.fetch_add(1, Ordering::SeqCst)))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_answers_its_id_alone_is_a_task() {
    let script = jaicp_that_says(|_| json!({ "status": "COMPLETED", "fileUrl": "/file" }));
    let shop = shop().await;
    shop.accounts(&[("jaicp", "base_url", &script.base("/x"))]);
    let run = shop.job_ends(&["messages"], 0).await;
    assert_eq!((run["ticket"].as_str(), run["state"].as_str()), (Some("77"), Some("archived")));
    assert!(script.asked("GET")[0].is("/reports/tasks/77 "), "{:?}", script.asked("GET"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_could_change_the_path_is_never_used() {
    for id in [json!("../../all"), json!("t 1"), json!(""), json!({ "a": 1 }), Value::Null] {
        let script = {
            let id = id.clone();
            Script::start(move |_| answer(&json!({ "taskId": id, "status": "CREATED" })))
        };
        let shop = shop().await;
        shop.job("messages", &format!("give_up: 1m\n{MESSAGES}"));
        shop.accounts(&[("jaicp", "base_url", &script.base("/x"))]);
        let run = shop.job_ends(&["messages"], 1).await;
        assert_eq!(run["failure"]["class"], "gave_up", "{id}: {run}");
        assert!(script.asked("GET").is_empty(), "{id}");
    }
}
