//! The sandbox over real loopback HTTP, as its users meet it. This file: the harness, the wire's faults, the pages.

mod bik;
mod jaicp;
mod livechat;

use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

const NOW: &str = "2026-03-10T12:00:00Z";

struct Bench {
    sandbox: Sandbox,
    http: reqwest::Client,
}

impl Bench {
    async fn with(faults: &[&str]) -> Self {
        Self::start(faults, Duration::from_millis(10)).await
    }

    /// Slow enough for every state to be seen on a busy machine.
    async fn unhurried() -> Self {
        Self::start(&[], Duration::from_millis(400)).await
    }

    async fn start(faults: &[&str], pace: Duration) -> Self {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            // Another test module may have been first.
            drop(rustls::crypto::ring::default_provider().install_default());
        });
        let now: DateTime<Utc> = NOW.parse().unwrap();
        let mut options = Options::quick(Arc::new(move || now));
        options.pace = pace;
        options.faults = faults.iter().map(|fault| fault.parse().unwrap()).collect();
        let sandbox = Sandbox::start(options).await.unwrap();
        let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { sandbox, http }
    }

    async fn new() -> Self {
        Self::with(&[]).await
    }

    fn fault(&self, fault: &str) {
        self.sandbox.add_fault(fault.parse().unwrap());
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.sandbox.addr())
    }

    async fn get(&self, url: &str) -> Response {
        self.http.get(url).send().await.unwrap()
    }

    /// `POST generateReport` and the like, with the sandbox's credentials.
    fn bik(&self, function: &str, body: &Value) -> reqwest::RequestBuilder {
        let url = format!("{}/bikPlatformFunctions-{function}", self.sandbox.bik_base_url());
        self.http.post(url).basic_auth(credentials::BIK_KEY, Some(credentials::BIK_SECRET)).json(body)
    }

    fn livechat(&self, report: &str, body: &Value) -> reqwest::RequestBuilder {
        let url = format!("{}/v3.6/reports/{report}", self.sandbox.livechat_base_url());
        self.http.post(url).basic_auth(credentials::LIVECHAT_ACCOUNT, Some(credentials::LIVECHAT_TOKEN)).json(body)
    }

    fn jaicp(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let url = format!("{}/reporter/p/{}/{path}", self.sandbox.jaicp_base_url(), credentials::JAICP_TOKEN);
        self.http.request(method, url)
    }
}

async fn answered(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    (status, response.json().await.unwrap())
}

fn report() -> Value {
    json!({
        "reportName": "Agent Engagement",
        "dateRange": {"startDate": "2026-03-01T18:30:00.000Z", "endDate": "2026-03-02T18:29:59.999Z"},
        "filters": {"channel": "whatsapp", "groupBy": "week"},
        "reportType": "Helpdesk",
        "emails": ["asha@north.example", "bi@north.example"],
    })
}

#[tokio::test]
async fn it_listens_on_loopback_only() {
    for wide in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let mut options = Options::quick(Arc::new(|| DateTime::UNIX_EPOCH));
        options.listen = wide.parse().unwrap();
        let error = Sandbox::start(options).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}

