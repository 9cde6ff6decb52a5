//! Webhooks, heartbeats, BIK tickets and events over real HTTP on loopback: what arrives, what each answer means, and that no
//! error shows a URL or a secret.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use reportd::connection::environment::Environment;
use reportd::delivery::heartbeat::{Beat, Heart, ping};
use reportd::delivery::outside::Outside;
use reportd::delivery::{Trouble, bik, webhook};
use reportd::request::Vendor;
use reportd::request::bik::BikEndpoint;
use reportd::sandbox::{Credentials, Options, Sandbox, credentials};
use reportd::vendor::account::Account;
use reportd::vendor::http::Http;
use secrecy::SecretString;
use serde_json::{Map, Value, json};
use sha2::Sha256;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::vendors::{Script, http, in_turn, until};

/// Stands in every URL here, and must come back in no text.
const CANARY: &str = "T0canary42";

fn outside() -> Outside {
    drop(rustls::crypto::ring::default_provider().install_default());
    Outside::new().unwrap()
}

fn now() -> DateTime<Utc> {
    "2026-03-03T06:30:00Z".parse().unwrap()
}

/// What a result is, and its words.
fn word<T: std::fmt::Debug>(result: Result<T, Trouble>) -> (&'static str, String) {
    match result {
        Ok(told) => ("ok", format!("{told:?}")),
        Err(Trouble::Later { why, after }) => ("later", format!("{why} after {after:?}")),
        Err(Trouble::Unclear(why)) => ("unclear", why),
        Err(Trouble::Refused(why)) => ("refused", why),
        Err(Trouble::Person(why) | Trouble::Credentials(why)) => ("person", why),
    }
}

/// A server that takes connections and never says a word.
async fn silent() -> (String, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/{CANARY}", listener.local_addr().unwrap());
    let taking = tokio::spawn(async move {
        let mut taken = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            taken.push(stream);
        }
    });
    (url, AbortOnDropHandle::new(taking))
}

