//! The table of DESIGN 6, cell by cell: what goes wrong x what was asked. Each row spoils one call, sees what state the run
//! comes to and how many reports the vendor made, ends the fault and sees the run heal. Then what only downloads and only
//! credentials have.

use std::time::Duration;

use reportd::sandbox::{Credentials, Vendor, credentials};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Shop, run};
use crate::vendors::{Asked, ENGAGEMENT, MESSAGES, Relay, Script, http, json as answer, noon, until};

/// A LiveChat job whose report always has rows.
const RATINGS: &str = "window: yesterday\nlivechat: { report: chats/ranking }\n";

/// A query that is decided by its HTTP status. (LiveChat's are decided by the type of the error: see livechat.rs.)
const SESSIONS: &str =
    "window: yesterday\njaicp: { query: sessions, filters: [{ key: SESSION_START_TIME, type: DATE_TIME_RANGE }] }\n";

/// What was asked when it went wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Call {
    Query,
    BikCreate,
    JaicpCreate,
    BikPoll,
    JaicpPoll,
    BikDownload,
    JaicpDownload,
}

impl Call {
    /// Its job, its vendor, its name in a fault.
    fn parts(self) -> (&'static str, Vendor, &'static str) {
        match self {
            Call::Query => ("sessions", Vendor::Jaicp, "jaicp.query"),
            Call::BikCreate => ("engagement", Vendor::Bik, "bik.generateReport"),
            Call::BikPoll => ("engagement", Vendor::Bik, "bik.getReportById"),
            Call::BikDownload => ("engagement", Vendor::Bik, "bik.download"),
            Call::JaicpCreate => ("messages", Vendor::Jaicp, "jaicp.create"),
            Call::JaicpPoll => ("messages", Vendor::Jaicp, "jaicp.task"),
            Call::JaicpDownload => ("messages", Vendor::Jaicp, "jaicp.download"),
        }
    }

    fn is_poll(self) -> bool {
        matches!(self, Call::BikPoll | Call::JaicpPoll)
    }

    fn is_download(self) -> bool {
        matches!(self, Call::BikDownload | Call::JaicpDownload)
    }

    fn is_first(self) -> bool {
        !self.is_poll() && !self.is_download()
    }
}

/// What the design's table says of a cell.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cell {
    /// Asked again by itself, after a back-off or the time the vendor names.
    Again,
    /// Held for an operator.
    Held,
    /// Failed; an operator's `retry` starts it again.
    Failed,
    /// The breaker opens; the run waits.
    Breaker,
    /// The link leads to a host that nobody allowed; the run waits.
    Blocked,
}

/// A row of the design's table.
#[derive(Clone, Copy, Debug)]
enum Row {
    /// Timeout, reset, truncated, unreadable 2xx, 408, 425, 5xx.
    Unclear,
    /// 429, 503 with Retry-After.
    Wait,
    /// 400, 413, 422.
    No,
    /// 404.
    NotFound,
    /// 3xx.
    Redirect,
    /// 401, 403.
    Denied,
}

impl Row {
    fn cell(self, call: Call) -> Cell {
        match self {
            // A query is sent again, and a JAICP create too; BIK would mail people twice.
            Row::Unclear if call == Call::BikCreate => Cell::Held,
            Row::Unclear | Row::Wait => Cell::Again,
            Row::No => Cell::Failed,
            Row::NotFound if call.is_first() => Cell::Failed,
            // Within the grace after a create; a dead link is polled afresh.
            Row::NotFound => Cell::Again,
            Row::Redirect => match call {
                Call::BikCreate => Cell::Held,
                Call::JaicpCreate => Cell::Again,
                // The redirect is followed, to where nobody may go.
                _ if call.is_download() => Cell::Blocked,
                _ => Cell::Failed,
            },
            // A link that refuses us is dead, and says nothing of our credentials.
            Row::Denied if call.is_download() => Cell::Again,
            Row::Denied => Cell::Breaker,
        }
    }
}