#[tokio::test]
async fn a_lost_answer_has_its_effect_and_not_one_byte_of_an_answer() {
    let bench = Bench::with(&["bik.generateReport=lost:1"]).await;
    let mut socket = TcpStream::connect(bench.sandbox.addr()).await.unwrap();
    let body = report().to_string();
    let head = "POST /integrations/bikPlatformFunctions-generateReport HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
    let login = "authorization: Basic c2FuZGJveC1rZXk6c2FuZGJveC1zZWNyZXQ=\r\n";
    let request = format!("{head}{login}content-length: {}\r\n\r\n{body}", body.len());
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    assert!(answer.is_empty());
    assert_eq!(bench.sandbox.creates(Vendor::Bik), 1);
    assert_eq!(bench.sandbox.mails().len(), 2);
    assert_eq!(bench.sandbox.received()[0].status, None);
    assert_eq!(bench.bik("generateReport", &report()).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_reset_connection_has_no_effect() {
    let bench = Bench::with(&["bik.generateReport=reset:1"]).await;
    let error = bench.bik("generateReport", &report()).send().await.unwrap_err();
    assert!(error.is_request() && !error.is_connect(), "{error:?}");
    assert_eq!(bench.sandbox.creates(Vendor::Bik), 0);
    assert_eq!(bench.sandbox.received().len(), 1);
}

#[tokio::test]
async fn a_hanging_answer_has_its_effect_and_ends_with_its_client() {
    let bench = Bench::with(&["jaicp.create=hang:1"]).await;
    let request = bench.jaicp(Method::POST, "reports/sessions").timeout(Duration::from_secs(1));
    assert!(request.send().await.unwrap_err().is_timeout());
    assert_eq!(bench.sandbox.creates(Vendor::Jaicp), 1);
    let stopped = tokio::time::timeout(Duration::from_secs(5), bench.sandbox.stop()).await;
    assert!(stopped.is_ok());
}

#[tokio::test]
async fn a_hanging_answer_is_given_up_when_its_client_goes() {
    let bench = Bench::with(&["jaicp.filters=hang"]).await;
    let mut socket = TcpStream::connect(bench.sandbox.addr()).await.unwrap();
    let request = format!("GET /api/reporter/p/{}/filters HTTP/1.1\r\nhost: x\r\n\r\n", credentials::JAICP_TOKEN);
    socket.write_all(request.as_bytes()).await.unwrap();
    while bench.sandbox.received().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    socket.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(5), socket.read_to_end(&mut answer)).await;
    assert_eq!((ended.unwrap().unwrap(), bench.sandbox.received()[0].status), (0, None));
}

#[tokio::test]
async fn stopping_ends_even_a_hanging_connection_and_frees_the_port() {
    let bench = Bench::with(&["livechat.report=hang"]).await;
    let addr = bench.sandbox.addr();
    let hanging = tokio::spawn(bench.livechat("chats/tags", &json!({})).send());
    while bench.sandbox.received().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bench.sandbox.stop().await;
    assert!(hanging.await.unwrap().is_err());
    assert!(TcpListener::bind(addr).await.is_ok());
}

#[tokio::test]
async fn every_spoiled_answer_is_spoiled_as_its_word_says() {
    let bench = Bench::new().await;
    let ask = || bench.livechat("chats/ratings", &json!({}));
    let whole = ask().send().await.unwrap().bytes().await.unwrap();

    bench.fault("livechat.report=truncated:1");
    let cut = ask().send().await.unwrap();
    assert_eq!(cut.status(), 200);
    assert!(cut.content_length().unwrap() > whole.len() as u64);
    assert!(cut.bytes().await.is_err());

    for (word, media_type) in [("html", "text/html"), ("empty", "application/json"), ("garbage", "application/json")] {
        bench.fault(&format!("livechat.report={word}:1"));
        let answer = ask().send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.headers()["content-type"].to_str().unwrap()), (200, media_type));
        let body = answer.bytes().await.unwrap();
        assert_eq!(body.is_empty(), word == "empty");
        assert!(serde_json::from_slice::<Value>(&body).is_err());
    }

    bench.fault("livechat.report=slow:1");
    let began = Instant::now();
    assert_eq!(ask().send().await.unwrap().bytes().await.unwrap(), whole);
    assert!(began.elapsed() > Duration::from_millis(1_300), "{:?}", began.elapsed());
    assert_eq!(bench.sandbox.creates(Vendor::LiveChat), 6);
}

#[tokio::test]
async fn a_status_comes_in_the_vendors_own_shape_and_without_effect() {
    let bench = Bench::new().await;
    bench.fault("bik.generateReport=503+2:1");
    let busy = bench.bik("generateReport", &report()).send().await.unwrap();
    assert_eq!((busy.status().as_u16(), busy.headers()["retry-after"].to_str().unwrap()), (503, "2"));
    assert_eq!(
        busy.json::<Value>().await.unwrap(),
        json!({"status": 503, "errors": [{"message": "Service Unavailable"}]})
    );

    for (status, kind) in [
        (401, "authentication"),
        (403, "authorization"),
        (429, "too_many_requests"),
        (500, "internal"),
        (504, "request_timeout"),
    ] {
        bench.fault(&format!("livechat.report={status}:1"));
        let (seen, body) = answered(bench.livechat("chats/tags", &json!({}))).await;
        assert_eq!((seen, body["error"]["type"].as_str().unwrap()), (status, kind));
    }

    bench.fault("jaicp.create=302:1");
    let moved = bench.jaicp(Method::POST, "reports/sessions").send().await.unwrap();
    assert_eq!(moved.status(), 302);
    assert!(moved.headers()["location"].to_str().unwrap().starts_with("https://files.elsewhere.example/"));
    let vendors = [Vendor::Bik, Vendor::LiveChat, Vendor::Jaicp];
    assert_eq!(vendors.map(|vendor| bench.sandbox.creates(vendor)), [0; 3]);
}

#[tokio::test]
async fn an_echoed_secret_stands_in_the_message() {
    let bench = Bench::with(&["bik.generateReport=echo-secret", "jaicp.create=echo-secret"]).await;
    let (status, body) = answered(bench.bik("generateReport", &report())).await;
    assert_eq!(status, 400);
    assert!(body["errors"][0]["message"].as_str().unwrap().contains(credentials::BIK_SECRET));
    let (status, body) = answered(bench.jaicp(Method::POST, "reports/sessions")).await;
    assert_eq!(status, 400);
    assert!(body["message"].as_str().unwrap().contains(credentials::JAICP_TOKEN));
}