async fn hook(url: &str, at: DateTime<Utc>) -> Result<Option<String>, Trouble> {
    let keys = [SecretString::from("one"), SecretString::from("whsec_dHdv")];
    webhook::send(&outside(), &url.into(), &keys, Uuid::from_u128(9), r#"{"run_id":"é"}"#, at).await
}

#[tokio::test]
async fn a_webhook_arrives_as_the_standard_says_and_has_the_same_id_at_every_try() {
    let script = Script::start(in_turn(vec![http(500, "", ""), http(204, "", "")]));
    let url = format!("{}/{CANARY}?x=y", script.url());
    assert_eq!(word(hook(&url, now()).await).0, "later");
    let at = now() + chrono::TimeDelta::seconds(77);
    assert_eq!(hook(&url, at).await, Ok(Some("HTTP 204".into())));
    let asked = script.asked("");
    assert_eq!(asked.len(), 2);
    for (asked, at) in asked.iter().zip([now(), at]) {
        assert_eq!(asked.line, format!("POST /{CANARY}?x=y HTTP/1.1"));
        assert_eq!(asked.header("content-type"), Some("application/json"));
        assert_eq!(asked.header("webhook-id"), Some("msg_00000000000000000000000000000009"));
        assert_eq!(asked.header("webhook-timestamp"), Some(at.timestamp().to_string().as_str()));
        assert_eq!(asked.body, r#"{"run_id":"é"}"#);
        let signature = |key: &str| {
            let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
            mac.update(format!("msg_00000000000000000000000000000009.{}.{}", at.timestamp(), asked.body).as_bytes());
            format!("v1,{}", base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes()))
        };
        let both = format!("{} {}", signature("one"), signature("two"));
        assert_eq!(asked.header("webhook-signature"), Some(both.as_str()));
    }
}

#[tokio::test]
async fn each_answer_of_a_receiver_means_what_the_standard_and_this_house_say() {
    let said = format!("go away: /{CANARY} is https://x.example/{CANARY}?{CANARY}");
    let rows = [
        (200, "", "ok", ""),
        (299, "", "ok", ""),
        (301, "location: /elsewhere\r\n", "refused", "redirects are not followed"),
        (308, "location: /elsewhere\r\n", "refused", "redirects are not followed"),
        (400, "", "later", "after None"),
        (401, "", "later", "go away"),
        (404, "", "later", "after None"),
        (408, "", "later", "after None"),
        (410, "", "refused", "says it is gone"),
        (422, "", "later", "after None"),
        (429, "", "later", "after None"),
        (429, "retry-after: 7\r\n", "later", "after Some(7s)"),
        (503, "retry-after: Tue, 03 Mar 2026 06:31:30 GMT\r\n", "later", "after Some(90s)"),
        (502, "", "later", "HTTP 502"),
        (500, "", "later", "after None"),
    ];
    for (status, headers, expected, says) in rows {
        let answer = http(status, headers, if status == 299 { "" } else { &said });
        let script = Script::start(move |_| answer.clone());
        let (word, why) = word(hook(&format!("{}/{CANARY}", script.url()), now()).await);
        assert_eq!(word, expected, "{status}: {why}");
        assert!(why.contains(says) && !why.contains(CANARY), "{status}: {why}");
        assert_eq!(script.asked("").len(), 1, "{status}: once, and nowhere else");
    }
}

#[tokio::test]
async fn a_receiver_that_cannot_be_reached_is_tried_later_and_one_that_breaks_off_is_unclear() {
    let refusing = Script::refusing(std::net::Ipv4Addr::LOCALHOST, |_| Vec::new());
    let breaking = Script::start(|_| Vec::new());
    let (silent, _taking) = silent().await;
    let outside = outside();
    let rows = [
        (format!("{}/{CANARY}", refusing.url()), "later", "could not be reached"),
        (format!("{}/{CANARY}", breaking.url()), "unclear", "broke"),
        (silent, "unclear", "in time"),
        (format!("http://hooks.example.com/{CANARY}"), "refused", "http://hooks.example.com: plain http"),
        (format!("http://127.0.0.1.example.com/{CANARY}"), "refused", "this machine only"),
        (CANARY.to_owned(), "person", "is none"),
        (format!("file:///{CANARY}"), "person", "scheme"),
    ];
    for (url, expected, says) in rows {
        let sent = outside.post(&url.as_str().into(), &[], "{}".into(), Duration::from_millis(300), &[]).await;
        let (word, why) = word(sent);
        assert_eq!(word, expected, "{url}: {why}");
        assert!(why.contains(says) && !why.contains(CANARY), "{url}: {why}");
    }
}

#[tokio::test]
async fn the_words_of_an_answer_are_its_first_kibibyte_without_the_url() {
    let long = format!("{{\"error\":\"no \\u0041\"}} /hooks/{CANARY} {}", "x".repeat(200_000));
    let script = Script::start(move |_| http(400, "", &long));
    let url = format!("{}/hooks/{CANARY}?token=abcd-efgh", script.url());
    let said = outside().post(&url.as_str().into(), &[], String::new(), Duration::from_secs(5), &[]).await.unwrap();
    assert_eq!((said.status, said.by.as_str()), (400, "http://127.0.0.1"));
    assert!(said.words.starts_with("{\"error\":\"no") && said.words.chars().count() <= 1025, "{}", said.words);
    assert!(!said.words.contains(CANARY), "{}", said.words);
    // A body that never ends holds nobody up: the status came.
    let script = Script::start(|_| b"HTTP/1.1 200 Said\r\ncontent-length: 9\r\n\r\nhal".to_vec());
    let said =
        outside().post(&script.url().as_str().into(), &[], String::new(), Duration::from_secs(5), &[]).await.unwrap();
    assert_eq!((said.status, said.words.as_str()), (200, "hal"));
}

#[tokio::test]
async fn a_ping_follows_the_convention() {
    let script = Script::start(|_| http(200, "", "OK"));
    let url = SecretString::from(format!("{}/{CANARY}?create=1", script.url()));
    let rid = Some(Uuid::from_u128(1));
    let long = "é".repeat(9000);
    for (beat, rid, words) in
        [(Beat::Start, rid, "x"), (Beat::Success, rid, "x"), (Beat::Fail, None, long.as_str()), (Beat::Fail, rid, "")]
    {
        ping(&outside(), &url, beat, rid, words).await.unwrap();
    }
    let asked = script.asked("");
    let lines: Vec<&str> = asked.iter().map(|asked| asked.line.trim_end_matches(" HTTP/1.1")).collect();
    let rid = "rid=00000000-0000-0000-0000-000000000001";
    assert_eq!(
        lines,
        [
            format!("GET /{CANARY}/start?create=1&{rid}"),
            format!("GET /{CANARY}?create=1&{rid}"),
            format!("POST /{CANARY}/fail?create=1"),
            format!("GET /{CANARY}/fail?create=1&{rid}"),
        ]
    );
    let lengths: Vec<usize> = asked.iter().map(|asked| asked.body.len()).collect();
    assert_eq!(lengths, [0, 0, 10_000, 0]);
    let gone = Script::start(|_| http(404, "", "not found"));
    let url = SecretString::from(format!("{}/{CANARY}", gone.url()));
    let (word, why) = word(ping(&outside(), &url, Beat::Start, None, "").await);
    assert_eq!((word, why.contains(CANARY)), ("later", false), "{why}");
}

#[tokio::test]
async fn a_watcher_that_hangs_never_holds_up_a_beat_and_the_others_arrive_in_order() {
    let (hanging, _taking) = silent().await;
    let heart = Heart::start(outside());
    let before = Instant::now();
    for _ in 0..1000 {
        heart.beat(hanging.as_str().into(), Beat::Success, None, "");
        tokio::task::yield_now().await;
    }
    assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());

    let script = Script::start(|_| http(200, "", "OK"));
    let heart = Heart::start(outside());
    for beat in [Beat::Start, Beat::Fail, Beat::Success] {
        heart.beat(script.url().into(), beat, None, "went wrong");
    }
    let asked = until("three pings", async || Some(script.asked("")).filter(|asked| asked.len() == 3)).await;
    let lines: Vec<&str> = asked.iter().map(|asked| asked.line.as_str()).collect();
    assert_eq!(lines, ["GET /start HTTP/1.1", "POST /fail HTTP/1.1", "GET / HTTP/1.1"]);
    assert_eq!(asked[1].body, "went wrong");
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn failed_beats_warn_once_an_hour_and_without_their_url() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .finish();
    // The runtime of this test has one thread, so the heart's task logs here too.
    let _here = tracing::subscriber::set_default(subscriber);
    let script = Script::start(|_| http(500, "", "no"));
    let heart = Heart::start(outside());
    for _ in 0..5 {
        heart.beat(format!("{}/{CANARY}", script.url()).into(), Beat::Success, None, "");
    }
    let told = || String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let ours = || told().lines().filter(|l| l.contains("heartbeat failed")).map(str::to_owned).collect::<Vec<_>>();
    let ours = until("five lines", async || Some(ours()).filter(|lines| lines.len() == 5)).await;
    assert_eq!(ours.iter().filter(|line| line.contains("WARN")).count(), 1, "{ours:#?}");
    assert!(ours[0].contains("WARN") && ours[0].contains("HTTP 500"), "{ours:#?}");
    assert!(ours.iter().all(|line| !line.contains(CANARY)), "{ours:#?}");
}