/// Every fault, its row, and whether the vendor does what it was asked before it goes wrong.
const FAULTS: [(&str, Row, bool); 21] = [
    ("hang", Row::Unclear, true),
    ("reset", Row::Unclear, false),
    ("lost", Row::Unclear, true),
    ("truncated", Row::Unclear, true),
    ("html", Row::Unclear, true),
    ("empty", Row::Unclear, true),
    ("garbage", Row::Unclear, true),
    ("408", Row::Unclear, false),
    ("425", Row::Unclear, false),
    ("500", Row::Unclear, false),
    ("503", Row::Unclear, false),
    ("429", Row::Wait, false),
    ("429+5", Row::Wait, false),
    ("503+5", Row::Wait, false),
    ("400", Row::No, false),
    ("413", Row::No, false),
    ("422", Row::No, false),
    ("404", Row::NotFound, false),
    ("302", Row::Redirect, false),
    ("401", Row::Denied, false),
    ("403", Row::Denied, false),
];

async fn shop() -> Shop {
    let shop = Shop::hurried().await;
    shop.accounts(&[("bik", "timeout", "1s"), ("livechat", "timeout", "1s"), ("jaicp", "timeout", "1s")]);
    shop.job("ratings", RATINGS);
    shop.job("engagement", ENGAGEMENT);
    shop.job("messages", MESSAGES);
    shop.job("sessions", SESSIONS);
    shop
}

/// What the vendor was made to do so far: reports made, or queries received.
fn made_so_far(shop: &Shop, call: Call) -> usize {
    match call {
        Call::Query => shop.asked("query").len(),
        _ => shop.sandbox.creates(call.parts().1),
    }
}

/// One cell: spoils one call of one run, and heals it.
async fn play(shop: &Shop, call: Call, day: usize, (fault, row, effect): (&str, Row, bool)) {
    let (job, vendor, operation) = call.parts();
    let (what, cell) = (format!("{operation}={fault}"), row.cell(call));
    let at = noon(day);
    let args = [job, "--at", at.as_str()];
    let creates = made_so_far(shop, call);
    // What the vendor makes while the fault lasts: a first call's effect, or the report that is polled for.
    let made = usize::from(effect || !call.is_first() || call == Call::Query);
    shop.fault(&format!("{what}:1"));

    let (code, state) = match cell {
        Cell::Again => (0, "archived"),
        Cell::Held => (3, "held"),
        Cell::Failed => (1, "failed"),
        Cell::Breaker if call.is_first() => (4, "queued"),
        Cell::Breaker | Cell::Blocked => (4, "waiting"),
    };
    let run = shop.job_ends(&args, code).await;
    assert_eq!(run["state"], state, "{what}: {run}");
    let id = run["run_id"].as_str().unwrap();
    if cell == Cell::Again {
        assert_eq!(shop.count(&run, "retry").await, 1, "{what}: {:?}", shop.events(&run).await);
        let created = if call.is_first() { made + 1 } else { 1 };
        assert_eq!(made_so_far(shop, call) - creates, created, "{what}");
        let files = if call == Call::Query { ["page-0001.json", "rows.ndjson"].len() } else { 1 };
        assert_eq!(shop.files(&run).len(), files, "{what}");
        return;
    }
    assert_eq!(made_so_far(shop, call) - creates, made, "{what}");
    let class = run["failure"]["class"].as_str();
    match cell {
        Cell::Held => {
            assert_eq!(class, Some("unknown_create"), "{what}");
            shop.run(&["resolve", id, "--not-created"]).await.expect(0);
        }
        Cell::Failed => {
            let expected = if matches!(row, Row::Redirect) { "protocol" } else { "refused" };
            assert_eq!(class, Some(expected), "{what}");
            shop.run(&["retry", id]).await.expect(0);
        }
        Cell::Breaker => {
            assert_eq!(class, None, "{what}");
            let open = shop.run(&["connections"]).await.expect(0).stdout;
            let open: Vec<_> = open.lines().filter(|line| line.contains("open: ")).collect();
            assert!(open.len() == 1 && open[0].contains(vendor.word()), "{what}: {open:?}");
            shop.run(&["connections", "close", "north", "--vendor", vendor.word()]).await.expect(0);
        }
        Cell::Blocked => {
            let note: String = shop.one("SELECT note FROM runs WHERE finished_at IS NULL").await;
            assert!(note.contains("files.elsewhere.example"), "{what}: {note}");
        }
        Cell::Again => {}
    }
    let run = shop.job_ends(&args, 0).await;
    assert_eq!((run["run_id"].as_str(), run["state"].as_str()), (Some(id), Some("archived")), "{what}");
    // A first call that is sent again makes another report; one that was made is fetched, and not made again.
    let created = if call.is_first() { made + 1 } else { 1 };
    assert_eq!(made_so_far(shop, call) - creates, created, "{what}");
}