#[tokio::test]
async fn a_body_above_a_mebibyte_is_refused_and_nothing_panics() {
    let bench = Bench::new().await;
    let mut body = report();
    body["reportDescription"] = json!("x".repeat(1 << 20));
    match bench.bik("generateReport", &body).send().await {
        Ok(answer) => assert_eq!(answer.status(), 413),
        // The refusal may overtake the rest of the body.
        Err(error) => assert!(error.is_request(), "{error:?}"),
    }
    assert_eq!(bench.sandbox.creates(Vendor::Bik), 0);
    assert_eq!(bench.sandbox.received()[0].body.len(), 0);
    assert_eq!(bench.bik("generateReport", &report()).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn hostile_paths_and_bodies_get_an_error_of_4xx() {
    let bench = Bench::new().await;
    let token = credentials::JAICP_TOKEN;
    let deep = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000));
    for path in [
        "/integrations/bikPlatformFunctions-generateReport".to_owned(),
        "/v3.6/reports/chats/tags".to_owned(),
        "/v3.6/reports/".to_owned(),
        "/v9/reports/a/b".to_owned(),
        "/files/bik/%00.csv?token=%ff".to_owned(),
        "/files/jaicp/99999999999999999999999/x.csv".to_owned(),
        "/api/reporter/p/".to_owned(),
        format!("/api/reporter/p/{token}/reports/sessions"),
        format!("/api/reporter/p/{token}/reports/tasks/t-18446744073709551615"),
        format!("/reporter/p/{token}/sessions/filter?page=18446744073709551615&size=1000"),
        format!("/reporter/p/{token}/messages/by-session?sessionId=s-ffffffffffffffff-vk-ffffffffffffffffff"),
        "/nowhere".to_owned(),
    ] {
        for method in [Method::GET, Method::POST, Method::DELETE, Method::PATCH] {
            for body in ["", "{", "[]", "null", "\u{0}", deep.as_str(), "{\"filters\": {\"from\": 1}, \"emails\": {}}"]
            {
                let request = bench.http.request(method.clone(), bench.url(&path)).body(body.to_owned());
                let request =
                    request.header("content-type", "application/json").basic_auth(credentials::BIK_KEY, Some("x"));
                let answer = request.send().await.unwrap();
                let fine =
                    answer.status().is_client_error() || path.contains("filter?") || path.contains("reports/sessions");
                assert!(fine, "{method} {path}: {}", answer.status());
            }
        }
    }
}

#[tokio::test]
async fn the_pages_show_what_happened_and_let_another_process_switch_faults() {
    let bench = Bench::new().await;
    assert_eq!(bench.bik("generateReport", &report()).send().await.unwrap().status(), 200);
    assert_eq!(bench.jaicp(Method::POST, "reports/sessions").send().await.unwrap().status(), 200);

    let text = |path: &'static str| async { bench.get(&bench.url(path)).await.text().await.unwrap() };
    assert!(text("/").await.contains("/sandbox/mails"));
    let mails = text("/sandbox/mails").await;
    assert_eq!(mails.lines().count(), 2);
    assert_eq!(serde_json::from_str::<Value>(mails.lines().next().unwrap()).unwrap()["to"], "asha@north.example");
    let received = text("/sandbox/received").await;
    assert!(received.contains("Basic sandbox-key:***") && received.contains("/p/sandboxx:***/reports/sessions"));
    for secret in [credentials::JAICP_TOKEN, credentials::BIK_SECRET, "c2FuZGJveC1rZXk6c2FuZGJveC1zZWNyZXQ="] {
        assert!(!received.contains(secret));
    }
    assert_eq!(text("/sandbox/received?last=1").await.lines().count(), 1);
    let counts: Value = text("/sandbox/counts").await.parse().unwrap();
    assert_eq!(counts["creates"], json!({"bik": 1, "livechat": 0, "jaicp": 1}));

    let put = |body: &'static str| bench.http.put(bench.url("/sandbox/faults")).body(body).send();
    assert_eq!(put("bik.generateReport=500:1\n\n jaicp.task=gone\n").await.unwrap().status(), 200);
    let wrong = put("bik.generateReport=lots").await.unwrap();
    assert_eq!(wrong.status(), 400);
    assert!(wrong.text().await.unwrap().contains("lost, reset"));
    assert_eq!(text("/sandbox/faults").await, "bik.generateReport=500:1\njaicp.task=gone\n");
    assert_eq!(bench.bik("generateReport", &report()).send().await.unwrap().status(), 500);
    assert_eq!(bench.sandbox.received().len(), 3, "the pages themselves are not recorded");
}