/// A BIK account with these settings, and its endpoint.
fn account(settings: &str, secret: &str) -> (Account, BikEndpoint) {
    drop(rustls::crypto::ring::default_provider().install_default());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("reportd.yaml");
    let yaml = format!("connections: {{ north: {{ bik: {{ key: env:K, secret: \"{secret}\", {settings} }} }} }}");
    std::fs::write(&path, yaml).unwrap();
    let environment =
        Environment::of(&[("K", credentials::BIK_KEY), ("S", credentials::BIK_SECRET), ("W", "wrong-one")]);
    let loaded = reportd::settings::load(&path, true, environment, false);
    assert!(!loaded.broken(), "{:?}", loaded.problems);
    let connection = &loaded.settings.connections[0];
    let account = Account::new(connection, Vendor::Bik, &loaded.settings.environment, b"salt").unwrap();
    (account, connection.bik.clone().unwrap().endpoint)
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn task() -> Map<String, Value> {
    object(&json!({ "channel": "tasks", "bikCustomerId": "5233549", "taskTitle": "look at this" }))
}

async fn sandbox() -> Sandbox {
    Sandbox::start(Options::quick(Arc::new(now))).await.unwrap()
}

#[tokio::test]
async fn a_ticket_and_an_event_arrive_as_the_vendors_pages_say() {
    let sandbox = sandbox().await;
    let settings = format!("base_url: \"{}\", appId: an-app", sandbox.bik_base_url());
    let (account, endpoint) = account(&settings, "env:S");
    let http = Http::new().unwrap();
    let call = bik::ticket(&endpoint, &task());
    assert_eq!(bik::send(&http, &account, &call, now()).await, Ok(Some("ticket 303455".into())));
    let event = object(&json!({ "email": "ops@example.com", "eventName": "archived", "eventProperties": { "n": 1 } }));
    let call = bik::event(&endpoint, &event);
    assert_eq!(bik::send(&http, &account, &call, now()).await, Ok(None));
    assert_eq!((sandbox.tickets(), sandbox.events()), (1, 1));
    let received = sandbox.received();
    let body = |i: usize| serde_json::from_slice::<Value>(&received[i].body).unwrap();
    assert_eq!(body(0), Value::Object(task()), "and no appId, which these pages do not list");
    assert_eq!(body(1), json!({ "event": event }));
    assert_eq!(received[1].path, "/integrations/bikPlatformFunctions-events/sendEvent");
}

#[tokio::test]
async fn whatever_goes_wrong_with_a_ticket_it_is_sent_once_and_told_as_what_it_is() {
    let rows = [
        ("lost", "unclear", 1, ""),
        ("reset", "unclear", 0, ""),
        ("hang", "unclear", 1, "time limit"),
        ("truncated", "unclear", 1, ""),
        ("html", "unclear", 1, "not BIK's JSON"),
        ("empty", "unclear", 1, "not BIK's JSON"),
        ("garbage", "unclear", 1, "not BIK's JSON"),
        ("inner-400", "refused", 0, "Bad Request"),
        ("inner-401", "person", 0, "connection north"),
        ("inner-500", "unclear", 0, "status 500"),
        ("302", "unclear", 0, "HTTP 302"),
        ("400", "refused", 0, "HTTP 400"),
        ("401", "person", 0, "HTTP 401"),
        ("403", "person", 0, "HTTP 403"),
        ("404", "refused", 0, "HTTP 404"),
        ("408", "unclear", 0, "HTTP 408"),
        ("429", "later", 0, "after Some(10s)"),
        ("429+2", "later", 0, "after Some(2s)"),
        ("503", "unclear", 0, "HTTP 503"),
        ("503+3", "later", 0, "after Some(3s)"),
        ("500", "unclear", 0, "HTTP 500"),
        ("echo-secret", "refused", 0, "***"),
    ];
    let sandbox = sandbox().await;
    let settings = format!("base_url: \"{}\", timeout: 1s", sandbox.bik_base_url());
    let (account, endpoint) = account(&settings, "env:S");
    let http = Http::new().unwrap();
    let call = bik::ticket(&endpoint, &task());
    for (fault, expected, made, says) in rows {
        let (tickets, received) = (sandbox.tickets(), sandbox.received().len());
        sandbox.add_fault(format!("bik.createAndAssignTicket={fault}:1").parse().unwrap());
        let (word, why) = word(bik::send(&http, &account, &call, now()).await);
        assert_eq!((word, sandbox.tickets() - tickets), (expected, made), "{fault}: {why}");
        assert!(why.contains(says) && !why.contains(credentials::BIK_SECRET), "{fault}: {why}");
        assert_eq!(sandbox.received().len() - received, 1, "{fault}");
    }
    let made = sandbox.tickets();
    sandbox.stop().await;
    assert_eq!(word(bik::send(&http, &account, &call, now()).await).0, "later", "nobody listens; {made} were made");
}

#[tokio::test]
async fn a_yes_must_be_said_and_a_lie_is_unclear() {
    let rows = [
        (r#"{"status":200,"success":true,"data":{"ticket":{"id":"77"}}}"#, "ok", "ticket 77"),
        (r#"{"success":true}"#, "ok", "None"),
        (r#"{"status":"201","data":null}"#, "ok", "None"),
        ("{}", "unclear", "neither yes nor no"),
        (r#"{"data":{"ticket":{"id":"../7"}}}"#, "unclear", "neither yes nor no"),
        ("[]", "unclear", "not BIK's JSON"),
        ("\"ok\"", "unclear", "not BIK's JSON"),
        (r#"{"status":200,"success":false,"errors":[{"message":"no such agent"}]}"#, "refused", "no such agent"),
        (r#"{"status":"422","errors":[{"message":"no such team"}]}"#, "refused", "no such team"),
        (r#"{"status":429}"#, "later", "asks to wait"),
    ];
    for (answer, expected, says) in rows {
        let script = Script::start(move |_| http(200, "content-type: application/json\r\n", answer));
        let settings = format!("base_url: {}, paths: {{ ticket: /my/ticket, event: /e, auth: /a }}", script.base("/x"));
        let (account, endpoint) = account(&settings, "env:S");
        let call = bik::ticket(&endpoint, &task());
        let (word, why) = word(bik::send(&Http::new().unwrap(), &account, &call, now()).await);
        assert!(word == expected && why.contains(says), "{answer}: {word} {why}");
        assert_eq!(script.asked("POST /x/my/ticket").len(), 1);
        assert_eq!(bik::event(&endpoint, &task()).url, format!("{}/x/e", script.url()));
    }
}

#[tokio::test]
async fn a_secret_that_was_rotated_is_read_again_once_and_makes_one_ticket() {
    let sandbox = sandbox().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, credentials::BIK_SECRET).unwrap();
    let settings = format!("base_url: \"{}\"", sandbox.bik_base_url());
    let (account, endpoint) = account(&settings, &format!("file:{}", file.display()));
    let (http, call) = (Http::new().unwrap(), bik::ticket(&endpoint, &task()));
    bik::send(&http, &account, &call, now()).await.unwrap();
    sandbox.set_credentials(Credentials { bik_secret: "rotated-one".into(), ..Credentials::default() });
    assert_eq!(word(bik::send(&http, &account, &call, now()).await).0, "person", "the file has the old one");
    assert_eq!(sandbox.received().len(), 2);
    std::fs::write(&file, "rotated-one").unwrap();
    assert_eq!(bik::send(&http, &account, &call, now()).await, Ok(Some("ticket 303456".into())));
    std::fs::remove_file(&file).unwrap();
    sandbox.set_credentials(Credentials::default());
    let (word, why) = word(bik::send(&http, &account, &call, now()).await);
    assert!(word == "person" && why.contains("secret file"), "{word} {why}");
    assert_eq!(sandbox.tickets(), 2);
}

#[tokio::test]
async fn credentials_are_checked_without_making_anything() {
    let sandbox = sandbox().await;
    let base = format!("base_url: \"{}\"", sandbox.bik_base_url());
    let http = Http::new().unwrap();
    let (good, endpoint) = account(&format!("{base}, appId: an-app"), "env:S");
    assert_eq!(bik::check(&http, &good, &endpoint, now()).await, Ok(None));
    let (wrong, endpoint) = account(&format!("{base}, appId: an-app"), "env:W");
    let (told, why) = word(bik::check(&http, &wrong, &endpoint, now()).await);
    assert!(told == "person" && why.contains("connection north") && !why.contains("wrong-one"), "{told} {why}");
    let (nameless, endpoint) = account(&base, "env:S");
    let told = bik::check(&http, &nameless, &endpoint, now()).await.unwrap();
    assert!(told.is_some_and(|words| words.contains("appId")));
    sandbox.add_fault("bik.authPartnerViaKey=inner-401:1".parse().unwrap());
    assert_eq!(word(bik::check(&http, &nameless, &endpoint, now()).await).0, "person");
    let missing = account(&base, "env:NOT_SET");
    let (told, why) = word(bik::check(&http, &missing.0, &missing.1, now()).await);
    assert!(told == "person" && why.contains("NOT_SET"), "{told} {why}");
    assert_eq!((sandbox.tickets(), sandbox.events(), sandbox.mails().len()), (0, 0, 0));
}