/// One fault of each row, for calls that share their code with one that meets every fault.
const ONE_OF_EACH: [&str; 6] = ["lost", "503+5", "400", "404", "302", "401"];

async fn column(call: Call) {
    let shop = shop().await;
    let few = matches!(call, Call::JaicpPoll | Call::BikDownload);
    let faults: Vec<_> = FAULTS.into_iter().filter(|(word, ..)| !few || ONE_OF_EACH.contains(word)).collect();
    for (day, fault) in faults.iter().enumerate() {
        play(&shop, call, day, *fault).await;
    }
    let archived = shop.one::<i64>("SELECT count(*) FROM runs WHERE state = 'archived'").await;
    assert_eq!(usize::try_from(archived).unwrap(), faults.len());
    assert_eq!(shop.one::<i64>("SELECT count(*) FROM revisions WHERE revision > 1").await, 0, "each archived once");
    shop.run(&["archive", "verify"]).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoiled_query_is_asked_again_refused_or_waits_as_the_table_says() {
    column(Call::Query).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoiled_bik_create_is_never_sent_twice_by_itself() {
    column(Call::BikCreate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoiled_jaicp_create_is_sent_again_and_archived_once() {
    column(Call::JaicpCreate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoiled_bik_poll_costs_no_second_create() {
    column(Call::BikPoll).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoiled_jaicp_poll_costs_no_second_create() {
    column(Call::JaicpPoll).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoiled_bik_download_costs_no_second_create() {
    column(Call::BikDownload).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoiled_jaicp_download_costs_no_second_create() {
    column(Call::JaicpDownload).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vendor_out_of_reach_is_tried_again_until_it_is_back_and_is_asked_once() {
    let shop = Shop::open().await;
    shop.job("ratings", RATINGS);
    shop.job("engagement", ENGAGEMENT);
    shop.job("messages", MESSAGES);
    let mut relay = Relay::refusing(shop.sandbox.addr());
    let bases = [
        ("bik", relay.base(&shop.sandbox.bik_base_url())),
        ("livechat", relay.base(&shop.sandbox.livechat_base_url())),
        ("jaicp", relay.base(&shop.sandbox.jaicp_base_url())),
    ];
    let changes: Vec<_> = bases.iter().map(|(vendor, base)| (*vendor, "base_url", base.as_str())).collect();
    shop.accounts(&changes);

    // The first calls never leave: nothing is unknown, not even of BIK's create.
    for job in ["ratings", "engagement", "messages"] {
        let ran = shop.run(&["run-job", job, "--wait", "1s", "--format", "json"]).await.expect(4);
        assert_eq!(ran.json()[0]["state"], "queued", "{job}");
        assert!(shop.count(&ran.json()[0], "retry").await >= 1, "{job}");
    }
    assert!(shop.sandbox.received().is_empty());
    let outcomes = shop.one::<i64>("SELECT count(*) FROM remote_tasks WHERE outcome <> 'not_sent'").await;
    assert_eq!(outcomes, 0);
    relay.open();

    // The tasks are made; then the vendor goes away again before they are asked for.
    for (job, vendor) in [("engagement", Vendor::Bik), ("messages", Vendor::Jaicp)] {
        let command = shop.command(&["run-job", job, "--format", "json", "--wait", "60s"]);
        let running = tokio::spawn(run(command));
        until("a create", || async { (shop.sandbox.creates(vendor) == 1).then_some(()) }).await;
        relay.shut().await;
        until("a poll that did not leave", || async {
            let sql = "SELECT errors FROM runs WHERE state = 'waiting' AND note LIKE '%could not be reached%'";
            sqlx::query_scalar::<_, i32>(sql).fetch_optional(&shop.pool).await.unwrap()
        })
        .await;
        relay.open();
        shop.hurry(true).await;
        let ran = running.await.unwrap().expect(0);
        assert_eq!(ran.json()[0]["state"], "archived");
        shop.hurry(false).await;
    }
    shop.hurry(true).await;
    shop.job_ends(&["ratings"], 0).await;
    for vendor in [Vendor::Bik, Vendor::LiveChat, Vendor::Jaicp] {
        assert_eq!(shop.sandbox.creates(vendor), 1, "{vendor}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_that_does_not_end_is_given_up_after_its_time_and_not_before() {
    let shop = shop().await;
    shop.fault("livechat.report=500");
    let run = shop.job_ends(&["ratings"], 1).await;
    assert_eq!(run["failure"]["class"], "gave_up", "{run}");
    let hours: f64 = shop.one("SELECT extract(epoch FROM finished_at - created_at)::float8 / 3600 FROM runs").await;
    assert!((24.0..24.5).contains(&hours), "{hours}");
    let calls = shop.asked("report").len();
    assert!((96..600).contains(&calls), "back-off of at most 15 min, with jitter: {calls} calls in a day");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_the_vendor_asks_for_is_kept() {
    let shop = Shop::open().await;
    shop.job("ratings", RATINGS);
    shop.fault("livechat.report=503+900:1");
    shop.run(&["run-job", "ratings", "--wait", "1s"]).await.expect(4);
    let wait: f64 = shop.one("SELECT extract(epoch FROM next_step_at - reportd_now())::float8 FROM runs").await;
    assert!((890.0..=900.0).contains(&wait), "{wait}");
    shop.run(&["run-job", "ratings", "--wait", "1s"]).await.expect(4);
    assert_eq!(shop.asked("report").len(), 1);
    shop.advance(Duration::from_secs(901)).await;
    shop.run(&["run-job", "ratings", "--wait", "60s"]).await.expect(0);
}

/// A BIK whose reports are done at once, at this link; anything else is answered by `file`.
fn bik_with_link(link: impl Into<String>, file: impl Fn(&Asked) -> Vec<u8> + Send + Sync + 'static) -> Script {
    let link = link.into();
    Script::start(move |asked: &Asked| {
        if asked.is("generateReport") {
            answer(&json!({ "status": 200, "success": true, "data": { "reportHistoryId": 7001 } }))
        } else if asked.is("getReportById") {
            let data = json!({ "reportStatus": "COMPLETED", "downloadLink": link });
            answer(&json!({ "status": 200, "success": true, "data": data }))
        } else {
            file(asked)
        }
    })
}

fn csv() -> Vec<u8> {
    http(200, "content-type: text/csv\r\n", "a,b\r\n1,2\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_report_is_never_archived() {
    let bodies: [(&str, Vec<u8>, &str); 7] = [
        ("an HTML page", http(200, "content-type: text/csv\r\n", "\n <!DOCTYPE html><html>"), "HTML"),
        ("nothing", http(200, "content-type: text/csv\r\n", ""), "0 bytes"),
        ("an XML error", http(200, "content-type: text/csv\r\n", "<?xml version='1.0'?><Error/>"), "XML"),
        ("JSON", http(200, "content-type: text/csv\r\n", "{\"error\":{\"code\":403}}"), "JSON"),
        ("a workbook", http(200, "content-type: text/csv\r\n", b"PK\x03\x04and more"), "workbook"),
        ("a part", http(206, "content-type: text/csv\r\n", "a,b\r\n1,2\r\n"), "HTTP 206"),
        ("half a file", b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\na,b\r\n1,".to_vec(), "no clear answer"),
    ];
    let shop = Shop::hurried().await;
    shop.job("engagement", &format!("give_up: 5m\n{ENGAGEMENT}"));
    for (day, (what, body, words)) in bodies.into_iter().enumerate() {
        let script = bik_with_link("/file.csv", move |_| body.clone());
        shop.accounts(&[("bik", "base_url", &script.base("/x"))]);
        // The script's ids start anew each time; those of other runs are taken.
        sqlx::query("UPDATE remote_tasks SET remote_id = attempt_id::text").execute(&shop.pool).await.unwrap();
        let run = shop.job_ends(&["engagement", "--at", &noon(day)], 1).await;
        assert_eq!(run["failure"]["class"], "gave_up", "{what}: {run}");
        assert!(run["failure"]["message"].as_str().unwrap().contains(words), "{what}: {run}");
        assert_eq!(script.asked("generateReport").len(), 1, "{what}");
        assert!(script.asked("GET /file.csv").len() > 3, "{what}: a fresh link may bring a better file");
    }
    assert_eq!(shop.one::<i64>("SELECT count(*) FROM revisions").await, 0);
    let mut folders = vec![shop.archive().join("engagement")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
            assert!(entry.path().is_dir(), "{entry:?}");
            folders.push(entry.path());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_host_is_named_and_not_asked_until_it_is_allowed() {
    let shop = Shop::open().await;
    shop.job("engagement", ENGAGEMENT);
    let mut files = Script::refusing([127, 0, 0, 2].into(), |_| csv());
    files.open();
    let script = bik_with_link(format!("{}/file.csv?token=abc", files.url()), |_| csv());
    let base = script.base("/x");
    shop.accounts(&[("bik", "base_url", &base)]);
    let ran = shop.run(&["run-job", "engagement", "--format", "json", "--wait", "60s"]).await.expect(4);
    assert_eq!(ran.json()[0]["state"], "waiting");
    assert!(ran.stderr.contains("127.0.0.2") && ran.stderr.contains("allowed_hosts"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("abc"), "{}", ran.stderr);
    assert!(files.asked("").is_empty());

    shop.accounts(&[("bik", "base_url", &base), ("bik", "allowed_hosts", "[127.0.0.2]")]);
    shop.advance(Duration::from_secs(15 * 60)).await;
    let run = shop.job_ends(&["engagement"], 0).await;
    assert_eq!(run["state"], "archived");
    assert_eq!(script.asked("generateReport").len(), 1);
    let asked = &files.asked("")[0];
    assert_eq!((asked.line.as_str(), asked.header("authorization")), ("GET /file.csv?token=abc HTTP/1.1", None));
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_of_a_download_are_followed_within_the_allowed_hosts_and_no_further() {
    let mut files = Script::refusing([127, 0, 0, 2].into(), |_| csv());
    files.open();
    let elsewhere = format!("location: {}/f\r\n", files.url());
    let script = bik_with_link("/one", move |asked| match asked.line.as_str() {
        "GET /one HTTP/1.1" => http(302, "location: two\r\n", ""),
        "GET /two HTTP/1.1" => http(307, &elsewhere, ""),
        _ => http(404, "", ""),
    });
    let base = script.base("/x");
    let shop = Shop::open().await;
    shop.job("engagement", ENGAGEMENT);
    shop.accounts(&[("bik", "base_url", &base)]);
    let ran = shop.run(&["run-job", "engagement", "--wait", "60s"]).await.expect(4);
    assert!(ran.stderr.contains("127.0.0.2"), "{}", ran.stderr);
    assert_eq!((script.asked("GET /two").len(), files.asked("").len()), (1, 0));
    shop.accounts(&[("bik", "base_url", &base), ("bik", "allowed_hosts", "[127.0.0.2]")]);
    shop.advance(Duration::from_secs(15 * 60)).await;
    shop.job_ends(&["engagement"], 0).await;
    assert_eq!(files.asked("")[0].header("authorization"), None);

    // In a circle: no longer than a few hops, then polled afresh.
    let script = bik_with_link("/one", |_| http(302, "location: /one\r\n", ""));
    let shop = Shop::hurried().await;
    shop.job("engagement", &format!("give_up: 1m\n{ENGAGEMENT}"));
    shop.accounts(&[("bik", "base_url", &script.base("/x"))]);
    let run = shop.job_ends(&["engagement"], 1).await;
    assert!(run["failure"]["message"].as_str().unwrap().contains("redirects more than"), "{run}");
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_for_downloads_go_to_the_vendors_own_host_and_no_other() {
    let mut files = Script::refusing([127, 0, 0, 2].into(), |_| csv());
    files.open();
    let foreign = format!("{}/file", files.url());
    for own in [true, false] {
        let link = if own { "/file".to_owned() } else { foreign.clone() };
        let script = Script::start(move |asked: &Asked| match asked.line.as_str() {
            line if line.starts_with("POST") => answer(&json!({ "taskId": format!("t-{own}") })),
            "GET /file HTTP/1.1" => csv(),
            _ => answer(&json!({ "status": "COMPLETED", "fileUrl": link })),
        });
        let shop = Shop::hurried().await;
        shop.job("messages", MESSAGES);
        shop.accounts(&[
            ("jaicp", "base_url", &script.base("/x")),
            ("jaicp", "allowed_hosts", "[127.0.0.2]"),
            ("jaicp", "download_headers", "{ X-Key: \"env:BIK_KEY\" }"),
        ]);
        shop.job_ends(&["messages"], 0).await;
        let asked = if own { script.asked("GET /file") } else { files.asked("GET /file") };
        let expected = own.then_some(credentials::BIK_KEY);
        assert_eq!((asked.len(), asked[0].header("x-key")), (1, expected), "own host: {own}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_http_link_off_loopback_is_refused() {
    // A documentation address: were it asked, the run would wait for it instead of failing.
    let script = bik_with_link("http://192.0.2.1/file.csv", |_| csv());
    let shop = Shop::hurried().await;
    shop.job("engagement", ENGAGEMENT);
    shop.accounts(&[("bik", "base_url", &script.base("/x")), ("bik", "allowed_hosts", "[192.0.2.1]")]);
    let run = shop.job_ends(&["engagement"], 1).await;
    assert_eq!(run["failure"]["class"], "protocol");
    assert!(run["failure"]["message"].as_str().unwrap().contains("not https"), "{run}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_host_is_out_of_reach_is_polled_for_again() {
    let mut files = Script::refusing([127, 0, 0, 2].into(), |_| csv());
    let script = bik_with_link(format!("{}/f", files.url()), |_| csv());
    let shop = Shop::open().await;
    shop.job("engagement", ENGAGEMENT);
    shop.accounts(&[("bik", "base_url", &script.base("/x")), ("bik", "allowed_hosts", "[127.0.0.2]")]);
    let running = tokio::spawn(run(shop.command(&["run-job", "engagement", "--wait", "60s"])));
    until("a download that did not start", || async {
        let sql = "SELECT errors FROM runs WHERE note LIKE '%could not be reached%'";
        sqlx::query_scalar::<_, i32>(sql).fetch_optional(&shop.pool).await.unwrap()
    })
    .await;
    files.open();
    shop.hurry(true).await;
    running.await.unwrap().expect(0);
    assert_eq!((script.asked("generateReport").len(), files.asked("GET /f").len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_download_is_cut_and_started_anew() {
    let shop = Shop::hurried().await;
    shop.job("messages", MESSAGES);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let keeper = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_u8().await.unwrap();
        // The head comes and a little of the body, and then nothing for as long as the test lasts.
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\na,b\r\n").await.unwrap();
        std::future::pending::<()>().await;
    });
    let stalled = std::sync::Mutex::new(false);
    let script = Script::start(move |asked: &Asked| match asked.line.as_str() {
        line if line.starts_with("POST") => answer(&json!({ "taskId": "t-1" })),
        "GET /file HTTP/1.1" => csv(),
        _ => {
            let mut stalled = stalled.lock().unwrap();
            let link = if *stalled { "/file".to_owned() } else { format!("http://{addr}/slow") };
            *stalled = true;
            answer(&json!({ "status": "COMPLETED", "fileUrl": link }))
        }
    });
    shop.accounts(&[("jaicp", "base_url", &script.base("/x")), ("jaicp", "download_idle", "1s")]);
    let run = shop.job_ends(&["messages"], 0).await;
    assert_eq!(shop.files(&run)[0].1, b"a,b\r\n1,2\r\n");
    let retries: Vec<_> = shop.events(&run).await.into_iter().filter(|(kind, _)| kind == "retry").collect();
    assert!(retries.len() == 1 && retries[0].1.contains("no byte of the file for 1 s"), "{retries:?}");
    keeper.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_is_archived_whole() {
    let shop = Shop::hurried().await;
    shop.job("messages", MESSAGES);
    shop.fault("jaicp.create=huge:1");
    let run = shop.job_ends(&["messages"], 0).await;
    assert_eq!(run["artifacts"][0]["bytes"], 32 * 1024 * 1024);
    shop.run(&["archive", "verify"]).await.expect(0);
}

fn rotated() -> Credentials {
    Credentials {
        bik_key: credentials::BIK_KEY.into(),
        bik_secret: "rotated-secret".into(),
        livechat_token: "rotated-pat".into(),
        jaicp_token: "rotated0:fedcba9876543210fedcba9876543210fedcba98".into(),
        ..Credentials::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_credentials_open_the_breaker_of_their_account_alone_until_it_is_closed() {
    let shop = Shop::open().await;
    shop.job("ratings", RATINGS);
    shop.job("engagement", ENGAGEMENT);
    shop.job("messages", MESSAGES);
    shop.sandbox.set_credentials(Credentials { livechat_account: credentials::LIVECHAT_ACCOUNT.into(), ..rotated() });
    for (job, vendor) in [("ratings", "livechat"), ("engagement", "bik"), ("messages", "jaicp")] {
        let ran = shop.run(&["run-job", job, "--format", "json", "--wait", "60s"]).await.expect(4);
        assert_eq!(ran.json()[0]["state"], "queued", "{job}");
        assert!(ran.stderr.contains(&format!("{vendor} does not accept the credentials")), "{}", ran.stderr);
        assert!(ran.stderr.contains("connections close north"), "{}", ran.stderr);
    }
    let calls = shop.sandbox.received().len();
    assert_eq!(calls, 3, "each account was tried once");
    let rows = shop.run(&["connections", "--format", "json"]).await.expect(0).json();
    assert!(rows.len() == 3 && rows.iter().all(|row| row["breaker"] == "open" && row["queued"] == 1), "{rows:?}");

    // Another run of the account does not even call, and says why.
    let ran = shop.run(&["run-job", "ratings", "--at", &noon(1), "--wait", "60s"]).await.expect(4);
    assert!(ran.stderr.contains("does not accept the credentials"), "{}", ran.stderr);
    assert_eq!(shop.sandbox.received().len(), calls);

    // Closed too early it opens again; closed when the vendor agrees, all its runs go on.
    shop.run(&["connections", "close", "north", "--vendor", "livechat"]).await.expect(0);
    shop.run(&["run-job", "ratings", "--wait", "60s"]).await.expect(4);
    assert_eq!(shop.sandbox.received().len(), calls + 1);
    shop.sandbox.set_credentials(Credentials::default());
    shop.run(&["connections", "close", "north"]).await.expect(0);
    let rows = shop.run(&["connections", "--format", "json"]).await.expect(0).json();
    assert!(rows.iter().all(|row| row["breaker"] == "closed"), "{rows:?}");
    shop.hurry(true).await;
    for args in [vec!["ratings"], vec!["ratings", "--at", &noon(1)], vec!["engagement"], vec!["messages"]] {
        assert_eq!(shop.job_ends(&args, 0).await["state"], "archived");
    }
    assert_eq!(shop.sandbox.creates(Vendor::Bik), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_breaker_lets_one_run_try_after_a_quarter_of_an_hour() {
    let shop = Shop::open().await;
    shop.job("ratings", RATINGS);
    shop.fault("livechat.report=403:2");
    for day in [1, 2] {
        shop.run(&["run-job", "ratings", "--at", &noon(day), "--wait", "60s"]).await.expect(4);
    }
    assert_eq!(shop.asked("report").len(), 1);
    // Refused again: the next try is another quarter of an hour away.
    shop.advance(Duration::from_secs(16 * 60)).await;
    shop.run(&["run-job", "ratings", "--at", &noon(1), "--wait", "60s"]).await.expect(4);
    shop.run(&["run-job", "ratings", "--at", &noon(2), "--wait", "60s"]).await.expect(4);
    assert_eq!(shop.asked("report").len(), 2);
    // Let through: the breaker closes by itself, for the other run too.
    shop.advance(Duration::from_secs(16 * 60)).await;
    shop.job_ends(&["ratings", "--at", &noon(1)], 0).await;
    shop.job_ends(&["ratings", "--at", &noon(2)], 0).await;
    assert_eq!(shop.asked("report").len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_changed_meanwhile_is_read_again_before_anybody_is_told() {
    let shop = Shop::hurried().await;
    let secret = |name: &str, value: &str| std::fs::write(shop.folder.path().join(name), value).unwrap();
    secret("bik", credentials::BIK_SECRET);
    secret("livechat", &crate::vendors::livechat_pat());
    secret("jaicp", credentials::JAICP_TOKEN);
    shop.accounts(&[
        ("bik", "secret", "file:bik"),
        ("livechat", "token", "file:livechat"),
        ("jaicp", "token", "file:jaicp"),
    ]);
    shop.job("ratings", RATINGS);
    shop.job("engagement", ENGAGEMENT);
    shop.job("messages", MESSAGES);
    // Each process reads its secret for its first call, which fails; the secret is changed before the second.
    for (job, operation) in [("ratings", "report"), ("engagement", "generateReport"), ("messages", "create")] {
        secret("bik", credentials::BIK_SECRET);
        secret("livechat", &crate::vendors::livechat_pat());
        secret("jaicp", credentials::JAICP_TOKEN);
        shop.sandbox.set_credentials(Credentials::default());
        let vendor = match job {
            "ratings" => "livechat",
            "engagement" => "bik",
            _ => "jaicp",
        };
        shop.hurry(false).await;
        shop.fault(&format!("{vendor}.{operation}=429+5:1"));
        let running = tokio::spawn(run(shop.command(&["run-job", job, "--format", "json", "--wait", "60s"])));
        until("the first call", || async {
            let sql = "SELECT id FROM runs WHERE finished_at IS NULL AND errors = 1 AND lease_token IS NULL";
            sqlx::query_scalar::<_, uuid::Uuid>(sql).fetch_optional(&shop.pool).await.unwrap()
        })
        .await;
        let new = rotated();
        secret("bik", &new.bik_secret);
        secret("livechat", &format!("{}:{}", credentials::LIVECHAT_ACCOUNT, new.livechat_token));
        secret("jaicp", &new.jaicp_token);
        shop.sandbox.set_credentials(new);
        shop.hurry(true).await;
        shop.advance(Duration::from_secs(10)).await;
        let ran = running.await.unwrap().expect(0);
        assert_eq!(ran.json()[0]["state"], "archived", "{job}");
        assert_eq!(shop.count(&ran.json()[0], "note").await, 1, "{job}: {:?}", shop.events(&ran.json()[0]).await);
        let statuses: Vec<_> = shop.asked(operation).iter().map(|r| r.status).collect();
        assert_eq!(statuses, [Some(429), Some(401), Some(200)], "{job}");
    }
    assert_eq!(shop.one::<i64>("SELECT count(*) FROM connections WHERE breaker_open").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrected_secret_is_tried_by_the_next_run_without_waiting() {
    let shop = Shop::open().await;
    shop.job("ratings", RATINGS);
    shop.sandbox.set_credentials(rotated());
    shop.run(&["run-job", "ratings", "--at", &noon(1), "--wait", "60s"]).await.expect(4);
    let env = [("LIVECHAT", format!("{}:rotated-pat", credentials::LIVECHAT_ACCOUNT))];
    let env: Vec<_> = env.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let ran = crate::vendors::run_with(&shop, &["run-job", "ratings", "--at", &noon(2), "--wait", "60s"], &env).await;
    ran.expect(0);
    // And with it the run that had met the refusal.
    let ran = crate::vendors::run_with(&shop, &["run-job", "ratings", "--at", &noon(1), "--wait", "60s"], &env).await;
    ran.expect(0);
    let open: Value = shop.run(&["connections", "--format", "json"]).await.expect(0).json().remove(1);
    assert_eq!((open["vendor"].as_str(), open["breaker"].as_str()), (Some("livechat"), Some("closed")));
}
